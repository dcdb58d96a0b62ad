"""The exercise sample_patches of lecture 06: patches, every class equally often."""

from collections.abc import Callable
from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import described, named, wrong
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Mismatch, Outcome
from coursekit import fcn as reference

# Drawn so often that a legal center is left out once in 10^9 right answers.
OFTEN = 150


def _addressed(d: Draw, h: int, w: int) -> torch.Tensor:
    """An image whose first channels are row and column, so that a patch tells where it was cut."""
    rows = torch.arange(h, dtype=torch.float64)[:, None].expand(h, w)
    columns = torch.arange(w, dtype=torch.float64).expand(h, w)
    return torch.stack([rows, columns, d.tensor(h, w)])


def _patch_case(sizes: tuple[int, ...], per_class: int = 12) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        h, w = d.integer(8, 11), d.integer(9, 13)
        labels = d.integers(h, w, low=0, high=2)
        return Case((_addressed(d, h, w), labels, d.choice(sizes), per_class, d.generator()))

    return draw


def _unbalanced(d: Draw) -> Case:
    """A common class, a rare one, one pixel of a third, and a class that only lines the border."""
    h, w, size = d.integer(9, 11), d.integer(10, 13), d.choice([3, 5])
    labels = torch.zeros(h, w, dtype=torch.int64)
    labels[size // 2 : -(size // 2), size // 2] = 1
    labels[h // 2, w // 2] = 4
    # Beside the only center of a class: void in a patch is no reason to refuse it.
    labels[h // 2 - 1, w // 2 + 1] = 255
    labels[-1] = labels[:, -1] = 3
    return Case((_addressed(d, h, w), labels, size, d.integer(3, 9), d.generator()))


def _with_void(d: Draw) -> Case:
    image, labels, *rest = _patch_case((3, 4))(d).args
    h, w = labels.shape
    labels[: h // 2, w // 3 :] = 255
    return Case((image, labels, *rest), {}, {"void everywhere": torch.full_like(labels, 255)})


def _few_centers(d: Draw) -> Case:
    """The centers of class 1 are few, and the four corners of what is legal are among them."""
    h, w, size = d.integer(8, 10), d.integer(9, 11), d.choice([4, 3, 5, 2])
    first, rows, columns = size // 2, h - size, w - size
    labels = torch.zeros(h, w, dtype=torch.int64)
    for row in (first, first + rows):
        for column in (first, first + columns):
            labels[row, column] = 1
    labels[h // 2, w // 2] = 1
    return Case((_addressed(d, h, w), labels, size, OFTEN, d.generator()))


def _twice(d: Draw) -> Case:
    case = _patch_case((3,))(d)
    return Case(case.args[:-1], {}, {"generators": (case.args[-1], d.generator())})


def _patch_kinds(d: Draw) -> Case:
    image, labels, *rest = _patch_case((3,), per_class=3)(d).args
    labels[0, :2] = 255
    bytes_too = (image.abs() * 20).clamp(0, 255).to(torch.uint8)
    return Case((image, d.choice([labels, labels.to(torch.uint8)]), *rest), {}, {"as bytes": bytes_too})


_drawn = named("patches", "targets")


def _drawn_with_void(subject: Subject, case: Case) -> Any:
    image, _, *rest = case.args
    everywhere = Case((image, case.extra["void everywhere"], *rest))
    return [_drawn(subject, case), _drawn(subject, everywhere)]


def _drawn_twice(subject: Subject, case: Case) -> Any:
    one, other = case.extra["generators"]
    return [_drawn(subject, Case((*case.args, g))) for g in (one, one, other)]


def _drawn_kinds(subject: Subject, case: Case) -> Any:
    seen: dict[str, Any] = {}
    changes = []
    for kind, image in (("float64", case.args[0]), ("uint8", case.extra["as bytes"])):
        result, changed = subject.with_changes(image, *case.args[1:])
        changes.append([int(c) for c in changed])
        pair = isinstance(result, list | tuple)
        parts = result if pair else [result]
        seen[f"patches and targets of a {kind} image"] = [
            str(v.dtype).removeprefix("torch.") if isinstance(v, torch.Tensor) else described(v)
            for v in parts
        ]
        if kind == "uint8" and pair and isinstance(result[0], torch.Tensor):
            found, there = result[0].double().unique(), image.double().unique()
            seen["bytes keep their values"] = bool((found[:, None] == there).any(1).all())
    return {**seen, "arguments changed in place": changes[0]}


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
    if mismatch := _are_patches(image, size, got):
        return mismatch
    patches, targets = got["patches"], got["targets"].long()
    if patches.is_floating_point():  # its dtype is another property's business
        image = image.to(patches.dtype)
    if not len(targets):
        return wrong("there is no patch", "none")
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
        return wrong(f"{int(off.sum())} of {len(off)} patches are no piece of the image", "crop", where)
    if torch.equal(targets, labels[tops + size // 2, lefts + size // 2]):
        return None
    for name, offset in (("the top left pixel", 0), ("row and column (size − 1) // 2", (size - 1) // 2)):
        if offset != size // 2 and torch.equal(targets, labels[tops + offset, lefts + offset]):
            return wrong(f"the targets are the labels of {name}", f"center:{offset - size // 2}")
    return wrong("targets are not the labels of the patches' center pixels", "center")


def _judge_counts(case: Case, expected: Any, got: Any) -> Mismatch | None:
    image, _, size, per_class = case.args[:4]
    if mismatch := _are_patches(image, size, got):
        return mismatch
    wanted = {int(c): per_class for c in expected["targets"].unique()}
    counts = dict(zip(*(v.tolist() for v in got["targets"].long().unique(return_counts=True)), strict=True))
    if counts == wanted:
        return None
    message = f"expected {wanted} patches of each class, got {counts}"
    if set(counts) - set(wanted):
        return wrong(message, "count:classes without a center")
    if missing := set(wanted) - set(counts):
        return wrong(message, "count:class 0 missing" if missing == {0} else "count:missing")
    if len(set(counts.values())) == 1:
        return wrong(message, "count:all fewer" if max(counts.values()) < per_class else "count:all more")
    return wrong(message, "count:fewer" if sum(counts.values()) < sum(wanted.values()) else "count")


def _judge_void(case: Case, expected: Any, got: Any) -> Mismatch | None:
    image, _, size = case.args[:3]
    found, nothing = got
    for part in (found, nothing):
        if mismatch := _are_patches(image, size, part):
            return mismatch
    if (found["targets"] == 255).any() or (nothing["targets"] == 255).any():
        return wrong("patches with a void center were drawn", "void")
    return (
        wrong("patches come from an image without a class", "void:all") if len(nothing["targets"]) else None
    )


def _judge_spread(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := _judge_crops(case, expected, got) or _judge_counts(case, expected, got):
        return mismatch
    _, labels, size, per_class = case.args[:4]
    tops, lefts = _tops(got["patches"][got["targets"] == 1])
    seen = list(zip((tops + size // 2).tolist(), (lefts + size // 2).tolist(), strict=True))
    legal = [(r, c) for r, c in (labels == 1).nonzero().tolist()]
    missing = [place for place in legal if place not in seen]
    if missing:
        last = max(r for r, _ in legal), max(c for _, c in legal)
        at_end = all(r == last[0] or c == last[1] for r, c in missing) and len(missing) < len(legal) - 1
        message = f"centers of class 1 at {legal}, of which {missing} never came up in {per_class} draws"
        return wrong(message, "spread:last" if at_end else "spread:missing")
    share = max(seen.count(place) for place in legal) * len(legal) / per_class
    return wrong("some centers come up far more often than others", "spread:uneven") if share > 2.2 else None


def _judge_twice(case: Case, expected: Any, got: Any) -> Mismatch | None:
    image, _, size = case.args[:3]
    for part in got:
        if mismatch := _are_patches(image, size, part):
            return mismatch
    one, again, other = (part["patches"] for part in got)
    if one.shape == again.shape == other.shape and torch.equal(one, again) and torch.equal(one, other):
        return wrong("another generator gives the same patches", "generator:ignored")
    if one.shape != again.shape or not torch.equal(one, again):
        return wrong("the same generator gives other patches", "generator:not repeatable")
    return None


CLAIMS = Exercise(
    id="sample_patches",
    topic="fcn",
    title="Patches, every class equally often",
    reference=reference.sample_patches,
    minutes=18,
    difficulty=3,
    properties=claims(
        """
        centers (1): patches are pieces of the image, their targets the labels of row and column size // 2
        tried: the patches, compared with the image
        even_sizes (0.5): the same for even sizes, where there is no middle
        tried: the patches, compared with the image
        balanced (0.75): each class with a center that lies far enough inside comes per_class times, others
          never
        tried: how often each class was drawn
        void (0.5): void centers (255) are never drawn, and an image of nothing but void gives no patch
        tried: once with these labels, once with void everywhere
        spread (0.5): with replacement, every legal center of a class equally likely
        tried: which centers came up
        generator (0.5): the draws come from the generator
        tried: twice with the first generator, once with the second
        kinds (0.25): targets are int64; patches keep a float dtype, bytes become float32; nothing is modified
          in place
        """,
        centers=on(_patch_case((3, 5, 1)), _drawn, _judge_crops, examples=6),
        even_sizes=on(_patch_case((4, 2, 6)), _drawn, _judge_crops, examples=4),
        balanced=on(_unbalanced, _drawn, _judge_counts, examples=6),
        void=on(_with_void, _drawn_with_void, _judge_void, examples=6),
        spread=on(_few_centers, _drawn, _judge_spread, examples=4),
        generator=on(_twice, _drawn_twice, _judge_twice, examples=4, beside="centers"),
        kinds=on(_patch_kinds, _drawn_kinds, examples=6, beside="centers"),
    ),
    hints=hints("""
        A patch runs over the border
        Its center has size // 2 rows above it. How many has it below, for an odd size, for an even one? Cut
          labels down to the legal centers first.

        A rare class gives too few patches
        With replacement, ten draws from three centers are no problem: draw ten indices below three.

        I don't know how to start
        inner = labels[size // 2 :, size // 2 :][: H − size + 1, : W − size + 1]. For each class c in inner
          but 255: (inner == c).nonzero() are the top left corners; draw per_class of them and cut image[:, r
          : r + size, col : col + size].
        """),
)

answers = Answers(CLAIMS)


@answers.right
def by_class(image, labels, size, per_class, generator):
    """corners drawn class by class"""
    image = image if image.is_floating_point() else image.float()
    h, w = labels.shape
    center = size // 2
    inner = labels[center:, center:][: h - size + 1, : w - size + 1]
    classes = [c for c in inner.unique().tolist() if c != 255]
    drawn = []
    for c in classes:
        corners = (inner == c).nonzero()
        index = torch.randint(len(corners), (per_class,), generator=generator)
        drawn += corners[index].tolist()
    targets = [int(inner[row, column]) for row, column in drawn]
    targets = torch.tensor(targets, dtype=torch.int64, device=labels.device)
    if not drawn:
        return image.new_zeros(0, len(image), size, size), targets
    patches = [image[:, row : row + size, column : column + size] for row, column in drawn]
    return torch.stack(patches), targets


answers.edits("""
label_of_the_corner: centers even_sizes spread
- center = size // 2
+ center = 0
Your targets are the labels of the top left pixels.
A patch is named after its center: add size // 2 to row and column.

center_rounded_down: even_sizes spread
- center = size // 2
+ center = (size - 1) // 2
For even sizes you took the pixel at (size − 1) // 2 as the center.
There are two middle rows; take the later one, size // 2.

classes_as_they_come: balanced spread
- for c in classes:
-     corners = (inner == c).nonzero()
-     index = torch.randint(len(corners), (per_class,), generator=generator)
+ if classes:
+     corners = (inner != 255).nonzero()
+     index = torch.randint(len(corners), (per_class * len(classes),), generator=generator)
You drew from all pixels alike, so common classes come often and rare ones hardly ever.
Go class by class, and draw per_class centers of each.

without_replacement: balanced spread
- torch.randint(len(corners), (per_class,), generator=generator)
+ torch.randperm(len(corners), generator=generator)[:per_class]
You drew without replacement: a class with few centers gives too few patches.
Draw indices with torch.randint; the same center may come twice.

void_is_a_class: balanced void
- [c for c in inner.unique().tolist() if c != 255]
+ inner.unique().tolist()
You drew patches with void centers, as if 255 were a class.
Skip 255 when you go through the classes.

void_alone_fails: void
- if not drawn:
-     return image.new_zeros(0, len(image), size, size), targets
Your function breaks down where no class has a center: there is nothing to stack.
Return patches of shape (0, C, size, size) then, and no targets.

borders_padded: all but void generator kinds
- inner = labels[center:, center:][: h - size + 1, : w - size + 1]
+ image = torch.nn.functional.pad(image, (center, size, center, size))
+ inner = labels
You padded the image, so some patches hold pixels that are not in it.
Draw only centers whose patch lies inside: rows size // 2 to H − size + size // 2.

pushed_inside: all but void generator kinds
- inner = labels[center:, center:][: h - size + 1, : w - size + 1]
+ inner = labels
- if not drawn:
+ drawn = [(min(max(r - center, 0), h - size), min(max(c - center, 0), w - size)) for r, c in drawn]
+ if not drawn:
You drew centers near the border too and pushed their patches inside: the center is then another pixel.
Draw only centers whose patch lies inside: rows size // 2 to H − size + size // 2.

void_anywhere_refused: balanced
- inner = labels[center:, center:][: h - size + 1, : w - size + 1]
+ windows = labels.unfold(0, size, 1).unfold(1, size, 1)
+ with_void = (windows == 255).flatten(2).any(2)
+ inner = windows[:, :, center, center].masked_fill(with_void, 255)
You refused every patch that holds a void pixel.
Only the center decides: it gives the target, and the other pixels are what the network sees.

class_0_left_out: balanced spread
- if c != 255
+ if c not in (0, 255)
Class 0 never comes: you took it for the background.
Void is 255, and 255 alone is left out.

per_class_shared_out: balanced spread
- (per_class,)
+ (per_class // len(classes),)
You drew fewer than per_class patches of every class.
per_class is how many each class gets, not all of them together.

same_place_again: spread
- torch.randint(len(corners), (per_class,), generator=generator)
+ torch.randint(len(corners), (1,), generator=generator).expand(per_class)
You drew one center of each class and repeated it.
Draw per_class indices: torch.randint(count, (per_class,), generator=generator).

last_row_left_out: spread
- [: h - size + 1, : w - size + 1]
+ [: h - size, : w - size]
The last legal row and column never come up.
A patch fits at H − size + 1 places, not at H − size.

generator_ignored: generator
- torch.randint(len(corners), (per_class,), generator=generator)
+ torch.randint(len(corners), (per_class,))
Your draws do not come from the generator, but from torch's global numbers or one of your own.
Hand on the one you are given: torch.randint(…, generator=generator).

bytes_scaled: kinds
- image.float()
+ image.float() / 255
You scaled the values of a byte image.
Change the dtype alone: image.float(). What range the network wants is somebody else's business.

always_float32: kinds
- image if image.is_floating_point() else image.float()
+ image.float()
Your patches are float32 whatever the image was.
Only integers need another dtype: image if image.is_floating_point() else image.float().

labels_overwritten: kinds
- if not drawn:
+ labels[labels == 255] = 0
+ if not drawn:
You wrote into labels: the caller's void pixels are gone.
Make a new map, for instance with torch.where or masked_fill.

targets_as_floats: kinds
- dtype=torch.int64
+ dtype=torch.float32
Your targets are floats.
Classes are int64, as a loss wants them: .long().

bytes_kept: kinds
- image = image if image.is_floating_point() else image.float()
An image of bytes gives patches of bytes, which no convolution takes.
Integers become float32: image.float().
""")


@answers.right
def listed(image, labels, size, per_class, generator):
    """centers listed in plain Python"""
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


@answers.right
def weighted(image, labels, size, per_class, generator):
    """multinomial and index arithmetic"""
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


EXERCISE = answers.exercise()
