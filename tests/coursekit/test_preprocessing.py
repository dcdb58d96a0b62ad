import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coursekit.preprocessing import streaming_statistics
from tests.coursekit.draws import layouts, randn, seeds, sizes


def concatenated(batches):
    """Every pixel of every batch, per channel, in numpy."""
    pixels = np.concatenate(
        [b.double().numpy().transpose(1, 0, 2, 3).reshape(b.shape[1], -1) for b in batches], 1
    )
    return torch.from_numpy(pixels.mean(1)), torch.from_numpy(pixels.std(1))


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


@pytest.mark.gpu
def test_on_the_gpu():
    batches = [randn(i, 3, 2, 4, 5) for i in range(3)]
    mean, std = streaming_statistics(b.cuda() for b in batches)
    assert mean.is_cuda
    assert std.is_cuda
    torch.testing.assert_close(std.cpu(), concatenated(batches)[1])
