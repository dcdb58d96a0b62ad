"""The exercise segmentation_scores of lecture 06: four scores from one matrix."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
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


CLAIMS = Exercise(
    id="segmentation_scores",
    topic="fcn",
    title="Four scores from one matrix",
    reference=reference.segmentation_scores,
    minutes=15,
    difficulty=2,
    properties=claims(
        """
        pixel_accuracy (0.5): pixel_accuracy: the share of pixels on the diagonal
        mean_accuracy (0.5): mean_accuracy: hits over true pixels, averaged over classes
        iou (0.75): iou: hits over the union of truth and prediction, for each class
        mean_iou (0.5): mean_iou: the average of iou over classes
        frequency_weighted_iou (0.5): frequency_weighted_iou: iou weighed by each class's share of the true
          pixels
        absent (0.5): a class in neither truth nor prediction is NaN in iou and left out of the means
        only_predicted (0.5): a class that is only predicted has iou 0 and is left out of mean_accuracy
        kinds (0.25): four Python floats, and iou as a tensor of shape (L,)
        """,
        pixel_accuracy=on(_full, _entry("pixel_accuracy")),
        mean_accuracy=on(_full, _entry("mean_accuracy")),
        iou=on(_full, _entry("iou")),
        mean_iou=on(_full, _entry("mean_iou")),
        frequency_weighted_iou=on(_full, _entry("frequency_weighted_iou")),
        absent=on(_absent, _numbers),
        only_predicted=on(_only_predicted, _numbers),
        kinds=on(_full, _kinds, examples=3, beside="iou"),
    ),
    hints=hints("""
        I don't know what the scores are made of
        Three vectors are all you need: the diagonal, the row sums (truth) and the column sums (prediction).

        A mean is NaN or too low
        Which classes have no pixel in the truth, which have none anywhere?

        I have the vectors, but not the scores
        iou = hits / (truth + predicted − hits); accuracy = hits / truth; means with nanmean;
          frequency-weighted = nansum(truth·iou) / truth.sum().
        """),
)

answers = Answers(CLAIMS)


@answers.right
def vectors(matrix):
    """three vectors"""
    m = matrix.double()
    hits, truth, predicted = m.diagonal(), m.sum(1), m.sum(0)
    union = truth + predicted - hits
    accuracy = hits / truth
    iou = hits / union
    scores = {
        "pixel_accuracy": hits.sum() / m.sum(),
        "mean_accuracy": accuracy.nanmean(),
        "mean_iou": iou.nanmean(),
        "frequency_weighted_iou": (truth * iou).nansum() / m.sum(),
    }
    return {name: score.item() for name, score in scores.items()} | {"iou": iou}


answers.edits("""
precision_for_accuracy: mean_accuracy absent only_predicted
- hits / truth
+ hits / predicted
Your mean_accuracy divides by the predicted pixels of each class: that is precision.
Rows are the truth: divide the diagonal by the row sums, matrix.sum(1).

classes_for_pixels: pixel_accuracy absent only_predicted
- "pixel_accuracy": hits.sum() / m.sum()
+ "pixel_accuracy": accuracy.nanmean()
Your pixel_accuracy is the average over classes, where a rare class counts as much as a common one.
In pixel_accuracy every pixel counts alike: matrix.diagonal().sum() / matrix.sum().

hits_counted_twice: all but pixel_accuracy mean_accuracy kinds
- truth + predicted - hits
+ truth + predicted
Your union counts the hits twice: truth + prediction.
Subtract the diagonal once: truth + predicted − hits.

dice: all but pixel_accuracy mean_accuracy kinds
- hits / union
+ 2 * hits / (truth + predicted)
You computed the Dice score, 2·hits / (truth + prediction).
Intersection over union is hits / (truth + predicted − hits).

weighted_by_prediction: frequency_weighted_iou absent only_predicted
- (truth * iou).nansum()
+ (predicted * iou).nansum()
You weighed iou by the predicted pixels.
Frequency is that of the truth: weigh by matrix.sum(1) / matrix.sum().

absent_is_zero: absent only_predicted
- hits / truth
+ (hits / truth).nan_to_num(0.0)
- hits / union
+ (hits / union).nan_to_num(0.0)
A class that is nowhere counts as 0 in your means.
It says nothing about the prediction: leave its 0/0 as NaN and average the others with nanmean.

absent_is_perfect: absent only_predicted
- hits / truth
+ (hits / truth).nan_to_num(1.0)
- hits / union
+ (hits / union).nan_to_num(1.0)
A class that is nowhere counts as 1 in your means.
It says nothing about the prediction: leave its 0/0 as NaN and average the others with nanmean.

nan_spreads: absent only_predicted
- accuracy.nanmean()
+ accuracy.mean()
- iou.nanmean()
+ iou.mean()
One absent class turns your means into NaN.
Average over the classes that have a value: nanmean.

false_alarms_forgiven: only_predicted
- iou.nanmean()
+ iou[truth > 0].mean()
A class that is predicted but nowhere true is left out of your mean_iou.
Its union is not empty, so its iou is 0 and counts.

false_alarms_undefined: only_predicted
- hits / union
+ (hits / union).where(truth > 0, torch.nan)
A class that is predicted but nowhere true has no iou with you.
NaN is for a class that is in neither; this one has a union, so its iou is 0 and counts.

only_predicted_in_mean_accuracy: only_predicted
- accuracy.nanmean()
+ accuracy.nan_to_num(0.0)[union > 0].mean()
A class that is predicted but nowhere true counts as 0 in your mean_accuracy.
It has no pixel that could be right: its accuracy is 0/0, and is left out.

recall_for_iou: all but pixel_accuracy mean_accuracy kinds
- truth + predicted - hits
+ truth
You divided the hits by the true pixels alone: that is each class's accuracy.
The union also holds what was wrongly taken for the class: truth + predicted − hits.

background_left_out: mean_iou absent only_predicted
- iou.nanmean()
+ iou[1:].nanmean()
You left class 0 out of mean_iou.
All classes count, the background too.

tensors_for_floats: kinds
- {name: score.item() for name, score in scores.items()} | {"iou": iou}
+ scores | {"iou": iou}
Your scores are tensors.
Call .item() on the four averages.
""")


@answers.right
def counted(matrix):
    """counting in plain Python"""
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


@answers.right
def with_numpy(matrix):
    """numpy"""
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


EXERCISE = answers.exercise()
