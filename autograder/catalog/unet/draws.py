"""What exercises of lecture 07 draw and read off: sizes, networks whose layers have any names, displacements.

Nobody is told what to call the layers of a network. Parameters of one shape therefore get the same numbers,
so that any names and any order of construction give the same function, and gradients are summed by shape.
"""

import math
import zlib
from typing import Any

import torch
from torch.nn import functional as F

from autograder.attempt import Handle, Subject
from autograder.catalog.observations import described, parameters_of, wrong
from autograder.draw import Draw
from autograder.exercise import Case, Mismatch, Outcome

# Networks of other layer types add in another order.
LOOSE = (1e-6, 1e-6)
NOTHING = torch.zeros(())
# Displacements above this are rarer than one in 10⁸ on the lattice; bicubic interpolation overshoots a little.
REACH = 8


def input_side(bottom: int, depth: int) -> int:
    """The input whose lowest map, after its two convolutions, has this side."""
    side = bottom + 4
    for _ in range(depth):
        side = 2 * side + 4
    return side


def _values(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers that follow from the shape: weights that keep the signal's size, biases that keep units alive."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {shape}".encode()))
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64)
    return numbers * math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.3 * numbers.abs()


def filled_network(subject: Subject, case: Case) -> Any:
    network = subject(*case.args, **case.kwargs)
    network.then("double")
    network.then("eval")
    filled_anew(network, case.extra["seed"])
    return network


def filled_anew(network: Handle, seed: int) -> None:
    shapes = network.inspect("shapes")["shapes"]
    values = {name: _values(seed, shape) for name, shape in shapes.items()}
    # Not strict: what else an answer keeps in its state shows in its output.
    network.then("load_state_dict", values, strict=False)


def applied_gradients(subject: Subject, case: Case) -> Any:
    return summed_gradients(filled_network(subject, case), case.extra["x"])


def summed_gradients(network: Handle, x: torch.Tensor) -> dict[str, Any]:
    grads = network.vjp(x, wrt=[0, network])["grads"]
    summed: dict[str, Any] = {"x": grads.pop("0")}
    for grad in grads.values():
        if grad is not None:
            name = f"parameters of shape {tuple(grad.shape)}"
            summed[name] = summed.get(name, 0) + grad
    return summed


def parameter_shapes(subject: Subject, case: Case) -> dict[str, int]:
    """How many parameters there are of each shape."""
    network = subject(*case.args, **case.kwargs)
    counts: dict[str, int] = {}
    for p in parameters_of(network, NOTHING).values():
        name = f"{'biases' if p.dim() == 1 else 'weights'} of shape {tuple(p.shape)}"
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def dtype_and_changes(subject: Subject, case: Case) -> dict[str, Any]:
    """Kind and dtype of the answer and arguments changed in place; numbers and shape are other properties' business."""
    answer, changed = subject.with_changes(*case.args, **case.kwargs)
    kind = described(answer).partition(" (")[0]
    return {"answer": kind, "arguments changed in place": [int(c) for c in changed]}


def runs(subject: Subject, case: Case) -> str:
    return described(subject(*case.args, **case.kwargs)(case.extra["x"]))


# -- bending an image that carries its own coordinates, and reading them off the result -----------------------


def coordinate_image(d: Draw, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose channels are row, column and random numbers, and random blocks of labels, framed by another."""
    h, w = (n + d.integer(0, 2) for n in size)
    labels = d.integers(-(-h // 3), -(-w // 3), low=0, high=3).repeat_interleave(3, 0).repeat_interleave(3, 1)
    labels = F.pad(labels[1 : h - 1, 1 : w - 1], (1, 1, 1, 1), value=4)
    return d.layout(torch.cat([own_places(h, w), d.tensor(1, h, w)])), d.layout(labels * 50)


def of_kind(case: Case, got: Any) -> Mismatch | None:
    """What is wrong with a result that is no pair of finite tensors of the right shapes."""
    image, labels = case.args
    pair = isinstance(got, dict) and all(isinstance(got[n], torch.Tensor) for n in ("image", "labels"))
    if not pair or not bool(torch.isfinite(got["image"].double()).all()):
        return Mismatch(Outcome.WRONG_KIND, "expected a pair of finite tensors (image, labels)", code="kind")
    for name, one, other in (("image", image, got["image"]), ("labels", labels, got["labels"])):
        if one.shape != other.shape:
            message = f"expected shape {tuple(one.shape)}, got {tuple(other.shape)}"
            return Mismatch(Outcome.WRONG_KIND, message, name, code="shape")
    return None


def lattice_axis(
    grid: int, size: int, mode: str = "bicubic", aligned: bool = True, antialias: bool = False
) -> torch.Tensor:
    """(size, grid): what one unit of displacement at each lattice point of an axis moves each pixel."""
    points = torch.eye(grid, dtype=torch.float64)[None, None]
    # One column for each point would do, but torch gets those wrong where it is to antialias.
    return F.interpolate(points, (grid, size), mode=mode, align_corners=aligned, antialias=antialias)[0, 0].T


def cubic_axis(grid: int, size: int, aligned: bool = True) -> torch.Tensor:
    """(size, n): what is cubic between two lattice points and joins there, by whatever kernel."""
    place = torch.linspace(0, grid - 1, size, dtype=torch.float64)
    if not aligned:
        # Half a cell more at either end.
        place, grid = (torch.arange(size, dtype=torch.float64) + 0.5) * grid / size + 0.5, grid + 2
    cell = place.long().clamp(max=grid - 2)
    part = place - cell
    joints = [(1 - (place - point).abs()).clamp(min=0) for point in range(grid)]
    humps = [part * (1 - part) * f * (cell == c) for c in range(grid - 1) for f in (1.0, part)]
    return torch.stack([*joints, *humps], 1)


def inner_pixels(h: int, w: int) -> torch.Tensor:
    """Pixels so far inside that no displacement reaches the border."""
    inside = torch.zeros(h, w, dtype=torch.bool)
    inside[REACH:-REACH, REACH:-REACH] = True
    return inside


def own_places(h: int, w: int) -> torch.Tensor:
    """(2, H, W): row and column of every pixel."""
    return torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).double()


def read_places(image: torch.Tensor) -> torch.Tensor:
    """(2, H, W): the row and column each pixel of the result was read from."""
    return image[:2].double()


def displacement(image: torch.Tensor) -> torch.Tensor:
    return read_places(image) - own_places(*image.shape[1:])


def fitted(
    field: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, whole: bool = False
) -> tuple[torch.Tensor, float]:
    """The lattice (2, n, m) that explains the inner part of a field best, and the largest remainder in px.

    Of a field in ``whole`` pixels it is the root mean square: rounding has one, and hardly a largest.
    """
    inner = field[:, REACH:-REACH, REACH:-REACH]
    rows, columns = rows[REACH:-REACH], columns[REACH:-REACH]
    lattice = torch.linalg.pinv(rows, rtol=1e-9) @ inner @ torch.linalg.pinv(columns, rtol=1e-9).T
    remainder = rows @ lattice @ columns.T - inner
    return lattice, float(remainder.square().mean().sqrt() if whole else remainder.abs().max())


def fitted_lattice(image: torch.Tensor, grid: int, whole: bool = False) -> tuple[torch.Tensor, float]:
    """The same for a lattice of grid × grid points, as it is asked for: (2, grid, grid)."""
    rows, columns = (lattice_axis(grid, size) for size in image.shape[1:])
    return fitted(displacement(image), rows, columns, whole)


def mirrored_places(places: torch.Tensor, sizes: tuple[int, int]) -> torch.Tensor:
    folded = []
    for place, size in zip(places, sizes, strict=True):
        period = 2 * (size - 1)
        folded.append(((place % period + period) % period - (size - 1)).abs().neg() + (size - 1))
    return torch.stack(folded)


def changed_at_rest(image: torch.Tensor) -> Mismatch:
    """How an image was read where nothing is displaced."""
    h, w = image.shape[1:]
    seen, rest = read_places(image), read_places(image) - displacement(image)
    across = torch.stack([rest[1] * (h - 1) / (w - 1), rest[0] * (w - 1) / (h - 1)])
    if torch.allclose(seen, across, atol=1e-3):
        return wrong("with sigma=0 rows and columns change places", "identity:swapped", "image")
    stretched = torch.stack([rest[0] * h / (h - 1), rest[1] * w / (w - 1)]) - 0.5
    if torch.allclose(seen[:, 1:-1, 1:-1], stretched[:, 1:-1, 1:-1], atol=1e-3):
        return wrong("with sigma=0 the image is stretched by a pixel", "identity:unaligned", "image")
    short = torch.stack([rest[0] * (h - 1) / h, rest[1] * (w - 1) / w])
    if torch.allclose(seen, short, atol=1e-3):
        return wrong("with sigma=0 the image is stretched by a part of a pixel", "identity:scaled", "image")
    change = float((seen - rest).abs().max())
    message = f"with sigma=0 the image changes: pixels are read up to {change:.2g} px away"
    return wrong(message, "identity:moved", "image")


def spread_of_any_field(images: list[torch.Tensor], size: float) -> Mismatch | None:
    """A field that is no lattice's is a claim of its own; what it displaces the middle by is told, if less sharply."""
    h, w = images[0].shape[1:]
    drawn = torch.stack([displacement(image)[:, h // 2, w // 2] for image in images])
    rows, columns = (drawn.std(0) / size).tolist()
    # Of 40 normal numbers each: outside less than once in 10⁵ right answers.
    if 0.5 < rows < 1.7 and 0.5 < columns < 1.7:
        return None
    return wrong(
        f"at sigma={size:g} the middle is displaced by {rows * size:.2g} px along rows and {columns * size:.2g} px "
        "along columns",
        "spread:of another field",
    )


def way_of_reading(case: Case, got: Any) -> str:
    """How the image was read between its pixels."""
    h, w = case.args[0].shape[1:]
    inside = inner_pixels(h, w)
    places = read_places(got["image"])[:, inside]
    if float(places.frac().abs().max()) < 1e-6:
        return "nearest"
    read = got["image"][2].double()[inside]
    if float((read - _read_at(case.args[0], places, "bilinear")).abs().max()) < 1e-4:
        return "bilinear"
    off = (read - _read_at(case.args[0], straightened(places), "bicubic")).abs()
    return "bicubic" if float(off.max()) < 1e-2 else "otherwise"


def straightened(places: torch.Tensor) -> torch.Tensor:
    """The places behind coordinates that a cubic kernel has read: it bends them, most at a quarter of a pixel."""
    parts = torch.linspace(0, 1, 2001, dtype=torch.float64)
    bent = parts + 0.5 * (2 * parts**3 - 3 * parts**2 + parts)
    return places.floor() + parts[torch.searchsorted(bent, places.frac()).clamp(max=2000)]


def _read_at(image: torch.Tensor, places: torch.Tensor, mode: str) -> torch.Tensor:
    """The random channel of the image at places (2, n) inside it."""
    last = torch.tensor([[size - 1] for size in image.shape[1:]])
    where = (2 * places / last - 1).flip(0).T[None, None]
    return F.grid_sample(image[None, 2:3], where, mode=mode, align_corners=True)[0, 0, 0]
