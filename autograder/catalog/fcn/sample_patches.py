"""The exercise sample_patches of lecture 06: patches, every class equally often."""

import torch

from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.fcn import draws
from autograder.exercise import Exercise
from coursekit import fcn as reference

CLAIMS = Exercise(
    id="sample_patches",
    topic="fcn",
    title="Patches, every class equally often",
    reference=reference.sample_patches,
    minutes=18,
    difficulty=3,
    properties=claims(
        """
        centers (0.75): patches are pieces of the image, their targets the labels of row and column size // 2
        tried: the patches, compared with the image; void is all around, where no center can lie
        even_sizes (0.5): the same for even sizes, where there is no middle
        tried: the patches, compared with the image; void is all around, where no center can lie
        inside (0.75): no patch runs over the border; a class without a center that is far enough inside never
          comes
        tried: the patches, compared with the image; class 5 is at the border alone
        balanced (0.5): each class with a legal center comes per_class times, also one with fewer centers
          than that
        tried: how often each class was drawn
        void (0.5): void centers (255) are never drawn, void elsewhere in a patch does not matter, and an
          image of nothing but void gives no patch
        tried: once with these labels, once with void everywhere
        spread (0.5): with replacement, every legal center of a class equally likely
        tried: which centers came up, and how often
        generator (0.25): the draws come from the generator
        tried: twice with the first generator, once with the second
        kinds (0.25): targets are int64 of shape (P,); patches keep a float dtype, bytes become float32;
          nothing is modified in place
        """,
        centers=on(draws.patch_case((3, 5, 1)), draws.drawn, draws.judge_crops, examples=6),
        even_sizes=on(draws.patch_case((4, 2, 6)), draws.drawn, draws.judge_crops, examples=6),
        inside=on(draws.at_the_border, draws.drawn, draws.judge_inside, examples=6),
        balanced=on(draws.unbalanced, draws.drawn, draws.judge_counts, examples=6),
        void=on(draws.with_void, draws.drawn_with_void, draws.judge_void, examples=6),
        spread=on(draws.few_and_many, draws.drawn, draws.judge_spread, examples=4),
        generator=on(draws.twice, draws.drawn_twice, draws.judge_twice, examples=4, beside="centers"),
        kinds=on(draws.patch_kinds, draws.drawn_kinds, examples=6, beside="centers"),
    ),
    hints=hints("""
        A patch runs over the border
        Its center has size // 2 rows above it. How many has it below, for an odd size, for an even one? Cut
          labels down to the legal centers first.

        A rare class gives too few patches
        With replacement, ten draws from three centers are no problem: draw ten indices below three. And draw
          from the legal centers: what is dropped afterwards is missing.

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

center_rounded_down: even_sizes
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
You drew as many patches in all as are asked for, and not equally many of each class: common ones come often.
Go class by class, and draw per_class centers of each.

without_replacement: balanced spread
- torch.randint(len(corners), (per_class,), generator=generator)
+ torch.randperm(len(corners), generator=generator)[:per_class]
You drew without replacement: a class with few centers gives too few patches.
Draw indices with torch.randint; the same center may come twice.

without_replacement_where_enough: spread
- index = torch.randint(len(corners), (per_class,), generator=generator)
+ if len(corners) < per_class:
+     index = torch.randint(len(corners), (per_class,), generator=generator)
+ else:
+     index = torch.randperm(len(corners), generator=generator)[:per_class]
Where a class has enough centers, none comes twice: you drew without replacement there.
Draw indices with torch.randint in any case: each draw is from all centers.

rare_classes_left_out: balanced spread
- corners = (inner == c).nonzero()
+ corners = (inner == c).nonzero()
+ if len(corners) < per_class:
+     continue
A class with fewer centers than per_class does not come at all.
With replacement it can: draw per_class indices below the number of its centers.

void_is_a_class: void
- [c for c in inner.unique().tolist() if c != 255]
+ inner.unique().tolist()
You drew patches with void centers, as if 255 were a class.
Skip 255 when you go through the classes.

last_label_taken_for_void: balanced spread
- [c for c in inner.unique().tolist() if c != 255]
+ inner.unique().tolist()[:-1]
The largest label never comes, as where the last of the sorted labels is dropped as void: not every image has
  void among its possible centers.
Leave out 255 by its value: c != 255.

void_alone_fails: void
- if not drawn:
-     return image.new_zeros(0, len(image), size, size), targets
Your function breaks down on an image of nothing but void: no patch is left to put together.
Return patches of shape (0, C, size, size) then, and no targets.

empty_without_axes: void
- image.new_zeros(0, len(image), size, size)
+ image.new_zeros(0)
Where no class has a center, what you return has not the shapes of patches and targets.
Return patches of shape (0, C, size, size) and targets of shape (0,).

borders_padded: inside
- inner = labels[center:, center:][: h - size + 1, : w - size + 1]
+ image = torch.nn.functional.pad(image, (center, size, center, size))
+ inner = labels
Near the border your patches are no pieces of the image: it was padded, or pixels were repeated.
Draw only centers whose patch lies inside: rows size // 2 to H − size + size // 2.

pushed_inside: inside
- inner = labels[center:, center:][: h - size + 1, : w - size + 1]
+ inner = labels
- if not drawn:
+ drawn = [(min(max(r - center, 0), h - size), min(max(c - center, 0), w - size)) for r, c in drawn]
+ if not drawn:
You drew centers near the border too, and their patches lie inside: their center is then another pixel.
Draw only centers whose patch lies inside: rows size // 2 to H − size + size // 2.

no_center_fails: inside
- inner.unique()
+ labels.unique()
Your function breaks down over a class without a legal center: there is nothing to draw from.
Go through the classes of the legal centers alone, or skip a class that has none.

void_anywhere_refused: void spread
- inner = labels[center:, center:][: h - size + 1, : w - size + 1]
+ windows = labels.unfold(0, size, 1).unfold(1, size, 1)
+ with_void = (windows == 255).flatten(2).any(2)
+ inner = windows[:, :, center, center].masked_fill(with_void, 255)
You refused every patch that holds a void pixel.
Only the center decides: it gives the target, and the other pixels are what the network sees.

class_0_left_out: balanced
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
You drew some centers of a class again and again, and others never.
Draw per_class indices: torch.randint(count, (per_class,), generator=generator).

last_center_left_out: spread
- torch.randint(len(corners), (per_class,), generator=generator)
+ (torch.rand(per_class, generator=generator) * (len(corners) - 1)).long()
The last legal center of a class never comes up: the range that you draw from is one short.
Indices go from 0 to count − 1: torch.randint(count, …), which leaves its end out already.

range_one_short: balanced spread
- torch.randint(len(corners), (per_class,), generator=generator)
+ torch.randint(len(corners) - 1, (per_class,), generator=generator)
The range that you draw from is one short: the last legal center of a class never comes up, and where it is
  the only one there is nothing to draw from.
Indices go from 0 to count − 1: torch.randint(count, …), which leaves its end out already.

row_drawn_first: spread
- index = torch.randint(len(corners), (per_class,), generator=generator)
+ rows = corners[:, 0].unique()
+ rows = rows[torch.randint(len(rows), (per_class,), generator=generator)]
+ index = [(corners[:, 0] == row).nonzero().flatten() for row in rows]
+ index = [int(of[torch.randint(len(of), (), generator=generator)]) for of in index]
A center that is alone in its row comes too often, as where a row is drawn first and then a column in it.
Draw from the list of all centers of the class at once: (inner == c).nonzero() has them.

column_drawn_first: spread
- index = torch.randint(len(corners), (per_class,), generator=generator)
+ columns = corners[:, 1].unique()
+ columns = columns[torch.randint(len(columns), (per_class,), generator=generator)]
+ index = [(corners[:, 1] == column).nonzero().flatten() for column in columns]
+ index = [int(of[torch.randint(len(of), (), generator=generator)]) for of in index]
A center that is alone in its column comes too often, as where a column is drawn first and then a row in it.
Draw from the list of all centers of the class at once: (inner == c).nonzero() has them.

last_row_left_out: spread
- [: h - size + 1, : w - size + 1]
+ [: h - size, : w - size]
The last legal row and column never come up.
A patch fits at H − size + 1 places, not at H − size.

last_row_of_even_left_out: spread
- [: h - size + 1, : w - size + 1]
+ [: h - 2 * center, : w - 2 * center]
For even sizes the last legal row and column never come up.
An even size has one row fewer below its center than above: a patch fits at H − size + 1 places.

ends_at_minus_half: centers spread
- labels[center:, center:][: h - size + 1, : w - size + 1]
+ labels[center:-center, center:-center]
For size 1 you find no center at all, since [0:-0] is empty, and for even sizes the last row and column are
  missing.
Count from the front: a patch fits at H − size + 1 places.

generator_ignored: generator
- torch.randint(len(corners), (per_class,), generator=generator)
+ torch.randint(len(corners), (per_class,))
Your draws do not come from the generator, but from torch's global numbers or one of your own.
Hand on the one you are given: torch.randint(…, generator=generator).

generator_seeded_anew: generator
- h, w = labels.shape
+ h, w = labels.shape
+ generator.manual_seed(0)
You seeded the generator that you were given: every call draws the same patches.
Draw from it as it comes; whoever calls has seeded it.

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


answers.edits("""
over_the_border: inside balanced
- range(half, labels.shape[0] - size + half + 1)
+ range(labels.shape[0])
- range(half, labels.shape[1] - size + half + 1)
+ range(labels.shape[1])
Some of your patches run over the border: they have fewer rows or columns than the others, and cannot be put
  together.
Draw only centers whose patch lies inside: rows size // 2 to H − size + size // 2.

dropped_at_the_border: balanced
- range(half, labels.shape[0] - size + half + 1)
+ range(labels.shape[0])
- range(half, labels.shape[1] - size + half + 1)
+ range(labels.shape[1])
- patches.append(image[:, r - half : r - half + size, c - half : c - half + size])
- targets.append(label)
+ patch = image[:, r - half : r - half + size, c - half : c - half + size]
+ if patch.shape[1:] == (size, size):
+     patches.append(patch)
+     targets.append(label)
Of some classes too few patches are left: you drew among all pixels and dropped what did not fit.
Take the legal centers first, and draw per_class of them: rows size // 2 to H − size + size // 2.

a_row_too_many: even_sizes spread
- range(half, labels.shape[0] - size + half + 1)
+ range(half, labels.shape[0] - half)
- range(half, labels.shape[1] - size + half + 1)
+ range(half, labels.shape[1] - half)
- image[:, r - half : r - half + size, c - half : c - half + size]
+ image[:, r - half : r + half + 1, c - half : c + half + 1]
For even sizes your patches have a row and a column too many, and the last legal centers never come up.
From row r − size // 2 on, take size rows: there is one fewer below the center than above.

a_row_too_few: centers
- image[:, r - half : r - half + size, c - half : c - half + size]
+ image[:, r - half : r + half, c - half : c + half]
For odd sizes your patches have a row and a column too few.
From row r − size // 2 on, take size rows: the center itself counts too.
""")


@answers.right
def weighted(image, labels, size, per_class, generator):
    """multinomial and index arithmetic"""
    image = image.to(torch.float32) if not image.is_floating_point() else image
    h, w = labels.shape
    legal = torch.zeros(h, w, dtype=torch.bool, device=labels.device)
    legal[size // 2 : size // 2 + h - size + 1, size // 2 : size // 2 + w - size + 1] = True
    drawn = []
    for label in sorted({*labels.flatten().tolist()} - {255}):
        weights = ((labels == label) & legal).flatten().double().cpu()
        if weights.any():
            drawn.append(torch.multinomial(weights, per_class, replacement=True, generator=generator))
    places = torch.cat([*drawn, torch.zeros(0, dtype=torch.int64)]).to(labels.device)
    steps = torch.arange(size, device=labels.device) - size // 2
    rows = (places // w)[:, None, None] + steps[:, None]
    columns = (places % w)[:, None, None] + steps
    return image[:, rows, columns].transpose(0, 1), labels.flatten()[places].long()


EXERCISE = answers.exercise()
