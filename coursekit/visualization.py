"""Visualization: what a convolutional network has learned, seen in weights, activations and inputs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coursekit import _validate as validate
from coursekit.modes import evaluation_mode


def filter_grid(weight: Tensor, columns: int = 8, padding: int = 1) -> Tensor:
    """The filters of a first layer as one picture, each stretched to the full range of gray or color.

    Args:
        weight: filters, (K, C, h, w), with C = 3 (color) or 1 (gray).
        columns: filters in a row; the picture is always that wide.
        padding: width of the lines around and between the filters, in pixels.

    Returns:
        (3, H, W) with H = ⌈K / columns⌉ · (h + padding) + padding and W likewise, in the dtype of `weight`
        (float32 for integers) and without a gradient. Each filter is (f − min f) / (max f − min f), a constant
        one 0.5; lines and missing filters are 1.

    Raises:
        ValueError: another number of channels, or a number out of range.

    Source: Krizhevsky, Sutskever and Hinton 2012, figure 3.
    """
    weight = validate.as_float(validate.tensor("weight", weight, ["(K, C, h, w)"])).detach()
    validate.whole("columns", columns, 1)
    validate.whole("padding", padding, 0)
    K, C, h, w = weight.shape
    if C not in (1, 3):
        raise validate.refuse("weight", "of filters with 1 or 3 channels", validate.shape_of(weight))

    low, high = weight.amin((1, 2, 3), keepdim=True), weight.amax((1, 2, 3), keepdim=True)
    scaled = torch.where(high > low, (weight - low) / (high - low), 0.5).expand(K, 3, h, w)
    rows = -(-K // columns)
    picture = weight.new_ones(3, rows * (h + padding) + padding, columns * (w + padding) + padding)
    for k, picture_of_filter in enumerate(scaled):
        top = padding + k // columns * (h + padding)
        left = padding + k % columns * (w + padding)
        picture[:, top : top + h, left : left + w] = picture_of_filter
    return picture


def capture_activations(model: nn.Module, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
    """What some layers of a network put out for one input.

    Args:
        model: any network; it runs once, without gradients and in the mode it is in. Its hooks are left as
            they were.
        x: the network's input.
        layers: module paths, as `named_modules` spells them.

    Returns:
        A copy of the output of each layer, in the order of `layers`; of its last call where it is called more
        than once.

    Raises:
        ValueError: an unknown layer, one the model does not call, or one whose output is no tensor.

    Source: lecture; Zeiler and Fergus 2014, section 4.
    """
    if not isinstance(x, Tensor):
        raise validate.refuse("x", "a tensor", type(x).__name__)
    if not isinstance(layers, list | tuple):
        raise validate.refuse("layers", "a list of module paths", repr(layers))
    modules = {layer: _module(model, "layers", layer) for layer in layers}
    outputs: dict[str, object] = {}

    def keeper(layer: str) -> Callable[[nn.Module, object, object], None]:
        def keep(module: nn.Module, arguments: object, output: object) -> None:
            # A copy, since an in-place layer further on would change the output.
            outputs[layer] = output.detach().clone() if isinstance(output, Tensor) else output

        return keep

    hooks = [module.register_forward_hook(keeper(layer)) for layer, module in modules.items()]
    try:
        with torch.no_grad():
            # A copy, since a network may begin with an in-place layer.
            model(x.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: _output(outputs, "layers", layer) for layer in layers}


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
    module = _module(model, "layer", layer)
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

    hook = module.register_forward_hook(keep)
    try:
        with evaluation_mode(model), torch.enable_grad():
            for _ in range(steps):
                x.requires_grad_(True)
                outputs.clear()
                model(x)
                excitation = _unit(_output(outputs, "layer", layer), layer, channel, position)
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


Field = tuple[int, int, float]


def receptive_field(layers: list[tuple[int, int, int, int]]) -> Field:
    """Which part of the input one unit sees, through a chain of convolutions and pools, along one axis.

    Args:
        layers: (kernel, stride, padding, dilation) of each layer, first to last, in units of its own input.

    Returns:
        size, the pixels a unit sees; jump, the pixels between neighboring units; and start, the center of the
        first unit in pixels, where the center of pixel 0 is 0.

    Raises:
        ValueError: a layer is not four integers, or one is out of range.

    Source: lecture; Araujo, Norris and Sim 2019.
    """
    if not isinstance(layers, list | tuple):
        raise validate.refuse("layers", "a list of (kernel, stride, padding, dilation)", repr(layers))
    size, jump, start = 1, 1, 0.0
    for index, layer in enumerate(layers):
        kernel, stride, padding, dilation = _layer(f"layer {index} of layers", layer)
        extent = dilation * (kernel - 1)
        size += extent * jump
        start += (extent / 2 - padding) * jump
        jump *= stride
    return size, jump, start


def top_patches(
    activations: Tensor, channel: int, k: int, field: Field, image_size: tuple[int, int]
) -> list[tuple[int, int, int, int, int]]:
    """The image patches that excite one channel most: at most one an image.

    Args:
        activations: of some layer for N images, (N, K, h, w).
        channel: the channel of interest.
        k: number of patches; all N where there are fewer images.
        field: (size, jump, start) of that layer, as `receptive_field` gives it, for rows and columns alike.
        image_size: (H, W) of the images, in pixels.

    Returns:
        (n, top, left, bottom, right) for the unit of highest activation in image n (the first in row order
        among equals), strongest first; the unit's receptive field in pixels, clipped to the image, bottom and
        right exclusive.

    Raises:
        ValueError: a shape, dtype or number does not fit.

    Source: Zeiler and Fergus 2014, section 4 and figure 2; Girshick et al. 2014, section 3.1.
    """
    validate.floating("activations", activations, ["(N, K, h, w)"])
    if validate.whole("channel", channel, 0) >= activations.shape[1]:
        raise validate.refuse("channel", f"below the {activations.shape[1]} channels", channel)
    validate.whole("k", k, 1)
    size, jump, start = _field(field)
    if not isinstance(image_size, tuple | list) or len(image_size) != 2:
        raise validate.refuse("image_size", "a pair (H, W)", repr(image_size))
    height, width = (validate.whole("image_size", side, 1) for side in image_size)

    best, unit = activations[:, channel].flatten(1).max(1)
    patches = []
    for n in best.sort(descending=True, stable=True).indices[:k].tolist():
        row, column = divmod(int(unit[n]), activations.shape[3])
        top = int(start + row * jump - (size - 1) / 2)
        left = int(start + column * jump - (size - 1) / 2)
        bottom, right = top + size, left + size
        patches.append(
            (n, _clip(top, height), _clip(left, width), _clip(bottom, height), _clip(right, width))
        )
    return patches


def _module(model: nn.Module, argument: str, layer: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise validate.refuse("model", "an nn.Module", type(model).__name__)
    # A module that stands at two places has two paths.
    modules = dict(model.named_modules(remove_duplicate=False))
    if layer not in modules:
        raise validate.refuse(argument, f"one of {', '.join(filter(None, modules))}", repr(layer))
    return modules[layer]


def _output(outputs: dict[str, object], argument: str, layer: str) -> Tensor:
    output = outputs.get(layer)
    if not isinstance(output, Tensor):
        got = "no output at all" if output is None else type(output).__name__
        raise validate.refuse(argument, "one whose output is a tensor", f"{layer!r} with {got}")
    return output


def _unit(output: Tensor, layer: str, channel: int, position: tuple[int, int] | None) -> Tensor:
    """The mean of one channel of a layer's output, or its value at `position`."""
    if output.ndim < 2:
        got = f"{layer!r} with {validate.shape_of(output)}"
        raise validate.refuse("layer", "one whose output is a tensor (N, K, …)", got)
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


def _layer(argument: str, layer: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    if not isinstance(layer, tuple | list) or len(layer) != 4:
        raise validate.refuse(argument, "(kernel, stride, padding, dilation)", repr(layer))
    kernel, stride, padding, dilation = layer
    return (
        validate.whole(f"kernel of {argument}", kernel, 1),
        validate.whole(f"stride of {argument}", stride, 1),
        validate.whole(f"padding of {argument}", padding, 0),
        validate.whole(f"dilation of {argument}", dilation, 1),
    )


def _field(field: Field) -> Field:
    if not isinstance(field, tuple | list) or len(field) != 3:
        raise validate.refuse("field", "(size, jump, start)", repr(field))
    size, jump, start = field
    validate.whole("field size", size, 1)
    validate.whole("field jump", jump, 1)
    if not isinstance(start, int | float) or not float(start - (size - 1) / 2).is_integer():
        raise validate.refuse("field", f"one whose {size} pixels begin at a pixel's edge", field)
    return size, jump, start


def _clip(pixel: int, size: int) -> int:
    return min(max(pixel, 0), size)
