import pytest
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestSegmentationScores(Contract):
    exercise_id = "segmentation_scores"


def scores(matrix, of_iou=lambda iou: iou, of_accuracy=lambda accuracy: accuracy):
    m = matrix.double()
    hits, truth, predicted = m.diagonal(), m.sum(1), m.sum(0)
    accuracy, iou = of_accuracy(hits / truth), of_iou(hits / (truth + predicted - hits))
    return {
        "pixel_accuracy": (hits.sum() / m.sum()).item(),
        "mean_accuracy": accuracy.nanmean().item(),
        "mean_iou": iou.nanmean().item(),
        "frequency_weighted_iou": ((truth * iou).nansum() / truth.sum()).item(),
        "iou": iou,
    }


def zeros(x):
    return x.nan_to_num(0)


def zeros_everywhere(matrix):
    return scores(matrix, zeros, zeros)


def zeros_in_iou(matrix):
    return scores(matrix, zeros)


def zeros_in_accuracy(matrix):
    return scores(matrix, of_accuracy=zeros)


def zeros_in_the_mean(matrix):
    found = scores(matrix)
    return found | {"mean_iou": zeros(found["iou"]).mean().item()}


def nan_made_zero(matrix):
    found = scores(matrix)
    return found | {"mean_iou": zeros(found["iou"].mean()).item()}


def one_missing(matrix):
    found = scores(matrix)
    del found["frequency_weighted_iou"]
    return found


def plain(matrix):
    found = scores(matrix)
    return found | {"iou": found["iou"].float()}


@pytest.mark.parametrize(
    ("answer", "lost", "names"),
    [
        (zeros_everywhere, {"absent", "untrue"}, {"absent_iou_is_zero", "accuracy_without_pixels_is_zero"}),
        (zeros_in_iou, {"absent"}, {"absent_iou_is_zero"}),
        (zeros_in_accuracy, {"untrue"}, {"accuracy_without_pixels_is_zero"}),
        (zeros_in_the_mean, {"absent"}, {"absent_counts_as_zero"}),
        (nan_made_zero, {"absent"}, {"mean_of_nan_is_zero"}),
        (one_missing, {"frequency_weighted_iou", "kinds"}, set()),
        (plain, set(), set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_costs_its_own_claim_and_has_its_name(answer, lost, names):
    verdict = evaluate("segmentation_scores", answer)
    assert {n for n, o in verdict.outcomes.items() if o is not Outcome.CORRECT} == lost
    assert {finding.name for finding in verdict.findings} == names
