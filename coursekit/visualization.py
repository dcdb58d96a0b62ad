"""Visualization: what a convolutional network has learned, seen in weights, activations and inputs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from coursekit import _validate as validate


def total_variation(x: Tensor) -> Tensor:
    """The sum of the absolute differences between vertical and between horizontal neighbors.

    Args:
        x: images, (N, C, H, W).

    Returns:
        A scalar, in the dtype of `x` (float32 for integers).

    Raises:
        ValueError: `x` is empty or of another rank.

    Source: Rudin, Osher and Fatemi 1992, in the anisotropic form of Mahendran and Vedaldi 2015, section 2.
    """
    x = validate.as_float(validate.tensor("x", x, ["(N, C, H, W)"]))
    return x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()


def maximize_activation(
    model: nn.Module,
    layer: str,
    channel: int,
    position: tuple[int, int] | None = None,
    shape: tuple[int, int, int, int] = (1, 3, 64, 64),
    steps: int = 64,
    step_size: float = 1.0,
    l2: float = 0.0,
    tv: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The image that excites one unit of a network, found by gradient ascent from noise.

    The objective is the mean of the channel, or its value at `position`, minus l2 · mean(x²) and
    tv · total_variation(x) / numel. A step is x ← x + step_size · g / rms(g), and none where g = 0.

    Args:
        model: any network; it runs in evaluation mode, and its parameters, their gradients and its mode are
            left as they were.
        layer: module path, as `named_modules` spells it.
        channel: channel of that layer's output.
        position: (row, column) in that output's map, or None for the mean over it.
        shape: (N, C, H, W) of the image.
        steps: gradient steps; 0 returns the noise.
        step_size: root mean square of a step, in units of the network's input.
        l2: weight of the image's mean square.
        tv: weight of the image's total variation, per value.
        generator: source of the starting noise, 0.1 · N(0, 1).

    Returns:
        The image, of `shape`, in the dtype and on the device of the model.

    Raises:
        ValueError: an unknown layer, one the model does not call, or a channel or position outside its
            output.

    Source: Erhan et al. 2009, section 3; Simonyan, Vedaldi and Zisserman 2014, equation 1.
    """
    modules = dict(model.named_modules())
    if layer not in modules:
        raise validate.refuse("layer", f"one of {', '.join(filter(None, modules))}", repr(layer))
    validate.whole("channel", channel, 0)
    validate.whole("steps", steps, 0)

    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    noise_device = "cpu" if generator is None else generator.device
    noise = torch.randn(shape, generator=generator, device=noise_device, dtype=torch.float32)
    x = (0.1 * noise).to(device=like.device, dtype=like.dtype)

    outputs: dict[str, object] = {}

    def keep(module: nn.Module, arguments: object, output: object) -> None:
        # A copy, since an in-place ReLU further on would change the output before it is read.
        outputs[layer] = output.clone() if isinstance(output, Tensor) else output

    hook = modules[layer].register_forward_hook(keep)
    try:
        with evaluation_mode(model), torch.enable_grad():
            for _ in range(steps):
                x.requires_grad_(True)
                outputs.clear()
                model(x)
                excitation = _unit(outputs.get(layer), layer, channel, position)
                objective = excitation - l2 * (x**2).mean() - tv * total_variation(x) / x.numel()
                (gradient,) = torch.autograd.grad(objective, x)
                # Squares of small gradients vanish in single precision.
                rms = (gradient.double() ** 2).mean().sqrt()
                x = x.detach()
                if rms > 0:
                    x = x + step_size * gradient / rms
    finally:
        hook.remove()
    return x


def evaluation_mode(model: nn.Module) -> AbstractContextManager[None]:
    """The model in evaluation mode; every module's own training flag comes back, also after an error."""
    return _in_mode(model, training=False)


def training_mode(model: nn.Module) -> AbstractContextManager[None]:
    """The model in training mode; every module's own training flag comes back, also after an error."""
    return _in_mode(model, training=True)


@contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _unit(output: object, layer: str, channel: int, position: tuple[int, int] | None) -> Tensor:
    """The mean of one channel of a layer's output, or its value at `position`."""
    if not isinstance(output, Tensor) or output.ndim < 2:
        got = "no output at all" if output is None else validate.shape_of(output)
        raise validate.refuse("layer", "one whose output is a tensor (N, K, …)", f"{layer!r} with {got}")
    if channel >= output.shape[1]:
        raise validate.refuse("channel", f"below the {output.shape[1]} channels of {layer!r}", channel)
    unit = output[:, channel]
    if position is None:
        return unit.mean()
    inside = len(position) == unit.ndim - 1 == 2 and all(
        0 <= p < size for p, size in zip(position, unit.shape[1:], strict=True)
    )
    if not inside:
        expected = f"(row, column) in the {tuple(output.shape[2:])} map of {layer!r}"
        raise validate.refuse("position", expected, position)
    return unit[:, position[0], position[1]].mean()
