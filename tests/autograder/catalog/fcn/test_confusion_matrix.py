import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestConfusionMatrix(Contract):
    exercise_id = "confusion_matrix"


def binned(truth, predicted, num_classes):
    pairs = truth.long() * num_classes + predicted.long()
    return pairs.flatten().bincount(minlength=num_classes**2).reshape(num_classes, num_classes)


def unaware(prediction, target, num_classes, ignore_index=255):
    return binned(target, prediction, num_classes)


def by_prediction(prediction, target, num_classes, ignore_index=255):
    valid = prediction != ignore_index
    return binned(target[valid], prediction[valid], num_classes)


def by_range(prediction, target, num_classes, ignore_index=255):
    valid = (target >= 0) & (target < num_classes)
    return binned(target[valid], prediction[valid], num_classes)


def left_out_of_one(prediction, target, num_classes, ignore_index=255):
    return binned(target[target != ignore_index], prediction.flatten(), num_classes)


def viewed(prediction, target, num_classes, ignore_index=255):
    target, prediction = target.view(-1), prediction.view(-1)
    valid = target != ignore_index
    return binned(target[valid], prediction[valid], num_classes)


@pytest.mark.parametrize(
    ("answer", "lost", "names"),
    [
        (unaware, {"void", "ignore_index"}, {"void_numbered"}),
        (by_prediction, {"void", "ignore_index"}, {"void_by_prediction"}),
        (by_range, {"ignore_index"}, {"void_by_range"}),
        (left_out_of_one, {"void", "ignore_index", "kinds"}, {"prediction_not_left_out"}),
        (viewed, {"shapes"}, {"one_memory_order"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_costs_its_own_claim_and_has_its_name(answer, lost, names):
    verdict = evaluate("confusion_matrix", answer)
    assert {n for n, o in verdict.outcomes.items() if o is not Outcome.CORRECT} == lost
    assert {finding.name for finding in verdict.findings} == names


def test_a_row_for_void_that_is_cut_off_is_right():
    def cut(prediction, target, num_classes, ignore_index=255):
        truth = torch.where(target == ignore_index, num_classes, target.long())
        pairs = truth * num_classes + prediction.long().clamp(0, num_classes - 1)
        counts = pairs.flatten().bincount(minlength=num_classes * (num_classes + 1))
        return counts.reshape(num_classes + 1, num_classes)[:num_classes]

    assert evaluate("confusion_matrix", cut).correct
