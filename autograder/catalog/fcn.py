"""Exercises of lecture 06: patches, the loss of a whole image, skips, and how a segmentation is scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.catalog._common import as_double, carries, described, filled
from autograder.catalog._train_fcn import TRAIN_FCN
from autograder.exercise import (
    Case,
    Exercise,
    Forbidden,
    Hint,
    Misconception,
    Mismatch,
    Outcome,
    Property,
    Variant,
)
from coursekit import fcn as reference

# -- sample_patches -----------------------------------------------------------------------------------------

# Drawn so often that a legal center is left out once in 10^9 right answers.
OFTEN = 150


def _addressed(d: Any, h: int, w: int) -> torch.Tensor:
    """An image whose first channels are row and column, so that a patch tells where it was cut."""
    rows = torch.arange(h, dtype=torch.float64)[:, None].expand(h, w)
    columns = torch.arange(w, dtype=torch.float64).expand(h, w)
    return torch.stack([rows, columns, d.tensor(h, w)])


def _patch_case(sizes: tuple[int, ...], per_class: int = 12) -> Callable[[Any], Case]:
    def draw(d: Any) -> Case:
        h, w = d.integer(8, 11), d.integer(9, 13)
        labels = d.integers(h, w, low=0, high=2)
        return Case((_addressed(d, h, w), labels, d.choice(sizes), per_class, d.generator()))

    return draw


def _unbalanced(d: Any) -> Case:
    """A common class, a rare one, one pixel of a third, and a class that only lines the border."""
    h, w, size = d.integer(9, 11), d.integer(10, 13), d.choice([3, 5])
    labels = torch.zeros(h, w, dtype=torch.int64)
    labels[size // 2 : -(size // 2), size // 2] = 1
    labels[h // 2, w // 2] = 4
    labels[-1] = labels[:, -1] = 3
    return Case((_addressed(d, h, w), labels, size, d.integer(3, 9), d.generator()))


def _with_void(d: Any) -> Case:
    image, labels, *rest = _patch_case((3, 4))(d).args
    h, w = labels.shape
    labels[: h // 2, w // 3 :] = 255
    return Case((image, labels, *rest), {}, {"void everywhere": torch.full_like(labels, 255)})


def _few_centers(d: Any) -> Case:
    """The centers of class 1 are few, and the four corners of what is legal are among them."""
    h, w, size = d.integer(8, 10), d.integer(9, 11), d.choice([4, 3, 5, 2])
    first, rows, columns = size // 2, h - size, w - size
    labels = torch.zeros(h, w, dtype=torch.int64)
    for row in (first, first + rows):
        for column in (first, first + columns):
            labels[row, column] = 1
    labels[h // 2, w // 2] = 1
    return Case((_addressed(d, h, w), labels, size, OFTEN, d.generator()))


def _twice(d: Any) -> Case:
    case = _patch_case((3,))(d)
    return Case(case.args[:-1], {}, {"generators": (case.args[-1], d.generator())})


def _patch_kinds(d: Any) -> Case:
    image, labels, *rest = _patch_case((3,))(d).args
    image = d.choice([image.float(), (image.abs() * 20).clamp(0, 255).to(torch.uint8)])
    return Case((image, d.choice([labels, labels.to(torch.uint8)]), *rest))


def _drawn(subject: Any, case: Case) -> Any:
    result = subject(*case.args, **case.kwargs)
    if not isinstance(result, list | tuple) or len(result) != 2:
        return result
    return {"patches": result[0], "targets": result[1]}


def _drawn_with_void(subject: Any, case: Case) -> Any:
    image, _, *rest = case.args
    everywhere = Case((image, case.extra["void everywhere"], *rest))
    return [_drawn(subject, case), _drawn(subject, everywhere)]


def _drawn_twice(subject: Any, case: Case) -> Any:
    one, other = case.extra["generators"]
    return [_drawn(subject, Case((*case.args, g))) for g in (one, one, other)]


def _drawn_kinds(subject: Any, case: Case) -> Any:
    result = subject(*case.args)
    parts = [described(v) for v in result] if isinstance(result, list | tuple) else described(result)
    return {
        "patches and targets": parts,
        "arguments changed in place": [int(c) for c in subject.changed(*case.args)],
    }


def _bad(message: str, code: str, where: str = "") -> Mismatch:
    return Mismatch(Outcome.WRONG_VALUES, message, where, code=code)


def _are_patches(image: torch.Tensor, size: int, got: Any) -> Mismatch | None:
    """Whether this is a pair (n, C, size, size), (n,) at all."""
    if not isinstance(got, dict) or not all(isinstance(v, torch.Tensor) for v in got.values()):
        message = "expected a pair of tensors (patches, targets)"
        return Mismatch(Outcome.WRONG_KIND, message, code="kind")
    patches, targets = got["patches"], got["targets"]
    wanted = (len(targets) if targets.dim() == 1 else 0, len(image), size, size)
    if targets.dim() != 1 or tuple(patches.shape) != wanted:
        return Mismatch(
            Outcome.WRONG_KIND,
            f"expected patches (n, {len(image)}, {size}, {size}) and targets (n,), got {tuple(patches.shape)} and"
            f" {tuple(targets.shape)}",
            code="shape",
        )
    return None


def _tops(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return patches[:, 0, 0, 0].round().long(), patches[:, 1, 0, 0].round().long()


def _judge_crops(case: Case, expected: Any, got: Any) -> Mismatch | None:
    """Every patch is cut from the image, and its target is the label of its center."""
    image, labels, size = case.args[:3]
    if wrong := _are_patches(image, size, got):
        return wrong
    patches, targets = got["patches"].double(), got["targets"].long()
    if not len(targets):
        return _bad("there is no patch", "none")
    tops, lefts = _tops(patches)
    h, w = labels.shape
    inside = (tops >= 0) & (tops <= h - size) & (lefts >= 0) & (lefts <= w - size)
    cut = torch.stack(
        [
            image[:, t : t + size, left : left + size] if ok else torch.full_like(p, torch.nan)
            for t, left, ok, p in zip(tops.tolist(), lefts.tolist(), inside.tolist(), patches, strict=True)
        ]
    )
    off = (patches != cut).flatten(1).any(1)
    if off.any():
        where = f"patches[{int(off.nonzero()[0])}]"
        return _bad(f"{int(off.sum())} of {len(off)} patches are no piece of the image", "crop", where)
    if torch.equal(targets, labels[tops + size // 2, lefts + size // 2]):
        return None
    for name, offset in (("the top left pixel", 0), ("row and column (size − 1) // 2", (size - 1) // 2)):
        if offset != size // 2 and torch.equal(targets, labels[tops + offset, lefts + offset]):
            return _bad(f"the targets are the labels of {name}", f"center:{offset - size // 2}")
    return _bad("targets are not the labels of the patches' center pixels", "center")


def _judge_counts(case: Case, expected: Any, got: Any) -> Mismatch | None:
    image, _, size, per_class = case.args[:4]
    if wrong := _are_patches(image, size, got):
        return wrong
    wanted = {int(c): per_class for c in expected["targets"].unique()}
    counts = dict(zip(*(v.tolist() for v in got["targets"].long().unique(return_counts=True)), strict=True))
    if counts == wanted:
        return None
    message = f"expected {wanted} patches of each class, got {counts}"
    if set(counts) - set(wanted):
        return _bad(message, "count:classes without a center")
    if set(wanted) - set(counts):
        return _bad(message, "count:missing")
    return _bad(message, "count:fewer" if sum(counts.values()) < sum(wanted.values()) else "count")


def _judge_void(case: Case, expected: Any, got: Any) -> Mismatch | None:
    image, _, size = case.args[:3]
    found, nothing = got
    for part in (found, nothing):
        if wrong := _are_patches(image, size, part):
            return wrong
    if (found["targets"] == 255).any() or (nothing["targets"] == 255).any():
        return _bad("patches with a void center were drawn", "void")
    return _bad("patches come from an image without a class", "void:all") if len(nothing["targets"]) else None


def _judge_spread(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if wrong := _judge_crops(case, expected, got) or _judge_counts(case, expected, got):
        return wrong
    _, labels, size, per_class = case.args[:4]
    tops, lefts = _tops(got["patches"][got["targets"] == 1])
    seen = list(zip((tops + size // 2).tolist(), (lefts + size // 2).tolist(), strict=True))
    legal = [(r, c) for r, c in (labels == 1).nonzero().tolist()]
    missing = [place for place in legal if place not in seen]
    if missing:
        last = max(r for r, _ in legal), max(c for _, c in legal)
        at_end = all(r == last[0] or c == last[1] for r, c in missing) and len(missing) < len(legal) - 1
        message = f"centers of class 1 at {legal}, of which {missing} never came up in {per_class} draws"
        return _bad(message, "spread:last" if at_end else "spread:missing")
    share = max(seen.count(place) for place in legal) * len(legal) / per_class
    return _bad("some centers come up far more often than others", "spread:uneven") if share > 2.2 else None


def _judge_twice(case: Case, expected: Any, got: Any) -> Mismatch | None:
    image, _, size = case.args[:3]
    for part in got:
        if wrong := _are_patches(image, size, part):
            return wrong
    one, again, other = (part["patches"] for part in got)
    if one.shape != again.shape or not torch.equal(one, again):
        return _bad("the same generator gives other patches", "generator:not repeatable")
    if one.shape == other.shape and torch.equal(one, other):
        return _bad("another generator gives the same patches", "generator:ignored")
    return None


def _patches(
    image, labels, size, per_class, generator, *, center=None, legal=None, last=1, draw=None, void=255, pad=False,
    together=False, kind=torch.int64, cast=None,
):  # fmt: skip
    """The draw with a switch for each mistake."""
    if pad:
        image = torch.nn.functional.pad(image, (size // 2, size, size // 2, size))
    if cast is None and not image.is_floating_point():
        image = image.float()
    center = size // 2 if center is None else center
    h, w = labels.shape
    inner = labels[center : center + h - size + last, center : center + w - size + last].long()
    inner = labels.long() if pad else inner
    classes = [c for c in inner.unique().tolist() if c != void]

    def chosen(found, count):
        if draw is not None:
            return found[draw(len(found), count, generator).to(found.device)]
        return found[torch.randint(len(found), (count,), generator=generator).to(found.device)]

    if together:
        places = [chosen((inner != void).nonzero(), per_class * len(classes))] if classes else []
    else:
        places = [chosen((inner == c).nonzero(), per_class) for c in classes]
    if not places:
        return image.new_zeros(0, len(image), size, size), labels.new_zeros(0).to(kind)
    places = torch.cat(places)
    patches = torch.stack([image[:, r : r + size, c : c + size] for r, c in places.tolist()])
    return patches, inner[places[:, 0], places[:, 1]].to(kind)


def _patches_top_left(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, generator, center=0)


def _patches_rounded_down(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, generator, center=(size - 1) // 2)


def _patches_as_they_come(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, generator, together=True)


def _patches_once_each(image, labels, size, per_class, generator):
    def draw(available, count, generator):
        return torch.randperm(available, generator=generator)[:count]

    return _patches(image, labels, size, per_class, generator, draw=draw)


def _patches_of_void(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, generator, void=-1)


def _patches_padded(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, generator, pad=True)


def _patches_one_place(image, labels, size, per_class, generator):
    def draw(available, count, generator):
        return torch.randint(available, (1,), generator=generator).expand(count)

    return _patches(image, labels, size, per_class, generator, draw=draw)


def _patches_last_left_out(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, generator, last=0)


def _patches_global(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, None)


def _patches_nothing_fails(image, labels, size, per_class, generator):
    patches, targets = _patches(image, labels, size, per_class, generator)
    return torch.stack(list(patches)), targets


def _patches_float_targets(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, generator, kind=torch.float32)


def _patches_bytes(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, generator, cast=False)


def _patches_listed(image, labels, size, per_class, generator):
    """Centers listed in plain Python, patches in mixed order."""
    image = image if image.is_floating_point() else image.float()
    half = size // 2
    centers = {}
    for r in range(half, labels.shape[0] - size + half + 1):
        for c in range(half, labels.shape[1] - size + half + 1):
            centers.setdefault(int(labels[r, c]), []).append((r, c))
    centers.pop(255, None)
    patches, targets = [], []
    for label, places in centers.items():
        for _ in range(per_class):
            r, c = places[int(torch.rand(1, generator=generator, dtype=torch.float64) * len(places))]
            patches.append(image[:, r - half : r - half + size, c - half : c - half + size])
            targets.append(label)
    mixed = torch.randperm(len(targets), generator=generator).tolist()
    targets = torch.tensor([targets[i] for i in mixed], dtype=torch.int64, device=labels.device)
    if not patches:
        return image.new_zeros(0, image.shape[0], size, size), targets
    return torch.stack([patches[i] for i in mixed]), targets


def _patches_weighted(image, labels, size, per_class, generator):
    """multinomial over the legal pixels of a class, windows read by index arithmetic."""
    image = image.to(torch.float32) if not image.is_floating_point() else image
    h, w = labels.shape
    legal = torch.zeros(h, w, dtype=torch.bool, device=labels.device)
    legal[size // 2 : size // 2 + h - size + 1, size // 2 : size // 2 + w - size + 1] = True
    drawn = []
    for label in range(255):
        weights = ((labels == label) & legal).flatten().double().cpu()
        if weights.any():
            drawn.append(torch.multinomial(weights, per_class, replacement=True, generator=generator))
    places = torch.cat([*drawn, torch.zeros(0, dtype=torch.int64)]).to(labels.device)
    steps = torch.arange(size, device=labels.device) - size // 2
    rows = (places // w)[:, None, None] + steps[:, None]
    columns = (places % w)[:, None, None] + steps
    return image[:, rows, columns].transpose(0, 1), labels.flatten()[places].long()


SAMPLE_PATCHES = Exercise(
    id="sample_patches",
    topic="fcn",
    title="Patches, every class equally often",
    reference=reference.sample_patches,
    minutes=18,
    difficulty=3,
    properties=(
        Property(
            "centers",
            "patches are pieces of the image, their targets the labels of row and column size // 2",
            1.0,
            _patch_case((3, 5, 1)),
            _drawn,
            _judge_crops,
            "the patches, compared with the image",
            examples=6,
        ),
        Property(
            "even_sizes",
            "the same for even sizes, where there is no middle",
            0.5,
            _patch_case((4, 2, 6)),
            _drawn,
            _judge_crops,
            "the patches, compared with the image",
            examples=4,
        ),
        Property(
            "balanced",
            "each class with a center that lies far enough inside comes per_class times, others never",
            0.75,
            _unbalanced,
            _drawn,
            _judge_counts,
            "how often each class was drawn",
            examples=6,
        ),
        Property(
            "void",
            "void centers (255) are never drawn, and an image of nothing but void gives no patch",
            0.5,
            _with_void,
            _drawn_with_void,
            _judge_void,
            "once with these labels, once with void everywhere",
            examples=6,
        ),
        Property(
            "spread",
            "with replacement, every legal center of a class equally likely",
            0.5,
            _few_centers,
            _drawn,
            _judge_spread,
            "which centers came up",
            examples=4,
        ),
        Property(
            "generator",
            "the draws come from the generator",
            0.5,
            _twice,
            _drawn_twice,
            _judge_twice,
            "twice with the first generator, once with the second",
            examples=4,
        ),
        Property(
            "kinds",
            "targets are int64; patches keep a float dtype, bytes become float32; nothing is modified in place",
            0.25,
            _patch_kinds,
            _drawn_kinds,
            examples=6,
        ),
    ),
    misconceptions=(
        Misconception(
            "label_of_the_corner",
            "Your targets are the labels of the top left pixels.",
            "A patch is named after its center: add size // 2 to row and column.",
            ("centers", "even_sizes", "spread"),
            _patches_top_left,
        ),
        Misconception(
            "center_rounded_down",
            "For even sizes you took the pixel at (size − 1) // 2 as the center.",
            "There are two middle rows; take the later one, size // 2.",
            ("even_sizes", "spread"),
            _patches_rounded_down,
        ),
        Misconception(
            "classes_as_they_come",
            "You drew from all pixels alike, so common classes come often and rare ones hardly ever.",
            "Go class by class, and draw per_class centers of each.",
            ("balanced", "spread"),
            _patches_as_they_come,
        ),
        Misconception(
            "without_replacement",
            "You drew without replacement: a class with few centers gives too few patches.",
            "Draw indices with torch.randint; the same center may come twice.",
            ("balanced", "spread"),
            _patches_once_each,
        ),
        Misconception(
            "void_is_a_class",
            "You drew patches with void centers, as if 255 were a class.",
            "Skip 255 when you go through the classes.",
            ("void",),
            _patches_of_void,
        ),
        Misconception(
            "void_alone_fails",
            "Your function breaks down where no class has a center: there is nothing to stack.",
            "Return patches of shape (0, C, size, size) then, and no targets.",
            ("void",),
            _patches_nothing_fails,
        ),
        Misconception(
            "borders_padded",
            "You padded the image, so some patches hold pixels that are not in it.",
            "Draw only centers whose patch lies inside: rows size // 2 to H − size + size // 2.",
            ("centers", "even_sizes", "balanced", "spread"),
            _patches_padded,
        ),
        Misconception(
            "same_place_again",
            "You drew one center of each class and repeated it.",
            "Draw per_class indices: torch.randint(count, (per_class,), generator=generator).",
            ("spread",),
            _patches_one_place,
        ),
        Misconception(
            "last_row_left_out",
            "The last legal row and column never come up.",
            "A patch fits at H − size + 1 places, not at H − size.",
            ("spread",),
            _patches_last_left_out,
        ),
        Misconception(
            "generator_ignored",
            "You drew from torch's global random numbers.",
            "Hand the generator on: torch.randint(…, generator=generator).",
            ("generator",),
            _patches_global,
        ),
        Misconception(
            "targets_as_floats",
            "Your targets are floats.",
            "Classes are int64, as a loss wants them: .long().",
            ("kinds",),
            _patches_float_targets,
        ),
        Misconception(
            "bytes_kept",
            "An image of bytes gives patches of bytes, which no convolution takes.",
            "Integers become float32: image.float().",
            ("kinds",),
            _patches_bytes,
        ),
    ),
    right=(
        Variant("centers listed in plain Python", _patches_listed),
        Variant("multinomial and index arithmetic", _patches_weighted),
    ),
    hints=(
        Hint(
            "A patch runs over the border",
            "Its center has size // 2 rows above it. How many has it below, for an odd size, for an even one? Cut labels down to the legal centers first.",
        ),
        Hint(
            "A rare class gives too few patches",
            "With replacement, ten draws from three centers are no problem: draw ten indices below three.",
        ),
        Hint(
            "I don't know how to start",
            "inner = labels[size // 2 :, size // 2 :][: H − size + 1, : W − size + 1]. For each class c in inner but 255: (inner == c).nonzero() are the top left corners; draw per_class of them and cut image[:, r : r + size, col : col + size].",
        ),
    ),
)


# -- pixel_cross_entropy ------------------------------------------------------------------------------------

CROSS_ENTROPY = Forbidden(
    "F.cross_entropy",
    (
        "torch.nn.functional.cross_entropy",
        "torch.nn.functional.nll_loss",
        "torch.nn.functional.nll_loss_nd",
        "aten.nll_loss",
        "aten.nll_loss_forward",
        "aten.nll_loss2d",
        "aten.nll_loss2d_forward",
        "aten.nll_loss_nd",
        "aten.cross_entropy_loss",
    ),
)


def _maps(d: Any, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, L, H, W) and target (N, H, W); two images or more, whose void shares may differ."""
    n, classes, h, w = d.integer(2, 3), d.integer(3, 4), d.integer(2, 4), d.choice([5, 3, 6])
    logits = d.layout(d.tensor(n, classes, h, w, scale=scale))
    return logits, d.integers(n, h, w, low=0, high=classes - 1)


def _pitted(d: Any, target: torch.Tensor, void: int) -> torch.Tensor:
    """A target with some void pixels, more of them in the first image."""
    holes = d.integers(*target.shape, low=0, high=4) == 0
    holes[0, :, :2] = True
    holes[1, 0, 0] = False
    return target.masked_fill(holes, void)


def _loss_case(
    *,
    void: bool = False,
    weights: bool = False,
    mask: bool = False,
    other_void: bool = False,
    scale: float = 1.0,
) -> Callable[[Any], Case]:
    def draw(d: Any) -> Case:
        logits, target = _maps(d, scale)
        given: dict[str, Any] = {}
        if void:
            target = _pitted(d, target, 255)
        if other_void:
            given["ignore_index"] = d.choice([-1, -100, 0, 7])
            target = _pitted(d, target, given["ignore_index"])
        if weights:
            given["class_weights"] = d.positive(logits.shape[1], low=0.2, high=3.0)
        if mask:
            half = d.integers(*target.shape, low=0, high=1).bool()
            half[:, 0, -1] = True
            half[:, -1, 0] = False
            given["mask"] = d.choice([half, half * d.positive(*target.shape)])
        return Case((logits, target), given)

    return draw


def _no_pixel(d: Any) -> Case:
    logits, target = _maps(d)
    given = d.choice(
        [
            {},
            {"mask": torch.zeros(target.shape, dtype=torch.bool)},
            {"mask": torch.zeros(target.shape, dtype=torch.float64)},
            {"class_weights": torch.zeros(logits.shape[1], dtype=torch.float64)},
        ]
    )
    return Case((logits, target if given else torch.full_like(target, 255)), given)


def _loss_gradient_case(d: Any) -> Case:
    case = _loss_case(void=True, weights=True, mask=True)(d)
    mask = case.kwargs["mask"]
    return Case(case.args, {**case.kwargs, "mask": mask.double() * 0.5})


def _loss_gradients(subject: Any, case: Case) -> Any:
    return subject.vjp(*case.args, wrt=[0, "class_weights", "mask"], **case.kwargs)["grads"]


def _with_gradient(subject: Any, case: Case) -> Any:
    seen = subject.vjp(*case.args, wrt=[0], **case.kwargs)
    return {"loss": seen["value"], "gradient in logits": seen["grads"]}


def _loss_single(d: Any) -> Case:
    case = _loss_case(weights=True)(d)
    logits, target = case.args
    weights = case.kwargs["class_weights"]
    return Case((logits.float(), target), {"class_weights": weights.float()})


def _loss(
    logits, target, class_weights, mask, ignore_index, *, log_softmax=lambda x: x.log_softmax(1), void=None,
    count_void=False, over=None, guard=True,
):  # fmt: skip
    """The weighted mean with a seam at each step. `over` makes the divisor of weights, mask and validity."""
    void = ignore_index if void is None else void
    valid = target != void
    true_class = target.masked_fill(~valid, 0).long()
    loss = -log_softmax(logits).gather(1, true_class[:, None])[:, 0]
    valid = torch.ones_like(valid) if count_void else valid
    w = torch.ones_like(loss) if class_weights is None else class_weights[true_class]
    m = torch.ones_like(loss) if mask is None else mask.to(loss.dtype)
    total = (w * m * valid).sum() if over is None else over(w, m, valid.to(loss.dtype))
    mean = (w * m * valid * loss).sum()
    return mean / (torch.where(total > 0, total, 1) if guard else total)


def _loss_divided_by_all(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(
        logits, target, class_weights, mask, ignore_index, over=lambda w, m, v: w.new_tensor(w.numel())
    )


def _loss_divided_by_valid(logits, target, class_weights=None, mask=None, ignore_index=255):
    def over(w, m, v):
        return v.sum()

    return _loss(logits, target, class_weights, mask, ignore_index, over=over)


def _loss_weights_not_counted(logits, target, class_weights=None, mask=None, ignore_index=255):
    def over(w, m, v):
        return (m * v).sum()

    return _loss(logits, target, class_weights, mask, ignore_index, over=over)


def _loss_mask_not_counted(logits, target, class_weights=None, mask=None, ignore_index=255):
    def over(w, m, v):
        return (w * v).sum()

    return _loss(logits, target, class_weights, mask, ignore_index, over=over)


def _loss_void_as_class(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index, count_void=True)


def _loss_nan(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index, guard=False)


def _loss_loose_zero(logits, target, class_weights=None, mask=None, ignore_index=255):
    value = _loss(logits, target, class_weights, mask, ignore_index, guard=False)
    return logits.new_zeros(()) if bool(value.isnan()) else value


def _loss_255(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index, void=255)


def _loss_log_of_softmax(logits, target, class_weights=None, mask=None, ignore_index=255):
    def log_softmax(x):
        return x.softmax(1).log()

    return _loss(logits, target, class_weights, mask, ignore_index, log_softmax=log_softmax)


def _loss_exp(logits, target, class_weights=None, mask=None, ignore_index=255):
    def log_softmax(x):
        return (x.exp() / x.exp().sum(1, keepdim=True)).log()

    return _loss(logits, target, class_weights, mask, ignore_index, log_softmax=log_softmax)


def _loss_epsilon(logits, target, class_weights=None, mask=None, ignore_index=255):
    def log_softmax(x):
        return (x.softmax(1) + 1e-12).log()

    return _loss(logits, target, class_weights, mask, ignore_index, log_softmax=log_softmax)


def _loss_wrong_axis(logits, target, class_weights=None, mask=None, ignore_index=255):
    def log_softmax(x):
        return x.log_softmax(-1)

    return _loss(logits, target, class_weights, mask, ignore_index, log_softmax=log_softmax)


def _loss_summed(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index, over=lambda w, m, v: w.new_ones(()))


def _loss_per_image(logits, target, class_weights=None, mask=None, ignore_index=255):
    images = [
        _loss(
            logits[i : i + 1],
            target[i : i + 1],
            class_weights,
            None if mask is None else mask[i : i + 1],
            ignore_index,
        )
        for i in range(len(logits))
    ]
    return torch.stack(images).mean()


def _loss_detached(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index).detach()


def _loss_double(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index).double()


def _loss_one_hot(logits, target, class_weights=None, mask=None, ignore_index=255):
    """Against a one-hot target, all weights in it."""
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    hot = ((target[:, None] == classes) & (target != ignore_index)[:, None]).to(logits.dtype)
    if class_weights is not None:
        hot = hot * class_weights[:, None, None]
    if mask is not None:
        hot = hot * mask[:, None]
    total = hot.sum()
    surprise = logits.logsumexp(1, keepdim=True) - logits
    return torch.einsum("nlhw,nlhw->", hot, surprise) / (total + (total == 0))


def _loss_selected(logits, target, class_weights=None, mask=None, ignore_index=255):
    """Only the pixels that count, as rows of a table."""
    keep = target != ignore_index
    rows, classes = logits.movedim(1, -1)[keep], target[keep]
    shifted = rows - rows.amax(1, keepdim=True).detach()
    wrong = shifted.exp().sum(1).log() - shifted[torch.arange(len(rows), device=rows.device), classes]
    weight = torch.ones_like(wrong)
    if class_weights is not None:
        weight = weight * class_weights[classes]
    if mask is not None:
        weight = weight * mask[keep]
    return (weight * wrong).sum() / weight.sum() if weight.sum() > 0 else (0 * wrong).sum()


COUNTING = ("void", "class_weights", "mask", "gradients")

PIXEL_CROSS_ENTROPY = Exercise(
    id="pixel_cross_entropy",
    topic="fcn",
    title="One loss for every pixel that counts",
    reference=reference.pixel_cross_entropy,
    minutes=20,
    difficulty=3,
    properties=(
        Property("plain", "the mean over all pixels of −log softmax at the true class", 1.0, _loss_case()),
        Property("void", "void pixels count neither above nor below", 0.5, _loss_case(void=True)),
        Property(
            "ignore_index",
            "the void label may be any integer, also the number of a class",
            0.25,
            _loss_case(other_void=True),
        ),
        Property(
            "class_weights",
            "class weights count in the sum and in the divisor",
            0.75,
            _loss_case(weights=True),
        ),
        Property("mask", "so does a mask of bools or of floats", 0.75, _loss_case(mask=True)),
        Property(
            "nothing",
            "where nothing counts, the loss is 0 and so is its gradient",
            0.5,
            _no_pixel,
            _with_gradient,
        ),
        Property("stable", "large logits stay finite", 0.25, _loss_case(scale=1000.0), examples=4),
        Property(
            "gradients",
            "gradients reach the logits, the class weights and the mask",
            0.75,
            _loss_gradient_case,
            _loss_gradients,
            examples=5,
            tried="gradients with respect to logits, class_weights and mask",
        ),
        Property(
            "carries",
            "float32 stays float32, a scalar; nothing is modified in place",
            0.25,
            _loss_single,
            carries,
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "divided_by_all_pixels",
            "You divided by the number of all pixels, void ones included.",
            "Divide by the sum of the same weights that you multiplied with: Σ w·M over the valid pixels.",
            (*COUNTING, "ignore_index"),
            _loss_divided_by_all,
        ),
        Misconception(
            "divided_by_valid_pixels",
            "You divided by the number of valid pixels, without their weights.",
            "Divide by Σ w·M: a pixel of weight 3 counts as three pixels, below as well as above.",
            ("class_weights", "mask", "gradients"),
            _loss_divided_by_valid,
        ),
        Misconception(
            "class_weights_not_in_the_divisor",
            "Your divisor holds the mask and not the class weights.",
            "Divide by Σ w·M, both of them.",
            ("class_weights", "gradients"),
            _loss_weights_not_counted,
        ),
        Misconception(
            "mask_not_in_the_divisor",
            "Your divisor holds the class weights and not the mask.",
            "Divide by Σ w·M, both of them: a pixel that is masked out is not there.",
            ("mask", "gradients"),
            _loss_mask_not_counted,
        ),
        Misconception(
            "averaged_per_image",
            "You averaged each image on its own and then over images.",
            "Sum over the whole batch above and below, and divide once: every pixel of the batch counts the same.",
            ("ignore_index", *COUNTING),
            _loss_per_image,
        ),
        Misconception(
            "void_counts_as_class_0",
            "Your void pixels count as pixels of class 0.",
            "A stand-in class is fine for looking up, if the weight of these pixels is then 0.",
            ("void", "ignore_index", "nothing", "gradients"),
            _loss_void_as_class,
        ),
        Misconception(
            "void_is_always_255",
            "You compare with 255 instead of with ignore_index.",
            "valid = target != ignore_index.",
            ("ignore_index",),
            _loss_255,
        ),
        Misconception(
            "nan_where_nothing_counts",
            "Where no pixel counts, you divide 0 by 0.",
            "Divide by 1 there: torch.where(total > 0, total, 1). The sum above is 0 already.",
            ("nothing",),
            _loss_nan,
        ),
        Misconception(
            "zero_without_a_graph",
            "Where no pixel counts you return a constant, and backward() fails on it.",
            "Keep the sum, which is 0 and has a gradient of 0, and divide it by 1.",
            ("nothing",),
            _loss_loose_zero,
        ),
        Misconception(
            "log_of_softmax",
            "You took the logarithm of a softmax: for large logits it is the logarithm of 0.",
            "log_softmax does both at once and stays finite.",
            ("stable",),
            _loss_log_of_softmax,
        ),
        Misconception(
            "exponentials_overflow",
            "You exponentiated the logits: above 700 that is infinite.",
            "log_softmax subtracts the largest logit first.",
            ("stable",),
            _loss_exp,
        ),
        Misconception(
            "probabilities_lifted",
            "You added a small number to the probabilities, which caps the loss of confident mistakes.",
            "log_softmax needs no such help.",
            ("stable",),
            _loss_epsilon,
        ),
        Misconception(
            "softmax_over_columns",
            "Your softmax runs along the columns of the image.",
            "In (N, L, H, W) the classes are axis 1.",
            ("plain", "void", "ignore_index", "class_weights", "mask", "stable", "gradients"),
            _loss_wrong_axis,
        ),
        Misconception(
            "sum_instead_of_mean",
            "You summed the losses and did not divide.",
            "Divide by Σ w·M.",
            ("plain", "void", "ignore_index", "class_weights", "mask", "stable", "gradients"),
            _loss_summed,
        ),
        Misconception(
            "graph_cut",
            "No gradient comes through: the loss was detached.",
            "Leave detach(), item() and torch.no_grad() out.",
            ("nothing", "gradients"),
            _loss_detached,
        ),
        Misconception(
            "always_float64",
            "Your loss is float64 whatever the logits were.",
            "Give it the dtype of logits.",
            ("carries",),
            _loss_double,
        ),
    ),
    right=(
        Variant("one-hot target and einsum", _loss_one_hot),
        Variant("valid pixels selected first", _loss_selected),
    ),
    hints=(
        Hint(
            "Void pixels give an index error",
            "255 is no class to look up. Put class 0 in its place for looking up, and give these pixels the weight 0.",
        ),
        Hint(
            "My loss is too small or too large with weights",
            "What would the loss be if all pixels had the same ℓ? Exactly ℓ, whatever the weights are. What do you have to divide by?",
        ),
        Hint(
            "I don't know how to start",
            "ℓ = −logits.log_softmax(1).gather(1, true_class[:, None])[:, 0]; weight = valid, times class_weights[true_class], times mask; total = weight.sum(); return (weight·ℓ).sum() / torch.where(total > 0, total, 1).",
        ),
    ),
    forbidden=(CROSS_ENTROPY,),
)


# -- median_frequency_weights -------------------------------------------------------------------------------


def _filled_map(d: Any, h: int, w: int, classes: list[int]) -> torch.Tensor:
    """A map that holds each of the classes, in shares that differ."""
    places = d.integers(h, w, low=0, high=2 ** len(classes) - 1)
    chosen = sum((places >= 2**k).long() for k in range(1, len(classes)))
    labels = torch.tensor(classes)[chosen]
    labels.view(-1)[torch.randperm(h * w, generator=d.source)[: len(classes)]] = torch.tensor(classes)
    return labels


def _stack_case(d: Any) -> Case:
    """Three classes, the last of which is missing from one of the images."""
    h, w = d.integer(4, 6), d.choice([5, 7])
    maps = [_filled_map(d, h, w, [0, 1])] + [_filled_map(d, h, w, [2, 0, 1]) for _ in range(d.integer(1, 2))]
    return Case((torch.stack(maps), 3))


def _list_case(d: Any) -> Case:
    maps = [
        _filled_map(d, 4, d.integer(5, 6), [1, 0]),
        _filled_map(d, d.integer(6, 8), 7, [0, 2, 1]),
        _filled_map(d, 3, d.integer(4, 5), [2, 1, 0]),
    ]
    return Case((maps, 3))


def _even_case(d: Any) -> Case:
    return Case((_filled_map(d, d.integer(5, 7), d.integer(6, 9), [0, 2, 1, 3])[None], 4))


def _absent_case(d: Any) -> Case:
    classes = d.choice([[0, 1, 2], [3, 1, 0], [1, 3, 2]])
    return Case(([_filled_map(d, d.integer(4, 6), d.integer(5, 7), classes)], d.choice([4, 6])))


def _void_case(d: Any) -> Case:
    """Void takes half of the image from which class 2 is missing."""
    void = d.choice([255, -1])
    h, w = d.integer(5, 6), d.choice([6, 8])
    one, other = _filled_map(d, h, w, [0, 1]), _filled_map(d, h, w, [0, 2, 1])
    one[h // 2 :] = void
    one[0, :2] = torch.tensor([0, 1])
    other[-1, : d.integer(1, 2)] = void
    other[:2, 2] = 2
    other[0, :2] = torch.tensor([0, 1])
    maps = torch.stack([one, other])
    return Case((maps, 3), {} if void == 255 else {"ignore_index": void})


def _weights_kinds(d: Any) -> Case:
    (maps, count) = _stack_case(d).args
    return Case((d.choice([maps.to(torch.uint8), list(maps), maps.int()]), count))


def _doubled(subject: Any, case: Case) -> Any:
    return as_double(subject(*case.args, **case.kwargs))


def _balanced(
    label_maps, num_classes, ignore_index, *, pooled=False, averaged=False, median=None, void=True, turn=False,
    absent=0.0, before=False,
):  # fmt: skip
    pixels, valid, shares, seen = torch.zeros(4, num_classes, dtype=torch.float64)
    for labels in label_maps:
        size = labels.numel() if not void else int((labels != ignore_index).sum())
        for c in range(num_classes):
            count = int((labels == c).sum())
            if count or pooled:
                pixels[c] += count
                valid[c] += size
                shares[c] += count / size
                seen[c] += 1
    frequency = shares / seen if averaged else pixels / valid
    there = pixels > 0
    if median is None:

        def median(v):
            return v.quantile(0.5)

    middle = median(frequency.nan_to_num(0.0) if before else frequency[there])
    weights = torch.full_like(pixels, absent)
    weights[there] = frequency[there] / middle if turn else middle / frequency[there]
    return weights.float()


def _balanced_pooled(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, pooled=True)


def _balanced_averaged(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, averaged=True)


def _balanced_lower(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, median=torch.median)


def _balanced_mean(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, median=torch.mean)


def _balanced_inverse(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, median=lambda v: 1.0)


def _balanced_upside_down(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, turn=True)


def _balanced_absent_in_median(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, before=True)


def _balanced_absent_infinite(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, absent=float("inf"))


def _balanced_absent_nan(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, absent=float("nan"))


def _balanced_absent_one(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, absent=1.0)


def _balanced_all_nan(label_maps, num_classes, ignore_index=255):
    weights = _balanced(label_maps, num_classes, ignore_index)
    return weights if (weights > 0).all() else weights * float("nan")


def _balanced_void_counted(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, void=False)


def _balanced_double(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index).double()


def _balanced_python(label_maps, num_classes, ignore_index=255):
    """Counters and fractions, no tensor until the end."""
    from collections import Counter
    from fractions import Fraction

    counters = [Counter(labels.flatten().tolist()) for labels in label_maps]
    frequency = {}
    for c in range(num_classes):
        among = [k for k in counters if k[c] and c != ignore_index]
        if among:
            total = sum(n for k in among for label, n in k.items() if label != ignore_index)
            frequency[c] = Fraction(sum(k[c] for k in among), total)
    ordered = sorted(frequency.values())
    n = len(ordered)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if n else Fraction(0)
    weights = [float(median / frequency[c]) if c in frequency else 0.0 for c in range(num_classes)]
    return torch.tensor(weights, device=label_maps[0].device)


def _balanced_table(label_maps, num_classes, ignore_index=255):
    """A table images × classes, and numpy's median."""
    import numpy as np

    counts = torch.stack(
        [torch.stack([(m == c).sum() for c in range(num_classes)]) for m in label_maps]
    ).double()
    sizes = torch.stack([(m != ignore_index).sum() for m in label_maps]).double()
    frequency = counts.sum(0) / ((counts > 0) * sizes[:, None]).sum(0)
    middle = float(np.nanmedian(frequency.cpu().numpy()))
    return (middle / frequency).nan_to_num(0.0).float()


EVERYWHERE = ("stack", "list", "even", "absent", "void")

MEDIAN_FREQUENCY = Exercise(
    id="median_frequency_weights",
    topic="fcn",
    title="Weights that balance classes",
    reference=reference.median_frequency_weights,
    minutes=15,
    difficulty=2,
    properties=(
        Property(
            "stack",
            "median(freq) / freq(c), freq over the images where c is present",
            0.75,
            _stack_case,
            _doubled,
        ),
        Property("list", "a list of maps of different sizes: pixels are pooled", 0.75, _list_case, _doubled),
        Property(
            "even", "of an even number, the median is the mean of the middle two", 0.5, _even_case, _doubled
        ),
        Property(
            "absent",
            "a class that is nowhere weighs 0 and has no part in the median",
            0.5,
            _absent_case,
            _doubled,
        ),
        Property("void", "void pixels count nowhere", 0.25, _void_case, _doubled),
        Property("kinds", "maps of any integers; float32 weights", 0.25, _weights_kinds, carries, examples=6),
    ),
    misconceptions=(
        Misconception(
            "over_all_images",
            "You divided by the valid pixels of all images.",
            "For each class, count only the images in which it is present: valid pixels of the others say nothing about it.",
            ("stack", "list", "void"),
            _balanced_pooled,
        ),
        Misconception(
            "shares_averaged",
            "You averaged the shares of the images; a small image then counts as much as a large one.",
            "Sum the pixels above, sum the pixels below, then divide once.",
            ("list", "void"),
            _balanced_averaged,
        ),
        Misconception(
            "lower_median",
            "Of an even number of classes you took the lower of the middle two: torch.median does that.",
            "frequency.quantile(0.5) takes their mean.",
            ("even",),
            _balanced_lower,
        ),
        Misconception(
            "mean_for_median",
            "You divided the mean frequency, where the median belongs.",
            "The median: a single huge class would pull the mean up, and all weights with it.",
            EVERYWHERE,
            _balanced_mean,
        ),
        Misconception(
            "inverse_frequency",
            "You returned 1 / freq, without the median.",
            "Multiply by the median, so that the class in the middle weighs 1.",
            EVERYWHERE,
            _balanced_inverse,
        ),
        Misconception(
            "upside_down",
            "Common classes get the large weights.",
            "weight = median / freq, not freq / median.",
            EVERYWHERE,
            _balanced_upside_down,
        ),
        Misconception(
            "absent_in_the_median",
            "Absent classes enter the median as frequency 0.",
            "Take the median over the classes that have a pixel.",
            ("absent",),
            _balanced_absent_in_median,
        ),
        Misconception(
            "absent_is_infinite",
            "An absent class weighs infinitely much.",
            "There is nothing to weigh: set it to 0.",
            ("absent",),
            _balanced_absent_infinite,
        ),
        Misconception(
            "absent_is_nan",
            "An absent class weighs NaN: 0 pixels of 0.",
            "There is nothing to weigh: set it to 0.",
            ("absent",),
            _balanced_absent_nan,
        ),
        Misconception(
            "absent_is_one",
            "An absent class weighs 1.",
            "There is nothing to weigh: set it to 0.",
            ("absent",),
            _balanced_absent_one,
        ),
        Misconception(
            "nan_spreads",
            "One absent class turns all weights into NaN.",
            "Take the median over the classes that have a pixel, and set the others to 0.",
            ("absent",),
            _balanced_all_nan,
        ),
        Misconception(
            "void_counted",
            "Void pixels count in the size of an image.",
            "Divide by the valid pixels only: labels != ignore_index.",
            ("void",),
            _balanced_void_counted,
        ),
        Misconception(
            "always_float64",
            "Your weights are float64.",
            "Count as exactly as you like, and return .float().",
            ("kinds",),
            _balanced_double,
        ),
    ),
    right=(
        Variant("counters and fractions", _balanced_python),
        Variant("a table of counts, numpy's median", _balanced_table),
    ),
    hints=(
        Hint(
            "My weights are off where a class is missing from an image",
            "Each class has its own divisor: the valid pixels of the images in which it has at least one pixel.",
        ),
        Hint(
            "I get NaN or infinity",
            "Which classes have no pixel? Work on the others alone, and write 0 for these.",
        ),
        Hint(
            "I don't know how to start",
            "pixels, valid = zeros(L), zeros(L). For each map: count = bincount of its valid pixels, pixels += count, valid += (count > 0) · number of valid pixels. frequency = pixels / valid where pixels > 0; weights = frequency.quantile(0.5) / frequency.",
        ),
    ),
)


# -- confusion_matrix ---------------------------------------------------------------------------------------


def _pair_case(*, void: bool = False, other_void: bool = False) -> Callable[[Any], Case]:
    def draw(d: Any) -> Case:
        classes, shape = d.integer(3, 5), (d.integer(3, 5), d.choice([4, 7]))
        prediction, target = (d.integers(*shape, low=0, high=classes - 1) for _ in range(2))
        # The first class is mistaken for the last more often than the other way round; the last one occurs.
        prediction.view(-1)[:4] = classes - 1
        target.view(-1)[:4] = torch.tensor([0, 0, 0, classes - 1])
        holes = d.integers(*shape, low=0, high=3) == 0
        holes.view(-1)[3] = False
        holes[-1, -2:] = True
        given = {}
        if void:
            target = target.masked_fill(holes, 255)
            prediction[-1, -1] = d.choice([0, 255, 77])
        if other_void:
            given["ignore_index"] = d.choice([-1, 0, 9])
            target = target.masked_fill(holes, given["ignore_index"])
        return Case((prediction, target, classes), given)

    return draw


def _any_shape(d: Any) -> Case:
    """Another rank, another memory order, and more classes than there are labels."""
    shape = d.choice([(3, 4, 5), (11,), (2, 1, 3, 3)])
    prediction, target = (d.integers(*shape, low=0, high=2) for _ in range(2))
    return Case((d.layout(prediction), target, d.integer(4, 6)))


def _many_classes(d: Any) -> Case:
    classes = d.choice([20, 40])
    prediction, target = (d.integers(9, 11, low=0, high=classes - 1, dtype=torch.uint8) for _ in range(2))
    prediction[0, 0] = target[0, 0] = classes - 1
    return Case((prediction, target, classes))


def _as_counts(subject: Any, case: Case) -> Any:
    return as_double(subject(*case.args, **case.kwargs))


def _pairs(
    prediction, target, num_classes, ignore_index, *, by=None, void=None, index=lambda v: v.long(), minlength=True,
    valid=None,
):  # fmt: skip
    void = ignore_index if void is None else void
    keep = (target if by is None else by) != void
    if valid is not None:
        keep = valid
    t, p = index(target[keep]), index(prediction[keep])
    pairs = (t * num_classes + p).long()
    counts = pairs.bincount(minlength=num_classes**2 if minlength else 0)
    return counts.reshape(num_classes, num_classes)


def _confusion_transposed(prediction, target, num_classes, ignore_index=255):
    return _pairs(prediction, target, num_classes, ignore_index).T


def _confusion_void_kept(prediction, target, num_classes, ignore_index=255):
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=target.device)
    for t, p in zip(target.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        matrix[t, p] += 1
    return matrix


def _confusion_by_prediction(prediction, target, num_classes, ignore_index=255):
    return _pairs(prediction, target, num_classes, ignore_index, by=prediction)


def _confusion_255(prediction, target, num_classes, ignore_index=255):
    return _pairs(prediction, target, num_classes, 255)


def _confusion_void_is_0(prediction, target, num_classes, ignore_index=255):
    inside = (prediction >= 0) & (prediction < num_classes)
    return _pairs(
        torch.where(inside, prediction, 0),
        torch.where(target == ignore_index, 0, target),
        num_classes,
        ignore_index,
        valid=torch.ones_like(inside),
    )


def _confusion_bytes(prediction, target, num_classes, ignore_index=255):
    return _pairs(prediction, target, num_classes, ignore_index, index=lambda v: v)


def _confusion_too_short(prediction, target, num_classes, ignore_index=255):
    return _pairs(prediction, target, num_classes, ignore_index, minlength=False)


def _confusion_once(prediction, target, num_classes, ignore_index=255):
    keep = target != ignore_index
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=target.device)
    matrix[target[keep].long(), prediction[keep].long()] += 1
    return matrix


def _confusion_shares(prediction, target, num_classes, ignore_index=255):
    matrix = _pairs(prediction, target, num_classes, ignore_index).double()
    return matrix / matrix.sum(1, keepdim=True).clamp(min=1)


def _confusion_floats(prediction, target, num_classes, ignore_index=255):
    return _pairs(prediction, target, num_classes, ignore_index).float()


def _confusion_loop(prediction, target, num_classes, ignore_index=255):
    matrix = [[0] * num_classes for _ in range(num_classes)]
    for t, p in zip(target.reshape(-1).tolist(), prediction.reshape(-1).tolist(), strict=True):
        if t != ignore_index:
            matrix[t][p] += 1
    return torch.tensor(matrix, dtype=torch.int64, device=target.device)


def _confusion_put(prediction, target, num_classes, ignore_index=255):
    keep = target != ignore_index
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=target.device)
    one = torch.ones((), dtype=torch.int64, device=target.device)
    return matrix.index_put_((target[keep].long(), prediction[keep].long()), one, accumulate=True)


def _confusion_masks(prediction, target, num_classes, ignore_index=255):
    """A sum for each pair of classes."""
    valid = target != ignore_index
    rows = []
    for t in range(num_classes):
        truth = (target == t) & valid
        rows.append(torch.stack([(truth & (prediction == p)).sum() for p in range(num_classes)]))
    return torch.stack(rows)


COUNTED = ("counts", "void", "ignore_index", "shapes", "bytes")

CONFUSION = Exercise(
    id="confusion_matrix",
    topic="fcn",
    title="Count who was taken for whom",
    reference=reference.confusion_matrix,
    minutes=12,
    difficulty=2,
    properties=(
        Property(
            "counts",
            "entry [t, p] counts the pixels of class t predicted as p",
            1.0,
            _pair_case(),
            _as_counts,
        ),
        Property(
            "void",
            "pixels whose target is void count nowhere, whatever their prediction is",
            0.5,
            _pair_case(void=True),
            _as_counts,
        ),
        Property(
            "ignore_index",
            "the void label may be any integer, also the number of a class",
            0.25,
            _pair_case(other_void=True),
            _as_counts,
        ),
        Property("shapes", "any number of axes, and classes that do not occur", 0.5, _any_shape, _as_counts),
        Property("bytes", "labels of bytes and many classes", 0.5, _many_classes, _as_counts, examples=4),
        Property("kinds", "int64; nothing is modified in place", 0.25, _pair_case(), carries, examples=4),
    ),
    misconceptions=(
        Misconception(
            "transposed",
            "Rows and columns have changed places: your rows are predictions.",
            "The truth chooses the row: target · num_classes + prediction.",
            COUNTED,
            _confusion_transposed,
        ),
        Misconception(
            "void_not_left_out",
            "Void pixels are not left out: 255 is no row of the matrix.",
            "Keep only pixels with target != ignore_index, of both maps, before you count.",
            ("void", "ignore_index"),
            _confusion_void_kept,
        ),
        Misconception(
            "void_is_class_0",
            "Void pixels are counted as class 0.",
            "Leave them out of both maps: prediction[valid], target[valid].",
            ("void", "ignore_index"),
            _confusion_void_is_0,
        ),
        Misconception(
            "void_by_prediction",
            "You looked for void in the prediction.",
            "The truth says where void is: valid = target != ignore_index.",
            ("void", "ignore_index"),
            _confusion_by_prediction,
        ),
        Misconception(
            "void_is_always_255",
            "You compare with 255 instead of with ignore_index.",
            "valid = target != ignore_index.",
            ("ignore_index",),
            _confusion_255,
        ),
        Misconception(
            "bytes_overflow",
            "Your pair numbers overflow: in uint8, 20 · 19 + 3 is 127.",
            "Make the labels int64 before you multiply: .long().",
            ("bytes",),
            _confusion_bytes,
        ),
        Misconception(
            "last_classes_missing",
            "Your counts end at the largest pair that occurs, and don't fill the matrix.",
            "bincount(minlength=num_classes²).",
            ("shapes",),
            _confusion_too_short,
        ),
        Misconception(
            "each_pair_once",
            "matrix[target, prediction] += 1 adds 1 once, however often a pair occurs.",
            "bincount counts all of them; index_put_ does with accumulate=True.",
            COUNTED,
            _confusion_once,
        ),
        Misconception(
            "shares_for_counts",
            "Your rows sum to 1.",
            "Return the counts; what is made of them is segmentation_scores' business.",
            (*COUNTED, "kinds"),
            _confusion_shares,
        ),
        Misconception(
            "floats_for_counts",
            "Your counts are floats, which cannot count beyond 2²⁴.",
            "Return int64.",
            ("kinds",),
            _confusion_floats,
        ),
    ),
    right=(
        Variant("a loop", _confusion_loop),
        Variant("index_put_ that accumulates", _confusion_put),
        Variant("a sum for each pair", _confusion_masks),
    ),
    hints=(
        Hint(
            "I don't want to loop over pixels",
            "Give each pair (truth, prediction) a number of its own and count numbers.",
        ),
        Hint(
            "An index is out of range",
            "255 is no class. And the prediction may say anything on void pixels: leave them out of both maps first.",
        ),
        Hint(
            "I have the pair numbers",
            "(target · num_classes + prediction).bincount(minlength=num_classes ** 2).reshape(num_classes, num_classes), on valid pixels, in int64.",
        ),
    ),
)


# -- SkipFCN ------------------------------------------------------------------------------------------------

STRIDES = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}


def _head_case(*variants: str, ragged: bool = False) -> Callable[[Any], Case]:
    def draw(d: Any) -> Case:
        classes, channels = d.integer(2, 3), (d.integer(1, 2), d.integer(2, 3), d.integer(3, 4))
        variant = d.choice(variants)
        if ragged:
            size = d.choice([(37, 50), (70, 41), (9, 100), (51, 3)])
        else:
            size = d.choice([(32, 64), (64, 32), (32, 32)])
        filled_head = filled(d, reference.SkipFCN(classes, channels, variant))
        state = {name: p.detach() for name, p in filled_head.named_parameters()}
        n = d.choice([1, 2])
        features = {
            s: d.tensor(n, c, -(-size[0] // s), -(-size[1] // s))
            for s, c in zip((8, 16, 32), channels, strict=True)
        }
        return Case((classes, channels, variant), {}, {"weights": state, "features": features, "size": size})

    return draw


def _fresh_case(d: Any) -> Case:
    variant = d.choice(["32s", "16s", "8s"])
    return Case((d.integer(2, 3), (d.integer(1, 2), d.integer(2, 3), d.integer(3, 4)), variant))


def _parameters(prefix: str) -> Callable[[Any, Case], Any]:
    """Parameters whose names begin so, as they are at the start, and whether they learn."""

    def observe(subject: Any, case: Case) -> Any:
        seen = subject(*case.args).inspect()
        return {
            name: {"start": value, "learns": seen["requires_grad"][name]}
            for name, value in sorted(seen["parameters"].items())
            if name.startswith(prefix)
        }

    return observe


def _head(subject: Any, case: Case) -> Any:
    head = subject(*case.args)
    head.do("double")
    # Not strict: how the layers are called is the business of the properties about the start.
    head.do("load_state_dict", case.extra["weights"], strict=False)
    return head


def _scores_of_image(subject: Any, case: Case) -> Any:
    return _head(subject, case)(case.extra["features"], case.extra["size"])


def _head_gradients(subject: Any, case: Case) -> Any:
    head = _head(subject, case)
    return head.vjp(case.extra["features"], case.extra["size"], wrt=[0, head])["grads"]


def _interpolating(channels, factor):
    k = 2 * factor - factor % 2
    ramp = 1 - (torch.arange(k) - (k - 1) / 2).abs() / factor
    return torch.eye(channels)[:, :, None, None] * torch.outer(ramp, ramp)


class _Head(nn.Module):
    """The head with a seam at each step, where the misconceptions put their mistake."""

    bias = False

    def __init__(self, num_classes, channels, variant):
        super().__init__()
        self.strides = self.scored(variant)
        by_stride = dict(zip((8, 16, 32), channels, strict=True))
        for stride in self.strides:
            self.add_module(f"score_{stride}", self.score(by_stride[stride], num_classes))
            self.add_module(f"up_{stride}", self.up(num_classes, stride if stride == self.strides[-1] else 2))

    def scored(self, variant):
        return STRIDES[variant]

    def score(self, channels, classes):
        layer = nn.Conv2d(channels, classes, 1)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def padding(self, factor):
        return factor // 2

    def up(self, classes, factor):
        padding = self.padding(factor)
        layer = nn.ConvTranspose2d(
            classes, classes, 2 * factor, stride=factor, padding=padding, bias=self.bias
        )
        with torch.no_grad():
            layer.weight.copy_(self.kernel(classes, factor))
        return layer

    def kernel(self, classes, factor):
        return _interpolating(classes, factor)

    def crop(self, maps, size):
        return maps[..., : size[0], : size[1]]

    def join(self, up, score):
        return up + score

    def enlarge(self, stride, maps):
        return getattr(self, f"up_{stride}")(maps)

    def forward(self, features, size):
        maps = self.score_32(features[32])
        for coarse, fine in zip(self.strides, self.strides[1:], strict=False):
            score = getattr(self, f"score_{fine}")(features[fine])
            maps = self.join(self.crop(self.enlarge(coarse, maps), score.shape[-2:]), score)
        return self.crop(self.enlarge(self.strides[-1], maps), size)


class _HeadRandomScores(_Head):
    def score(self, channels, classes):
        return nn.Conv2d(channels, classes, 1)


class _HeadRandomUp(_Head):
    def up(self, classes, factor):
        return nn.ConvTranspose2d(
            classes, classes, 2 * factor, stride=factor, padding=factor // 2, bias=False
        )


class _HeadMixed(_Head):
    def kernel(self, classes, factor):
        return _interpolating(1, factor).expand(classes, classes, -1, -1)


class _HeadBias(_Head):
    bias = True


class _HeadFixed(_Head):
    def up(self, classes, factor):
        return super().up(classes, factor).requires_grad_(False)


class _HeadCentered(_Head):
    def crop(self, maps, size):
        top, left = ((maps.shape[-2] - size[0]) // 2, (maps.shape[-1] - size[1]) // 2)
        return maps[..., top : top + size[0], left : left + size[1]]


class _HeadReplaced(_Head):
    def join(self, up, score):
        return score


class _HeadInterpolated(_Head):
    def up(self, classes, factor):
        return nn.Identity()

    def enlarge(self, stride, maps):
        factor = stride if stride == self.strides[-1] else 2
        return F.interpolate(maps, scale_factor=factor, mode="bilinear")


class _HeadShifted(_Head):
    def padding(self, factor):
        return 0


class _HeadAlways8(_Head):
    def scored(self, variant):
        return STRIDES["8s"]


class _HeadUncropped(_Head):
    def crop(self, maps, size):
        return maps


class _HeadSquashed(_Head):
    """Squeezed to size where it had to be cropped."""

    def crop(self, maps, size):
        return maps if maps.shape[-2:] == tuple(size) else F.interpolate(maps, tuple(size), mode="bilinear")


class _HeadAveraged(_Head):
    def join(self, up, score):
        return (up + score) / 2


class _Scored(nn.Module):
    """A 1×1 convolution as a product of matrices."""

    def __init__(self, channels, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x):
        return torch.einsum("nchw,lc->nlhw", x, self.weight[:, :, 0, 0]) + self.bias[:, None, None]


class _Enlarged(nn.Module):
    """A transposed convolution as copies of the kernel that are folded together."""

    def __init__(self, classes, factor):
        super().__init__()
        self.weight = nn.Parameter(_interpolating(classes, factor))
        self.factor = factor

    def forward(self, x):
        n, _, h, w = x.shape
        copies = torch.einsum("nchw,cokl->noklhw", x, self.weight).reshape(n, -1, h * w)
        f = self.factor
        return F.fold(copies, (f * h, f * w), self.weight.shape[-1], padding=f // 2, stride=f)


class _HeadFolded(nn.Module):
    def __init__(self, num_classes, channels, variant):
        super().__init__()
        self.last = int(variant[:-1])
        for stride, c in zip((32, 16, 8), channels[::-1], strict=True):
            if stride >= self.last:
                setattr(self, f"score_{stride}", _Scored(c, num_classes))
                setattr(self, f"up_{stride}", _Enlarged(num_classes, 2 if stride > self.last else stride))

    def forward(self, features, size):
        total, stride = self.score_32(features[32]), 32
        while stride > self.last:
            larger = getattr(self, f"up_{stride}")(total)
            stride //= 2
            finer = getattr(self, f"score_{stride}")(features[stride])
            total = finer + larger[:, :, : finer.shape[2], : finer.shape[3]]
        return getattr(self, f"up_{stride}")(total)[:, :, : size[0], : size[1]]


class _HeadWrittenOut(nn.Module):
    """The three variants written one by one; padding as a crop of the larger result."""

    def __init__(self, num_classes, channels, variant):
        super().__init__()
        c8, c16, c32 = channels
        self.variant = variant
        self.score_32 = self._zeros(c32, num_classes)
        if variant == "32s":
            self.up_32 = self._up(num_classes, 32)
        elif variant == "16s":
            self.score_16, self.up_32 = self._zeros(c16, num_classes), self._up(num_classes, 2)
            self.up_16 = self._up(num_classes, 16)
        else:
            self.score_16, self.up_32 = self._zeros(c16, num_classes), self._up(num_classes, 2)
            self.score_8, self.up_16 = self._zeros(c8, num_classes), self._up(num_classes, 2)
            self.up_8 = self._up(num_classes, 8)

    def _zeros(self, channels, classes):
        layer = nn.Conv2d(channels, classes, 1)
        layer.weight.data.zero_()
        layer.bias.data.zero_()
        return layer

    def _up(self, classes, factor):
        layer = nn.ConvTranspose2d(classes, classes, 2 * factor, stride=factor, bias=False)
        layer.weight.data = _interpolating(classes, factor)
        return layer

    def _enlarged(self, layer, x, size):
        p = layer.stride[0] // 2
        return layer(x)[:, :, p : p + size[0], p : p + size[1]]

    def forward(self, features, size):
        x = self.score_32(features[32])
        if self.variant == "32s":
            return self._enlarged(self.up_32, x, size)
        x = self._enlarged(self.up_32, x, features[16].shape[2:]) + self.score_16(features[16])
        if self.variant == "16s":
            return self._enlarged(self.up_16, x, size)
        x = self._enlarged(self.up_16, x, features[8].shape[2:]) + self.score_8(features[8])
        return self._enlarged(self.up_8, x, size)


FORWARD = ("32s", "16s", "8s", "any_size", "gradients")

SKIP_FCN = Exercise(
    id="SkipFCN",
    topic="fcn",
    title="Coarse scores, finer scores, one sum",
    reference=reference.SkipFCN,
    minutes=30,
    difficulty=4,
    properties=(
        Property(
            "start",
            "score_32, score_16, score_8, as many as the variant asks for: 1×1, with bias, all zero at the start",
            0.5,
            _fresh_case,
            _parameters("score_"),
            examples=5,
            tried="the parameters of a new head whose names begin with score_",
        ),
        Property(
            "bilinear",
            "up_32, up_16, up_8: bilinear at the start, without bias, and they learn",
            1.0,
            _fresh_case,
            _parameters("up_"),
            examples=5,
            tried="the parameters of a new head whose names begin with up_",
        ),
        Property(
            "32s",
            "FCN-32s: scores of stride 32, enlarged at once",
            0.75,
            _head_case("32s"),
            _scores_of_image,
            examples=4,
            tried="a head with these weights, called on features and size",
        ),
        Property(
            "16s",
            "FCN-16s: enlarged by 2, scores of stride 16 added, enlarged by 16",
            1.0,
            _head_case("16s"),
            _scores_of_image,
            examples=4,
            tried="a head with these weights, called on features and size",
        ),
        Property(
            "8s",
            "FCN-8s: the same with one step more",
            1.0,
            _head_case("8s"),
            _scores_of_image,
            examples=4,
            tried="a head with these weights, called on features and size",
        ),
        Property(
            "any_size",
            "sizes that no stride divides: cropped top-left to the finer map, at last to size",
            1.0,
            _head_case("16s", "8s", "32s", ragged=True),
            _scores_of_image,
            examples=6,
            tried="a head with these weights, called on features and size",
        ),
        Property(
            "gradients",
            "gradients reach every feature, score and upsampling weight",
            0.75,
            _head_case("8s"),
            _head_gradients,
            examples=3,
            tried="gradients with respect to the features and all parameters",
        ),
    ),
    misconceptions=(
        Misconception(
            "scores_not_zero",
            "Your score layers start with random weights.",
            "Set weight and bias to zero: a skip that says nothing at first cannot spoil what is there.",
            ("start",),
            _HeadRandomScores,
        ),
        Misconception(
            "upsampling_not_bilinear",
            "Your transposed convolutions start with random weights.",
            "Copy bilinear_kernel(num_classes, factor) into their weight.",
            ("bilinear",),
            _HeadRandomUp,
        ),
        Misconception(
            "classes_mixed",
            "Your bilinear kernel goes from every class to every class: all scores become their sum.",
            "Only the diagonal: each class is interpolated from itself.",
            ("bilinear",),
            _HeadMixed,
        ),
        Misconception(
            "upsampling_with_bias",
            "Your transposed convolutions have a bias.",
            "nn.ConvTranspose2d(…, bias=False): the scores have one already.",
            ("bilinear", *FORWARD),
            _HeadBias,
        ),
        Misconception(
            "upsampling_fixed",
            "Your transposed convolutions do not learn.",
            "Leave requires_grad at True: bilinear is where they start.",
            ("bilinear", "gradients"),
            _HeadFixed,
        ),
        Misconception(
            "interpolated",
            "You enlarged by F.interpolate, which has nothing to learn.",
            "nn.ConvTranspose2d with stride factor, as up_32, up_16, up_8.",
            ("bilinear", *FORWARD),
            _HeadInterpolated,
        ),
        Misconception(
            "cropped_at_the_center",
            "You cropped at the center.",
            "All maps begin at the same top left corner; what is too much lies at the bottom and right.",
            ("any_size",),
            _HeadCentered,
        ),
        Misconception(
            "not_cropped",
            "Your maps are not cropped.",
            "⌈size / stride⌉ cells enlarged may be more than the finer map has: cut [..., :h, :w].",
            ("any_size",),
            _HeadUncropped,
        ),
        Misconception(
            "squeezed",
            "You squeezed maps to their size where they had to be cropped.",
            "The grid stays; only the surplus at the bottom and right goes.",
            ("any_size",),
            _HeadSquashed,
        ),
        Misconception(
            "coarse_forgotten",
            "You went on with the finer scores alone: what the coarse ones say is lost.",
            "Add them up: score_16(…) + cropped up_32(…).",
            ("16s", "8s", "any_size", "gradients"),
            _HeadReplaced,
        ),
        Misconception(
            "averaged_skips",
            "You averaged the two scores.",
            "Skips are summed.",
            ("16s", "8s", "any_size", "gradients"),
            _HeadAveraged,
        ),
        Misconception(
            "padding_forgotten",
            "Your maps are shifted down and right by half a cell: the transposed convolutions have no padding.",
            "padding = factor // 2 puts factor × factor pixels around the center of each cell.",
            FORWARD,
            _HeadShifted,
        ),
        Misconception(
            "always_8s",
            "Your head scores all three strides whatever the variant.",
            "32s scores stride 32 alone and enlarges at once; 16s adds stride 16.",
            ("start", "bilinear", "32s", "16s", "any_size"),
            _HeadAlways8,
        ),
    ),
    right=(
        Variant("matrix products and fold", _HeadFolded),
        Variant("the three variants written out", _HeadWrittenOut),
    ),
    hints=(
        Hint(
            "I lose track of the strides",
            "Draw it: score_32 → up_32 (×2) → + score_16 → up_16 (×2) → + score_8 → up_8 (×8). In a variant that ends earlier, the last up takes all that is left.",
        ),
        Hint(
            "Two maps differ by a row",
            "An image of 37 rows has 2 cells at stride 32 and 3 at stride 16; enlarged by 2, the 2 become 4. Cut the coarse one at the bottom.",
        ),
        Hint(
            "I don't know how to start",
            "strides = {'32s': (32,), '16s': (32, 16), '8s': (32, 16, 8)}[variant]. For each: score = nn.Conv2d(c, L, 1), zeroed; up = nn.ConvTranspose2d(L, L, 2 · factor, stride=factor, padding=factor // 2, bias=False) with bilinear weights, factor 2 or, at the last stride, the stride. self.add_module(f'up_{stride}', up).",
        ),
    ),
)


# -- segmentation_scores ------------------------------------------------------------------------------------

SCORES = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")


def _full(d: Any) -> Case:
    """Every class is in the truth and in the prediction, and rows and columns sum to different numbers."""
    size = d.integer(2, 5)
    matrix = d.integers(size, size, low=1, high=20)
    matrix += torch.diag(d.integers(size, low=5, high=30)) + d.integers(size, 1, low=0, high=9)
    return Case((matrix,))


def _absent(d: Any) -> Case:
    (matrix,) = _full(d).args
    gone = d.integer(0, len(matrix) - 1)
    matrix[gone] = 0
    matrix[:, gone] = 0
    return Case((matrix,))


def _only_predicted(d: Any) -> Case:
    (matrix,) = _full(d).args
    matrix[d.integer(0, len(matrix) - 1)] = 0
    return Case((matrix,))


def _entry(name: str) -> Callable[[Any, Case], Any]:
    def observe(subject: Any, case: Case) -> Any:
        scores = subject(*case.args)
        return {name: scores[name]} if isinstance(scores, dict) and name in scores else scores

    return observe


def _numbers(subject: Any, case: Case) -> Any:
    """All scores as numbers, so that their kinds stay another property's business."""
    scores = subject(*case.args)
    if not isinstance(scores, dict):
        return scores
    return {
        k: v.double() if isinstance(v, torch.Tensor) else torch.tensor(v).double() for k, v in scores.items()
    }


def _kinds(subject: Any, case: Case) -> Any:
    scores = subject(*case.args)
    if not isinstance(scores, dict):
        return scores
    shown = {k: "float" if type(v) is float else type(v).__name__ for k, v in scores.items()}
    iou = scores.get("iou")
    return {**shown, "iou": list(iou.shape) if isinstance(iou, torch.Tensor) else type(iou).__name__}


def _scores(
    matrix: Any,
    *,
    accuracy_over: int = 1,
    union: Callable[[Any, Any, Any], Any] = lambda truth, predicted, hits: truth + predicted - hits,
    weights: int = 1,
    absent: Callable[[Any], Any] = lambda v: v,
    mean_iou: Callable[[Any, Any], Any] = lambda iou, truth: iou.nanmean(),
    mean_accuracy: Callable[[Any], Any] = lambda v: v.nanmean(),
    number: Callable[[Any], Any] = float,
) -> dict[str, Any]:
    m = matrix.double()
    hits, truth, predicted = m.diagonal(), m.sum(1), m.sum(0)
    accuracy = absent(hits / m.sum(accuracy_over))
    iou = absent(hits / union(truth, predicted, hits))
    weight = m.sum(weights) / m.sum()
    return {
        "pixel_accuracy": number(hits.sum() / m.sum()),
        "mean_accuracy": number(mean_accuracy(accuracy)),
        "mean_iou": number(mean_iou(iou, truth)),
        "frequency_weighted_iou": number((weight * iou.nan_to_num()).sum()),
        "iou": iou,
    }


def _precision(matrix):
    return _scores(matrix, accuracy_over=0)


def _double_union(matrix):
    return _scores(matrix, union=lambda truth, predicted, hits: truth + predicted)


def _weighted_by_prediction(matrix):
    return _scores(matrix, weights=0)


def _absent_is_zero(matrix):
    return _scores(matrix, absent=lambda v: v.nan_to_num(0.0))


def _absent_is_one(matrix):
    return _scores(matrix, absent=lambda v: v.nan_to_num(1.0))


def _nan_spreads(matrix):
    return _scores(matrix, mean_iou=lambda iou, truth: iou.mean(), mean_accuracy=lambda v: v.mean())


def _predicted_left_out(matrix):
    return _scores(matrix, mean_iou=lambda iou, truth: iou[truth > 0].nanmean())


def _dice(matrix):
    m = matrix.double()
    return _scores(matrix, union=lambda truth, predicted, hits: (truth + predicted) / 2) | {
        "pixel_accuracy": float(m.diagonal().sum() / m.sum())
    }


def _tensors(matrix):
    return _scores(matrix, number=lambda v: v)


def _loop(matrix):
    size = len(matrix)
    m = [[int(v) for v in row] for row in matrix.tolist()]
    total = sum(map(sum, m))
    accuracies, ious, weighted = [], [], 0.0
    for c in range(size):
        truth = sum(m[c])
        predicted = sum(m[r][c] for r in range(size))
        either = truth + predicted - m[c][c]
        if truth:
            accuracies.append(m[c][c] / truth)
        ious.append(m[c][c] / either if either else float("nan"))
        if truth:
            weighted += truth * ious[-1] / total
    known = [v for v in ious if v == v]
    return {
        "pixel_accuracy": sum(m[c][c] for c in range(size)) / total,
        "mean_accuracy": sum(accuracies) / len(accuracies),
        "mean_iou": sum(known) / len(known),
        "frequency_weighted_iou": weighted,
        "iou": torch.tensor(ious, dtype=torch.float64, device=matrix.device),
    }


def _numpy(matrix):
    import numpy as np

    m = matrix.cpu().numpy().astype(float)
    diagonal, rows, columns = np.diag(m), m.sum(1), m.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = diagonal / (rows + columns - diagonal)
        recall = diagonal / rows
    return {
        "iou": torch.from_numpy(iou).to(matrix.device),
        "mean_iou": float(np.nanmean(iou)),
        "mean_accuracy": float(np.nanmean(recall)),
        "pixel_accuracy": float(np.trace(m) / m.sum()),
        "frequency_weighted_iou": float(np.nansum(rows * iou) / m.sum()),
    }


SEGMENTATION_SCORES = Exercise(
    id="segmentation_scores",
    topic="fcn",
    title="Four scores from one matrix",
    reference=reference.segmentation_scores,
    minutes=15,
    difficulty=2,
    properties=(
        Property(
            "pixel_accuracy",
            "pixel_accuracy: the share of pixels on the diagonal",
            0.5,
            _full,
            _entry("pixel_accuracy"),
        ),
        Property(
            "mean_accuracy",
            "mean_accuracy: hits over true pixels, averaged over classes",
            0.5,
            _full,
            _entry("mean_accuracy"),
        ),
        Property(
            "iou",
            "iou: hits over the union of truth and prediction, for each class",
            0.75,
            _full,
            _entry("iou"),
        ),
        Property("mean_iou", "mean_iou: the average of iou over classes", 0.5, _full, _entry("mean_iou")),
        Property(
            "frequency_weighted_iou",
            "frequency_weighted_iou: iou weighed by each class's share of the true pixels",
            0.5,
            _full,
            _entry("frequency_weighted_iou"),
        ),
        Property(
            "absent",
            "a class in neither truth nor prediction is NaN in iou and left out of the means",
            0.5,
            _absent,
            _numbers,
        ),
        Property(
            "only_predicted",
            "a class that is only predicted has iou 0 and is left out of mean_accuracy",
            0.5,
            _only_predicted,
            _numbers,
        ),
        Property(
            "kinds", "four Python floats, and iou as a tensor of shape (L,)", 0.25, _full, _kinds, examples=3
        ),
    ),
    misconceptions=(
        Misconception(
            "precision_for_accuracy",
            "Your mean_accuracy divides by the predicted pixels of each class: that is precision.",
            "Rows are the truth: divide the diagonal by the row sums, matrix.sum(1).",
            ("mean_accuracy", "absent", "only_predicted"),
            _precision,
        ),
        Misconception(
            "hits_counted_twice",
            "Your union counts the hits twice: truth + prediction.",
            "Subtract the diagonal once: truth + predicted − hits.",
            ("iou", "mean_iou", "frequency_weighted_iou", "absent", "only_predicted"),
            _double_union,
        ),
        Misconception(
            "dice",
            "You computed the Dice score, 2·hits / (truth + prediction).",
            "Intersection over union is hits / (truth + predicted − hits).",
            ("iou", "mean_iou", "frequency_weighted_iou", "absent", "only_predicted"),
            _dice,
        ),
        Misconception(
            "weighted_by_prediction",
            "You weighed iou by the predicted pixels.",
            "Frequency is that of the truth: weigh by matrix.sum(1) / matrix.sum().",
            ("frequency_weighted_iou", "absent", "only_predicted"),
            _weighted_by_prediction,
        ),
        Misconception(
            "absent_is_zero",
            "A class that is nowhere counts as 0 in your means.",
            "It says nothing about the prediction: leave its 0/0 as NaN and average the others with nanmean.",
            ("absent", "only_predicted"),
            _absent_is_zero,
        ),
        Misconception(
            "absent_is_perfect",
            "A class that is nowhere counts as 1 in your means.",
            "It says nothing about the prediction: leave its 0/0 as NaN and average the others with nanmean.",
            ("absent", "only_predicted"),
            _absent_is_one,
        ),
        Misconception(
            "nan_spreads",
            "One absent class turns your means into NaN.",
            "Average over the classes that have a value: nanmean.",
            ("absent", "only_predicted"),
            _nan_spreads,
        ),
        Misconception(
            "false_alarms_forgiven",
            "A class that is predicted but nowhere true is left out of your mean_iou.",
            "Its union is not empty, so its iou is 0 and counts.",
            ("only_predicted",),
            _predicted_left_out,
        ),
        Misconception(
            "tensors_for_floats",
            "Your scores are tensors.",
            "Call .item() on the four averages.",
            ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou", "kinds"),
            _tensors,
        ),
    ),
    right=(Variant("counting in plain Python", _loop), Variant("numpy", _numpy)),
    hints=(
        Hint(
            "I don't know what the scores are made of",
            "Three vectors are all you need: the diagonal, the row sums (truth) and the column sums (prediction).",
        ),
        Hint(
            "A mean is NaN or too low", "Which classes have no pixel in the truth, which have none anywhere?"
        ),
        Hint(
            "I have the vectors, but not the scores",
            "iou = hits / (truth + predicted − hits); accuracy = hits / truth; means with nanmean; frequency-weighted = nansum(truth·iou) / truth.sum().",
        ),
    ),
)

EXERCISES = (
    SAMPLE_PATCHES,
    PIXEL_CROSS_ENTROPY,
    MEDIAN_FREQUENCY,
    SKIP_FCN,
    CONFUSION,
    SEGMENTATION_SCORES,
    TRAIN_FCN,
)
