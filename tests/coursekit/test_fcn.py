import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from coursekit.data.scenes import Scenes
from coursekit.fcn import (
    FCN,
    SkipFCN,
    confusion_matrix,
    median_frequency_weights,
    pixel_cross_entropy,
    sample_patches,
    segmentation_scores,
    train_fcn,
)
from coursekit.metrics import mean_iou
from tests.coursekit.draws import layouts, randn, seeds, sizes


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_labels(seed, classes, *shape, void=255, share=0.2):
    generator = seeded(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < share, void, labels)


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 5), st.integers(1, 4), layouts, seeds)
def test_patches_carry_the_label_of_their_center_pixel(size, taller, wider, per_class, layout, seed):
    height, width = size + taller, size + wider
    # Every pixel is told apart by its value, so a patch shows where it was cut.
    image = layout(torch.arange(2.0 * height * width).reshape(2, height, width))
    labels = random_labels(seed, 3, height, width)
    patches, targets = sample_patches(image, labels, size, per_class, seeded(seed))
    half = size // 2
    legal = labels[half : half + taller + 1, half : half + wider + 1]
    classes = sorted(set(legal.flatten().tolist()) - {255})
    assert sorted(targets.tolist()) == sorted(c for c in classes for _ in range(per_class))
    assert patches.shape == (len(targets), 2, size, size)
    assert patches.dtype == image.dtype
    assert targets.dtype == torch.int64
    for patch, target in zip(patches, targets, strict=True):
        top, left = divmod(int(patch[0, 0, 0]), width)
        assert torch.equal(patch, image[:, top : top + size, left : left + size])
        assert labels[top + half, left + half] == target
    again = sample_patches(image, labels, size, per_class, seeded(seed))
    assert torch.equal(again[0], patches)


def test_every_legal_center_is_drawn_equally_often():
    image = torch.arange(24.0).reshape(1, 4, 6)
    labels = torch.tensor(
        [[0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 255, 0], [0, 1, 255, 1, 0, 0], [0, 0, 0, 0, 0, 1]]
    )
    patches, targets = sample_patches(image, labels, 3, 30_000, seeded(0))
    # Centers: 4 pixels of class 1 (the one in the corner is too close to the border), 2 of class 0.
    for c, centers in ((0, {9, 16}), (1, {7, 8, 13, 15})):
        drawn, counts = patches[targets == c][:, 0, 1, 1].unique(return_counts=True)
        assert set(drawn.tolist()) == centers
        expected = 30_000 / len(centers)
        # Five standard deviations of the binomial.
        assert ((counts - expected).abs() < 5 * math.sqrt(expected)).all()


def test_without_a_legal_center_there_is_no_patch():
    labels = torch.full((5, 4), 255, dtype=torch.uint8)
    patches, targets = sample_patches(torch.zeros(3, 5, 4, dtype=torch.uint8), labels, 2, 7, seeded(0))
    assert patches.shape == (0, 3, 2, 2)
    assert patches.dtype == torch.float32
    assert targets.shape == (0,)


def value_and_gradients(loss, *inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    return value, torch.autograd.grad(value, inputs, materialize_grads=True)


VOIDS = st.sampled_from([255, -100, -1, 0, 2, 7])


@given(
    sizes, sizes, sizes, sizes, VOIDS, st.booleans(), st.sampled_from([1.0, 1e3]),
    st.sampled_from([torch.uint8, torch.int16, torch.int64]), layouts, seeds,
)  # fmt: skip
def test_cross_entropy_agrees_with_torch(n, classes, h, w, void, weighted, scale, dtype, layout, seed):
    logits = layout(scale * randn(seed, n, classes, h, w))
    if void < 0 and dtype == torch.uint8:
        target = random_labels(seed, classes, n, h, w, share=0.0)
    else:
        target = random_labels(seed, classes, n, h, w, void=void)
    weights = randn(seed + 1, classes).abs() if weighted else torch.ones(classes).double()
    valid = target != void
    if valid.any() and weights[target[valid]].sum() > 0:
        expected = value_and_gradients(
            lambda z: F.cross_entropy(z, target, weights, ignore_index=void, reduction="mean"), logits
        )
    else:
        expected = torch.tensor(0.0).double(), (torch.zeros_like(logits),)
    got = value_and_gradients(
        lambda z: pixel_cross_entropy(z, target.to(dtype), weights if weighted else None, ignore_index=void),
        logits,
    )
    torch.testing.assert_close(got, expected)


@given(sizes, st.integers(1, 4), sizes, sizes, st.sampled_from([255, -3, 1]), st.booleans(), seeds)
def test_masked_cross_entropy_is_a_weighted_mean_over_pixels(n, classes, h, w, void, boolean, seed):
    logits, target = randn(seed, n, classes, h, w), random_labels(seed, classes, n, h, w, void=void)
    weights, mask = randn(seed + 1, classes).abs(), randn(seed + 2, n, h, w).clip(min=0)

    def by_hand(z, w, m):
        losses = F.cross_entropy(z, target.where(target != void, 0), reduction="none")
        pixels = (target != void).nonzero().tolist()
        share = torch.stack([m[i, y, x] * w[target[i, y, x]] for i, y, x in pixels])
        return (share * losses[target != void]).sum() / share.sum()

    if boolean:
        mask = mask > 0
    if not (mask.double() * weights[target.where(target != void, 0)] * (target != void)).any():
        return
    if boolean:
        expected = value_and_gradients(lambda z, w: by_hand(z, w, mask.double()), logits, weights)
        got = value_and_gradients(lambda z, w: pixel_cross_entropy(z, target, w, mask, void), logits, weights)
    else:
        expected = value_and_gradients(by_hand, logits, weights, mask)
        got = value_and_gradients(
            lambda z, w, m: pixel_cross_entropy(z, target, w, m, void), logits, weights, mask
        )
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("nothing", ["void", "masked", "weightless"])
def test_without_a_pixel_that_counts_loss_and_gradients_are_zero(nothing):
    target = torch.full((2, 3, 4), 255) if nothing == "void" else torch.zeros(2, 3, 4).long()
    mask = torch.full((2, 3, 4), float(nothing != "masked"))
    weights = torch.tensor([float(nothing != "weightless"), 1.0])
    value, gradients = value_and_gradients(
        lambda z, w, m: pixel_cross_entropy(z, target, w, m), 1e4 * torch.randn(2, 2, 3, 4), weights, mask
    )
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_logits_and_many_pixels_stay_finite(dtype):
    logits = torch.zeros(1, 2, 300, 301, dtype=dtype)
    logits[:, 0] = 3e4
    value, (gradient,) = value_and_gradients(
        lambda z: pixel_cross_entropy(z, torch.ones(1, 300, 301).long()), logits
    )
    assert value.dtype == dtype
    assert value.item() == pytest.approx(logits[0, 0, 0, 0].item())
    assert gradient.isfinite().all()


def unpadded_network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.MaxPool2d(2, stride=1), nn.Conv2d(4, 5, (2, 1)), nn.ReLU(),
        nn.Conv2d(5, 3, 1),
    ).double()  # fmt: skip


@given(st.integers(0, 5), st.integers(0, 5), st.booleans(), st.booleans(), seeds)
def test_full_image_gradient_is_that_of_the_batch_of_all_its_patches(taller, wider, weighted, masked, seed):
    net = unpadded_network(seed)
    image = randn(seed, 2, 5 + taller, 4 + wider)
    target = random_labels(seed, 3, 1, taller + 1, wider + 1)
    weights = torch.tensor([0.5, 2.0, 1.0]).double() if weighted else None
    mask = torch.rand(target.shape, generator=seeded(seed)) < 0.6 if masked else None
    patches = torch.stack([
        image[:, top : top + 5, left : left + 4] for top in range(taller + 1) for left in range(wider + 1)
    ])  # fmt: skip
    column = (-1, 1, 1)
    whole = pixel_cross_entropy(net(image[None]), target, weights, mask)
    batch = pixel_cross_entropy(
        net(patches), target.reshape(column), weights, None if mask is None else mask.reshape(column)
    )
    torch.testing.assert_close(whole, batch)
    parameters = list(net.parameters())
    torch.testing.assert_close(torch.autograd.grad(whole, parameters), torch.autograd.grad(batch, parameters))


@given(st.integers(1, 5), st.integers(1, 4), VOIDS, st.booleans(), seeds)
def test_median_frequency_weights_are_those_counted_by_hand(classes, count, void, stacked, seed):
    maps = [
        random_labels(seed + i, classes, 3, 4 if stacked else 2 + i, void=void, share=0.4)
        for i in range(count)
    ]
    got = median_frequency_weights(torch.stack(maps) if stacked else maps, classes, void)
    frequencies = {}
    for c in range(classes):
        valid = [[label for label in labels.flatten().tolist() if label != void] for labels in maps]
        shown = [labels for labels in valid if c in labels]
        if shown:
            frequencies[c] = sum(labels.count(c) for labels in shown) / sum(map(len, shown))
    median = statistics.median(frequencies.values()) if frequencies else 0
    expected = [median / frequencies[c] if c in frequencies else 0 for c in range(classes)]
    assert got.dtype == torch.float32
    assert got.tolist() == pytest.approx(expected)


def test_maps_may_come_from_a_generator_and_as_bytes():
    maps = [torch.tensor([[0, 0, 1]], dtype=torch.uint8), torch.tensor([[1, 255], [1, 1]], dtype=torch.uint8)]
    # freq(0) = 2/3; freq(1) = (1 + 3)/(3 + 3); freq(2) is absent.
    assert median_frequency_weights(iter(maps), 3).tolist() == [1.0, 1.0, 0.0]


VARIANTS = {"32s": [32], "16s": [32, 16], "8s": [32, 16, 8]}


def skip_features(seed, n, channels, size):
    return {
        stride: randn(seed + stride, n, c, -(-size[0] // stride), -(-size[1] // stride))
        for stride, c in zip((8, 16, 32), channels, strict=True)
    }


def trained(head, seed):
    """The head with weights that are no longer those of the start."""
    for index, parameter in enumerate(head.parameters()):
        parameter.data = randn(seed + index, *parameter.shape)
    return head


@given(
    st.sampled_from(list(VARIANTS)), st.integers(1, 2), st.integers(1, 3), sizes,
    st.integers(1, 71), st.integers(1, 71), seeds,
)  # fmt: skip
def test_skips_are_upsampled_cropped_and_summed(variant, n, classes, c, height, width, seed):
    size = (height, width)
    head = trained(SkipFCN(classes, (c, 2, 3), variant).double(), seed)
    features = skip_features(seed, n, (c, 2, 3), size)

    def upsample(maps, weight, factor):
        """Every value drops its kernel onto the canvas; what sticks out by factor // 2 is cut off."""
        k = weight.shape[-1]
        h, w = maps.shape[2:]
        canvas = torch.zeros(n, classes, factor * (h - 1) + k, factor * (w - 1) + k).double()
        for i in range(h):
            for j in range(w):
                drop = torch.einsum("nc,cdyx->ndyx", maps[:, :, i, j], weight)
                window = (..., slice(factor * i, factor * i + k), slice(factor * j, factor * j + k))
                canvas[window] = canvas[window] + drop
        return canvas[..., factor // 2 :, factor // 2 :][..., : factor * h, : factor * w]

    def by_hand(*inputs):
        maps = dict(zip((8, 16, 32), inputs, strict=True))
        total = None
        for stride in VARIANTS[variant]:
            score = torch.einsum(
                "nchw,lc->nlhw", maps[stride], getattr(head, f"score_{stride}").weight[..., 0, 0]
            )
            score = score + getattr(head, f"score_{stride}").bias[:, None, None]
            if total is not None:
                score = score + total[..., : score.shape[2], : score.shape[3]]
            factor = stride if stride == VARIANTS[variant][-1] else 2
            total = upsample(score, getattr(head, f"up_{stride}").weight, factor)
        return total[..., :height, :width]

    def gradients(y, inputs):
        probe = randn(seed + 9, *y.shape)
        return torch.autograd.grad((y * probe).sum(), inputs, materialize_grads=True, allow_unused=True)

    inputs = [features[stride].requires_grad_() for stride in (8, 16, 32)]
    got, expected = head(features, size), by_hand(*inputs)
    assert got.shape == (n, classes, *size)
    torch.testing.assert_close(got, expected)
    inputs += head.parameters()
    torch.testing.assert_close(gradients(got, inputs), gradients(expected, inputs))


@pytest.mark.parametrize("variant", VARIANTS)
def test_at_the_start_scores_are_zero_and_upsampling_is_bilinear(variant):
    state = torch.get_rng_state()
    head = SkipFCN(3, (4, 5, 6), variant).double()
    assert torch.equal(torch.get_rng_state(), state)
    size = (64, 96)
    features = skip_features(0, 2, (4, 5, 6), size)
    assert not head(features, size).any()
    assert {name for name, _ in head.named_parameters()} == {
        f"{part}_{stride}.{kind}"
        for stride in VARIANTS[variant]
        for part, kind in (("score", "weight"), ("score", "bias"), ("up", "weight"))
    }
    for stride in VARIANTS[variant]:
        factor = stride if stride == VARIANTS[variant][-1] else 2
        maps = randn(stride, 1, 3, 5, 4)
        inside = (..., slice(factor, -factor), slice(factor, -factor))
        torch.testing.assert_close(
            getattr(head, f"up_{stride}")(maps)[inside],
            F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)[inside],
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_fcn_scores_every_pixel_and_learns_from_a_start_of_zeros(variant):
    torch.manual_seed(0)
    net = FCN(3, variant, channels=(8, 9, 10))
    x = randn(0, 2, 3, 45, 67, dtype=torch.float32)
    logits = net(x)
    assert logits.shape == (2, 3, 45, 67)
    assert not logits.any()
    target = torch.zeros(2, 45, 67, dtype=torch.long)
    before = F.cross_entropy(logits, target)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), target)
        loss.backward()
        optimizer.step()
    assert loss < before


def test_hand_worked_scores():
    # Truth: 10 pixels of class 0 (8 found, 2 taken for 1), 6 of class 1 (3 found), 4 of class 2 (all found).
    scores = segmentation_scores(torch.tensor([[8, 2, 0], [1, 3, 2], [0, 0, 4]]))
    assert scores["pixel_accuracy"] == pytest.approx(15 / 20)
    assert scores["mean_accuracy"] == pytest.approx((8 / 10 + 3 / 6 + 4 / 4) / 3)
    assert scores["iou"].tolist() == pytest.approx([8 / 11, 3 / 8, 4 / 6])
    assert scores["mean_iou"] == pytest.approx((8 / 11 + 3 / 8 + 4 / 6) / 3)
    assert scores["frequency_weighted_iou"] == pytest.approx((10 * 8 / 11 + 6 * 3 / 8 + 4 * 4 / 6) / 20)


def test_a_void_label_that_bytes_cannot_hold_makes_no_class_void():
    labels = torch.tensor([[1, 2]], dtype=torch.uint8)
    assert confusion_matrix(labels, labels, 3, ignore_index=-255).tolist() == [
        [0, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    target = torch.tensor([[[1, 0]]], dtype=torch.uint8)
    logits = randn(0, 1, 2, 1, 2)
    torch.testing.assert_close(
        pixel_cross_entropy(logits, target, ignore_index=-255), F.cross_entropy(logits, target.long())
    )


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
def test_training_on_the_gpu():
    image, labels = randn(0, 3, 20, 30), random_labels(0, 4, 20, 30)
    on_cpu = sample_patches(image, labels, 5, 6, seeded(0))
    on_gpu = sample_patches(image.cuda(), labels.cuda(), 5, 6, seeded(0))
    assert all(x.is_cuda for x in on_gpu)
    torch.testing.assert_close([x.cpu() for x in on_gpu], list(on_cpu))
    weights = median_frequency_weights(labels.cuda()[None], 4)
    torch.testing.assert_close(weights.cpu(), median_frequency_weights(labels[None], 4))
    head = trained(SkipFCN(4, (2, 3, 5), "8s").double(), 0)
    features = skip_features(0, 1, (2, 3, 5), (20, 30))
    loss = pixel_cross_entropy(head(features, (20, 30)), labels[None], weights.cpu())
    head.cuda()
    features = {stride: x.cuda() for stride, x in features.items()}
    got = pixel_cross_entropy(head(features, (20, 30)), labels.cuda()[None], weights)
    torch.testing.assert_close(got.cpu(), loss)


@pytest.mark.gpu
def test_on_the_gpu():
    prediction, target = torch.randint(0, 4, (2, 3, 9, 8))
    got = confusion_matrix(prediction.cuda(), target.cuda(), 4)
    assert got.is_cuda
    assert torch.equal(got.cpu(), confusion_matrix(prediction, target, 4))
    assert segmentation_scores(got)["mean_iou"] == pytest.approx(segmentation_scores(got.cpu())["mean_iou"])


@pytest.mark.slow
def test_train_fcn_learns_scenes_it_never_saw():
    seed = 0
    state = torch.get_rng_state()
    net = train_fcn(Scenes(500, 96, seed=seed), seeded(seed))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in net.modules())
    score = mean_iou(net, Scenes(100, 96, seed=seed + 1000, split="test"))
    print(f"mean IoU {score:.3f}")
    assert score > 0.4
    assert net(torch.rand(1, 3, 64, 160)).shape == (1, 6, 64, 160)


@pytest.mark.slow
def test_train_fcn_follows_its_generator():
    data = Scenes(60, 64)
    first, again, other = (train_fcn(data, seeded(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.allclose(first[name], again[name]) for name in first)
    assert any(not torch.allclose(first[name], other[name]) for name in first)
