import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coursekit.fcn import confusion_matrix, segmentation_scores
from tests.coursekit.draws import seeds


@st.composite
def label_maps(draw):
    classes = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(seeds))
    shape = draw(st.sampled_from([(3, 5), (2, 4, 7), (40,)]))
    dtype = draw(st.sampled_from([torch.uint8, torch.int32, torch.int64]))
    prediction, target = (
        torch.randint(0, classes, shape, generator=generator, dtype=dtype) for _ in range(2)
    )
    return classes, prediction, target


@given(label_maps(), st.sampled_from([0, 255]), seeds)
def test_confusion_matrix_counts_every_valid_pixel_once(maps, ignore_index, seed):
    classes, prediction, target = maps
    void = torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    target = torch.where(void, torch.full_like(target, ignore_index), target)
    # What is predicted on void pixels must not matter, not even where it is no class.
    prediction = torch.where(target == ignore_index, torch.full_like(prediction, 99), prediction)
    got = confusion_matrix(prediction, target, classes, ignore_index)
    valid = target != ignore_index
    expected = np.zeros((classes, classes), dtype=int)
    np.add.at(expected, (target[valid].long().numpy(), prediction[valid].long().numpy()), 1)
    assert got.dtype == torch.int64
    assert np.array_equal(got.numpy(), expected)


def by_hand(matrix):
    """The four scores, one class at a time."""
    total = sum(map(sum, matrix))
    accuracies, ious, weighted = [], [], 0.0
    for c, row in enumerate(matrix):
        hits, truth, predicted = row[c], sum(row), sum(other[c] for other in matrix)
        union = truth + predicted - hits
        ious.append(hits / union if union else math.nan)
        if truth:
            accuracies.append(hits / truth)
            weighted += truth * hits / union
    present = [iou for iou in ious if not math.isnan(iou)]
    return {
        "pixel_accuracy": sum(row[c] for c, row in enumerate(matrix)) / total,
        "mean_accuracy": sum(accuracies) / len(accuracies),
        "mean_iou": sum(present) / len(present),
        "frequency_weighted_iou": weighted / total,
    }, ious


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(
            st.lists(st.sampled_from([0, 0, 1, 7, 40]), min_size=n, max_size=n), min_size=n, max_size=n
        )
    )
)
def test_scores_are_those_worked_out_class_by_class(matrix):
    got = segmentation_scores(torch.tensor(matrix))
    if not any(map(any, matrix)):
        assert all(math.isnan(value) for key, value in got.items() if key != "iou")
        return
    expected, ious = by_hand(matrix)
    assert {key: pytest.approx(value) for key, value in expected.items()} == {
        key: value for key, value in got.items() if key != "iou"
    }
    assert got["iou"].tolist() == pytest.approx(ious, nan_ok=True)


def test_a_class_only_predicted_has_iou_zero_and_no_accuracy():
    scores = segmentation_scores(torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 0]]))
    assert scores["iou"][1] == 0
    assert math.isnan(scores["iou"][2])
    assert scores["mean_accuracy"] == 0.75
    assert scores["mean_iou"] == 0.375


@pytest.mark.gpu
def test_on_the_gpu():
    prediction, target = torch.randint(0, 4, (2, 3, 9, 8))
    got = confusion_matrix(prediction.cuda(), target.cuda(), 4)
    assert got.is_cuda
    assert torch.equal(got.cpu(), confusion_matrix(prediction, target, 4))
    assert segmentation_scores(got)["mean_iou"] == pytest.approx(segmentation_scores(got.cpu())["mean_iou"])
