"""The exercise crop_and_concat of lecture 07: the skip, cropped to the middle and put in front."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from autograder.attempt import Raised, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import described, gradients, numbers
from autograder.catalog.unet.draws import LOOSE, dtype_and_changes
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import unet as reference


def _skip_case(*differences: tuple[int, int]) -> Callable[[Draw], Case]:
    """Skips that have so many rows and columns more than the map beside them."""

    def draw(d: Draw) -> Case:
        n, c, c_up = d.choice([2, 1]), d.choice([1, 2, 3]), d.choice([2, 1, 3])
        h, w = d.choice([2, 1, 3]), d.choice([3, 2, 5])
        rows, columns = d.each(differences)
        skip = d.layout(d.tensor(n, c, h + rows, w + columns))
        return Case((skip, d.layout(d.tensor(n, c_up, h, w))))

    return draw


def _up_too_large(d: Draw) -> Case:
    """Larger along one side, or along both: every way a crop could be negative."""
    h, w = d.integer(3, 6), d.integer(3, 6)
    more = [(d.integer(1, 2), 0), (0, d.integer(1, 2)), (2, 3), (1, -1), (-2, 2)]
    ups = [d.tensor(1, 2, h + rows, w + columns) for rows, columns in more]
    return Case(extra={"skip": d.tensor(1, 2, h, w), "ups": ups})


def _refuses_ups(subject: Subject, case: Case) -> dict[str, str]:
    skip = case.extra["skip"]
    found = {}
    for up in case.extra["ups"]:
        try:
            answer = f"accepted: {described(subject(skip, up))}"
        except Raised as raised:
            if "NotImplementedError" in raised.kinds:
                raise
            kind = "ValueError" if "ValueError" in raised.kinds else raised.kinds[0]
            answer = f"refused with a {kind}"
        found[f"skip {tuple(skip.shape[2:])}, up {tuple(up.shape[2:])}"] = answer
    return found


def _skip_kinds(d: Draw) -> Case:
    dtype = d.choice([torch.float64, torch.float32])
    args = (d.tensor(2, 2, 8, 5, dtype=dtype), d.tensor(2, 2, 4, 3, dtype=dtype))
    return Case(tuple(d.layout(a) for a in args))


CLAIMS = Exercise(
    id="crop_and_concat",
    topic="unet",
    title="The skip, cropped to the middle and put in front",
    reference=reference.crop_and_concat,
    minutes=10,
    difficulty=2,
    properties=claims(
        """
        joined (0.5): the middle of skip, its channels before those of up
        odd (0.5): where the difference is odd, the extra row or column is cropped at the bottom or right
        same_size (0.25): nothing is cropped along a side that fits already
        refuses_larger_up (0.25): an up that is larger than skip, along either side, is refused with a
          ValueError
        gradients (0.25): gradients reach both inputs
        carries (0.25): the dtype is kept and the inputs are not modified
        """,
        joined=on(_skip_case((2, 4), (4, 2), (6, 2), (2, 6)), numbers, tolerance=LOOSE),
        odd=on(_skip_case((1, 3), (3, 2), (4, 7), (5, 1)), numbers, tolerance=LOOSE),
        same_size=on(_skip_case((0, 2), (2, 0), (0, 0)), numbers, tolerance=LOOSE),
        refuses_larger_up=on(_up_too_large, _refuses_ups, examples=3, beside="joined"),
        gradients=on(_skip_case((2, 4), (4, 2)), gradients(0, 1), tolerance=LOOSE, examples=4),
        carries=on(_skip_kinds, dtype_and_changes, examples=4, beside="joined"),
    ),
    hints=hints("""
        The result is shifted against the skip
        How many rows are too many, and how many of them lie above the middle?

        It fails for some sizes only
        Try a difference of 0 and a difference of 3 by hand. Which rows does your slice keep?

        I don't know how to put it together
        h, w = up.shape[2:]; top, left = (H − h) // 2, (W − w) // 2, a ValueError if either is negative;
          torch.cat([skip[:, :, top : top + h, left : left + w], up], dim=1).
        """),
)

answers = Answers(CLAIMS)


@answers.right
def sliced(skip, up):
    """a slice from the middle"""
    H, W = skip.shape[2:]
    h, w = up.shape[2:]
    if h > H or w > W:
        raise ValueError(f"up must be no larger than skip, got {h}×{w} and {H}×{W}")
    top, left = (H - h) // 2, (W - w) // 2
    cropped = skip[:, :, top : top + h, left : left + w]
    return torch.cat([cropped, up], dim=1)


answers.edits("""
up_first: joined odd same_size gradients
- [cropped, up]
+ [up, cropped]
You put the channels of up in front.
Skip first: torch.cat([skip, up], dim=1).

corner_cropped: joined odd same_size gradients
- top : top + h, left : left + w
+ :h, :w
You kept the top left corner of skip.
Keep its middle: begin at (H − h) // 2 and (W − w) // 2.

extra_at_the_top: odd
- (H - h) // 2, (W - w) // 2
+ (H - h + 1) // 2, (W - w + 1) // 2
Where the difference is odd you cropped the extra row or column at the top or left.
Round the start down: (H − h) // 2.

rounded_to_even: odd
- (H - h) // 2, (W - w) // 2
+ round((H - h) / 2), round((W - w) / 2)
Your start is rounded: Python's round takes halves to the even number, so 1.5 becomes 2.
Round down: (H − h) // 2.

same_from_both_sides: odd
- top : top + h, left : left + w
+ top : H - top, left : W - left
You crop the same number of rows from both sides, which leaves one too many where the difference is odd.
Begin at (H − h) // 2 and take h rows from there: [top : top + h].

empty_slice: same_size
- top : top + h, left : left + w
+ top : -(H - h - top), left : -(W - w - left)
Where nothing is to be cropped your slice [0 : -0] is empty.
Say where the crop ends instead of how far from the end: [top : top + h].

square_only: joined odd same_size gradients
- (W - w) // 2
+ (H - h) // 2
You crop columns by the rows' difference.
Rows and columns each have their own: (H − h) // 2 and (W − w) // 2.

skip_resized: joined odd same_size gradients
- cropped = skip[:, :, top : top + h, left : left + w]
+ cropped = F.interpolate(skip, size=(h, w), mode="bilinear")
You shrank the skip instead of cropping it.
Features must stay where they are: cut the middle out, pixel for pixel.

up_padded: joined odd same_size gradients
- cropped = skip[:, :, top : top + h, left : left + w]
- return torch.cat([cropped, up], dim=1)
+ padded = F.pad(up, (left, W - w - left, top, H - h - top))
+ return torch.cat([skip, padded], dim=1)
You padded up to the size of skip.
Crop skip to the size of up: the padded border would be made up.

up_resized: joined odd same_size gradients
- cropped = skip[:, :, top : top + h, left : left + w]
- return torch.cat([cropped, up], dim=1)
+ resized = F.interpolate(up, size=(H, W), mode="bilinear")
+ return torch.cat([skip, resized], dim=1)
You enlarged up to the size of skip.
Crop skip to the size of up: enlarged, up no longer lies where it belongs.

equal_refused: same_size
- if h > H or w > W:
+ if h >= H or w >= W:
You refuse an up that is as large as skip along a side.
Only larger is too large: where a side fits already, nothing is cropped there.

stacked_as_images: joined odd same_size gradients
- dim=1
+ dim=0
You joined along the first axis, as if these were more images.
Join channels: torch.cat([skip, up], dim=1).

larger_up_not_refused: refuses_larger_up
- if h > H or w > W:
-     raise ValueError(f"up must be no larger than skip, got {h}×{w} and {H}×{W}")
You leave an up that is larger than skip to torch: a negative start counts from the end.
Compare the sizes first and raise a ValueError that names up.

larger_by_one_not_refused: refuses_larger_up
- if h > H or w > W:
-     raise ValueError(f"up must be no larger than skip, got {h}×{w} and {H}×{W}")
- top, left = (H - h) // 2, (W - w) // 2
+ top, left = int((H - h) / 2), int((W - w) / 2)
+ if min(top, left) < 0:
+     raise ValueError(f"up must be no larger than skip, got {h}×{w} and {H}×{W}")
An up that is larger by one row or column alone is not refused with a ValueError, as where a start of −½ is
  checked after int has cut it to 0.
Compare the sizes themselves: h > H or w > W.

larger_up_filled: refuses_larger_up
- if h > H or w > W:
-     raise ValueError(f"up must be no larger than skip, got {h}×{w} and {H}×{W}")
...
- skip[:, :, top : top + h, left : left + w]
+ F.pad(skip, (-left, left + w - W, -top, top + h - H))
Where up is larger than skip you fill skip up with zeros.
Raise a ValueError there: in a U-Net of valid convolutions it is a mistake in the sizes.

refused_if_both: refuses_larger_up
- h > H or w > W
+ h > H and w > W
You refuse an up that is larger along both sides, and let one pass that is larger along one.
Either is too much: or, not and.

only_rows_compared: refuses_larger_up
- h > H or w > W
+ h > H
You compare the numbers of rows only.
Compare the columns too before you crop.

skip_detached: gradients
- [cropped, up]
+ [cropped.detach(), up]
No gradient reaches skip.
Leave out detach(), .data and no_grad(): the contracting path learns through the skips as well.

up_detached: gradients
- [cropped, up]
+ [cropped, up.detach()]
No gradient reaches up.
Leave out detach(), .data and no_grad(): everything below learns through up.

graph_cut: gradients
- return torch.cat([cropped, up], dim=1)
+ return torch.cat([cropped, up], dim=1).detach()
No gradient reaches either input.
Leave out detach(), .data and no_grad(), and stay with torch: numpy keeps no graph.

default_dtype: carries
- return torch.cat([cropped, up], dim=1)
+ joined = torch.zeros(len(skip), skip.shape[1] + up.shape[1], h, w, device=up.device)
+ joined[:, : skip.shape[1]] = cropped
+ joined[:, skip.shape[1] :] = up
+ return joined
Your result is float32 whatever came in.
torch.cat keeps the dtype; where you allocate, take it from an input: skip.new_zeros(...).
""")


@answers.right
def narrowed(skip, up):
    """narrow, one axis after the other"""
    for axis in (2, 3):
        if skip.size(axis) < up.size(axis):
            raise ValueError(f"up must be no larger than skip along axis {axis}")
        skip = skip.narrow(axis, (skip.size(axis) - up.size(axis)) // 2, up.size(axis))
    return torch.concatenate((skip, up), dim=1)


@answers.right
def padded_by_less(skip, up):
    """padding by negative numbers"""
    rows, columns = skip.shape[-2] - up.shape[-2], skip.shape[-1] - up.shape[-1]
    if min(rows, columns) < 0:
        raise ValueError("up must not be larger than skip")
    top, left = rows // 2, columns // 2
    return torch.cat([F.pad(skip, (-left, left - columns, -top, top - rows)), up], dim=1)


@answers.right
def indexed(skip, up):
    """indices into an empty result"""
    n, c, H, W = skip.shape
    h, w = up.shape[2:]
    if min(H - h, W - w) < 0:
        raise ValueError(f"up must be no larger than skip, got {tuple(up.shape)} and {tuple(skip.shape)}")
    rows = torch.arange(h, device=skip.device) + (H - h) // 2
    columns = torch.arange(w, device=skip.device) + (W - w) // 2
    joined = skip.new_empty(n, c + up.shape[1], h, w)
    joined[:, :c] = skip[:, :, rows[:, None], columns]
    joined[:, c:] = up
    return joined


EXERCISE = answers.exercise()
