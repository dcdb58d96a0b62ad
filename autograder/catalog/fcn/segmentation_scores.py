"""The exercise segmentation_scores of lecture 06: four scores from one matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autograder.attempt import Subject
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import fcn as reference


def _full(d: Draw) -> Case:
    """Every class is in the truth and in the prediction, and rows and columns sum to different numbers."""
    size = d.integer(2, 5)
    matrix = d.integers(size, size, low=1, high=20)
    matrix += torch.diag(d.integers(size, low=5, high=30)) + d.integers(size, 1, low=0, high=9)
    return Case((matrix,))


def _absent(d: Draw) -> Case:
    (matrix,) = _full(d).args
    gone = len(matrix) - 1 - d.integer(0, len(matrix) - 1)
    matrix[gone] = 0
    matrix[:, gone] = 0
    return Case((matrix,))


def _only_predicted(d: Draw) -> Case:
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


def _entry(name: str) -> Callable[[Subject, Case], Any]:
    def observe(subject: Subject, case: Case) -> Any:
        scores = subject(*case.args)
        return {name: _number(scores[name])} if isinstance(scores, dict) and name in scores else scores

    return observe


def _numbers(subject: Subject, case: Case) -> Any:
    """All scores as numbers, so that their kinds stay another property's business."""
    scores = subject(*case.args)
    if not isinstance(scores, dict):
        return scores
    return {k: _number(v) for k, v in scores.items()}


def _kinds(subject: Subject, case: Case) -> Any:
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
    matrix: torch.Tensor,
    *,
    accuracy_over: int = 1,
    union: Callable[..., torch.Tensor] = lambda truth, predicted, hits: truth + predicted - hits,
    weights: int = 1,
    absent: Callable[[torch.Tensor], torch.Tensor] = lambda v: v,
    mean_iou: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda iou, truth: iou.nanmean(),
    mean_accuracy: Callable[[torch.Tensor], torch.Tensor] = lambda v: v.nanmean(),
    number: Callable[[torch.Tensor], Any] = float,
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


EXERCISE = Exercise(
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
