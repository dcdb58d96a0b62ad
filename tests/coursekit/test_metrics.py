import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from skimage.measure import label as skimage_label
from skimage.metrics import adapted_rand_error
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import zero_one_loss
from sklearn.metrics.cluster import pair_confusion_matrix
from torch import nn

from coursekit.data import VOID
from coursekit.fcn import segmentation_scores
from coursekit.metrics import (
    SegmentationScores,
    accuracy,
    connected_components,
    instance_f1,
    instance_scores,
    match_instances,
    mean_iou,
    pixel_error,
    rand_error,
)
from tests.coursekit.draws import layouts, seeds

dtypes = st.sampled_from([torch.uint8, torch.int32, torch.int64])


@st.composite
def segmentations(draw, most=6, shape=None):
    """Two maps of ids that agree in much; ids are neither few nor consecutive."""
    h, w = shape or (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    rng = np.random.default_rng(draw(seeds))
    count = draw(st.integers(1, most))
    ids = np.array([0, *rng.choice(np.arange(1, 250), count, replace=False)])
    truth = ids[rng.integers(0, count + 1, (-(-h // 3), -(-w // 2)))].repeat(3, 0).repeat(2, 1)[:h, :w]
    noise = rng.random((h, w)) < draw(st.sampled_from([0.0, 0.2, 0.8]))
    other = np.array([0, *rng.permutation(ids[1:])])[np.searchsorted(np.sort(ids), truth)]
    prediction = np.where(noise, ids[rng.integers(0, count + 1, (h, w))], other)
    dtype, layout = draw(dtypes), draw(layouts)
    return tuple(layout(torch.from_numpy(maps).to(dtype)) for maps in (prediction, truth))


@given(st.integers(2, 5), st.integers(1, 4), st.sampled_from([255, -1, 0]), seeds)
def test_running_scores_are_those_of_all_pixels_at_once(classes, batches, void, seed):
    rng = np.random.default_rng(seed)
    scores = SegmentationScores(classes, void)
    assert all(math.isnan(value) for name, value in scores.compute().items() if name != "iou")
    seen = [], []
    for index in range(batches):
        target = rng.integers(0, classes, (2, 3, 3 + index))
        prediction = np.where(rng.random(target.shape) < 0.5, target, rng.integers(0, classes, target.shape))
        target[rng.random(target.shape) < 0.2] = void
        scores.update(torch.from_numpy(prediction), torch.from_numpy(target))
        seen[0].append(prediction[target != void])
        seen[1].append(target[target != void])
    prediction, target = (np.concatenate(parts) for parts in seen)
    if not len(target):
        return
    labels = list(range(classes))
    assert np.array_equal(scores.matrix, sklearn_confusion_matrix(target, prediction, labels=labels))
    got = scores.compute()
    assert got["pixel_accuracy"] == pytest.approx((prediction == target).mean())
    present = sorted(set(target) | set(prediction))
    hits = [((target == c) & (prediction == c)).sum() for c in present]
    ious = np.array(hits) / [((target == c) | (prediction == c)).sum() for c in present]
    assert got["mean_iou"] == pytest.approx(ious.mean())
    assert got["iou"][present].tolist() == pytest.approx(ious)


@pytest.mark.parametrize("training", [True, False])
def test_accuracy_counts_the_right_ones_and_leaves_the_mode_as_found(training):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2)).train(training)
    nn.init.zeros_(model[2].weight)
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([1.0, 0.0]))
    data = [{"image": torch.zeros(3, 2, 2, dtype=torch.uint8), "label": i % 2} for i in range(30)]
    assert accuracy(model, data, batch_size=7) == 0.5
    assert model.training is training


@pytest.mark.parametrize("side", [5, 7])
def test_mean_iou_is_that_of_all_pixels_counted_one_by_one(side):
    torch.manual_seed(1)
    model = nn.Conv2d(1, 3, 3, padding=1)
    data, matrix = [], torch.zeros(3, 3, dtype=torch.int64)
    for _ in range(5):
        image, labels = torch.rand(1, 5, 5), torch.randint(0, 3, (side, side))
        labels[-2] = VOID
        data.append({"image": image, "where": labels})
        with torch.no_grad():
            found = model(image[None] / 2)[0].argmax(0)
        # A map that is larger counts in its center.
        inside = labels[1:-1, 1:-1] if side > 5 else labels
        for truth, guess in zip(inside.flatten().tolist(), found.flatten().tolist(), strict=True):
            if truth != VOID:
                matrix[truth, guess] += 1
    got = mean_iou(model, data, lambda images: images / 2, batch_size=2, target="where")
    assert got == pytest.approx(segmentation_scores(matrix)["mean_iou"])


@given(segmentations(), st.sampled_from([255, 0, -1]))
def test_pixel_error_is_the_share_of_wrong_pixels(maps, void):
    prediction, target = maps
    valid = target.long() != void
    got = pixel_error(prediction, target, void)
    if valid.any():
        assert got == pytest.approx(zero_one_loss(target[valid], prediction[valid]))
    else:
        assert math.isnan(got)


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.3, 0.6, 0.9]), layouts, seeds)
def test_components_are_pixels_joined_by_edges(h, w, share, layout, seed):
    mask = layout((torch.rand(h, w, generator=torch.Generator().manual_seed(seed)) < share).long())
    got = connected_components(mask)
    assert got.dtype == torch.int64
    expected = skimage_label(mask.numpy(), connectivity=1)
    assert torch.equal(got != 0, mask != 0)
    pairs = set(zip(got.flatten().tolist(), expected.flatten().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert sorted(a for a, _ in pairs if a) == list(range(1, expected.max() + 1))
    assert torch.equal(connected_components(mask.bool()), got)


def overlap(prediction, truth, p, t):
    intersection = ((prediction == p) & (truth == t)).sum().item()
    return intersection / ((prediction == p) | (truth == t)).sum().item()


def ids_of(maps):
    return sorted(set(maps.flatten().tolist()) - {0})


@given(segmentations(), st.sampled_from([0.5, 0.6, 0.9]))
def test_matches_are_an_optimal_assignment(maps, threshold):
    prediction, truth = maps
    predicted, true = ids_of(prediction), ids_of(truth)
    ious = np.array([[overlap(prediction, truth, p, t) for t in true] for p in predicted])
    ious = ious.reshape(len(predicted), len(true))
    rows, columns = linear_sum_assignment(-(ious > threshold).astype(float))
    expected = {(predicted[r], true[c]) for r, c in zip(rows, columns, strict=True) if ious[r, c] > threshold}
    got = match_instances(prediction, truth, threshold)
    assert got.shape == (len(expected), 2)
    assert got.dtype == torch.int64
    assert {tuple(pair) for pair in got.tolist()} == expected
    scores = instance_scores(prediction, truth, threshold)
    hits, extra, missed = len(expected), len(predicted) - len(expected), len(true) - len(expected)
    for name, whole in (("precision", hits + extra), ("recall", hits + missed)):
        assert scores[name] == pytest.approx(hits / whole) if whole else math.isnan(scores[name])
    f1 = instance_f1(prediction, truth, threshold)
    if predicted or true:
        assert f1 == scores["f1"] == pytest.approx(2 * hits / (2 * hits + extra + missed))
    else:
        assert math.isnan(f1)


def test_half_an_overlap_is_no_match():
    truth = torch.tensor([[1, 1, 0, 2, 2, 2]])
    prediction = torch.tensor([[4, 0, 0, 3, 3, 0]])
    assert match_instances(prediction, truth).tolist() == [[3, 2]]
    assert instance_scores(prediction, truth) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert match_instances(prediction, truth, 0.7).tolist() == []


def test_background_matches_nothing():
    full, empty = torch.ones(3, 4, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int64)
    for prediction, truth in ((full, empty), (empty, full), (empty, empty)):
        assert match_instances(prediction, truth).shape == (0, 2)
    assert math.isnan(instance_f1(empty, empty))
    assert instance_f1(full, empty) == instance_f1(empty, full) == 0


@given(st.lists(segmentations(shape=(5, 4)), min_size=1, max_size=4))
def test_instances_of_several_images_are_counted_together(images):
    predictions, truths = (
        torch.stack([maps.long() for maps in column]) for column in zip(*images, strict=True)
    )
    matches = sum(len(match_instances(p, t)) for p, t in images)
    predicted = sum(len(ids_of(p)) for p, _ in images)
    true = sum(len(ids_of(t)) for _, t in images)
    scores = instance_scores(predictions, truths)
    expected = [matches / predicted if predicted else math.nan, matches / true if true else math.nan]
    assert [scores["precision"], scores["recall"]] == pytest.approx(expected, nan_ok=True)


@given(segmentations())
def test_rand_error_counts_pairs_of_pixels(maps):
    prediction, truth = maps
    p, t = prediction[truth != 0].tolist(), truth[truth != 0].tolist()
    got = rand_error(prediction, truth)
    if not t:
        assert math.isnan(got)
        return
    # Rows: apart, together in the truth; columns: apart, together in the prediction; ordered pairs.
    (_, false_merges), (false_splits, hits) = pair_confusion_matrix(t, p)
    if hits + false_merges + false_splits:
        assert got == pytest.approx(1 - 2 * hits / (2 * hits + false_merges + false_splits))
        if false_merges + hits and false_splits + hits and hits:
            assert got == pytest.approx(adapted_rand_error(truth.numpy(), prediction.numpy())[0])
    else:
        assert got == 0


def test_rand_error_of_a_large_map_with_huge_ids_stays_exact():
    truth = torch.ones(600, 700, dtype=torch.int64) * 2**62
    prediction = truth.clone()
    assert rand_error(prediction, truth) == 0
    prediction[:300] = 2**61
    half = 300 * 700
    hits, together = 2 * math.comb(half, 2), math.comb(2 * half, 2)
    assert rand_error(prediction, truth) == pytest.approx(1 - 2 * hits / (hits + together))
    assert match_instances(prediction, truth).tolist() == []
    prediction[299] = 2**62
    assert match_instances(prediction, truth).tolist() == [[2**62, 2**62]]


def test_ids_whose_products_exceed_the_integers_stay_apart():
    truth = torch.tensor([[1, 1, 2**62 + 1, 2**62 + 1]])
    merged = torch.tensor([[5, 5, 5, 5]])
    assert rand_error(merged, truth) == pytest.approx(1 - 2 * 2 / (6 + 2))
    prediction = torch.tensor([[2**62, 3, 2**62, 3], [4, 4, 6, 6]])
    truth = torch.cat([truth, torch.full((1, 4), 8)])
    assert rand_error(prediction, truth) == pytest.approx(1 - 2 * 2 / (4 + 8))


@pytest.mark.gpu
def test_on_the_gpu():
    generator = torch.Generator().manual_seed(0)
    prediction, truth = torch.randint(0, 4, (2, 1, 9, 8), generator=generator)
    scores = SegmentationScores(4)
    scores.update(prediction.cuda(), truth.cuda())
    assert scores.compute()["pixel_accuracy"] == pytest.approx(1 - pixel_error(prediction, truth))
    assert instance_f1(prediction.cuda(), truth.cuda()) == instance_f1(prediction, truth)
    assert rand_error(prediction[0].cuda(), truth[0].cuda()) == rand_error(prediction[0], truth[0])
    assert connected_components(prediction[0].cuda()).is_cuda
