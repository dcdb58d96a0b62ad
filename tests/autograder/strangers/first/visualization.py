# %% wrong filter_grid: with fewer filters than columns the picture is only as many filters wide as there are filters (columns is cut to K, as torchvision's grid does), instead of always `columns` wide with 1 in the missing places
import math


def filter_grid(weight: Tensor, columns: int = 8, padding: int = 1) -> Tensor:
    filters = weight.detach()
    count, channels, height, width = filters.shape
    if channels not in (1, 3):
        raise ValueError(f"filters need 1 or 3 channels, not {channels}")
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    picture = torch.ones(
        3,
        rows * (height + padding) + padding,
        columns * (width + padding) + padding,
        dtype=filters.dtype,
        device=filters.device,
    )
    for k in range(count):
        low, high = filters[k].min(), filters[k].max()
        if high > low:
            tile = (filters[k] - low) / (high - low)
        else:
            tile = torch.full_like(filters[k], 0.5)
        row, column = divmod(k, columns)
        top = padding + row * (height + padding)
        left = padding + column * (width + padding)
        picture[:, top : top + height, left : left + width] = tile
    return picture


# %% right filter_grid: no loop: match on the shape, every tile padded with its own line above and to the left, then permuted and reshaped into the sheet
def filter_grid(weight: Tensor, columns: int = 8, padding: int = 1) -> Tensor:
    match tuple(weight.shape):
        case (count, 1 | 3, h, w):
            pass
        case other:
            raise ValueError(f"expected (K, 3, h, w) or (K, 1, h, w), got {other}")

    filters = weight.detach()
    low = filters.amin(dim=(1, 2, 3), keepdim=True)
    span = filters.amax(dim=(1, 2, 3), keepdim=True) - low
    tiles = ((filters - low) / span).masked_fill(span == 0, 0.5).expand(-1, 3, -1, -1)
    tiles = F.pad(tiles, (padding, 0, padding, 0), value=1.0)  # each tile brings its line above and left

    rows = -(-count // columns)
    blanks = tiles.new_ones((rows * columns - count, 3, h + padding, w + padding))
    sheet = torch.cat([tiles, blanks]).reshape(rows, columns, 3, h + padding, w + padding)
    sheet = sheet.permute(2, 0, 3, 1, 4).reshape(3, rows * (h + padding), columns * (w + padding))
    return F.pad(sheet, (0, padding, 0, padding), value=1.0)  # the last lines, below and right


# %% wrong capture_activations: it cleans up by clearing all forward hooks of the layers asked for, so hooks that were on them before the call are lost
def capture_activations(model: nn.Module, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
    modules = dict(model.named_modules())
    for path in layers:
        if path not in modules:
            raise ValueError(f"no layer {path!r} in this network")

    captured = {}

    def keep(path):
        def hook(module, inputs, output):
            captured[path] = output.detach().clone()

        return hook

    try:
        for path in layers:
            modules[path].register_forward_hook(keep(path))
        with torch.no_grad():
            model(x)
    finally:
        for path in layers:
            modules[path]._forward_hooks.clear()
    return captured


# %% right capture_activations: a recorder class that is a context manager, with partial-bound hooks
from functools import partial


class _Recorder:
    """Writes down what the layers at some paths put out while the with block runs."""

    def __init__(self, model: nn.Module, paths: list[str]):
        known = dict(model.named_modules(remove_duplicate=False))
        if strangers := [path for path in paths if path not in known]:
            raise ValueError(f"unknown layers: {strangers}")
        self.spots = {path: known[path] for path in paths}
        self.handles = []
        self.tape: dict[str, Tensor] = {}

    def write(self, path, module, inputs, output) -> None:
        self.tape[path] = output.detach().clone()

    def __enter__(self) -> dict[str, Tensor]:
        for path, module in self.spots.items():
            self.handles.append(module.register_forward_hook(partial(self.write, path)))
        return self.tape

    def __exit__(self, *trouble) -> bool:
        while self.handles:
            self.handles.pop().remove()
        return False


def capture_activations(model: nn.Module, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
    with _Recorder(model, layers) as tape, torch.no_grad():
        model(x)
    return {path: tape[path] for path in layers}


# %% wrong total_variation: it compares with torch.roll, which wraps around, so the first row is also compared with the last one and the first column with the last one
def total_variation(x: Tensor) -> Tensor:
    vertical = (x - torch.roll(x, shifts=1, dims=2)).abs().sum()
    horizontal = (x - torch.roll(x, shifts=1, dims=3)).abs().sum()
    return vertical + horizontal


# %% right total_variation: an inner function on a transposed view, with larger minus smaller instead of abs
def total_variation(x: Tensor) -> Tensor:
    def along(axis: int) -> Tensor:
        lines = x.transpose(2, axis)
        before, after = lines[:, :, :-1], lines[:, :, 1:]
        return (torch.maximum(before, after) - torch.minimum(before, after)).sum(dtype=x.dtype)

    return along(2) + along(3)


# %% wrong maximize_activation: with a position the objective is the value of the first image only, not the mean over the N images, so the other images of a batch are not driven by the unit
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
    device = torch.device("cpu") if generator is None else generator.device
    x = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float32, device=device)
    weight = next(model.parameters())
    x = x.to(device=weight.device, dtype=weight.dtype)

    kept = {}

    def hook(module, inputs, output):
        kept["output"] = output.clone()

    flags = {module: module.training for module in model.modules()}
    handle = dict(model.named_modules())[layer].register_forward_hook(hook)
    try:
        model.eval()
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            model(x)
            output = kept["output"]
            if position is None:
                objective = output[:, channel].mean()
            else:
                row, column = position
                objective = output[0, channel, row, column]
            objective = objective - l2 * (x**2).mean()
            rough = (x[:, :, 1:] - x[:, :, :-1]).abs().sum() + (x[..., 1:] - x[..., :-1]).abs().sum()
            objective = objective - tv * rough / x.numel()
            (g,) = torch.autograd.grad(objective, x)
            x = x.detach()
            largest = g.abs().max()
            if largest > 0:
                g = g / largest  # the squares of tiny numbers would vanish
                x = x + step_size * g / (g**2).mean().sqrt()
    finally:
        handle.remove()
        for module, flag in flags.items():
            module.training = flag
    return x.detach()


# %% wrong maximize_activation: it freezes all parameters for the ascent and afterwards sets requires_grad to True for every one of them, so parameters that were frozen before the call come back trainable
def _roughness(image):
    rows = (image[:, :, :-1, :] - image[:, :, 1:, :]).abs().sum()
    columns = (image[:, :, :, :-1] - image[:, :, :, 1:]).abs().sum()
    return (rows + columns) / image.numel()


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
    noise_device = generator.device if generator is not None else "cpu"
    image = torch.randn(shape, generator=generator, device=noise_device, dtype=torch.float32) * 0.1
    image = image.to(next(model.parameters()))

    modes = [(m, m.training) for m in model.modules()]
    outputs = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: outputs.append(output.clone())
    )
    # only the image is to be optimized
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    try:
        model.eval()
        for _ in range(steps):
            image = image.detach().requires_grad_()
            outputs.clear()
            model(image)
            activation = outputs[-1][:, channel]
            if position is not None:
                activation = activation[:, position[0], position[1]]
            goal = activation.mean() - l2 * image.pow(2).mean() - tv * _roughness(image)
            goal.backward()
            gradient = image.grad
            image = image.detach()
            scale = gradient.abs().max()
            if scale > 0:
                direction = gradient / scale
                image = image + step_size * direction / direction.pow(2).mean().sqrt()
    finally:
        handle.remove()
        for m, mode in modes:
            m.training = mode
        for parameter in model.parameters():
            parameter.requires_grad_(True)
    return image.detach()


# %% right maximize_activation: a dataclass as the objective that is its own hook, and an ExitStack that undoes everything
from contextlib import ExitStack
from dataclasses import dataclass


@dataclass
class _Wish:
    channel: int
    position: tuple[int, int] | None
    l2: float
    tv: float
    output: Tensor | None = None

    def catch(self, module, inputs, output):
        self.output = output.clone()
        return output.clone()  # whatever comes behind may write over this one

    def __call__(self, x: Tensor) -> Tensor:
        unit = (slice(None), self.channel, *(self.position or ()))
        rough = F.l1_loss(x[:, :, 1:], x[:, :, :-1], reduction="sum")
        rough = rough + F.l1_loss(x[..., 1:], x[..., :-1], reduction="sum")
        return self.output[unit].mean() - self.l2 * x.square().mean() - self.tv * rough / x.numel()


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
    source = torch.device("cpu") if generator is None else generator.device
    noise = torch.randn(shape, generator=generator, device=source, dtype=torch.float32).mul_(0.1)
    x = noise.to(next(model.parameters(), noise))
    wish = _Wish(channel, position, l2, tv)

    with ExitStack() as undo:
        for module in model.modules():
            undo.callback(setattr, module, "training", module.training)
        undo.callback(model.get_submodule(layer).register_forward_hook(wish.catch).remove)
        model.eval()
        for _ in range(steps):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                model(x.clone())
                (g,) = torch.autograd.grad(wish(x), x)
            peak = g.abs().max()
            if peak > 0:
                g = g / peak
                x = x.detach() + step_size * g / g.square().mean().sqrt()
    return x.detach()


# %% right maximize_activation: works on a frozen deep copy of the network, as an endless generator of images of which islice takes the one after `steps` steps
from itertools import islice


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
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    seen: list[Tensor] = []

    def keep(module, inputs, output):
        seen[:] = [output.clone()]
        return output.clone()

    twin.get_submodule(layer).register_forward_hook(keep)

    def gradient(image: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = image.clone().requires_grad_()
            twin(leaf.clone())
            liked = seen.pop().movedim(1, 0)[channel]
            if position is not None:
                row, column = position
                liked = liked[:, row, column]
            rough = sum(leaf.diff(dim=axis).abs().sum() for axis in (2, 3))
            goal = liked.mean() - l2 * leaf.pow(2).mean() - tv * rough / leaf.numel()
            return torch.autograd.grad(goal, leaf)[0]

    def images(image: Tensor):
        while True:
            yield image
            g = gradient(image)
            if (peak := g.abs().amax()) > 0:
                direction = g / peak
                image = image + step_size * direction / direction.pow(2).mean().sqrt()

    where = generator.device if generator is not None else torch.device("cpu")
    noise = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float32, device=where)
    return next(islice(images(noise.to(next(twin.parameters(), noise))), steps, None))


# %% wrong receptive_field: the first center moves in by the whole-number half (extent // 2) of what a layer adds, so start is too small by half a step for layers that add an odd number, such as 2×2 windows
def receptive_field(layers: list[tuple[int, int, int, int]]) -> tuple[int, int, float]:
    size, jump, start = 1, 1, 0
    for kernel, stride, padding, dilation in layers:
        extent = dilation * (kernel - 1)
        size += extent * jump
        start += (extent // 2 - padding) * jump
        jump *= stride
    return size, jump, float(start)


# %% right receptive_field: from the last layer back to the first, the intervals that unit 0 and unit 1 see, by reduce
from functools import reduce


def receptive_field(layers: list[tuple[int, int, int, int]]) -> tuple[int, int, float]:
    def through(interval: tuple[int, int], layer: tuple[int, int, int, int]) -> tuple[int, int]:
        kernel, stride, padding, dilation = layer
        first, last = (unit * stride - padding for unit in interval)
        return first, last + dilation * (kernel - 1)

    (first, last), (next_first, _) = (reduce(through, layers[::-1], (unit, unit)) for unit in (0, 1))
    return last - first + 1, next_first - first, (first + last) / 2


# %% wrong top_patches: image_size is read as (width, height), as PIL gives it, so on images that are not square the boxes are clipped at the wrong borders
def top_patches(
    activations: Tensor, channel: int, k: int, field: tuple[int, int, float], image_size: tuple[int, int]
) -> list[tuple[int, int, int, int, int]]:
    width, height = image_size
    size, jump, start = field
    maps = activations[:, channel]
    map_width = maps.shape[2]
    values, indices = maps.flatten(1).max(dim=1)
    patches = []
    for n in values.argsort(descending=True)[:k].tolist():
        row, column = divmod(int(indices[n]), map_width)
        top = round(start + row * jump - (size - 1) / 2)
        left = round(start + column * jump - (size - 1) / 2)
        bottom, right = top + size, left + size
        patches.append((n, max(top, 0), max(left, 0), min(bottom, height), min(right, width)))
    return patches


# %% right top_patches: plain Python lists, a generator of named tuples and heapq.nlargest
import heapq
from typing import NamedTuple


class _Peak(NamedTuple):
    value: float
    image: int
    row: int
    column: int


def top_patches(
    activations: Tensor, channel: int, k: int, field: tuple[int, int, float], image_size: tuple[int, int]
) -> list[tuple[int, int, int, int, int]]:
    size, jump, start = field
    map_width = activations.shape[3]

    def peaks():
        for n, values in enumerate(activations[:, channel].detach().flatten(1).tolist()):
            best = max(range(len(values)), key=values.__getitem__)  # max keeps the first among equals
            yield _Peak(values[best], n, *divmod(best, map_width))

    def span(index: int, limit: int) -> tuple[int, int]:
        first = round(start + index * jump - (size - 1) / 2)
        begin, end = (int(min(max(edge, 0), limit)) for edge in (first, first + size))
        return begin, end

    patches = []
    for peak in heapq.nlargest(k, peaks(), key=lambda peak: peak.value):
        (top, bottom), (left, right) = map(span, (peak.row, peak.column), image_size)
        patches.append((peak.image, top, left, bottom, right))
    return patches
