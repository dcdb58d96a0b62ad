"""What sample_patches is shown, what is looked at, and what is said of it."""

from collections.abc import Callable
from math import comb
from typing import Any

import torch

from autograder.attempt import Raised, Subject
from autograder.catalog.observations import described, wrong
from autograder.draw import Draw
from autograder.exercise import Case, Mismatch, Outcome

# Drawn so often that a legal center is left out once in 10^9 right answers.
OFTEN = 100
# So seldom are a right answer's draws from a line of centers so few, or so many: less than once in a million
# exams.
RARE = 1e-7
# Row and column in one number, so that a patch of one channel tells where it was cut.
ROW = 1000

STUMBLES = {
    "ragged": ("equal size", "must match", "same shape", "inhomogeneous"),
    "nothing to draw from": (
        "'from' to be less",
        "empty range",
        "empty sequence",
        "high <= 0",
        "low >= high",
    ),
}
"""What an error says where patches of several sizes are put together, or a center is drawn of none."""


# -- what is drawn ------------------------------------------------------------------------------------------


def _addressed(d: Draw, h: int, w: int, channels: int = 1) -> torch.Tensor:
    """An image whose first channel tells row and column, rounded."""
    rows = torch.arange(h, dtype=torch.float64)[:, None]
    address = ROW * rows + torch.arange(w, dtype=torch.float64) + d.positive(h, w, low=0.0, high=0.4)
    return d.layout(torch.cat([address[None], d.tensor(channels - 1, h, w)]))


def _outside(h: int, w: int, size: int) -> torch.Tensor:
    """Where the center of a patch cannot lie."""
    outside = torch.ones(h, w, dtype=torch.bool)
    outside[size // 2 : size // 2 + h - size + 1, size // 2 : size // 2 + w - size + 1] = False
    return outside


def _framed(d: Draw, h: int, w: int, size: int) -> torch.Tensor:
    """Labels of three classes, void where no center can lie: what is drawn there is another
    property's business."""
    return d.integers(h, w, low=0, high=2).masked_fill(_outside(h, w, size), 255)


def patch_case(sizes: tuple[int, ...], per_class: int = 12) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        size = d.each(sizes)
        h, w = d.choice([(size + 5, size + 6), (size + 6, size + 5), (size + 5, 3 * size + 15)])
        image = _addressed(d, h, w, d.choice([1, 3]))
        return Case((image, _framed(d, h, w, size), size, per_class, d.generator()))

    return draw


def at_the_border(d: Draw) -> Case:
    """Classes 0, 1 and 2 are everywhere, class 5 only where no patch fits."""
    size = d.each([3, 4, 5])
    h, w = d.integer(10, 11), d.choice([12, 11])
    labels = d.integers(h, w, low=0, high=2)
    labels[-1, 1:] = labels[1:, -1] = 5
    return Case((_addressed(d, h, w), labels, size, 12, d.generator()))


def unbalanced(d: Draw) -> Case:
    """Two common classes, one of three legal centers and many that are not, and one of a single center."""
    size = d.each([3, 4, 5])
    h, w = d.integer(9, 10), d.choice([12, 14])
    labels = d.integers(h, w, low=0, high=1)
    labels[_outside(h, w, size)] = 2
    middle = torch.tensor([2, 2, 2, 4, 0, 1])[torch.randperm(6, generator=d.source)]
    labels[h // 2 - 1 : h // 2 + 1, w // 2 - 1 : w // 2 + 2] = middle.reshape(2, 3)
    return Case((_addressed(d, h, w), labels, size, d.integer(5, 9), d.generator()))


def with_void(d: Draw) -> Case:
    """Void is in every patch, at the center of some."""
    size = d.each([3, 4, 5])
    h, w = size + 5, size + 6
    labels = _framed(d, h, w, size)
    labels[d.integer(0, 2) :: 3, d.integer(0, 2) :: 3] = 255
    everywhere = torch.full_like(labels, 255)
    return Case((_addressed(d, h, w), labels, size, 12, d.generator()), {}, {"void everywhere": everywhere})


def few_and_many(d: Draw) -> Case:
    """The centers of class 1 are few, and the four corners of what is legal are among them; those of class
    2 are more than are drawn of it. Those of class 3 are a cross, about half of them in one row and half in
    one column; an image of one legal row has none."""
    h, w, size = d.each([(14, 15, 4), (13, 14, 3), (5, 110, 5), (12, 13, 2)])
    first, rows, columns = size // 2, h - size, w - size
    labels = torch.full((h, w), 2)
    middle = h // 2, w // 2 - d.integer(0, 1)
    if rows:
        labels[middle[0]] = labels[:, middle[1]] = 3
    for row in (first, first + rows):
        for column in (first, first + columns):
            labels[row, column] = 1
    labels[middle] = 1
    labels[_outside(h, w, size)] = 255
    return Case((_addressed(d, h, w), labels, size, OFTEN, d.generator()))


def twice(d: Draw) -> Case:
    case = patch_case((3,))(d)
    return Case(case.args[:-1], {}, {"generators": (case.args[-1], d.generator())})


def patch_kinds(d: Draw) -> Case:
    labels_as = d.each([torch.int64, torch.uint8, torch.int32])
    image, labels, *rest = patch_case((3,), per_class=3)(d).args
    image = torch.cat([image, d.tensor(1, *labels.shape)])
    bytes_too = (image.abs() * 20).clamp(0, 255).to(torch.uint8)
    return Case((image, labels.to(labels_as), *rest), {}, {"as bytes": bytes_too})


# -- what is looked at --------------------------------------------------------------------------------------


def drawn(subject: Subject, case: Case) -> Any:
    """Patches and targets, or what somebody stumbled over who put them together."""
    try:
        result = subject(*case.args)
    except Raised as raised:
        for code, words in STUMBLES.items():
            if any(word in raised.message for word in words):
                return {"stumbled": code, "message": f"{raised} (in `{raised.line}`)"}
        raise
    if not isinstance(result, list | tuple) or len(result) != 2:
        return result
    return {name: _one(value) for name, value in zip(("patches", "targets"), result, strict=True)}


def _one(value: Any) -> Any:
    """A list as the tensor that it could be: what kind it must be is another property's business."""
    if isinstance(value, list | tuple) and value:
        if all(type(v) is int for v in value):
            return torch.tensor(value)
        if all(isinstance(v, torch.Tensor) and v.shape == value[0].shape for v in value):
            return torch.stack(list(value))
    return value


def drawn_with_void(subject: Subject, case: Case) -> Any:
    image, _, *rest = case.args
    found = drawn(subject, case)
    try:
        return [found, drawn(subject, Case((image, case.extra["void everywhere"], *rest)))]
    except Raised as raised:
        return [found, {"stumbled": "void alone", "message": f"{raised} (in `{raised.line}`)"}]


def drawn_twice(subject: Subject, case: Case) -> Any:
    one, other = case.extra["generators"]
    source = subject.build(other)
    seen = [drawn(subject, Case((*case.args, generator))) for generator in (one, one, source)]
    return {"drawn": seen, "seeded anew": source.do("initial_seed") != other.seed}


def drawn_kinds(subject: Subject, case: Case) -> Any:
    seen: dict[str, Any] = {}
    changes = []
    for kind, image in (("float64", case.args[0]), ("uint8", case.extra["as bytes"])):
        result, changed = subject.with_changes(image, *case.args[1:])
        changes.append([int(c) for c in changed])
        pair = isinstance(result, list | tuple) and len(result) == 2
        parts = result if pair else [result]
        seen[f"patches and targets of a {kind} image"] = [
            f"{str(v.dtype).removeprefix('torch.')}, {v.dim()} axes"
            if isinstance(v, torch.Tensor)
            else described(v)
            for v in parts
        ]
        if kind == "uint8" and pair and isinstance(result[0], torch.Tensor):
            found, there = result[0].double().unique(), image.double().unique()
            seen["bytes keep their values"] = bool((found[:, None] == there).any(1).all())
    return {**seen, "arguments changed in place": changes[0]}


# -- what is said of it -------------------------------------------------------------------------------------


def _not_drawn(got: Any) -> Mismatch | None:
    """Why these are no patches with a target each."""
    if isinstance(got, dict) and "stumbled" in got:
        return Mismatch(Outcome.RAISED, got["message"], code=got["stumbled"])
    if not isinstance(got, dict) or not all(isinstance(v, torch.Tensor) for v in got.values()):
        return Mismatch(Outcome.WRONG_KIND, "expected a pair of tensors (patches, targets)", code="kind")
    patches, targets = got["patches"], got["targets"]
    if patches.dim() != 4 or targets.numel() != len(patches):
        message = (
            f"expected patches (P, C, size, size) and targets (P,), got {tuple(patches.shape)} and"
            f" {tuple(targets.shape)}"
        )
        return Mismatch(Outcome.WRONG_KIND, message, code=f"shapes:{patches.dim()}, {targets.dim()}")
    return None


def _parts(got: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patches, targets, and the row and the column of the first pixel of each patch."""
    patches, targets = got["patches"], got["targets"].flatten().long()
    address = patches[:, 0, 0, 0].double().nan_to_num().round().long().clamp(min=0)
    return patches, targets, address // ROW, address % ROW


def _missized(case: Case, patches: torch.Tensor) -> Mismatch | None:
    image, _, size = case.args[:3]
    wanted, came = (len(image), size, size), tuple(patches.shape[1:])
    if came == wanted:
        return None
    more = came[1] - size
    code = f"size:{more:+}" if came == (len(image), size + more, size + more) else "shape"
    return Mismatch(Outcome.WRONG_KIND, f"expected patches of shape {wanted}, got {came}", code=code)


def _no_pieces(case: Case, got: Any) -> Mismatch | None:
    image = case.args[0]
    patches, _, tops, lefts = _parts(got)
    if patches.is_floating_point():  # its dtype is another property's business
        image = image.to(patches.dtype)
    h, w = patches.shape[2:]
    pieces = image.unfold(1, h, 1).unfold(2, w, 1)
    inside = (tops < pieces.shape[1]) & (lefts < pieces.shape[2]) & (patches.shape[1] == len(image))
    off = ~inside
    if inside.any():
        cut = pieces[:, tops[inside], lefts[inside]].transpose(0, 1)
        off[inside] = (patches[inside] != cut).flatten(1).any(1)
    if not off.any():
        return None
    where = f"patches[{int(off.nonzero()[0])}]"
    message = f"{int(off.sum())} of {len(off)} patches are no piece of the image"
    return wrong(message, "crop" if off.all() else "crop:some", where)


def _center(case: Case, got: Any) -> int | None:
    """Which pixel of all patches bears their target, told by its row, which is its column too."""
    labels, size = case.args[1:3]
    _, targets, tops, lefts = _parts(got)
    for offset in (size // 2, (size - 1) // 2, 0):
        rows, columns = tops + offset, lefts + offset
        there = bool(((rows < labels.shape[0]) & (columns < labels.shape[1])).all())
        if there and torch.equal(targets, labels.long()[rows, columns]):
            return offset
    return None


def judge_crops(case: Case, expected: Any, got: Any) -> Mismatch | None:
    """Every patch is cut from the image, and its target is the label of its center."""
    if mismatch := _not_drawn(got):
        return mismatch
    if not len(got["targets"]):
        return wrong("there is no patch", "none")
    if mismatch := _missized(case, got["patches"]) or _no_pieces(case, got):
        return mismatch
    size = case.args[2]
    offset = _center(case, got)
    if offset == size // 2:
        return None
    if offset is None:
        return wrong("targets are not the labels of the patches' center pixels", "center")
    name = "row and column (size − 1) // 2" if offset else "the top left pixel"
    return wrong(f"the targets are the labels of {name}", f"center:{offset - size // 2}")


def judge_inside(case: Case, expected: Any, got: Any) -> Mismatch | None:
    """No patch runs over the border. Which pixel is the center is another property's business, if it is the
    same of all."""
    if mismatch := _not_drawn(got):
        return mismatch
    if not len(got["targets"]):
        return wrong("there is no patch", "none")
    if mismatch := _no_pieces(case, got):
        return mismatch
    if (got["targets"] == 5).any():
        return wrong("class 5 has no legal center, and patches of it were drawn", "inside:another pixel")
    if _center(case, got) is None:
        return wrong("targets are not the labels of the patches' center pixels", "center")
    return None


def judge_counts(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := _not_drawn(got):
        return mismatch
    per_class = case.args[3]
    wanted = {int(c): per_class for c in expected["targets"].unique()}
    counts = dict(zip(*(v.tolist() for v in got["targets"].long().unique(return_counts=True)), strict=True))
    if counts == wanted:
        return None
    message = f"expected {wanted} patches of each class, got {counts}"
    if set(counts) - set(wanted):
        return wrong(message, "count:another class")
    if sum(counts.values()) == sum(wanted.values()):
        return wrong(message, "count:unbalanced")
    if any(count > per_class for count in counts.values()):
        return wrong(message, "count:more")
    fewer = sorted(c for c in wanted if counts.get(c, 0) < per_class)
    none = len(fewer) > 1 and not set(fewer) & set(counts)
    return wrong(message, f"count:{'none' if none else 'fewer'} of {fewer}")


def judge_void(case: Case, expected: Any, got: Any) -> Mismatch | None:
    image, _, size = case.args[:3]
    found, nothing = got
    if mismatch := _not_drawn(found):
        return mismatch
    if (found["targets"] == 255).any():
        return wrong("patches with a void center were drawn", "void")
    if not len(found["targets"]):
        return wrong("there is no patch, though not all centers are void", "void:in the patch")
    if isinstance(nothing, dict) and "stumbled" in nothing:
        return Mismatch(Outcome.RAISED, nothing["message"], "of nothing but void", code="void alone")
    if _are_none(nothing, (0, len(image), size, size)):
        return None
    if isinstance(nothing, dict) and isinstance(nothing["targets"], torch.Tensor) and len(nothing["targets"]):
        return wrong("patches come from an image without a class", "void:all")
    message = f"expected patches {(0, len(image), size, size)} and targets (0,), got {_shapes(nothing)}"
    return Mismatch(Outcome.WRONG_KIND, message, "of nothing but void", code="void:no shape")


def _are_none(got: Any, shape: tuple[int, ...]) -> bool:
    if not isinstance(got, dict) or not all(isinstance(v, torch.Tensor) for v in got.values()):
        return False
    return tuple(got["patches"].shape) == shape and not got["targets"].numel()


def _shapes(got: Any) -> str:
    return " and ".join(described(v) for v in got.values()) if isinstance(got, dict) else described(got)


def judge_spread(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := judge_counts(case, expected, got):
        return mismatch
    labels, size, per_class = case.args[1:4]
    _, targets, tops, lefts = _parts(got)
    # Which pixel is the center is another property's business.
    offset = size // 2 if (found := _center(case, got)) is None else found
    h, w = labels.shape

    def of_class(label: int) -> tuple[list[list[int]], list[list[int]]]:
        """Its centers that came, and those that are legal."""
        came = torch.stack([tops, lefts], 1)[targets == label] + offset
        corners = (labels == label).nonzero() - offset
        inside = ((corners >= 0) & (corners <= torch.tensor([h - size, w - size]))).all(1)
        return came.tolist(), (corners[inside] + offset).tolist()

    seen, legal = of_class(1)
    missing = [place for place in legal if place not in seen]
    if missing:
        last = max(r for r, _ in legal), max(c for _, c in legal)
        at_end = all(r == last[0] or c == last[1] for r, c in missing) and len(missing) < len(legal) - 1
        message = f"centers of class 1 at {legal}, of which {missing} never came up in {per_class} draws"
        if missing == legal[-1:]:
            return wrong(message, "spread:last center")
        return wrong(message, "spread:last" if at_end else "spread:missing")
    if uneven := _uneven(*of_class(3), h // 2):
        return uneven
    if any(seen.count(place) * len(legal) > 2.6 * per_class for place in legal):
        return wrong("some centers come up far more often than others", "spread:uneven")
    of_many = tops[targets == 2] * ROW + lefts[targets == 2]
    if len(of_many.unique()) == per_class:
        message = f"{per_class} draws of class 2 gave {per_class} different centers: none came up twice"
        return wrong(message, "spread:no center twice")
    return None


def _uneven(came: list[list[int]], legal: list[list[int]], row: int) -> Mismatch | None:
    """Whether the centers in a row that holds many came as often as their number says."""
    many, total = sum(r == row for r, _ in legal), len(came)
    if not 0 < many < len(legal):
        return None
    share, count = many / len(legal), sum(r == row for r, _ in came)
    chances = [comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(total + 1)]
    message = (
        f"{many} of the {len(legal)} legal centers of class 3 lie in row {row}, and {count} of {total} draws"
        " are from there"
    )
    if sum(chances[: count + 1]) < RARE:
        return wrong(message, "spread:alone in a row")
    if sum(chances[count:]) < RARE:
        return wrong(message, "spread:alone in a column")
    return None


def judge_twice(case: Case, expected: Any, got: Any) -> Mismatch | None:
    for part in got["drawn"]:
        if mismatch := _not_drawn(part):
            return mismatch
    one, again, other = (part["patches"] for part in got["drawn"])
    if one.shape != again.shape or not torch.equal(one, again):
        return wrong("the same generator gives other patches", "generator:not repeatable")
    if one.shape == other.shape and torch.equal(one, other):
        code = "generator:seeded" if got["seeded anew"] else "generator:ignored"
        return wrong("another generator gives the same patches", code)
    return None
