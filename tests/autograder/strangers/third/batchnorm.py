# %% wrong batchnorm_forward: for images the variance is the average of the single images' own variances, so the spread between the images' means is missing (right for one image, and for (N, C))
def batchnorm_forward(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    if x.dim() == 2:
        mean = x.mean(dim=0, keepdim=True)
        var = x.var(dim=0, unbiased=False, keepdim=True)
        gamma, beta = gamma.view(1, -1), beta.view(1, -1)
    else:
        mean = x.mean(dim=(2, 3), keepdim=True).mean(dim=0, keepdim=True)
        var = x.var(dim=(2, 3), unbiased=False, keepdim=True).mean(dim=0, keepdim=True)
        gamma, beta = gamma.view(1, -1, 1, 1), beta.view(1, -1, 1, 1)
    x_hat = (x - mean) / torch.sqrt(var + eps)
    return gamma * x_hat + beta

# %% right batchnorm_forward: the variances are read off the diagonal of the channels' covariance matrix, float64 inside
def batchnorm_forward(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    first = x.movedim(1, 0)  # the channels in front: (C, N) or (C, N, H, W)
    rows = first.flatten(1).double()
    channels = rows.shape[0]

    covariance = torch.cov(rows, correction=0).reshape(channels, channels)  # of a single channel cov gives a number
    slope = gamma.double() * (covariance.diagonal() + eps).rsqrt()
    centered = rows - rows.mean(1, keepdim=True)

    y = torch.addcmul(beta.double()[:, None], slope[:, None], centered)
    return y.reshape(first.shape).movedim(0, 1).to(x.dtype).contiguous()

# %% wrong BatchNorm: with momentum=None the weight of the new batch is 1 / (num_batches_tracked + 1) although the batch has been counted already, so the initial 0 and 1 enter the average like a batch of their own
class BatchNorm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        axes = (0,) if x.dim() == 2 else (0, 2, 3)
        shape = (1, -1) if x.dim() == 2 else (1, -1, 1, 1)
        if self.training:
            n = x.numel() // x.shape[1]
            if n == 1:
                raise ValueError("more than one value per channel is needed in training")
            mean = x.mean(dim=axes)
            var = x.var(dim=axes, unbiased=False)
            with torch.no_grad():
                self.num_batches_tracked += 1
                if self.momentum is None:
                    m = 1.0 / (self.num_batches_tracked.item() + 1)
                else:
                    m = self.momentum
                self.running_mean.mul_(1 - m).add_(m * mean)
                self.running_var.mul_(1 - m).add_(m * var * n / (n - 1))
        else:
            mean, var = self.running_mean, self.running_var
        x_hat = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        return x_hat * self.weight.view(shape) + self.bias.view(shape)

# %% wrong BatchNorm: the running variance is updated outside of the no_grad block, so that buffer hangs on the graph of every batch whose x requires gradients (and copy.deepcopy then fails)
class BatchNorm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        dims = [d for d in range(x.dim()) if d != 1]
        view = [1, -1] + [1] * (x.dim() - 2)

        if not self.training:
            mean, var = self.running_mean, self.running_var
        else:
            n = x[:, 0].numel()
            if n < 2:
                raise ValueError(f"one value per channel, x has the shape {tuple(x.shape)}")
            mean, var = x.mean(dims), x.var(dims, correction=0)
            with torch.no_grad():
                self.num_batches_tracked += 1
                m = self.momentum
                if m is None:
                    m = 1 / self.num_batches_tracked.item()
                self.running_mean = (1 - m) * self.running_mean + m * mean
            unbiased = var * n / (n - 1)
            self.running_var = (1 - m) * self.running_var + m * unbiased

        x = (x - mean.view(view)) * (var.view(view) + self.eps).rsqrt()
        return x * self.weight.view(view) + self.bias.view(view)

# %% right BatchNorm: a torch.autograd.Function with a backward pass by hand normalizes the batch and hands out its moments, one row per channel in float64
from torch.autograd.function import once_differentiable


class NormalizeRows(torch.autograd.Function):
    """Every row to mean 0 and variance 1; also the rows' mean, variance and 1 / root, outside of the graph."""

    @staticmethod
    def forward(rows: Tensor, eps: float):
        mean = rows.mean(1, keepdim=True)
        centered = rows - mean
        var = centered.square().mean(1, keepdim=True)
        inverse = (var + eps).rsqrt()
        return centered * inverse, mean, var, inverse

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        hat, mean, var, inverse = output
        ctx.mark_non_differentiable(mean, var, inverse)
        ctx.save_for_backward(hat, inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        hat, inverse = ctx.saved_tensors
        share = grad.mean(1, keepdim=True) + hat * (grad * hat).mean(1, keepdim=True)
        return (grad - share) * inverse, None


class BatchNorm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def remember(self, mean: Tensor, unbiased: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.copy_((1 - share) * running.double() + share * batch)

    def forward(self, x: Tensor) -> Tensor:
        first = x.movedim(1, 0)
        rows = first.flatten(1).double()  # (C, n)
        if self.training:
            if (n := rows.shape[1]) < 2:
                raise ValueError(f"one value per channel has no spread to train on: {tuple(x.shape)}")
            hat, mean, var, _ = NormalizeRows.apply(rows, self.eps)
            self.remember(mean.squeeze(1), var.squeeze(1) * (n / (n - 1)))
        else:
            mean, var = (b.to(torch.float64, copy=True)[:, None] for b in (self.running_mean, self.running_var))
            hat = (rows - mean) * (var + self.eps).rsqrt()
        y = torch.addcmul(self.bias.double()[:, None], self.weight.double()[:, None], hat)
        return y.reshape(first.shape).movedim(0, 1).to(x.dtype)

# %% right BatchNorm: means by average pooling, a named tuple that is the line of each channel, fresh running tensors set by name
from typing import NamedTuple


class ChannelLine(NamedTuple):
    """y = slope * x + shift, for x of shape (N, C, L)."""

    slope: Tensor
    shift: Tensor

    def __call__(self, columns: Tensor) -> Tensor:
        return torch.addcmul(self.shift[:, None], self.slope[:, None], columns)


def pooled(columns: Tensor) -> Tensor:
    """(N, C, L) to (C,): first over L, then over N; all images are equally large."""
    return F.adaptive_avg_pool1d(columns, 1).squeeze(2).mean(0)


class BatchNorm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        for name, fill in {"weight": 1.0, "bias": 0.0}.items():
            self.register_parameter(name, nn.Parameter(torch.full((num_features,), fill)))
        for name, fill in {"running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((num_features,), fill))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def from_batch(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        n = columns.shape[0] * columns.shape[2]
        if n < 2:
            raise ValueError("training needs at least two values per channel")
        mean = pooled(columns)
        var = pooled((columns - mean[:, None]).square())
        with torch.no_grad():
            self.num_batches_tracked = self.num_batches_tracked + 1
            match self.momentum:
                case None:
                    new = 1.0 / int(self.num_batches_tracked)
                case new:
                    pass
            for name, now in (("running_mean", mean), ("running_var", var * (n / (n - 1)))):
                so_far = getattr(self, name)
                setattr(self, name, (so_far.double() * (1 - new) + now * new).to(so_far.dtype))
        return mean, var

    def from_memory(self, _: Tensor) -> tuple[Tensor, Tensor]:
        return self.running_mean.double(), self.running_var.double()

    def forward(self, x: Tensor) -> Tensor:
        columns = x.unsqueeze(-1).flatten(2).double()  # (N, C, 1) or (N, C, H*W)
        mean, var = (self.from_batch if self.training else self.from_memory)(columns)
        slope = self.weight.double() * torch.rsqrt(var + self.eps)
        line = ChannelLine(slope, self.bias.double() - mean * slope)
        return line(columns).reshape(x.shape).to(x.dtype)

# %% wrong batchnorm_backward: the derivative of (var + eps)^(-1/2) is taken as -1/2 (var + eps)^(-1/2), the exponent not lowered to -3/2, so the variance's share of grad_x is wrong unless var + eps is 1
def batchnorm_backward(
    grad_y: Tensor, x: Tensor, gamma: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    axes = (0,) if x.dim() == 2 else (0, 2, 3)
    shape = (1, -1) if x.dim() == 2 else (1, -1, 1, 1)
    m = x.numel() // x.shape[1]

    mean = x.mean(dim=axes, keepdim=True)
    centered = x - mean
    var = (centered ** 2).mean(dim=axes, keepdim=True)
    std = torch.sqrt(var + eps)
    x_hat = centered / std

    grad_gamma = (grad_y * x_hat).sum(dim=axes)
    grad_beta = grad_y.sum(dim=axes)

    grad_hat = grad_y * gamma.view(shape)
    grad_var = (grad_hat * centered).sum(dim=axes, keepdim=True) * (-0.5) * (var + eps) ** (-0.5)
    grad_mean = -grad_hat.sum(dim=axes, keepdim=True) / std
    grad_x = grad_hat / std + grad_var * 2 * centered / m + grad_mean / m
    return grad_x, grad_gamma, grad_beta

# %% right batchnorm_backward: read as a ridge regression of grad_y on x in every channel: grad_x is its scaled residual
from dataclasses import dataclass


@dataclass(frozen=True)
class Ridge:
    """The line through the points (x, g) of each row, its slope held back by eps."""

    x: Tensor
    g: Tensor
    eps: float

    def __post_init__(self) -> None:
        keep = lambda name, value: object.__setattr__(self, name, value)
        keep("count", self.x.shape[1])
        keep("level", self.g.mean(1, keepdim=True))
        keep("centered", self.x - self.x.mean(1, keepdim=True))
        keep("strength", self.centered.square().mean(1, keepdim=True) + self.eps)
        keep("covariance", (self.centered * self.g).mean(1, keepdim=True))

    @property
    def residual(self) -> Tensor:
        return self.g - (self.level + self.centered * (self.covariance / self.strength))


def batchnorm_backward(
    grad_y: Tensor, x: Tensor, gamma: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    front = x.movedim(1, 0).shape
    rows, grads = (t.movedim(1, 0).flatten(1).double() for t in (x, grad_y))
    fit = Ridge(rows, grads, eps)
    inverse = fit.strength.rsqrt()

    grad_x = (gamma.double()[:, None] * inverse * fit.residual).reshape(front).movedim(0, 1)
    grad_gamma = (fit.count * fit.covariance * inverse).squeeze(1)
    grad_beta = (fit.count * fit.level).squeeze(1)
    return tuple(t.to(x.dtype) for t in (grad_x, grad_gamma, grad_beta))

# %% wrong fold_batchnorm: of stride, padding and dilation only the first number (that of the rows) is handed on and used for the columns, too, so convolutions whose settings differ between rows and columns are folded wrongly
def fold_batchnorm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    scale = 1 / torch.sqrt(bn.running_var + bn.eps)
    shift = -bn.running_mean * scale
    if bn.affine:
        shift = shift * bn.weight + bn.bias
        scale = scale * bn.weight

    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride[0],
        padding=conv.padding if isinstance(conv.padding, str) else conv.padding[0],
        dilation=conv.dilation[0],
        groups=conv.groups,
        bias=True,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        folded.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1))
        folded.bias.copy_(shift if conv.bias is None else conv.bias * scale + shift)
    folded.train(conv.training)
    return folded

# %% right fold_batchnorm: both layers as matrices in homogeneous coordinates, whose product is the folded layer
def fold_batchnorm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    def homogeneous(linear: Tensor, translation: Tensor) -> Tensor:
        outputs, inputs = linear.shape
        matrix = linear.new_zeros(outputs + 1, inputs + 1)
        matrix[:outputs, :inputs] = linear
        matrix[:outputs, inputs] = translation
        matrix[outputs, inputs] = 1
        return matrix

    def vector(given: Tensor | None, otherwise: float) -> Tensor:
        if given is None:
            return torch.full((conv.out_channels,), otherwise, dtype=torch.float64, device=conv.weight.device)
        return given.detach().double()

    settings = {
        name: getattr(conv, name)
        for name in (
            "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
        )
    }
    folded = nn.Conv2d(**settings, bias=True, device=conv.weight.device, dtype=conv.weight.dtype)

    with torch.no_grad():
        scale = vector(bn.weight, 1.0) * (vector(bn.running_var, 1.0) + bn.eps).rsqrt()
        second = homogeneous(scale.diag(), vector(bn.bias, 0.0) - vector(bn.running_mean, 0.0) * scale)
        first = homogeneous(conv.weight.detach().double().flatten(1), vector(conv.bias, 0.0))
        both = second @ first
        folded.weight.copy_(both[:-1, :-1].reshape(conv.weight.shape))
        folded.bias.copy_(both[:-1, -1])
    return folded.train(conv.training)

# %% wrong group_norm: num_groups is taken for the number of channels in a group, so there are C / num_groups groups of num_groups channels each (1 gives instance norm and C layer norm)
def group_norm(x: Tensor, num_groups: int, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    N, C, H, W = x.shape
    if C % num_groups != 0:
        raise ValueError(f"{C} channels cannot be grouped by {num_groups}")
    g = x.reshape(N, -1, num_groups, H, W)
    mean = g.mean(dim=(2, 3, 4), keepdim=True)
    var = g.var(dim=(2, 3, 4), keepdim=True, unbiased=False)
    y = ((g - mean) / torch.sqrt(var + eps)).reshape(N, C, H, W)
    return y * gamma.view(1, C, 1, 1) + beta.view(1, C, 1, 1)

# %% right group_norm: channels as depth: avg_pool3d with a window as large as a group takes the means, repeat_interleave gives them back
from functools import partial


def group_norm(x: Tensor, num_groups: int, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    _, channels, height, width = x.shape
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"{channels} channels do not make {num_groups} groups of equal size")
    size = channels // num_groups

    pool = partial(F.avg_pool3d, kernel_size=(size, height, width))
    spread_out = partial(torch.repeat_interleave, repeats=size, dim=2)

    volume = x.double().unsqueeze(1)  # (N, 1, C, H, W)
    centered = volume - spread_out(pool(volume))
    inverse = (pool(centered.square()) + eps).rsqrt()  # (N, 1, num_groups, 1, 1)
    hat = (centered * spread_out(inverse)).squeeze(1)

    slope, shift = (p.double()[:, None, None] for p in (gamma, beta))
    return torch.addcmul(shift, slope, hat).to(x.dtype)
