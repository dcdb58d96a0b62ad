import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from coursekit.preprocessing import (
    Standardizer,
    channel_statistics,
    mean_image,
    split_then_standardize,
    streaming_statistics,
    zca_whiten,
)
from tests.coursekit.draws import images, layouts, randn, seeds, sizes

MODES = ["mean_image", "channel_mean", "channel_standard"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def concatenated(batches):
    """Every pixel of every batch, per channel, in numpy."""
    pixels = np.concatenate(
        [b.double().numpy().transpose(1, 0, 2, 3).reshape(b.shape[1], -1) for b in batches], 1
    )
    return torch.from_numpy(pixels.mean(1)), torch.from_numpy(pixels.std(1))


# Statistics


@given(images(values=1))
def test_the_mean_image_is_numpys(x):
    before = x.clone()
    torch.testing.assert_close(mean_image(x), torch.from_numpy(x.numpy().mean(0)))
    assert torch.equal(x, before)


def test_the_mean_image_of_bytes_does_not_overflow():
    x = torch.full((300, 1, 2, 3), 255, dtype=torch.uint8)
    x[0] = 254
    got = mean_image(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.full((1, 2, 3), 255 - 1 / 300))


@given(images(values=1))
def test_channel_statistics_are_numpys(x):
    before = x.clone()
    mean, std = channel_statistics(x)
    torch.testing.assert_close(mean, torch.from_numpy(x.numpy().mean((0, 2, 3))))
    torch.testing.assert_close(std, torch.from_numpy(x.numpy().std((0, 2, 3))), atol=1e-9, rtol=1e-9)
    assert torch.equal(x, before)


def test_channel_statistics_stay_exact_far_from_zero():
    x = (randn(0, 40, 3, 31, 27) + 1e4).float()
    mean, std = channel_statistics(x)
    exact = x.double().numpy()
    torch.testing.assert_close(mean, torch.from_numpy(exact.mean((0, 2, 3))).float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(std, torch.from_numpy(exact.std((0, 2, 3))).float(), rtol=1e-6, atol=0)


def test_channel_statistics_of_bytes_are_exact():
    x = torch.randint(0, 256, (50, 3, 17, 13), generator=seeded(), dtype=torch.uint8)
    values = x.long().transpose(0, 1).flatten(1)
    n = values.shape[1]
    mean, std = channel_statistics(x)
    assert mean.dtype == std.dtype == torch.float32
    torch.testing.assert_close(mean, (values.sum(1).double() / n).float(), rtol=1e-7, atol=0)
    exact = (n * (values**2).sum(1) - values.sum(1) ** 2).double().sqrt() / n
    torch.testing.assert_close(std, exact.float(), rtol=1e-7, atol=0)


# One pass over batches


@given(st.lists(st.tuples(sizes, sizes, sizes, layouts), min_size=1, max_size=5), sizes, seeds)
def test_equals_the_statistics_of_all_pixels_at_once(shapes, channels, seed):
    batches = [
        layout(randn(seed + i, n, channels, h, w) * (i + 1) + i) for i, (n, h, w, layout) in enumerate(shapes)
    ]
    mean, std = streaming_statistics(batch for batch in batches)
    expected = concatenated(batches)
    torch.testing.assert_close(mean, expected[0])
    torch.testing.assert_close(std, expected[1])


def test_stays_exact_far_from_zero():
    batches = [randn(i, n, 3, 11, 7, dtype=torch.float32) + 1e6 for i, n in enumerate((1, 9, 4))]
    mean, std = streaming_statistics(iter(batches))
    expected = concatenated(batches)
    torch.testing.assert_close(mean, expected[0].float())
    torch.testing.assert_close(std, expected[1].float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64])
def test_dtype(dtype):
    batches = [torch.arange(48).reshape(2, 2, 3, 4).to(dtype)]
    expected = dtype if dtype.is_floating_point else torch.float32
    assert [t.dtype for t in streaming_statistics(batches)] == [expected, expected]


def test_empty_batches_count_nothing():
    x = randn(0, 4, 2, 3, 3)
    got = streaming_statistics([x[:0], x[:1], x[1:1], x[1:]])
    for mine, other in zip(got, concatenated([x]), strict=True):
        torch.testing.assert_close(mine, other)


# Standardizer


def standardized(x, mode):
    """In numpy."""
    x = x.double().numpy()
    if mode == "mean_image":
        return torch.from_numpy(x - x.mean(0))
    x = x - x.mean((0, 2, 3), keepdims=True)
    if mode == "channel_standard":
        std = x.std((0, 2, 3), keepdims=True)
        x = x / np.where(std > 0, std, 1)
    return torch.from_numpy(x)


@pytest.mark.parametrize("mode", MODES)
@given(images(values=2), st.booleans())
def test_a_standardizer_applies_the_statistics_it_was_fitted_to(mode, x, flat_channel):
    if flat_channel:
        x = x.clone()
        x[:, 0] = 1 / 3
    before = x.clone()
    standardizer = Standardizer(mode)
    assert standardizer.fit(x) is standardizer
    torch.testing.assert_close(standardizer(x), standardized(x, mode), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(standardizer(x[:0]), x[:0])
    assert torch.equal(x, before)


@pytest.mark.parametrize("mode", MODES)
def test_its_state_makes_an_unfitted_one_the_same(mode):
    x = randn(0, 5, 3, 4, 6)
    fitted = nn.Sequential(Standardizer(mode).fit(x), nn.Flatten())
    assert set(fitted.state_dict()) == {"0.mean", "0.std"}
    other = nn.Sequential(Standardizer(mode), nn.Flatten())
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other(x), fitted(x))
    with torch.no_grad():
        other[0].mean += 1
    assert not torch.equal(other(x), fitted(x))

    assigned = Standardizer(mode)
    assigned.load_state_dict(fitted[0].state_dict(), assign=True)
    assert torch.equal(assigned(x), fitted[0](x))
    again = Standardizer(mode).fit(x + 3)
    again.load_state_dict(fitted[0].state_dict())
    assert torch.equal(again(x), fitted[0](x))


def test_a_state_of_another_size_or_without_a_buffer_is_refused():
    fitted = Standardizer().fit(randn(0, 5, 3, 4, 6))
    with pytest.raises(RuntimeError, match="size mismatch for mean"):
        Standardizer().fit(randn(0, 5, 2, 4, 6)).load_state_dict(fitted.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        Standardizer().load_state_dict({"mean": fitted.mean})


@pytest.mark.parametrize("mode", MODES)
def test_without_statistics_it_does_not_run(mode):
    empty = Standardizer(mode)
    with pytest.raises(RuntimeError, match="fit"):
        empty(randn(0, 2, 3, 4, 5))
    empty.load_state_dict(Standardizer(mode).state_dict())
    with pytest.raises(RuntimeError, match="fit"):
        empty(randn(0, 2, 3, 4, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("value", "width"), [(0.1, 24), (1 / 3, 25), (-1e4 / 7, 23), (255.0, 3)])
def test_a_constant_channel_is_divided_by_one(value, width, dtype):
    # In float64, the sum of so many values divided by their number is not the value.
    x = torch.full((1, 2, 3, width), value, dtype=dtype)
    x[:, 1] = randn(0, 3, width)
    fitted = Standardizer().fit(x)
    assert fitted.std[0] == 1
    assert fitted.std[1] != 1
    torch.testing.assert_close(fitted(x)[:, 0], torch.zeros_like(x[:, 0]), atol=1e-10, rtol=0)
    other = torch.full_like(x, value + 1)
    torch.testing.assert_close(fitted(other)[:, 0], other[:, 0] - value)


def test_its_buffers_have_a_size_for_each_mode_and_std_is_one_where_nothing_divides():
    x = randn(0, 5, 3, 4, 6)
    x[:, 1] = 0.1
    sizes = {mode: tuple(Standardizer(mode).fit(x).mean.shape) for mode in MODES}
    assert sizes == {"mean_image": (3, 4, 6), "channel_mean": (3, 1, 1), "channel_standard": (3, 1, 1)}
    assert (Standardizer("mean_image").fit(x).std == 1).all()
    assert (Standardizer("channel_mean").fit(x).std == 1).all()
    std = Standardizer().fit(x).std.flatten()
    assert std[1] == 1
    assert (std[[0, 2]] != 1).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
def test_the_dtype_is_that_of_the_images(mode, dtype):
    x = torch.arange(48).reshape(2, 2, 3, 4).to(dtype)
    expected = dtype if dtype.is_floating_point else torch.float32
    fitted = Standardizer(mode).fit(x)
    assert fitted(x).dtype == fitted.mean.dtype == fitted.std.dtype == mean_image(x).dtype == expected
    assert fitted.double()(x).dtype == expected
    tolerance = {"atol": 0.2, "rtol": 0.02} if dtype.itemsize == 2 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(fitted(x).double(), standardized(x, mode), **tolerance)


# Splitting


@given(st.integers(1, 12), st.sampled_from([0, 0.1, 0.25, 0.5, 0.9]), seeds)
def test_the_statistics_are_those_of_the_training_part_alone(n, val_fraction, seed):
    num_val = round(n * val_fraction)
    if num_val == n:
        return
    # The first value of each image is its number.
    x = randn(seed, n, 2, 3, 4)
    x[:, 0, 0, 0] = torch.arange(n)
    before = x.clone()
    train, val, standardizer = split_then_standardize(x, val_fraction, seeded(seed))
    assert (len(train), len(val)) == (n - num_val, num_val)

    def numbers(part):
        return (part * standardizer.std + standardizer.mean)[:, 0, 0, 0].round().long()

    assert sorted([*numbers(train).tolist(), *numbers(val).tolist()]) == list(range(n))
    torch.testing.assert_close(train, standardized(x[numbers(train)], "channel_standard"))
    own = x[numbers(train)].numpy()
    axes = (0, 2, 3)
    expected = (x[numbers(val)].numpy() - own.mean(axes, keepdims=True)) / own.std(axes, keepdims=True)
    torch.testing.assert_close(val, torch.from_numpy(expected))
    assert torch.equal(x, before)

    other = x.clone()
    other[numbers(val)] += 100
    again = split_then_standardize(other, val_fraction, seeded(seed))
    assert torch.equal(again[0], train)
    torch.testing.assert_close(again[2].state_dict(), standardizer.state_dict(), rtol=0, atol=0)


def test_the_split_is_shuffled_and_repeatable():
    x = torch.arange(200.0).reshape(200, 1, 1, 1)
    first, again, other = (split_then_standardize(x, 0.3, seeded(seed))[0].flatten() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.diff() < 0).any()


# Whitening


@given(st.integers(2, 30), st.integers(1, 6), seeds, layouts, st.sampled_from([1e-5, 0.1]))
def test_whitening_is_the_inverse_root_of_the_covariance(n, d, seed, layout, eps):
    x = layout(randn(seed, n, d) @ randn(seed + 1, d, d) + 5)
    before = x.clone()
    whitened, W = zca_whiten(x, eps)
    covariance = np.cov(x.numpy().T, bias=True).reshape(d, d)
    torch.testing.assert_close(W, W.T)
    # W is the one symmetric positive matrix with W (covariance + eps) W = 1.
    assert torch.linalg.eigvalsh(W).min() > 0
    product = W.numpy() @ (covariance + eps * np.eye(d)) @ W.numpy()
    np.testing.assert_allclose(product, np.eye(d), atol=1e-6)
    torch.testing.assert_close(whitened, (x - x.mean(0)) @ W)
    assert torch.equal(x, before)


def test_whitened_features_are_uncorrelated_with_variance_1():
    x = randn(0, 400, 5) @ randn(1, 5, 5)
    whitened, _ = zca_whiten(x, eps=0.0)
    np.testing.assert_allclose(np.cov(whitened.numpy().T, bias=True), np.eye(5), atol=1e-9)
    np.testing.assert_allclose(whitened.mean(0), np.zeros(5), atol=1e-9)


def test_dependent_features_and_few_samples_stay_finite():
    x = (randn(0, 4, 1) @ randn(1, 1, 30) * 1e8).float()
    whitened, W = zca_whiten(x)
    assert whitened.isfinite().all()
    assert W.isfinite().all()
    torch.testing.assert_close(W, W.T)
    one, _ = zca_whiten(x[:1])
    assert (one == 0).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_whitening_carries_the_dtype_through(dtype):
    x = (10 * randn(0, 9, 3).abs()).to(dtype)
    expected = dtype if dtype.is_floating_point else torch.float32
    got = zca_whiten(x)
    assert [t.dtype for t in got] == [expected, expected]
    for mine, other in zip(got, zca_whiten(x.double()), strict=True):
        torch.testing.assert_close(mine, other.to(expected))


@pytest.mark.gpu
def test_statistics_on_the_gpu():
    x = randn(0, 6, 3, 4, 5)
    for mode in MODES:
        fitted = Standardizer(mode).fit(x.cuda())
        assert fitted.mean.is_cuda
        torch.testing.assert_close(fitted(x.cuda()).cpu(), standardized(x, mode))
        moved = Standardizer(mode).cuda()
        moved.load_state_dict(Standardizer(mode).fit(x).state_dict())
        assert moved.mean.is_cuda
        torch.testing.assert_close(moved(x.cuda()).cpu(), standardized(x, mode))
    on_gpu, on_cpu = (split_then_standardize(t, 0.3, seeded())[0] for t in (x.cuda(), x))
    torch.testing.assert_close(on_gpu.cpu(), on_cpu)
    generator = torch.Generator("cuda").manual_seed(0)
    assert not split_then_standardize(x, 0.3, generator)[0].is_cuda
    torch.testing.assert_close(zca_whiten(x.flatten(1).cuda())[1].cpu(), zca_whiten(x.flatten(1))[1])


@pytest.mark.gpu
def test_on_the_gpu():
    batches = [randn(i, 3, 2, 4, 5) for i in range(3)]
    mean, std = streaming_statistics(b.cuda() for b in batches)
    assert mean.is_cuda
    assert std.is_cuda
    torch.testing.assert_close(std.cpu(), concatenated(batches)[1])
