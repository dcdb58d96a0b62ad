"""Exercises of lecture 06 about training: patches, the loss of a whole image, class weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autograder.catalog._common import as_double, carries, described
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
    # Beside the only center of a class: void in a patch is no reason to refuse it.
    labels[h // 2 - 1, w // 2 + 1] = 255
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
    image, labels, *rest = _patch_case((3,), per_class=3)(d).args
    labels[0, :2] = 255
    bytes_too = (image.abs() * 20).clamp(0, 255).to(torch.uint8)
    return Case((image, d.choice([labels, labels.to(torch.uint8)]), *rest), {}, {"as bytes": bytes_too})


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
    seen: dict[str, Any] = {}
    for kind, image in (("float64", case.args[0]), ("uint8", case.extra["as bytes"])):
        result = subject(image, *case.args[1:])
        pair = isinstance(result, list | tuple)
        parts = result if pair else [result]
        seen[f"patches and targets of a {kind} image"] = [
            str(v.dtype).removeprefix("torch.") if isinstance(v, torch.Tensor) else described(v)
            for v in parts
        ]
        if kind == "uint8" and pair and isinstance(result[0], torch.Tensor):
            found, there = result[0].double().unique(), image.double().unique()
            seen["bytes keep their values"] = bool((found[:, None] == there).any(1).all())
    return {**seen, "arguments changed in place": [int(c) for c in subject.changed(*case.args)]}


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
    patches, targets = got["patches"], got["targets"].long()
    if patches.is_floating_point():  # its dtype is another property's business
        image = image.to(patches.dtype)
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
    if missing := set(wanted) - set(counts):
        return _bad(message, "count:class 0 missing" if missing == {0} else "count:missing")
    if len(set(counts.values())) == 1:
        return _bad(message, "count:all fewer" if max(counts.values()) < per_class else "count:all more")
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
    if one.shape == again.shape == other.shape and torch.equal(one, again) and torch.equal(one, other):
        return _bad("another generator gives the same patches", "generator:ignored")
    if one.shape != again.shape or not torch.equal(one, again):
        return _bad("the same generator gives other patches", "generator:not repeatable")
    return None


def _patches(
    image, labels, size, per_class, generator, *, center=None, legal=None, last=1, draw=None, void=255, pad=False,
    together=False, kind=torch.int64, cast=None, classless=(), clean=False,
):  # fmt: skip
    """The draw with a switch for each mistake."""
    if cast is not None and cast is not False:
        image = cast(image)
    if pad:
        image = torch.nn.functional.pad(image, (size // 2, size, size // 2, size))
    if cast is None and not image.is_floating_point():
        image = image.float()
    center = size // 2 if center is None else center
    h, w = labels.shape
    inner = labels[center : center + h - size + last, center : center + w - size + last].long()
    inner = labels.long() if pad else inner
    if clean:
        windows = labels.unfold(0, size, 1).unfold(1, size, 1)
        inner = inner.masked_fill((windows == void).flatten(2).any(2), void)
    classes = [c for c in inner.unique().tolist() if c != void and c not in classless]

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


def _patches_scaled(image, labels, size, per_class, generator):
    return _patches(
        image,
        labels,
        size,
        per_class,
        generator,
        cast=lambda x: x if x.is_floating_point() else x.float() / 255,
    )


def _patches_single(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, generator, cast=lambda x: x.float())


def _patches_without_void(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, generator, clean=True)


def _patches_without_class_0(image, labels, size, per_class, generator):
    return _patches(image, labels, size, per_class, generator, classless=(0,))


def _patches_shared_out(image, labels, size, per_class, generator):
    classes = max(len([c for c in labels.unique().tolist() if c != 255]), 1)
    return _patches(image, labels, size, max(per_class // classes, 1), generator)


def _patches_clamped(image, labels, size, per_class, generator):
    """Any pixel is a center; a patch that would hang over is pushed back inside."""
    image = image if image.is_floating_point() else image.float()
    h, w = labels.shape
    patches, targets = [image.new_zeros(0, len(image), size, size)], []
    for c in labels.unique().tolist():
        if c == 255:
            continue
        places = (labels == c).nonzero()
        drawn = places[torch.randint(len(places), (per_class,), generator=generator).to(places.device)]
        for row, column in drawn.tolist():
            top = min(max(row - size // 2, 0), h - size)
            left = min(max(column - size // 2, 0), w - size)
            patches.append(image[None, :, top : top + size, left : left + size])
            targets.append(c)
    return torch.cat(patches), torch.tensor(targets, dtype=torch.int64, device=labels.device)


def _patches_targets_overwritten(image, labels, size, per_class, generator):
    patches = _patches(image, labels, size, per_class, generator)
    labels[labels == 255] = 0
    return patches


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
            tried="the patches, compared with the image",
            examples=6,
        ),
        Property(
            "even_sizes",
            "the same for even sizes, where there is no middle",
            0.5,
            _patch_case((4, 2, 6)),
            _drawn,
            _judge_crops,
            tried="the patches, compared with the image",
            examples=4,
        ),
        Property(
            "balanced",
            "each class with a center that lies far enough inside comes per_class times, others never",
            0.75,
            _unbalanced,
            _drawn,
            _judge_counts,
            tried="how often each class was drawn",
            examples=6,
        ),
        Property(
            "void",
            "void centers (255) are never drawn, and an image of nothing but void gives no patch",
            0.5,
            _with_void,
            _drawn_with_void,
            _judge_void,
            tried="once with these labels, once with void everywhere",
            examples=6,
        ),
        Property(
            "spread",
            "with replacement, every legal center of a class equally likely",
            0.5,
            _few_centers,
            _drawn,
            _judge_spread,
            tried="which centers came up",
            examples=4,
        ),
        Property(
            "generator",
            "the draws come from the generator",
            0.5,
            _twice,
            _drawn_twice,
            _judge_twice,
            tried="twice with the first generator, once with the second",
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
            ("balanced", "void"),
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
            "pushed_inside",
            "You drew centers near the border too and pushed their patches inside: the center is then another pixel.",
            "Draw only centers whose patch lies inside: rows size // 2 to H − size + size // 2.",
            ("centers", "even_sizes", "balanced", "spread"),
            _patches_clamped,
        ),
        Misconception(
            "void_anywhere_refused",
            "You refused every patch that holds a void pixel.",
            "Only the center decides: it gives the target, and the other pixels are what the network sees.",
            ("balanced",),
            _patches_without_void,
        ),
        Misconception(
            "class_0_left_out",
            "Class 0 never comes: you took it for the background.",
            "Void is 255, and 255 alone is left out.",
            ("balanced", "spread"),
            _patches_without_class_0,
        ),
        Misconception(
            "per_class_shared_out",
            "You drew fewer than per_class patches of every class.",
            "per_class is how many each class gets, not all of them together.",
            ("balanced", "spread"),
            _patches_shared_out,
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
            "Your draws do not come from the generator, but from torch's global numbers or one of your own.",
            "Hand on the one you are given: torch.randint(…, generator=generator).",
            ("generator",),
            _patches_global,
        ),
        Misconception(
            "bytes_scaled",
            "You scaled the values of a byte image.",
            "Change the dtype alone: image.float(). What range the network wants is somebody else's business.",
            ("kinds",),
            _patches_scaled,
        ),
        Misconception(
            "always_float32",
            "Your patches are float32 whatever the image was.",
            "Only integers need another dtype: image if image.is_floating_point() else image.float().",
            ("kinds",),
            _patches_single,
        ),
        Misconception(
            "labels_overwritten",
            "You wrote into labels: the caller's void pixels are gone.",
            "Make a new map, for instance with torch.where or masked_fill.",
            ("kinds",),
            _patches_targets_overwritten,
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

CROSS_ENTROPY = Forbidden("F.cross_entropy", ("torch.nn.functional.cross_entropy", "aten.cross_entropy_loss"))
NLL_LOSS = Forbidden(
    "F.nll_loss",
    (
        "torch.nn.functional.nll_loss",
        "torch.nn.functional.nll_loss_nd",
        "aten.nll_loss",
        "aten.nll_loss_forward",
        "aten.nll_loss2d",
        "aten.nll_loss2d_forward",
        "aten.nll_loss_nd",
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
            # This one is never void, so something counts.
            half[1, 0, 0] = True
            given["mask"] = d.choice([half * d.positive(*target.shape, low=1.0, high=3.0), half])
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
    # Floats in any case, and more than 1 together under the smallest class weights.
    return Case(case.args, {**case.kwargs, "mask": case.kwargs["mask"].double() * 8})


def _loss_gradients(subject: Any, case: Case) -> Any:
    return subject.vjp(*case.args, wrt=[0, "class_weights", "mask"], **case.kwargs)["grads"]


def _with_gradient(subject: Any, case: Case) -> Any:
    seen = subject.vjp(*case.args, wrt=[0], **case.kwargs)
    return {"loss": seen["value"], "gradient in logits": seen["grads"]}


def _light(d: Any) -> Case:
    """Weights whose sum over the pixels is below 1."""
    logits, target = _loss_case(void=True)(d).args
    weights = d.positive(logits.shape[1], low=0.2, high=3.0) / 1000
    return Case((logits, target), {"class_weights": weights, "mask": d.positive(*target.shape)})


def _loss_single(d: Any) -> Case:
    case = _loss_case(weights=True, void=True)(d)
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


def _loss_at_least_one(logits, target, class_weights=None, mask=None, ignore_index=255):
    def over(w, m, v):
        return (w * m * v).sum().clamp(min=1)

    return _loss(logits, target, class_weights, mask, ignore_index, over=over)


def _loss_overwritten(logits, target, class_weights=None, mask=None, ignore_index=255):
    value = _loss(logits, target, class_weights, mask, ignore_index)
    target[target == ignore_index] = 0
    return value


def _loss_constant_zero(logits, target, class_weights=None, mask=None, ignore_index=255):
    value = _loss(logits, target, class_weights, mask, ignore_index, guard=False)
    return torch.tensor(0.0, device=logits.device) if bool(value.isnan()) else value


def _loss_of_gain(logits, target, class_weights=None, mask=None, ignore_index=255):
    return -_loss(logits, target, class_weights, mask, ignore_index)


def _loss_of_ones(logits, target, class_weights=None, mask=None, ignore_index=255):
    mask = None if mask is None else mask != 0
    return _loss(logits, target, class_weights, mask, ignore_index)


def _loss_weights_detached(logits, target, class_weights=None, mask=None, ignore_index=255):
    class_weights = None if class_weights is None else class_weights.detach()
    mask = None if mask is None else mask.detach()
    return _loss(logits, target, class_weights, mask, ignore_index)


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


COUNTING = ("void", "class_weights", "mask", "light", "gradients")

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
        Property("mask", "so does a mask of bools or of floats", 0.5, _loss_case(mask=True)),
        Property("light", "also where they sum to less than 1", 0.25, _light),
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
            ("class_weights", "mask", "light", "gradients"),
            _loss_divided_by_valid,
        ),
        Misconception(
            "class_weights_not_in_the_divisor",
            "Your divisor holds the mask and not the class weights.",
            "Divide by Σ w·M, both of them.",
            ("class_weights", "light", "gradients"),
            _loss_weights_not_counted,
        ),
        Misconception(
            "mask_not_in_the_divisor",
            "Your divisor holds the class weights and not the mask.",
            "Divide by Σ w·M, both of them: a pixel that is masked out is not there.",
            ("mask", "light", "gradients"),
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
            ("void", "ignore_index", "light", "nothing", "gradients"),
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
            "divisor_at_least_one",
            "Your divisor never falls below 1: small weights make the loss small.",
            "Only 0 has to be avoided: torch.where(total > 0, total, 1).",
            ("light",),
            _loss_at_least_one,
        ),
        Misconception(
            "constant_zero",
            "Where no pixel counts you return a new 0, of another dtype and without a graph.",
            "Keep the sum, which is 0 and has a gradient of 0, and divide it by 1.",
            ("nothing",),
            _loss_constant_zero,
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
            ("plain", "void", "ignore_index", "class_weights", "mask", "light", "stable", "gradients"),
            _loss_wrong_axis,
        ),
        Misconception(
            "sum_instead_of_mean",
            "You summed the losses and did not divide.",
            "Divide by Σ w·M.",
            ("plain", "void", "ignore_index", "class_weights", "mask", "light", "stable", "gradients"),
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
            "sign_forgotten",
            "Your loss has the wrong sign: a sure and right answer costs most.",
            "−log softmax: the logarithm of a probability is negative.",
            ("plain", "void", "ignore_index", "class_weights", "mask", "light", "stable", "gradients"),
            _loss_of_gain,
        ),
        Misconception(
            "mask_of_ones",
            "You took every mask value that is not 0 for 1.",
            "A mask of floats weighs: multiply by it.",
            ("mask", "light", "gradients"),
            _loss_of_ones,
        ),
        Misconception(
            "weights_detached",
            "No gradient reaches the class weights and the mask.",
            "Leave detach(), .data and torch.tensor(…) around them out.",
            ("gradients",),
            _loss_weights_detached,
        ),
        Misconception(
            "target_overwritten",
            "You wrote into target: the caller's void pixels are gone.",
            "Make a new map: target.masked_fill(void, 0), or torch.where.",
            ("carries",),
            _loss_overwritten,
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
    forbidden=(CROSS_ENTROPY, NLL_LOSS),
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
    void = d.choice([255, -1, 7])
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
            count = int(((labels == c) & (labels != ignore_index)).sum())
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


def _balanced_255(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, 255)


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
        [
            torch.stack([((m == c) & (m != ignore_index)).sum() for c in range(num_classes)])
            for m in label_maps
        ]
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
        Property(
            "void",
            "void pixels count nowhere, whatever integer labels them",
            0.25,
            _void_case,
            _doubled,
            examples=12,
        ),
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
            "void_is_always_255",
            "You compare with 255 instead of with ignore_index.",
            "valid = labels != ignore_index.",
            ("void",),
            _balanced_255,
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
