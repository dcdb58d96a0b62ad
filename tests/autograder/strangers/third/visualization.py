# %% wrong filter_grid: zero is kept at middle gray, a filter becomes 0.5 + w / (2 · its largest absolute value), so in general only one end of the range is reached and its least weight is not 0 or its greatest not 1
def filter_grid(weight: Tensor, columns: int = 8, padding: int = 1) -> Tensor:
    w = weight.detach()
    count, channels, height, width = w.shape
    if channels not in (1, 3):
        raise ValueError(f"filters of {channels} channels are no picture")
    w = w.expand(count, 3, height, width)
    rows = (count + columns - 1) // columns
    picture = torch.ones(
        3,
        rows * (height + padding) + padding,
        columns * (width + padding) + padding,
        dtype=w.dtype,
        device=w.device,
    )
    for k, kernel in enumerate(w):
        if kernel.max() == kernel.min():
            tile = torch.full_like(kernel, 0.5)
        else:
            tile = 0.5 + 0.5 * kernel / kernel.abs().max()
        row, column = divmod(k, columns)
        top = padding + row * (height + padding)
        left = padding + column * (width + padding)
        picture[:, top : top + height, left : left + width] = tile
    return picture


# %% right filter_grid: bricks and mortar: a helper joins pieces with cat and puts a post before, between and behind them, rows taken by islice
from itertools import chain, islice


def filter_grid(weight: Tensor, columns: int = 8, padding: int = 1) -> Tensor:
    if weight.dim() != 4 or weight.shape[1] not in (1, 3):
        raise ValueError(f"expected filters (K, 3, h, w) or (K, 1, h, w), got {tuple(weight.shape)}")
    height, width = weight.shape[-2:]

    def fenced(pieces, post: Tensor, dim: int) -> Tensor:
        return torch.cat([post, *chain.from_iterable((piece, post) for piece in pieces)], dim)

    def developed(kernel: Tensor) -> Tensor:
        exact = kernel.double()
        low, high = exact.amin(), exact.amax()
        tone = (exact - low) / (high - low) if high > low else torch.full_like(exact, 0.5)
        return tone.to(weight.dtype).expand(3, -1, -1)

    def courses():
        tiles = (developed(kernel) for kernel in weight.detach())
        blank = weight.new_ones((3, height, width))
        post = weight.new_ones((3, height, padding))
        while course := list(islice(tiles, columns)):
            course += [blank] * (columns - len(course))
            yield fenced(course, post, dim=2)

    beam = weight.new_ones((3, padding, columns * (width + padding) + padding))
    return fenced(courses(), beam, dim=1)


# %% wrong capture_activations: the captured output is squeezed along its first axis, so with a single image the batch axis is missing and a convolution gives (K, h, w) instead of (1, K, h, w)
def capture_activations(model: nn.Module, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
    modules = dict(model.named_modules())
    for path in layers:
        if path not in modules:
            raise ValueError(f"no layer {path!r} in this network")
    captured = {}

    def keep(path):
        def hook(module, inputs, output):
            captured[path] = output.detach().clone().squeeze(0)

        return hook

    handles = [modules[path].register_forward_hook(keep(path)) for path in layers]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return captured


# %% right capture_activations: recursion, one layer more listens at each level, the innermost level runs the network; a deque of length one keeps the last output
from collections import deque


def capture_activations(model: nn.Module, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
    modules = dict(model.named_modules(remove_duplicate=False))
    if unknown := [path for path in layers if path not in modules]:
        raise ValueError(f"there is no layer at {', '.join(map(repr, unknown))}")

    def listen(paths: list[str]) -> dict[str, Tensor]:
        match paths:
            case []:
                with torch.no_grad():
                    model(x.clone())  # a first layer in place shall not write over x
                return {}
            case [path, *others]:
                latest: deque[Tensor] = deque(maxlen=1)
                handle = modules[path].register_forward_hook(
                    lambda module, inputs, output: latest.append(output.detach().clone())
                )
                try:
                    heard = listen(others)
                finally:
                    handle.remove()
                return {path: latest.pop()} | heard

    return listen(list(layers))


# %% wrong total_variation: diff gets a row and a column of zeros to prepend so that the size stays, so the absolute values of the first row and of the first column are counted as differences, too
def total_variation(x: Tensor) -> Tensor:
    vertical = torch.diff(x, dim=2, prepend=torch.zeros_like(x[:, :, :1]))
    horizontal = torch.diff(x, dim=3, prepend=torch.zeros_like(x[:, :, :, :1]))
    return vertical.abs().sum() + horizontal.abs().sum()


# %% right total_variation: linear algebra, the image times a matrix of differences from the left and from the right
def total_variation(x: Tensor) -> Tensor:
    def differences(length: int) -> Tensor:
        """(length - 1, length), each row with a -1 and a 1 behind it."""
        return torch.eye(length, dtype=x.dtype, device=x.device).diff(dim=0)

    height, width = x.shape[-2:]
    down = differences(height) @ x
    across = x @ differences(width).mT
    return down.abs().sum() + across.abs().sum()


# %% wrong maximize_activation: the channel is summed over the map and the images instead of averaged, which the scaled step hides unless l2 or tv is set: then the penalties weigh far too little
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
    device = "cpu" if generator is None else generator.device
    noise = torch.randn(shape, generator=generator, dtype=torch.float32, device=device)
    parameter = next(model.parameters())
    x = (0.1 * noise).to(device=parameter.device, dtype=parameter.dtype)

    kept = []

    def hook(module, inputs, output):
        kept[:] = [output.clone()]

    flags = {module: module.training for module in model.modules()}
    handle = dict(model.named_modules())[layer].register_forward_hook(hook)
    try:
        model.eval()
        for _ in range(steps):
            x.requires_grad_()
            model(x)
            values = kept[0][:, channel]
            if position is not None:
                row, column = position
                values = values[:, row, column]
            variation = (x[:, :, 1:] - x[:, :, :-1]).abs().sum() + (x[..., 1:] - x[..., :-1]).abs().sum()
            objective = values.sum() - l2 * (x**2).mean() - tv * variation / x.numel()
            (g,) = torch.autograd.grad(objective, x)
            x = x.detach()
            largest = g.abs().max()
            if largest > 0:
                g = g / largest  # so that small numbers can be squared
                x = x + step_size * g / (g**2).mean().sqrt()
    finally:
        handle.remove()
        for module, flag in flags.items():
            module.training = flag
    return x


# %% wrong maximize_activation: out of a training loop's habit model.zero_grad() is called before each step, so gradients that the parameters had before the call are gone afterwards
def squared_mean(x):
    return x.pow(2).mean()


def roughness(x):
    return (torch.diff(x, dim=2).abs().sum() + torch.diff(x, dim=3).abs().sum()) / x.numel()


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
    start_device = generator.device if generator is not None else torch.device("cpu")
    image = 0.1 * torch.randn(*shape, generator=generator, device=start_device, dtype=torch.float32)
    image = image.to(next(model.parameters()))
    modes = [(m, m.training) for m in model.modules()]
    activation = {}

    def remember(module, args, output):
        activation["now"] = output.clone()

    hook = model.get_submodule(layer).register_forward_hook(remember)
    try:
        model.eval()
        for step in range(steps):
            model.zero_grad()
            image = image.detach().requires_grad_(True)
            model(image)
            if position is None:
                goal = activation["now"][:, channel].mean()
            else:
                goal = activation["now"][:, channel, position[0], position[1]].mean()
            goal = goal - l2 * squared_mean(image) - tv * roughness(image)
            gradient = torch.autograd.grad(goal, image)[0]
            if gradient.abs().max() > 0:
                gradient = gradient / gradient.abs().max()
                image = image + step_size * gradient / squared_mean(gradient).sqrt()
    finally:
        hook.remove()
        for m, mode in modes:
            m.training = mode
    return image.detach()


# %% right maximize_activation: the gradient is a vector-Jacobian product of a closure, from torch.autograd.functional; the unit is one index tuple
from torch.autograd.functional import vjp


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
    sample = next(model.parameters(), torch.zeros(()))
    place = torch.device("cpu") if generator is None else generator.device
    noise = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float32, device=place)
    image = noise.to(dtype=sample.dtype, device=sample.device)

    seen: dict[str, Tensor] = {}
    unit = (slice(None), channel, *(position or ()))

    def delight(x: Tensor) -> Tensor:
        model(x.clone())
        variation = sum(x.diff(dim=axis).abs().sum() for axis in (-2, -1))
        return seen["output"][unit].mean() - l2 * x.square().mean() - tv * variation / x.numel()

    flags = [(module, module.training) for module in model.modules()]
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: seen.update(output=output.clone())
    )
    try:
        model.eval()
        for _ in range(steps):
            _, slope = vjp(delight, image)
            if (peak := slope.abs().max()) > 0:
                slope = slope / peak
                image = image + step_size * slope / slope.square().mean().sqrt()
    finally:
        handle.remove()
        for module, flag in flags:
            module.training = flag
    return image


# %% right maximize_activation: the steps are a reduce over a range, the slope comes from backward(inputs=[x]); an observatory as context manager remembers only who was awake
from contextlib import AbstractContextManager
from functools import reduce


class Observatory(AbstractContextManager):
    def __init__(self, model: nn.Module, path: str):
        self.model = model
        self.site = model.get_submodule(path)
        self.view: Tensor | None = None

    def __enter__(self) -> "Observatory":
        self.awake = [module for module in self.model.modules() if module.training]
        self.shutter = self.site.register_forward_hook(self._expose)
        self.model.eval()
        return self

    def _expose(self, module, inputs, output) -> None:
        self.view = output.clone()

    def look(self, x: Tensor) -> Tensor:
        self.model(x.clone())
        return self.view

    def __exit__(self, *trouble) -> None:
        self.shutter.remove()
        for module in self.awake:
            module.training = True


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
    def excitement(view: Tensor) -> Tensor:
        match position:
            case None:
                return view.select(1, channel).mean()
            case (row, column):
                return view.select(1, channel)[:, row, column].mean()

    def penalty(x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        vertical = x.narrow(2, 1, rows - 1) - x.narrow(2, 0, rows - 1)
        horizontal = x.narrow(3, 1, columns - 1) - x.narrow(3, 0, columns - 1)
        variation = vertical.abs().sum() + horizontal.abs().sum()
        return l2 * torch.mean(x * x) + tv * (variation / x.numel())

    start = 0.1 * torch.randn(
        shape,
        generator=generator,
        dtype=torch.float32,
        device="cpu" if generator is None else generator.device,
    )
    start = start.to(next(model.parameters(), start))

    with Observatory(model, layer) as observatory, torch.enable_grad():

        def uphill(image: Tensor, _: int) -> Tensor:
            x = image.clone().requires_grad_()
            goal = excitement(observatory.look(x)) - penalty(x)
            goal.backward(inputs=[x])  # into x.grad alone, the parameters get nothing
            slope = x.grad
            if not slope.any():
                return image
            unit = slope / slope.abs().amax()
            return image + step_size * unit / torch.sqrt(torch.mean(unit * unit))

        return reduce(uphill, range(steps), start)


# %% wrong receptive_field: the size follows (size - 1) · stride + kernel, a recursion that holds from the last layer back to the first, but it is run from first to last, so sizes are wrong for most chains with strides
def receptive_field(layers: list[tuple[int, int, int, int]]) -> tuple[int, int, float]:
    size, jump, start = 1, 1, 0.0
    for kernel, stride, padding, dilation in layers:
        extent = dilation * (kernel - 1)
        size = (size - 1) * stride + extent + 1
        start += (extent / 2 - padding) * jump
        jump *= stride
    return size, jump, start


# %% right receptive_field: no state in a loop: all jumps at once by accumulate, then three sums over zipped layers
from itertools import accumulate
from operator import mul


def receptive_field(layers: list[tuple[int, int, int, int]]) -> tuple[int, int, float]:
    *before, jump = accumulate((stride for _, stride, _, _ in layers), mul, initial=1)
    added = [dilation * (kernel - 1) * step for (kernel, _, _, dilation), step in zip(layers, before)]
    moved = [padding * step for (_, _, padding, _), step in zip(layers, before)]
    return 1 + sum(added), jump, sum(added) / 2 - sum(moved)


# %% wrong top_patches: the best units are kept in a dictionary under their activation, so of several images with exactly the same highest activation only the last one stays and patches are missing
def top_patches(
    activations: Tensor, channel: int, k: int, field: tuple[int, int, float], image_size: tuple[int, int]
) -> list[tuple[int, int, int, int, int]]:
    size, jump, start = field
    height, width = image_size
    best = {}
    for n in range(len(activations)):
        response = activations[n, channel]
        row, column = divmod(int(response.argmax()), response.shape[1])
        best[response.max().item()] = (n, row, column)
    patches = []
    for value in sorted(best, reverse=True)[:k]:
        n, row, column = best[value]
        top = int(round(start + row * jump - (size - 1) / 2))
        left = int(round(start + column * jump - (size - 1) / 2))
        bottom, right = top + size, left + size
        patches.append((n, max(top, 0), max(left, 0), min(bottom, height), min(right, width)))
    return patches


# %% right top_patches: ordered dataclasses whose weakness sorts them, min over all units as tuples settles ties in row order
from dataclasses import dataclass


@dataclass(order=True, frozen=True)
class Sighting:
    weakness: float  # minus the activation: the strongest sorts first
    image: int
    row: int
    column: int

    def patch(self, field: tuple[int, int, float], image_size: tuple[int, int]) -> tuple[int, int, int, int, int]:
        size, jump, start = field

        def span(index: int, side: int) -> tuple[int, int]:
            first = round(start + index * jump - (size - 1) / 2)
            return tuple(int(min(max(edge, 0), side)) for edge in (first, first + size))

        (top, bottom), (left, right) = map(span, (self.row, self.column), image_size)
        return self.image, top, left, bottom, right


def top_patches(
    activations: Tensor, channel: int, k: int, field: tuple[int, int, float], image_size: tuple[int, int]
) -> list[tuple[int, int, int, int, int]]:
    sightings = sorted(
        Sighting(
            *min(
                (-value, n, row, column)
                for row, line in enumerate(response)
                for column, value in enumerate(line)
            )
        )
        for n, response in enumerate(activations[:, channel].detach().tolist())
    )
    return [sighting.patch(field, image_size) for sighting in sightings[:k]]
