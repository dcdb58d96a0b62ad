"""The exercise segmentation_scores of lecture 06: four scores from one matrix."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from autograder.attempt import Subject, kind_of
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import wrong
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Mismatch, Outcome
from coursekit import fcn as reference

# -- what is drawn ------------------------------------------------------------------------------------------


def _full(d: Draw) -> Case:
    """Every class is in the truth and in the prediction, and rows and columns sum to different numbers."""
    size = d.integer(2, 5)
    matrix = d.integers(size, size, low=1, high=20)
    matrix += torch.diag(d.integers(size, low=5, high=30)) + d.integers(size, 1, low=0, high=9)
    return Case((matrix,))


def _absent(d: Draw) -> Case:
    """A class, or two, in neither truth nor prediction."""
    matrix = _without(d, rows=d.each([1, 2]))
    return Case((matrix.where(matrix.any(1), 0),), {}, {"class": int(matrix.any(1).long().argmin())})


def _only_predicted(d: Draw) -> Case:
    matrix = _without(d, rows=1)
    return Case((matrix,), {}, {"class": int(matrix.any(1).long().argmin())})


def _untrue(d: Draw) -> Case:
    """A class without true pixels, predicted or not."""
    return d.each([_absent, _only_predicted])(d)


def _without(d: Draw, rows: int) -> torch.Tensor:
    size = d.integer(3, 5)
    matrix = d.integers(size, size, low=1, high=20) + torch.diag(d.integers(size, low=5, high=30))
    matrix[torch.randperm(size, generator=d.source)[:rows]] = 0
    return matrix


# -- what is looked at --------------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    """A score without its kind, which is another property's business."""
    if isinstance(value, torch.Tensor):
        return value.double()
    plain = isinstance(value, float | int | list | tuple)
    try:
        return torch.tensor(value, dtype=torch.float64) if plain else value
    except (TypeError, ValueError):
        return value


def _numbers(subject: Subject, case: Case) -> Any:
    scores = subject(*case.args)
    return {k: _number(v) for k, v in scores.items()} if isinstance(scores, dict) else scores


def _entry(name: str) -> Callable[[Subject, Case], Any]:
    def observe(subject: Subject, case: Case) -> Any:
        scores = _numbers(subject, case)
        return {name: scores[name]} if isinstance(scores, dict) and name in scores else scores

    return observe


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


# -- what is said of it -------------------------------------------------------------------------------------


def _score(got: Any, name: str) -> float | None:
    value = got.get(name)
    return float(value) if isinstance(value, torch.Tensor) and value.numel() == 1 else None


def _unfit(case: Case, got: Any) -> Mismatch | None:
    """Why there are no scores to look at."""
    if not isinstance(got, dict):
        return Mismatch(Outcome.WRONG_KIND, f"expected a dict, got {kind_of(got)}", code="kind")
    if missing := [n for n in ("iou", "mean_iou") if n not in got]:
        return Mismatch(Outcome.WRONG_KIND, f"the keys differ: missing {missing}", code="keys")
    iou, wanted = got["iou"], (len(case.args[0]),)
    if not isinstance(iou, torch.Tensor) or tuple(iou.shape) != wanted:
        came = f"shape {tuple(iou.shape)}" if isinstance(iou, torch.Tensor) else kind_of(iou)
        return Mismatch(Outcome.WRONG_KIND, f"expected shape {wanted}, got {came}", "iou", code="shape")
    return None


def _close(one: float | None, other: Any) -> bool:
    return one is not None and abs(one - float(other)) < 1e-6


def _judge_absent(case: Case, expected: Any, got: Any) -> Mismatch | None:
    """Seen beside the answer's own iou: whether that is right is another property's business."""
    if mismatch := _unfit(case, got):
        return mismatch
    gone, iou, mean = expected["iou"].isnan(), got["iou"], _score(got, "mean_iou")
    if not iou[gone].isnan().all():
        value = float(iou[gone][0])
        message = f"class {case.extra['class']} is in neither, and its iou is {value:g}"
        return wrong(message, f"iou:{value:g}", "iou")
    if iou[~gone].isnan().any():
        return wrong("the iou of a class that is there is NaN", "iou:nan", "iou")
    of_others = float(iou[~gone].mean())
    if not _close(mean, of_others):
        with_zeros, shown = (
            float(iou.nan_to_num(0.0).mean()),
            f"{mean:g}" if mean is not None else "no number",
        )
        code = next((name for name, v in (("zeros", with_zeros), ("0", 0.0)) if _close(mean, v)), "other")
        code = "nan" if mean is not None and mean != mean else code
        message = f"the other classes have a mean iou of {of_others:g}, and mean_iou is {shown}"
        return wrong(message, f"mean:{code}", "mean_iou")
    weighted = _score(got, "frequency_weighted_iou")
    if weighted is not None and weighted != weighted:
        return wrong("frequency_weighted_iou is NaN", "weighted:nan", "frequency_weighted_iou")
    return None


def _judge_only_predicted(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := _unfit(case, got):
        return mismatch
    number, iou, mean = case.extra["class"], got["iou"], _score(got, "mean_iou")
    if not _close(float(iou[number]), 0.0):
        message = f"class {number} is only predicted, and its iou is {float(iou[number]):g}"
        return wrong(message, f"iou:{float(iou[number]):g}", "iou")
    if not _close(mean, iou.nanmean()):
        without = float(iou.sum() / (len(iou) - 1))
        shown = f"{mean:g}" if mean is not None else "no number"
        message = f"with class {number} the mean of iou is {float(iou.nanmean()):g}, and mean_iou is {shown}"
        return wrong(message, f"mean:{'without' if _close(mean, without) else 'other'}", "mean_iou")
    return None


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
        absent (0.5): a class in neither truth nor prediction is NaN in iou and left out of the averages of
          iou
        tried: mean_iou, beside the average of your own iou
        only_predicted (0.25): a class that is only predicted has iou 0, which counts in mean_iou
        tried: mean_iou, beside the average of your own iou
        untrue (0.25): both are left out of mean_accuracy
        kinds (0.25): four Python floats, and iou as a tensor of shape (L,)
        """,
        pixel_accuracy=on(_full, _entry("pixel_accuracy")),
        mean_accuracy=on(_full, _entry("mean_accuracy")),
        iou=on(_full, _entry("iou")),
        mean_iou=on(_full, _entry("mean_iou")),
        frequency_weighted_iou=on(_full, _entry("frequency_weighted_iou")),
        absent=on(_absent, _numbers, _judge_absent),
        only_predicted=on(_only_predicted, _numbers, _judge_only_predicted),
        untrue=on(_untrue, _entry("mean_accuracy")),
        kinds=on(_full, _kinds, examples=3, beside="pixel_accuracy"),
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
precision_for_accuracy: mean_accuracy untrue
- hits / truth
+ hits / predicted
Your mean_accuracy divides by the predicted pixels of each class: that is precision.
Rows are the truth: divide the diagonal by the row sums, matrix.sum(1).

rows_for_columns: mean_accuracy frequency_weighted_iou untrue
- m.sum(1), m.sum(0)
+ m.sum(0), m.sum(1)
You took the columns for the truth and the rows for the prediction.
Rows are the truth: their sums are matrix.sum(1), those of the columns matrix.sum(0).

classes_for_pixels: pixel_accuracy
- "pixel_accuracy": hits.sum() / m.sum()
+ "pixel_accuracy": accuracy.nanmean()
Your pixel_accuracy is the average over classes, where a rare class counts as much as a common one.
In pixel_accuracy every pixel counts alike: matrix.diagonal().sum() / matrix.sum().

pixels_for_classes: mean_accuracy untrue
- "mean_accuracy": accuracy.nanmean()
+ "mean_accuracy": hits.sum() / m.sum()
Your mean_accuracy is that of the pixels.
Divide class by class, the diagonal by the row sums, and average the classes.

hits_counted_twice: iou mean_iou frequency_weighted_iou
- truth + predicted - hits
+ truth + predicted
Your union counts the hits twice: truth + prediction.
Subtract the diagonal once: truth + predicted − hits.

dice: iou mean_iou frequency_weighted_iou
- hits / union
+ 2 * hits / (truth + predicted)
You computed the Dice score, 2·hits / (truth + prediction).
Intersection over union is hits / (truth + predicted − hits).

weighted_by_prediction: frequency_weighted_iou
- (truth * iou).nansum()
+ (predicted * iou).nansum()
You weighed iou by the predicted pixels.
Frequency is that of the truth: weigh by matrix.sum(1) / matrix.sum().

absent_iou_is_zero: absent
- hits / union
+ (hits / union).nan_to_num(0.0)
A class that is nowhere has iou 0 with you.
It says nothing about the prediction: leave its 0/0 as NaN, and average the others with nanmean.

absent_counts_as_zero: absent
- iou.nanmean()
+ iou.nan_to_num(0.0).mean()
A class that is nowhere counts as 0 in your mean_iou.
It says nothing about the prediction: average the others, with nanmean.

absent_iou_is_one: absent
- hits / union
+ (hits / union).nan_to_num(1.0)
A class that is nowhere has iou 1 with you.
It says nothing about the prediction: leave its 0/0 as NaN, and average the others with nanmean.

accuracy_without_pixels_is_zero: untrue
- accuracy.nanmean()
+ accuracy.nan_to_num(0.0).mean()
A class without a true pixel counts as 0 in your mean_accuracy.
It has no pixel that could be right: its accuracy is 0/0, and is left out.

accuracy_without_pixels_is_one: untrue
- accuracy.nanmean()
+ accuracy.nan_to_num(1.0).mean()
A class without a true pixel counts as 1 in your mean_accuracy.
It has no pixel that could be right: its accuracy is 0/0, and is left out.

nan_in_mean_iou: absent
- iou.nanmean()
+ iou.mean()
One absent class turns your mean_iou into NaN.
Average over the classes that have a value: nanmean.

nan_in_mean_accuracy: untrue
- accuracy.nanmean()
+ accuracy.mean()
One class without a true pixel turns your mean_accuracy into NaN.
Average over the classes that have a value: nanmean.

nan_in_frequency_weighted_iou: absent
- (truth * iou).nansum()
+ (truth * iou).sum()
One absent class turns your frequency_weighted_iou into NaN.
0 · NaN is NaN: sum up with nansum.

mean_of_nan_is_zero: absent
- iou.nanmean()
+ iou.mean().nan_to_num(0.0)
One absent class makes your mean_iou 0: the mean was NaN and then replaced.
Leave the class out before you average: nanmean.

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

only_predicted_in_mean_accuracy: untrue
- accuracy.nanmean()
+ accuracy.nan_to_num(0.0)[union > 0].mean()
A class that is predicted but nowhere true counts as 0 in your mean_accuracy.
It has no pixel that could be right: its accuracy is 0/0, and is left out.

recall_for_iou: iou mean_iou frequency_weighted_iou only_predicted
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
