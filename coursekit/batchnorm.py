"""Batch normalization: forward, backward, as a layer, folded away, and its siblings over other axes."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from coursekit import _validate as validate

BATCHES = ["(N, C)", "(N, C, H, W)"]
# Values of a block: 4 MB in single precision, which fits beside its neighbors in a core's share of the cache.
BLOCK = 1 << 20


def batchnorm_forward(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalize every channel over the batch, then scale and shift it.

    Args:
        x: activations, (N, C) or (N, C, H, W).
        gamma: scale, (C,).
        beta: shift, (C,).
        eps: added to the variance, inside the root.

    Returns:
        y = gamma · (x − μ) / √(σ² + eps) + beta, of the shape of `x`; σ² is the biased variance (÷ count).

    Raises:
        ValueError: `x` is empty, not floating point or of another rank; `gamma` or `beta` is not (C,).

    Source: Ioffe and Szegedy 2015, Algorithm 1.
    """
    _check(x, gamma, eps)
    validate.vector("beta", beta, x.shape[1])
    axes = _batch_axes(x)
    mean = x.mean(axes)
    var = x.var(axes, correction=0)
    return _along(gamma, x) * _normalize(x, mean, var, eps) + _along(beta, x)


def batchnorm_backward(
    grad_y: Tensor, x: Tensor, gamma: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of a loss in the inputs of `batchnorm_forward`, from its gradient in the output.

    Args:
        grad_y: ∂loss/∂y, of the shape of `x`.
        x: the forward input, (N, C) or (N, C, H, W).
        gamma: scale, (C,).
        eps: as in the forward pass.

    Returns:
        ∂loss/∂x of the shape of `x`, ∂loss/∂gamma (C,), ∂loss/∂beta (C,).

    Raises:
        ValueError: as `batchnorm_forward`, and where `grad_y` and `x` differ in shape.

    Source: Ioffe and Szegedy 2015, section 3, with the chain rule multiplied out.
    """
    _check(x, gamma, eps)
    validate.floating("grad_y", grad_y, BATCHES)
    if grad_y.shape != x.shape:
        raise validate.refuse("grad_y", f"of the shape of x, {tuple(x.shape)}", validate.shape_of(grad_y))
    axes = _batch_axes(x)
    var = x.var(axes, correction=0)
    x_hat = _normalize(x, x.mean(axes), var, eps)

    grad_gamma = (grad_y * x_hat).sum(axes)
    grad_beta = grad_y.sum(axes)
    # Shifting or stretching a channel of x leaves y as it is, so grad_x has no part along 1 or x_hat.
    count = x.numel() // x.shape[1]
    grad_x = _along(gamma / (var + eps).sqrt(), x) * (
        grad_y - _along(grad_beta / count, x) - x_hat * _along(grad_gamma / count, x)
    )
    return grad_x, grad_gamma, grad_beta


def batchnorm_in_blocks(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """`batchnorm_forward` and its gradient, made fast: a few channels at a time, which stay in the cache.

    Args:
        x: activations, (N, C) or (N, C, H, W).
        gamma: scale, (C,).
        beta: shift, (C,).
        eps: added to the variance, inside the root.

    Returns:
        y of the shape of `x`, as `batchnorm_forward`. It can be differentiated once.

    Raises:
        ValueError: as `batchnorm_forward`.

    Source: Ioffe and Szegedy 2015, Algorithm 1 and section 3.
    """
    _check(x, gamma, eps)
    validate.vector("beta", beta, x.shape[1])
    flat = x.reshape(*x.shape[:2], -1)
    return _InBlocks.apply(flat, gamma, beta, eps).reshape(x.shape)  # type: ignore[no-untyped-call]


class _InBlocks(torch.autograd.Function):
    """Batch normalization of (N, C, P); only the input and (C,) vectors are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
        count = x.numel() // x.shape[1]
        y = torch.empty_like(x)
        means, inverses = [], []
        for block, out, scale, shift in zip(*_blocks(x, y, gamma, beta), strict=True):
            mean = block.sum(2).sum(0) / count
            centered = torch.sub(block, _along(mean, block), out=out)
            variance = torch.linalg.vector_norm(centered, dim=2).square().sum(0) / count
            inverse = (variance + eps).rsqrt()
            centered.mul_(_along(scale * inverse, block)).add_(_along(shift, block))
            means.append(mean)
            inverses.append(inverse)
        ctx.save_for_backward(x, gamma, torch.cat(means), torch.cat(inverses))
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gamma, means, inverses = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        grad_x, grad_gamma, grad_beta = (torch.empty_like(like) for like in (x, gamma, gamma))
        parts = _blocks(x, grad_y, grad_x, gamma, means, inverses, grad_gamma, grad_beta)
        for block, grad, out, scale, mean, inverse, of_gamma, of_beta in zip(*parts, strict=True):
            centered = torch.sub(block, _along(mean, block), out=out)
            of_beta.copy_(grad.sum(2).sum(0))
            of_gamma.copy_((centered * grad).sum(2).sum(0) * inverse)
            scale = scale * inverse
            centered.mul_(_along(-scale * inverse * of_gamma / count, block))
            centered.addcmul_(grad, _along(scale, block)).sub_(_along(scale * of_beta / count, block))
        return grad_x, grad_gamma, grad_beta, None


def _blocks(x: Tensor, *others: Tensor) -> Iterator[Sequence[Tensor]]:
    """The tensors (N, C, P) and (C,), split along their channels."""
    channels = max(1, BLOCK * x.shape[1] // x.numel())
    return (t.split(channels, dim=t.ndim // 2) for t in (x, *others))


class BatchNorm(nn.Module):
    """Batch normalization as a layer: batch statistics in training, running ones in evaluation.

    Args:
        num_features: channels C of the (N, C) or (N, C, H, W) input.
        eps: added to the variance, inside the root.
        momentum: m from 0 to 1 in running ← (1 − m) · running + m · batch, with the unbiased variance;
            None makes the running statistics the plain average over all batches that `num_batches_tracked`
            counts.

    Raises:
        ValueError: an argument out of range; in `forward`, another number of channels, or training on a
            single value per channel, whose variance is undefined.

    Source: Ioffe and Szegedy 2015, Algorithm 2.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.num_features = validate.whole("num_features", num_features, 1)
        self.eps = validate.number("eps", eps)
        if momentum is not None and validate.number("momentum", momentum) > 1:
            raise validate.refuse("momentum", "None or a number from 0 to 1", momentum)
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        validate.floating("x", x, BATCHES)
        if x.shape[1] != self.num_features:
            expected = f"of {self.num_features} channels, as num_features says"
            raise validate.refuse("x", expected, validate.shape_of(x))
        if not self.training:
            x_hat = _normalize(x, self.running_mean, self.running_var, self.eps)
            return _along(self.weight, x) * x_hat + _along(self.bias, x)

        if x.numel() == self.num_features:
            raise validate.refuse("x", "of more than one value per channel in training", validate.shape_of(x))
        with torch.no_grad():
            axes = _batch_axes(x)
            self.num_batches_tracked += 1
            m = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.mul_(1 - m).add_(m * x.mean(axes))
            self.running_var.mul_(1 - m).add_(m * x.var(axes, correction=1))
        return batchnorm_forward(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


def fold_batchnorm(conv: nn.Conv2d, bn: nn.BatchNorm2d | BatchNorm) -> nn.Conv2d:
    """One convolution that does what a convolution followed by batch normalization does in evaluation.

    Args:
        conv: any 2-D convolution; it is left as it is.
        bn: the batch normalization after it, with running statistics; it is left as it is.

    Returns:
        A convolution with weights W · gamma / √(σ² + eps) and bias (b − μ) · gamma / √(σ² + eps) + beta, and
        with the stride, padding, padding mode, dilation, groups, dtype and training flag of `conv`.

    Raises:
        ValueError: either is of another type, the channels differ, or `bn` keeps no running statistics.

    Source: lecture, inference with batch normalization; Jacob et al. 2018, section 3.2.
    """
    if not isinstance(conv, nn.Conv2d):
        raise validate.refuse("conv", "an nn.Conv2d", type(conv).__name__)
    if not isinstance(bn, nn.BatchNorm2d | BatchNorm):
        raise validate.refuse("bn", "an nn.BatchNorm2d", type(bn).__name__)
    if bn.num_features != conv.out_channels:
        raise validate.refuse("bn", f"of {conv.out_channels} features, as conv has channels", bn.num_features)
    if bn.running_mean is None or bn.running_var is None:
        raise validate.refuse("bn", "one with running statistics", "track_running_stats=False")

    gamma = torch.ones_like(bn.running_mean) if bn.weight is None else bn.weight
    beta = torch.zeros_like(bn.running_mean) if bn.bias is None else bn.bias
    bias = torch.zeros_like(bn.running_mean) if conv.bias is None else conv.bias
    scale = gamma / (bn.running_var + bn.eps).sqrt()

    folded = copy.deepcopy(conv)
    folded.weight = _parameter(scale[:, None, None, None] * conv.weight, like=conv.weight)
    folded.bias = _parameter((bias - bn.running_mean) * scale + beta, like=conv.weight)
    return folded


def group_norm(x: Tensor, num_groups: int, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalize each image over groups of its channels, then scale and shift each channel.

    Args:
        x: activations, (N, C, H, W).
        num_groups: groups of neighboring channels; 1 is layer norm, C is instance norm.
        gamma: scale, (C,).
        beta: shift, (C,).
        eps: added to the variance, inside the root.

    Returns:
        y of the shape of `x`.

    Raises:
        ValueError: `num_groups` does not divide C, or a size or dtype does not fit.

    Source: Wu and He 2018, equations 1, 2, 6 and 7.
    """
    validate.floating("x", x, ["(N, C, H, W)"])
    validate.vector("gamma", gamma, x.shape[1])
    validate.vector("beta", beta, x.shape[1])
    validate.whole("num_groups", num_groups, 1)
    validate.number("eps", eps)
    if x.shape[1] % num_groups:
        raise validate.refuse("num_groups", f"a divisor of the {x.shape[1]} channels", num_groups)
    groups = x.reshape(len(x), num_groups, -1)
    mean = groups.mean(2, keepdim=True)
    var = groups.var(2, correction=0, keepdim=True)
    x_hat = ((groups - mean) / (var + eps).sqrt()).reshape(x.shape)
    return _along(gamma, x) * x_hat + _along(beta, x)


def _check(x: Tensor, gamma: Tensor, eps: float) -> None:
    validate.floating("x", x, BATCHES)
    validate.vector("gamma", gamma, x.shape[1])
    validate.number("eps", eps)


def _batch_axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _along(channels: Tensor, x: Tensor) -> Tensor:
    """A (C,) vector, shaped so that it broadcasts along the channels of `x`."""
    return channels.reshape(1, -1, *[1] * (x.ndim - 2))


def _normalize(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    return (x - _along(mean, x)) / _along((var + eps).sqrt(), x)


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().to(like.dtype), requires_grad=like.requires_grad)
