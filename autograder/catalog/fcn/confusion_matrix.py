"""The exercise confusion_matrix of lecture 06: count who was taken for whom."""

from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import described, numbers
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import fcn as reference


def _pair(d: Draw) -> tuple[torch.Tensor, torch.Tensor, int, torch.Tensor]:
    """Prediction, target and number of classes, and where void may stand."""
    classes, shape = d.integer(3, 5), (d.integer(3, 5), d.choice([4, 12]))
    prediction, target = (d.integers(*shape, low=0, high=classes - 1) for _ in range(2))
    # The first class is mistaken for the last more often than the other way round; the last one occurs.
    prediction.view(-1)[:4] = classes - 1
    target.view(-1)[:4] = torch.tensor([0, 0, 0, classes - 1])
    # Where a class is void, a pixel that is predicted so still counts.
    prediction.view(-1)[4:6] = torch.tensor([0, 1])
    target.view(-1)[4:6] = torch.tensor([1, 0])
    holes = d.integers(*shape, low=0, high=3) == 0
    holes.view(-1)[3:6] = False
    holes[-1, -2:] = True
    return prediction, target, classes, holes


def _counted(d: Draw) -> Case:
    return Case(_pair(d)[:3])


def _void(d: Draw) -> Case:
    """Void at some pixels or at all, where the prediction may say anything."""
    prediction, target, classes, holes = _pair(d)
    holes |= d.each([False, False, True])
    target = target.masked_fill(holes, 255)
    prediction[-1, -1] = d.each([0, 255, 77, -1])
    return Case((prediction, target, classes))


def _other_void(d: Draw) -> Case:
    prediction, target, classes, holes = _pair(d)
    void = d.each([0, -1, 9, 1])
    return Case((prediction, target.masked_fill(holes, void), classes), {"ignore_index": void})


def _kinds(d: Draw) -> Case:
    """A void label that is a class too: whoever counts it has another property to care for."""
    prediction, target, classes, holes = _pair(d)
    return Case((prediction, target.masked_fill(holes, 1), classes), {"ignore_index": 1})


def _any_shape(d: Draw) -> Case:
    """Another rank, another memory order, and more classes than there are labels."""
    shape = d.each([(3, 4, 5), (11,), (2, 1, 3, 3)])
    prediction, target = (d.integers(*shape, low=0, high=2) for _ in range(2))
    return Case((d.layout(prediction), d.layout(target), d.integer(4, 6)))


def _many_classes(d: Draw) -> Case:
    classes = d.each([20, 40])
    prediction, target = (d.integers(9, 11, low=0, high=classes - 1, dtype=torch.uint8) for _ in range(2))
    prediction[0, 0] = target[0, 0] = classes - 1
    return Case((prediction, target, classes))


def _kind(subject: Subject, case: Case) -> dict[str, Any]:
    """Dtype and changes; the shape is another property's business."""
    matrix, changed = subject.with_changes(*case.args, **case.kwargs)
    dtype = str(matrix.dtype) if isinstance(matrix, torch.Tensor) else described(matrix)
    return {"matrix": dtype, "arguments changed in place": [int(c) for c in changed]}


CLAIMS = Exercise(
    id="confusion_matrix",
    topic="fcn",
    title="Count who was taken for whom",
    reference=reference.confusion_matrix,
    minutes=12,
    difficulty=2,
    properties=claims(
        """
        counts (1): entry [t, p] counts the pixels of class t predicted as p
        void (0.5): pixels whose target is void count nowhere, whatever their prediction is
        ignore_index (0.25): the void label may be any integer, negative or the number of a class too
        shapes (0.5): any number of axes, and classes that do not occur
        bytes (0.5): labels of bytes and many classes
        kinds (0.25): int64; nothing is modified in place
        """,
        counts=on(_counted, numbers),
        void=on(_void, numbers, examples=12),
        ignore_index=on(_other_void, numbers),
        shapes=on(_any_shape, numbers, examples=9),
        bytes=on(_many_classes, numbers, examples=4),
        kinds=on(_kinds, _kind, examples=4, beside="counts"),
    ),
    hints=hints("""
        I don't want to loop over pixels
        Give each pair (truth, prediction) a number of its own and count numbers.

        An index is out of range
        255 is no class. And the prediction may say anything on void pixels: leave them out of both maps
          first.

        I have the pair numbers
        (target · num_classes + prediction).bincount(minlength=num_classes ** 2).reshape(num_classes,
          num_classes), on valid pixels, in int64.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def looped(prediction, target, num_classes, ignore_index=255):
    """a loop"""
    matrix = [[0] * num_classes for _ in range(num_classes)]
    for t, p in zip(target.reshape(-1).tolist(), prediction.reshape(-1).tolist(), strict=True):
        if t != ignore_index:
            matrix[t][p] += 1
    return torch.tensor(matrix, dtype=torch.int64, device=target.device)


answers.edits("""
transposed: all but kinds
- matrix[t][p] += 1
+ matrix[p][t] += 1
Rows and columns have changed places: your rows are predictions.
The truth chooses the row: target · num_classes + prediction.

void_not_left_out: void ignore_index
- if t != ignore_index:
-     matrix[t][p] += 1
+ matrix[t][p] += 1
Void pixels are not left out: 255 is looked up as if it were a row of the matrix.
Keep only pixels with target != ignore_index, of both maps, before you count.

one_memory_order: shapes
- target.reshape(-1)
+ target.view(-1)
- prediction.reshape(-1)
+ prediction.view(-1)
You flattened the maps with view, which takes them in one memory order alone.
reshape(-1) and flatten() take any.
""")


@answers.right
def numbered(prediction, target, num_classes, ignore_index=255):
    """pairs numbered and counted"""
    valid = target != ignore_index
    truth = target[valid].long()
    predicted = prediction[valid].long()
    pairs = truth * num_classes + predicted
    counts = pairs.bincount(minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


answers.edits("""
void_numbered: void ignore_index
- target[valid].long()
+ target.flatten().long()
- prediction[valid].long()
+ prediction.flatten().long()
You did not leave void pixels out: 255 gives pairs as if it were a class, and they do not fit in the matrix.
Keep only pixels with target != ignore_index, of both maps, before you count.

void_is_class_0: void ignore_index
- truth = target[valid].long()
- predicted = prediction[valid].long()
+ truth = target.masked_fill(~valid, 0).flatten().long()
+ predicted = prediction.masked_fill(~valid, 0).flatten().long()
Void pixels are counted as class 0.
Leave them out of both maps: prediction[valid], target[valid].

void_in_a_row_below: void
- target[valid].long()
+ target.masked_fill(~valid, num_classes).flatten().long()
- prediction[valid].long()
+ prediction.flatten().long()
- pairs.bincount(minlength=num_classes**2)
+ pairs.bincount(minlength=num_classes**2)[: num_classes**2]
You count void pixels in a row below the matrix, which you cut off: with a negative prediction they slide back
  into its last row.
Keep only pixels with target != ignore_index, of both maps, before you count.

prediction_not_left_out: void ignore_index kinds
- prediction[valid].long()
+ prediction.flatten().long()
You left void pixels out of the target alone: the two maps have no longer the same number of pixels.
Select with the same mask from both: prediction[valid], target[valid].

void_by_prediction: void ignore_index
- target != ignore_index
+ prediction != ignore_index
You looked for void in the prediction.
The truth says where void is: valid = target != ignore_index.

void_by_range: ignore_index
- target != ignore_index
+ (target >= 0) & (target < num_classes)
You leave out what is no class, and not what is ignore_index: that may be the number of a class, too.
valid = target != ignore_index.

void_is_always_255: ignore_index
- target != ignore_index
+ target != 255
You compare with 255 instead of with ignore_index.
valid = target != ignore_index.

void_by_both: ignore_index
- target != ignore_index
+ (target != ignore_index) & (prediction != ignore_index)
You also left out pixels whose prediction is ignore_index.
Void is a matter of the truth alone; a prediction of that number is a class like any other.

bytes_overflow: bytes
- target[valid].long()
+ target[valid]
- prediction[valid].long()
+ prediction[valid]
Your pair numbers overflow: in uint8, 20 · 19 + 3 is 127.
Make the labels int64 before you multiply: .long().

last_classes_missing: void shapes
- pairs.bincount(minlength=num_classes**2)
+ pairs.bincount()
Your counts end at the largest pair that occurs, and don't fill the matrix.
bincount(minlength=num_classes²).

each_pair_once: all but kinds
- pairs = truth * num_classes + predicted
- counts = pairs.bincount(minlength=num_classes**2)
- return counts.reshape(num_classes, num_classes)
+ matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=target.device)
+ matrix[truth, predicted] += 1
+ return matrix
matrix[target, prediction] += 1 adds 1 once, however often a pair occurs.
bincount counts all of them; index_put_ does with accumulate=True.

shares_for_counts: all
- return counts.reshape(num_classes, num_classes)
+ matrix = counts.reshape(num_classes, num_classes).double()
+ return matrix / matrix.sum(1, keepdim=True).clamp(min=1)
Your rows sum to 1.
Return the counts; what is made of them is segmentation_scores' business.

labels_overwritten: kinds
- truth = target[valid].long()
+ target[~valid] = 0
+ truth = target[valid].long()
You wrote into the maps: the caller's void pixels are gone.
Select instead: prediction[valid], target[valid].

floats_for_counts: kinds
- counts.reshape(num_classes, num_classes)
+ counts.reshape(num_classes, num_classes).float()
Your counts are floats, which cannot count beyond 2²⁴.
Return int64.
""")


@answers.right
def accumulated(prediction, target, num_classes, ignore_index=255):
    """index_put_ that accumulates"""
    keep = target != ignore_index
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=target.device)
    one = torch.ones((), dtype=torch.int64, device=target.device)
    return matrix.index_put_((target[keep].long(), prediction[keep].long()), one, accumulate=True)


@answers.right
def summed(prediction, target, num_classes, ignore_index=255):
    """a sum for each pair"""
    valid = target != ignore_index
    rows = []
    for t in range(num_classes):
        truth = (target == t) & valid
        rows.append(torch.stack([(truth & (prediction == p)).sum() for p in range(num_classes)]))
    return torch.stack(rows)


EXERCISE = answers.exercise()
