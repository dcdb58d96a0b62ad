import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestMedianFrequencyWeights(Contract):
    exercise_id = "median_frequency_weights"


def counted(label_maps, num_classes, ignore_index):
    pixels, valid = torch.zeros(2, num_classes, dtype=torch.float64)
    for labels in label_maps:
        known = labels[labels != ignore_index].long()
        count = known.bincount(minlength=num_classes)
        pixels += count
        valid += (count > 0) * len(known)
    return pixels, valid


def all_in_the_median(label_maps, num_classes, ignore_index=255):
    pixels, valid = counted(label_maps, num_classes, ignore_index)
    frequency = pixels / valid.clamp(min=1)
    return (frequency.quantile(0.5) / frequency).nan_to_num(0, posinf=0).float()


def all_in_a_lower_median(label_maps, num_classes, ignore_index=255):
    pixels, valid = counted(label_maps, num_classes, ignore_index)
    frequency = pixels / valid.clamp(min=1)
    return (frequency.median() / frequency).nan_to_num(0, posinf=0).float()


def infinite_too(label_maps, num_classes, ignore_index=255):
    pixels, valid = counted(label_maps, num_classes, ignore_index)
    return (
        (pixels / valid.clamp(min=1)).quantile(0.5) / (pixels / valid.clamp(min=1)).clamp(min=1e-300)
    ).float()


def a_row(label_maps, num_classes, ignore_index=255):
    pixels, valid = counted(label_maps, num_classes, ignore_index)
    frequency = pixels / valid
    return (frequency.nanquantile(0.5) / frequency).nan_to_num(0)[None].float()


def void_counted_by_bincount(label_maps, num_classes, ignore_index=255):
    pixels, valid = counted(label_maps, num_classes, -99)
    frequency = pixels / valid
    return (frequency.nanquantile(0.5) / frequency).nan_to_num(0).float()


@pytest.mark.parametrize(
    ("answer", "lost", "names"),
    [
        (all_in_the_median, {"present"}, {"absent_in_the_median"}),
        (all_in_a_lower_median, {"even", "present"}, {"absent_in_a_lower_median"}),
        (infinite_too, {"absent", "present"}, {"absent_in_the_median"}),
        (void_counted_by_bincount, {"absent", "void"}, {"void_not_left_out"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_costs_its_own_claim_and_has_its_name(answer, lost, names):
    verdict = evaluate("median_frequency_weights", answer)
    assert {n for n, o in verdict.outcomes.items() if o is not Outcome.CORRECT} == lost
    assert {finding.name for finding in verdict.findings} == names


def test_no_wrong_shape_is_told_of_a_dtype():
    verdict = evaluate("median_frequency_weights", a_row)
    assert verdict.points == 0
    assert verdict.outcomes["kinds"] is Outcome.WAITING
    assert {r.outcome for r in verdict.results if r.name != "kinds"} == {Outcome.WRONG_KIND}
