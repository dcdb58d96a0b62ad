"""The exercise confusion_matrix of lecture 06: count who was taken for whom."""

from __future__ import annotations

from collections.abc import Callable

import torch

from autograder.catalog.observations import carries, numbers
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import fcn as reference


def _pair_case(*, void: bool = False, other_void: bool = False) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        classes, shape = d.integer(3, 5), (d.integer(3, 5), d.choice([4, 7]))
        prediction, target = (d.integers(*shape, low=0, high=classes - 1) for _ in range(2))
        # The first class is mistaken for the last more often than the other way round; the last one occurs.
        prediction.view(-1)[:4] = classes - 1
        target.view(-1)[:4] = torch.tensor([0, 0, 0, classes - 1])
        # Where class 0 is void, a pixel that is predicted so still counts.
        prediction.view(-1)[4], target.view(-1)[4] = 0, 1
        holes = d.integers(*shape, low=0, high=3) == 0
        holes.view(-1)[3:5] = False
        holes[-1, -2:] = True
        given = {}
        if void:
            target = target.masked_fill(holes, 255)
            prediction[-1, -1] = d.choice([0, 255, 77])
        if other_void:
            given["ignore_index"] = d.choice([0, -1, 9])
            target = target.masked_fill(holes, given["ignore_index"])
        return Case((prediction, target, classes), given)

    return draw


def _any_shape(d: Draw) -> Case:
    """Another rank, another memory order, and more classes than there are labels."""
    shape = d.choice([(3, 4, 5), (11,), (2, 1, 3, 3)])
    prediction, target = (d.integers(*shape, low=0, high=2) for _ in range(2))
    return Case((d.layout(prediction), target, d.integer(4, 6)))


def _many_classes(d: Draw) -> Case:
    classes = d.choice([20, 40])
    prediction, target = (d.integers(9, 11, low=0, high=classes - 1, dtype=torch.uint8) for _ in range(2))
    prediction[0, 0] = target[0, 0] = classes - 1
    return Case((prediction, target, classes))


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


def _confusion_overwritten(prediction, target, num_classes, ignore_index=255):
    counts = _pairs(prediction, target, num_classes, ignore_index)
    target[target == ignore_index] = 0
    return counts


def _confusion_void_by_both(prediction, target, num_classes, ignore_index=255):
    valid = (target != ignore_index) & (prediction != ignore_index)
    return _pairs(prediction, target, num_classes, ignore_index, valid=valid)


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

EXERCISE = Exercise(
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
            numbers,
        ),
        Property(
            "void",
            "pixels whose target is void count nowhere, whatever their prediction is",
            0.5,
            _pair_case(void=True),
            numbers,
        ),
        Property(
            "ignore_index",
            "the void label may be any integer, also the number of a class",
            0.25,
            _pair_case(other_void=True),
            numbers,
        ),
        Property("shapes", "any number of axes, and classes that do not occur", 0.5, _any_shape, numbers),
        Property("bytes", "labels of bytes and many classes", 0.5, _many_classes, numbers, examples=4),
        Property(
            "kinds", "int64; nothing is modified in place", 0.25, _pair_case(void=True), carries, examples=4
        ),
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
            ("void", "ignore_index", "kinds"),
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
            ("void", "ignore_index", "kinds"),
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
            "void_by_both",
            "You also left out pixels whose prediction is ignore_index.",
            "Void is a matter of the truth alone; a prediction of that number is a class like any other.",
            ("ignore_index",),
            _confusion_void_by_both,
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
            "labels_overwritten",
            "You wrote into the maps: the caller's void pixels are gone.",
            "Select instead: prediction[valid], target[valid].",
            ("kinds",),
            _confusion_overwritten,
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
