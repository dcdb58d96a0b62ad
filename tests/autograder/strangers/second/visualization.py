# %% wrong filter_grid: detach() is taken for a copy, and the scaling is done in place on it, so the picture is right but the weights of the layer are overwritten with the stretched ones
def filter_grid(weight: Tensor, columns: int = 8, padding: int = 1) -> Tensor:
    if weight.shape[1] not in (1, 3):
        raise ValueError(f"filters of 1 or 3 channels only, not {weight.shape[1]}")
    filters = weight.detach()
    low = filters.amin(dim=(1, 2, 3), keepdim=True)
    span = filters.amax(dim=(1, 2, 3), keepdim=True) - low
    constant = span == 0
    filters -= low
    filters /= torch.where(constant, torch.ones_like(span), span)
    filters[constant.flatten()] = 0.5

    count, _, h, w = filters.shape
    rows = (count + columns - 1) // columns
    picture = torch.ones(
        3,
        rows * (h + padding) + padding,
        columns * (w + padding) + padding,
        dtype=filters.dtype,
        device=filters.device,
    )
    for k in range(count):
        row, column = divmod(k, columns)
        top = padding + row * (h + padding)
        left = padding + column * (w + padding)
        picture[:, top : top + h, left : left + w] = filters[k]
    return picture


# %% right filter_grid: every pixel of the picture looks up for itself which filter and which of its pixels it shows, with a white filter in stock for lines and gaps
def filter_grid(weight: Tensor, columns: int = 8, padding: int = 1) -> Tensor:
    count, channels, h, w = weight.shape
    if channels not in {1, 3}:
        raise ValueError(f"a filter has 1 or 3 channels here, not {channels}")

    flat = weight.detach().flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    stretched = ((flat - low) / (high - low)).masked_fill_(high == low, 0.5)
    colored = stretched.reshape(count, channels, h, w).expand(count, 3, h, w)
    stock = torch.cat([colored, colored.new_ones(1, 3, h, w)])  # the last one is white

    def ruler(tiles: int, side: int) -> tuple[Tensor, Tensor]:
        """For each pixel along one axis: its tile, and its place in the tile (side and more: a line)."""
        pitch = side + padding
        place = torch.arange(tiles * pitch + padding, device=weight.device) - padding
        return place.div(pitch, rounding_mode="floor"), place.remainder(pitch)

    down, line = (t[:, None] for t in ruler(-(-count // columns), h))
    across, dot = (t[None, :] for t in ruler(columns, w))
    which = down * columns + across
    white = (line >= h) | (dot >= w) | (which >= count)
    which = which.masked_fill(white, count)
    return stock[which, :, line.clamp(max=h - 1), dot.clamp(max=w - 1)].permute(2, 0, 1).contiguous()


# %% wrong capture_activations: an unknown path is found only in the loop that registers the hooks, outside of the try, so the hooks of the paths before it stay on the network when it is refused
def capture_activations(model: nn.Module, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
    modules = dict(model.named_modules())
    captured = {}
    handles = []
    for path in layers:
        if path not in modules:
            raise ValueError(f"the network has no layer {path!r}")

        def keep(module, inputs, output, path=path):
            captured[path] = output.detach().clone()

        handles.append(modules[path].register_forward_hook(keep))
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return captured


# %% right capture_activations: paths followed by hand with reduce, outputs filed under the module itself, an ExitStack removes the hooks
from contextlib import ExitStack
from functools import reduce


def capture_activations(model: nn.Module, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
    def inside(module: nn.Module | None, name: str) -> nn.Module | None:
        return None if module is None else module._modules.get(name)

    found = {path: reduce(inside, path.split(".") if path else [], model) for path in layers}
    if lost := [path for path, module in found.items() if module is None]:
        raise ValueError(f"no module under {', '.join(map(repr, lost))}")

    newest: dict[nn.Module, Tensor] = {}
    with ExitStack() as cleanup, torch.no_grad():
        for module in set(found.values()):
            handle = module.register_forward_hook(
                lambda me, _, output: newest.__setitem__(me, output.detach().clone())
            )
            cleanup.callback(handle.remove)
        model(x.clone())
    return {path: newest[module] for path, module in found.items()}


# %% wrong total_variation: both differences are cut to the common shape (H - 1, W - 1) before they are added, as in the formula with a root, so the vertical differences of the last column and the horizontal ones of the last row are missing
def total_variation(x: Tensor) -> Tensor:
    here = x[:, :, :-1, :-1]
    below = x[:, :, 1:, :-1]
    right = x[:, :, :-1, 1:]
    return ((below - here).abs() + (right - here).abs()).sum()


# %% right total_variation: a summed L1 loss between each image and itself one pixel further, a generator over both axes
def total_variation(x: Tensor) -> Tensor:
    def without(axis: int, first: int) -> Tensor:
        return x.narrow(axis, first, x.shape[axis] - 1)

    vertical, horizontal = (
        F.l1_loss(without(axis, 1), without(axis, 0), reduction="sum") for axis in (-2, -1)
    )
    return vertical + horizontal


# %% wrong maximize_activation: the gradient is taken with objective.backward(), so every call also adds to the .grad of all trainable parameters of the network
def _variation(x):
    return (x[:, :, 1:] - x[:, :, :-1]).abs().sum() + (x[..., 1:] - x[..., :-1]).abs().sum()


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
    some = next(model.parameters())
    device = "cpu" if generator is None else generator.device
    x = 0.1 * torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    x = x.to(device=some.device, dtype=some.dtype)

    kept = {}

    def keep(module, inputs, output):
        kept["output"] = output.clone()

    flags = {m: m.training for m in model.modules()}
    handle = dict(model.named_modules())[layer].register_forward_hook(keep)
    try:
        model.eval()
        for _ in range(steps):
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                model(x)
                activation = kept["output"][:, channel]
                if position is not None:
                    activation = activation[:, position[0], position[1]]
                objective = activation.mean() - l2 * (x**2).mean() - tv * _variation(x) / x.numel()
                objective.backward()
            g = x.grad
            x = x.detach()
            peak = g.abs().max()
            if peak > 0:
                g = g / peak  # so that squares of small numbers do not vanish
                x = x + step_size * g / (g**2).mean().sqrt()
    finally:
        handle.remove()
        for m, flag in flags.items():
            m.training = flag
    return x.detach()


# %% wrong maximize_activation: l2 is applied as weight decay, the image is multiplied by 1 - l2 after each step, instead of taking l2 times the mean square off the objective before the gradient is scaled
def _neighbors(x):
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
    parameter = next(model.parameters())
    where = torch.device("cpu") if generator is None else generator.device
    x = torch.randn(shape, generator=generator, dtype=torch.float32, device=where) * 0.1
    x = x.to(parameter.device, parameter.dtype)

    outputs = [None]

    def hook(module, args, output):
        outputs[0] = output.clone()

    modes = [(m, m.training) for m in model.modules()]
    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        model.eval()
        with torch.enable_grad():
            for _ in range(steps):
                x.requires_grad_()
                model(x)
                out = outputs[0]
                if position is None:
                    score = out[:, channel].mean()
                else:
                    row, column = position
                    score = out[:, channel, row, column].mean()
                score = score - tv * _neighbors(x) / x.numel()
                (g,) = torch.autograd.grad(score, x)
                x = x.detach()
                largest = g.abs().max()
                if largest > 0:
                    g = g / largest
                    x = x + step_size * g / g.pow(2).mean().sqrt()
                x = x * (1 - l2)
    finally:
        handle.remove()
        for m, mode in modes:
            m.training = mode
    return x.detach()


# %% right maximize_activation: autograd pulls only a seed at the chosen units back to the image, the slopes of l2 and tv are written out by hand; a generator as context manager, match for the position
from contextlib import contextmanager


@contextmanager
def _observed(model: nn.Module, layer: str):
    """The model in eval mode, and a list that holds a copy of the layer's latest output."""
    latest: list[Tensor] = []

    def note(module, inputs, output):
        latest[:] = [output.clone()]

    flags = [(module, module.training) for module in model.modules()]
    handle = model.get_submodule(layer).register_forward_hook(note)
    try:
        model.eval()
        yield latest
    finally:
        handle.remove()
        for module, flag in flags:
            module.training = flag


def _slope_of_variation(x: Tensor) -> Tensor:
    slope = torch.zeros_like(x)
    for axis in (2, 3):
        pairs = x.shape[axis] - 1
        sign = (x.narrow(axis, 1, pairs) - x.narrow(axis, 0, pairs)).sign()
        slope.narrow(axis, 1, pairs).add_(sign)
        slope.narrow(axis, 0, pairs).sub_(sign)
    return slope


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
    home = next(model.parameters())
    source = torch.device("cpu") if generator is None else generator.device
    noise = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float32, device=source)
    x = noise.to(device=home.device, dtype=home.dtype)

    with _observed(model, layer) as latest, torch.enable_grad():
        for _ in range(steps):
            leaf = x.clone().requires_grad_()
            model(leaf.clone())
            (output,) = latest
            seed = torch.zeros_like(output)
            match position:
                case None:
                    seed[:, channel] = 1 / seed[:, channel].numel()
                case (row, column):
                    seed[:, channel, row, column] = 1 / len(seed)
            pulled = None
            if output.requires_grad:
                (pulled,) = torch.autograd.grad(output, leaf, grad_outputs=seed, allow_unused=True)
            slope = torch.zeros_like(x) if pulled is None else pulled
            slope = slope - (2 * l2 / x.numel()) * x - (tv / x.numel()) * _slope_of_variation(x)
            if (peak := slope.abs().max()) > 0:
                slope = slope / peak  # the largest is 1 now, so no square of it is lost
                x = x + step_size * slope / slope.square().mean().sqrt()
    return x


# %% right maximize_activation: the image is a Parameter, torch.optim.SGD with maximize=True climbs along gradients that are put there already scaled; the hook is an object
class _Ear:
    """Hears the output of one layer, and puts everything back when it is told to leave."""

    def __init__(self, model: nn.Module, layer: str):
        self.heard: Tensor | None = None
        self.modes = {module: module.training for module in model.modules()}
        self.handle = dict(model.named_modules())[layer].register_forward_hook(self)

    def __call__(self, module, inputs, output) -> None:
        self.heard = output.clone()

    def leave(self) -> None:
        self.handle.remove()
        for module, mode in self.modes.items():
            module.training = mode


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
    like = next(model.parameters())
    origin = "cpu" if generator is None else generator.device
    noise = torch.randn(shape, generator=generator, dtype=torch.float32, device=origin).mul_(0.1)
    image = nn.Parameter(noise.to(device=like.device, dtype=like.dtype))
    climber = torch.optim.SGD([image], lr=1.0, maximize=True)
    units = (slice(None), channel) if position is None else (slice(None), channel, *position)

    ear = _Ear(model, layer)
    try:
        model.eval()
        with torch.enable_grad():
            for _ in range(steps):
                model(image.clone())
                variation = sum(image.diff(dim=axis).abs().sum() for axis in (2, 3))
                penalty = l2 * image.square().mean() + tv * variation / image.numel()
                (slope,) = torch.autograd.grad(ear.heard[units].mean() - penalty, [image])
                if (largest := slope.abs().amax()) > 0:
                    slope = slope / largest
                    image.grad = slope * (step_size / slope.square().mean().sqrt())
                    climber.step()
    finally:
        ear.leave()
    return image.detach()


# %% wrong receptive_field: the first center moves in by (kernel - 1) / 2 without the dilation (the well-known formula for undilated layers), although the size does count the dilation
def receptive_field(layers: list[tuple[int, int, int, int]]) -> tuple[int, int, float]:
    size, jump, start = 1, 1, 0.0
    for kernel, stride, padding, dilation in layers:
        size += dilation * (kernel - 1) * jump
        start += ((kernel - 1) / 2 - padding) * jump
        jump *= stride
    return size, jump, start


# %% right receptive_field: each layer is a 3×3 matrix of integers on (size, jump, twice the start), the chain is their product
from functools import reduce


def _product(a, b):
    return [[sum(p * q for p, q in zip(row, column)) for column in zip(*b)] for row in a]


def _matrix(kernel: int, stride: int, padding: int, dilation: int):
    reach = dilation * (kernel - 1)
    return [
        [1, reach, 0],
        [0, stride, 0],
        [0, reach - 2 * padding, 1],
    ]


def receptive_field(layers: list[tuple[int, int, int, int]]) -> tuple[int, int, float]:
    pixel = [[1], [1], [0]]
    (size,), (jump,), (doubled,) = reduce(lambda seen, layer: _product(_matrix(*layer), seen), layers, pixel)
    return size, jump, doubled / 2


# %% wrong top_patches: the images are ranked by the mean of the channel's map, not by their highest activation, so other images, or another order, come out where the two disagree
def top_patches(
    activations: Tensor, channel: int, k: int, field: tuple[int, int, float], image_size: tuple[int, int]
) -> list[tuple[int, int, int, int, int]]:
    size, jump, start = field
    H, W = image_size
    maps = activations[:, channel]
    ranking = maps.mean(dim=(1, 2)).argsort(descending=True)[:k]
    patches = []
    for n in ranking.tolist():
        row, column = divmod(int(maps[n].argmax()), maps.shape[2])
        top = round(start + row * jump - (size - 1) / 2)
        left = round(start + column * jump - (size - 1) / 2)
        patches.append((n, max(top, 0), max(left, 0), min(top + size, H), min(left + size, W)))
    return patches


# %% right top_patches: numpy all the way, both axes and all images at once, a stable argsort for the ranking
import numpy as np


def top_patches(
    activations: Tensor, channel: int, k: int, field: tuple[int, int, float], image_size: tuple[int, int]
) -> list[tuple[int, int, int, int, int]]:
    size, jump, start = field
    maps = activations[:, channel].detach().to(device="cpu", dtype=torch.float64).numpy()
    count, h, w = maps.shape
    flat = maps.reshape(count, h * w)
    units = np.stack(np.unravel_index(flat.argmax(axis=1), (h, w)), axis=1)  # (N, 2): row, column
    first = np.rint(start + units * jump - (size - 1) / 2).astype(np.int64)
    border = np.array(tuple(image_size))
    boxes = np.concatenate([first.clip(0, border), (first + size).clip(0, border)], axis=1)
    order = np.argsort(-flat.max(axis=1), kind="stable")[:k]
    return [(n, *boxes[n].tolist()) for n in order.tolist()]
