"""Exercises of lecture 06 about scoring: the confusion matrix and what is read off it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autograder.catalog._common import as_double, carries
from autograder.exercise import (
    Case,
    Exercise,
    Hint,
    Misconception,
    Property,
    Variant,
)
from coursekit import fcn as reference

# -- confusion_matrix ---------------------------------------------------------------------------------------


def _pair_case(*, void: bool = False, other_void: bool = False) -> Callable[[Any], Case]:
    def draw(d: Any) -> Case:
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
    gone = len(matrix) - 1 - d.integer(0, len(matrix) - 1)
    matrix[gone] = 0
    matrix[:, gone] = 0
    return Case((matrix,))


def _only_predicted(d: Any) -> Case:
    (matrix,) = _full(d).args
    matrix[d.integer(0, len(matrix) - 1)] = 0
    return Case((matrix,))


def _number(value: Any) -> Any:
    """A score without its kind, which is another property's business."""
    if isinstance(value, torch.Tensor):
        return value.double()
    plain = isinstance(value, float | int | list | tuple)
    try:
        return torch.tensor(value, dtype=torch.float64) if plain else value
    except (TypeError, ValueError):
        return value


def _entry(name: str) -> Callable[[Any, Case], Any]:
    def observe(subject: Any, case: Case) -> Any:
        scores = subject(*case.args)
        return {name: _number(scores[name])} if isinstance(scores, dict) and name in scores else scores

    return observe


def _numbers(subject: Any, case: Case) -> Any:
    """All scores as numbers, so that their kinds stay another property's business."""
    scores = subject(*case.args)
    if not isinstance(scores, dict):
        return scores
    return {k: _number(v) for k, v in scores.items()}


def _kinds(subject: Any, case: Case) -> Any:
    scores = subject(*case.args)
    if not isinstance(scores, dict):
        return scores
    shown = {k: "float" if type(v) is float else type(v).__name__ for k, v in scores.items()}
    iou = scores.get("iou")
    return {
        **shown,
        "iou": f"tensor {tuple(iou.shape)}" if isinstance(iou, torch.Tensor) else type(iou).__name__,
    }


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


def _only_predicted_is_nan(matrix):
    m = matrix.double()
    scores = _predicted_left_out(matrix)
    return scores | {"iou": scores["iou"].where(m.sum(1) > 0, torch.nan)}


def _only_predicted_is_wrong(matrix):
    m = matrix.double()
    accuracy = m.diagonal() / m.sum(1)
    there = m.sum(0) + m.sum(1) > 0
    return _scores(matrix) | {"mean_accuracy": float(accuracy.nan_to_num(0.0)[there].mean())}


def _recall_for_iou(matrix):
    return _scores(matrix, union=lambda truth, predicted, hits: truth)


def _without_background(matrix):
    return _scores(matrix, mean_iou=lambda iou, truth: iou[1:].nanmean())


def _dice(matrix):
    m = matrix.double()
    return _scores(matrix, union=lambda truth, predicted, hits: (truth + predicted) / 2) | {
        "pixel_accuracy": float(m.diagonal().sum() / m.sum())
    }


def _mean_for_pixel_accuracy(matrix):
    scores = _scores(matrix)
    return scores | {"pixel_accuracy": scores["mean_accuracy"]}


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
            "classes_for_pixels",
            "Your pixel_accuracy is the average over classes, where a rare class counts as much as a common one.",
            "In pixel_accuracy every pixel counts alike: matrix.diagonal().sum() / matrix.sum().",
            ("pixel_accuracy", "absent", "only_predicted"),
            _mean_for_pixel_accuracy,
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
            "false_alarms_undefined",
            "A class that is predicted but nowhere true has no iou with you.",
            "NaN is for a class that is in neither; this one has a union, so its iou is 0 and counts.",
            ("only_predicted",),
            _only_predicted_is_nan,
        ),
        Misconception(
            "only_predicted_in_mean_accuracy",
            "A class that is predicted but nowhere true counts as 0 in your mean_accuracy.",
            "It has no pixel that could be right: its accuracy is 0/0, and is left out.",
            ("only_predicted",),
            _only_predicted_is_wrong,
        ),
        Misconception(
            "recall_for_iou",
            "You divided the hits by the true pixels alone: that is each class's accuracy.",
            "The union also holds what was wrongly taken for the class: truth + predicted − hits.",
            ("iou", "mean_iou", "frequency_weighted_iou", "absent", "only_predicted"),
            _recall_for_iou,
        ),
        Misconception(
            "background_left_out",
            "You left class 0 out of mean_iou.",
            "All classes count, the background too.",
            ("mean_iou", "absent", "only_predicted"),
            _without_background,
        ),
        Misconception(
            "tensors_for_floats",
            "Your scores are tensors.",
            "Call .item() on the four averages.",
            ("kinds",),
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
