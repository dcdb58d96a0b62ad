import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from coursekit.upsampling import (
    atrous,
    bed_of_nails,
    bilinear_kernel,
    conv_transpose2d,
    conv_transpose2d_by_zeros,
    max_pool_with_switches,
    max_unpool,
    nearest_upsample,
    shift_and_stitch,
    transposed_conv_matrix,
)
from tests.coursekit.draws import images, layouts, randn, seeds, sizes

factors = st.integers(1, 4)
forms = pytest.mark.parametrize("form", [conv_transpose2d, conv_transpose2d_by_zeros])


def gradients(function, *inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*inputs)
    return torch.autograd.grad(y, inputs, randn(7, *y.shape))


def assert_same(mine, other, *inputs, atol=1e-9):
    """Two functions of float64 inputs agree in value and gradients, and leave the inputs as they were."""
    before = [x.clone() for x in inputs]
    torch.testing.assert_close(mine(*inputs), other(*inputs), atol=atol, rtol=1e-9)
    torch.testing.assert_close(gradients(mine, *inputs), gradients(other, *inputs), atol=atol, rtol=1e-9)
    assert all(torch.equal(x, old) for x, old in zip(inputs, before, strict=True))


# Copies


@given(images(values=1), factors)
def test_nearest_upsampling_repeats_every_value(x, factor):
    assert_same(lambda x: nearest_upsample(x, factor), lambda x: F.interpolate(x, scale_factor=factor), x)
    assert np.array_equal(nearest_upsample(x, factor), np.kron(x, np.ones((factor, factor))))


@given(images(values=1), factors)
def test_a_bed_of_nails_is_the_kronecker_product_with_one_nail(x, factor):
    nail = torch.zeros(factor, factor, dtype=x.dtype)
    nail[0, 0] = 1
    assert_same(lambda x: bed_of_nails(x, factor), lambda x: torch.kron(x.contiguous(), nail), x)


# Max pooling and its switches


def pool_by_hand(x, k):
    n, c, height, width = x.shape
    y = torch.zeros(n, c, height // k, width // k, dtype=x.dtype)
    switches = torch.zeros(y.shape, dtype=torch.int64)
    for at in np.ndindex(*y.shape):
        window = [(at[2] * k + r, at[3] * k + s) for r in range(k) for s in range(k)]
        row, column = max(window, key=lambda pixel: x[at[0], at[1], *pixel].item())  # max keeps the first
        y[at], switches[at] = x[at[0], at[1], row, column], row * width + column
    return y, switches


@given(st.data(), factors, seeds, layouts, st.booleans())
@settings(max_examples=15)
def test_max_pooling_keeps_the_first_maximum_and_its_place(data, k, seed, layout, many_ties):
    height, width = data.draw(st.integers(k, 2 * k + 3)), data.draw(st.integers(k, 3 * k + 1))
    x = layout(randn(seed, 2, 3, height, width) - 5)
    x = x.round() if many_ties else x
    before = x.clone()
    y, switches = max_pool_with_switches(x, k)
    expected_y, expected_switches = pool_by_hand(x, k)
    assert torch.equal(y, expected_y)
    assert torch.equal(switches, expected_switches)
    assert switches.dtype == torch.int64
    assert torch.equal(x, before)


@given(images(values=4), st.integers(1, 3), seeds)
def test_pooling_and_unpooling_with_their_gradients_are_those_of_torch(x, k, seed):
    x = F.pad(x, (0, k, 0, k), value=-1e4)
    size = x.shape[2:]

    def there_and_back(x):
        y, switches = max_pool_with_switches(x, k)
        return max_unpool(y, switches, tuple(size))

    def torchs(x):
        y, switches = F.max_pool2d(x, k, return_indices=True)
        return F.max_unpool2d(y, switches, k, output_size=size)

    assert_same(lambda x: max_pool_with_switches(x, k)[0], lambda x: F.max_pool2d(x, k), x)
    assert_same(there_and_back, torchs, x)


@given(st.data(), sizes, sizes, seeds, layouts)
def test_unpooling_puts_every_value_at_its_switch(data, n, c, seed, layout):
    height, width = data.draw(sizes), data.draw(sizes)
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    y = layout(randn(seed, n, c, h, w))
    places = torch.rand(n, c, height * width, generator=torch.Generator().manual_seed(seed)).argsort(2)
    switches = layout(places[..., : h * w].reshape(n, c, h, w))

    def by_hand(y):
        out = torch.zeros(n, c, height, width, dtype=y.dtype)
        for at in np.ndindex(*y.shape):
            out[at[0], at[1], switches[at] // width, switches[at] % width] = y[at]
        return out

    assert_same(lambda y: max_unpool(y, switches, (height, width)), by_hand, y)


# Transposed convolution


@st.composite
def transposed(draw):
    """Input, weight, bias and the numbers of a legal transposed convolution."""
    n, cin, cout, height, width = (draw(st.integers(1, 4)) for _ in range(5))
    kh, kw = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    stride = draw(st.integers(1, 5))
    output_padding = draw(st.integers(0, stride - 1))
    smallest = min(stride * (height - 1) + kh, stride * (width - 1) + kw) + output_padding
    padding = draw(st.integers(0, (smallest - 1) // 2))
    seed = draw(seeds)
    x = draw(layouts)(randn(seed, n, cin, height, width))
    weight = draw(layouts)(randn(seed + 1, cin, cout, kh, kw))
    return x, weight, randn(seed + 2, cout), (stride, padding, output_padding)


@forms
@given(transposed())
@settings(max_examples=60)
def test_transposed_convolution_and_its_gradients_are_those_of_torch(form, drawn):
    x, weight, bias, numbers = drawn
    assert_same(
        lambda x, w, b: form(x, w, b, *numbers),
        lambda x, w, b: F.conv_transpose2d(x, w, b, *numbers),
        x,
        weight,
        bias,
    )
    torch.testing.assert_close(
        form(x, weight, None, *numbers), F.conv_transpose2d(x, weight, None, *numbers), atol=1e-9, rtol=1e-9
    )


@forms
def test_every_stride_padding_and_output_padding(form):
    """Each combination once: torch again."""
    x = randn(0, 1, 2, 3, 4)
    for kernel in [(1, 1), (2, 3), (3, 3), (4, 4), (5, 2)]:
        weight = randn(1, 2, 3, *kernel)
        for stride in range(1, 6):
            for padding in range(min(2 * stride + kernel[0], 3 * stride + kernel[1]) // 2):
                for output_padding in range(stride):
                    numbers = (stride, padding, output_padding)
                    torch.testing.assert_close(
                        form(x, weight, None, *numbers), F.conv_transpose2d(x, weight, None, *numbers)
                    )


@forms
def test_second_derivatives_are_right_too(form):
    x, weight, bias = randn(0, 1, 2, 2, 3), randn(1, 2, 2, 3, 2), randn(2, 2)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradgradcheck(lambda *t: form(*t, 2, 1, 1), inputs)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), seeds)
def test_transposed_convolution_is_zero_insertion_and_convolution_is_the_transposed_matrix(
    height, width, kh, kw, stride, seed
):
    x, weight = randn(seed, 1, 1, height, width), randn(seed + 1, 1, 1, kh, kw)

    spread = np.zeros((stride * (height - 1) + 1, stride * (width - 1) + 1))
    spread[::stride, ::stride] = x[0, 0]
    framed = np.pad(spread, ((kh - 1, kh - 1), (kw - 1, kw - 1)))
    windows = np.lib.stride_tricks.sliding_window_view(framed, (kh, kw))
    inserted = np.einsum("hwrs,rs->hw", windows, weight[0, 0].flip(0, 1))

    # The matrix of the convolution from the large map to the small one, a column for each large pixel.
    large = spread.shape[0] + kh - 1, spread.shape[1] + kw - 1
    basis = torch.eye(large[0] * large[1], dtype=torch.float64).reshape(-1, 1, *large)
    matrix = F.conv2d(basis, weight, stride=stride).flatten(1).T
    by_matrix = (matrix.T @ x.flatten()).reshape(large)

    got = conv_transpose2d(x, weight, stride=stride)[0, 0]
    torch.testing.assert_close(got, torch.from_numpy(inserted))
    torch.testing.assert_close(got, by_matrix)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), seeds)
def test_the_matrix_of_the_lecture(k, length, stride, seed):
    kernel, x = randn(seed, k), randn(seed + 1, length)
    matrix = transposed_conv_matrix(kernel, length, stride)

    laid_down = torch.zeros(stride * (length - 1) + k, dtype=torch.float64)
    for i in range(length):
        for j in range(k):
            laid_down[stride * i + j] += kernel[j] * x[i]
    torch.testing.assert_close(matrix @ x, laid_down)
    torch.testing.assert_close(matrix @ x, F.conv_transpose1d(x[None], kernel[None, None], stride=stride)[0])

    longer = randn(seed + 2, len(matrix))
    torch.testing.assert_close(
        matrix.T @ longer, F.conv1d(longer[None], kernel[None, None], stride=stride)[0]
    )
    column = torch.arange(length)
    assert all(torch.equal(matrix[stride * j : stride * j + k, j], kernel) for j in column.tolist())
    assert matrix.count_nonzero() == length * kernel.count_nonzero()


def test_rows_and_columns_are_the_matrix_applied_along_each_axis():
    x, a, b = randn(0, 4, 3), randn(1, 3), randn(2, 2)
    weight = torch.outer(a, b)[None, None]
    rows, columns = transposed_conv_matrix(a, 4, 2), transposed_conv_matrix(b, 3, 2)
    got = conv_transpose2d(x[None, None], weight, stride=2)[0, 0]
    torch.testing.assert_close(got, rows @ x @ columns.T)


# Bilinear interpolation


def test_the_bilinear_kernel_of_factor_2_is_that_of_fcn():
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(bilinear_kernel(1, 2)[0, 0], torch.outer(ramp, ramp))


def published(size):
    """The filter of the paper's published code, which tells even from odd sizes."""
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 == 1 else factor - 0.5
    row, column = np.ogrid[:size, :size]
    return (1 - abs(row - center) / factor) * (1 - abs(column - center) / factor)


@pytest.mark.parametrize("factor", [*range(1, 9), 16, 32])
def test_the_bilinear_kernel_is_the_published_one_on_the_diagonal(factor):
    kernel = bilinear_kernel(3, factor)
    k = 2 * factor - factor % 2
    assert kernel.shape == (3, 3, k, k)
    assert kernel.dtype == torch.float32
    for i in range(3):
        for j in range(3):
            expected = published(k) if i == j else np.zeros((k, k))
            np.testing.assert_allclose(kernel[i, j], expected, atol=1e-6)


@given(st.integers(1, 7), st.integers(3, 6), st.integers(3, 6), seeds)
def test_it_reproduces_constants_and_linear_images_away_from_the_border(factor, height, width, seed):
    # Pixel centers of a map factor times as fine, in units of the coarse map's pixels.
    y, x = ((torch.arange(factor * n).double() + 0.5) / factor - 0.5 for n in (height, width))
    constant, by_row, by_column = randn(seed, 3)
    fine = constant + by_row * y[:, None] + by_column * x
    coarse = constant + by_row * torch.arange(height)[:, None] + by_column * torch.arange(width)
    kernel = bilinear_kernel(2, factor).double()
    padding = factor // 2  # the ceiling of (factor - 1) / 2
    maps = torch.stack([coarse, torch.full_like(coarse, 3.5)])[None]
    up = conv_transpose2d(maps, kernel, stride=factor, padding=padding)
    assert up.shape == (1, 2, factor * height, factor * width)
    inside = slice(factor, -factor)
    expected = torch.stack([fine, torch.full_like(fine, 3.5)])[None]
    torch.testing.assert_close(up[..., inside, inside], expected[..., inside, inside], atol=1e-6, rtol=1e-6)


# Dense maps without upsampling


@st.composite
def strided_networks(draw, padded=False):
    """Convolutions, ReLUs, max pools and strided convolutions in nested Sequentials; (net, field, stride)."""
    torch.manual_seed(draw(seeds))
    layers, channels, size, jump = [], 2, 1, 1
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "strided", "pool", "grouped"]))
        kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        stride = draw(st.integers(1, 3)) if jump < 4 and kind != "conv" else 1
        if kind == "pool":
            layers.append(nn.MaxPool2d(kernel, stride, dilation=dilation))
        else:
            padding = draw(st.integers(0, 2)) if padded else 0
            groups = 2 if kind == "grouped" else 1
            layers.append(nn.Conv2d(channels, 4, kernel, stride, padding, dilation, groups))
            layers.append(draw(st.sampled_from([nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.Identity()])))
            channels = 4
        size, jump = size + dilation * (kernel - 1) * jump, jump * stride
    net = nn.Sequential(*layers, nn.Conv2d(channels, 3, 1), nn.Dropout(0.5), nn.Softmax(1))
    cut = draw(st.integers(0, len(layers)))
    net = nn.Sequential(
        nn.ReLU(inplace=True), nn.Sequential(*net[:cut]), nn.Sequential(nn.Sequential(*net[cut:]))
    )
    for bn in net.modules():
        if isinstance(bn, nn.BatchNorm2d):
            nn.init.normal_(bn.running_mean)
            nn.init.uniform_(bn.weight)
    return net.double(), size, jump


@given(strided_networks(), st.data(), seeds)
@settings(max_examples=40)
def test_shift_and_stitch_is_a_trous_is_one_window_at_a_time(drawn, data, seed):
    net, field, factor = drawn
    height = data.draw(st.integers(field + factor - 1, field + factor + 6))
    width = data.draw(st.integers(field + factor - 1, field + factor + 6))
    image = randn(seed, 2, 2, height, width)
    before = image.clone()
    stitched = shift_and_stitch(net, image, factor)
    dense = atrous(net).eval()

    assert stitched.shape == (2, 3, height - field + 1, width - field + 1)
    torch.testing.assert_close(dense(image.clone()), stitched)
    assert torch.equal(image, before)

    crops = image.unfold(2, field, 1).unfold(3, field, 1).permute(2, 3, 0, 1, 4, 5)
    with torch.no_grad():
        windows = copy.deepcopy(net).eval()(crops.flatten(0, 2).clone())
    assert windows.shape[2:] == (1, 1)
    expected = windows.reshape(*crops.shape[:3], 3).permute(2, 3, 0, 1)
    torch.testing.assert_close(stitched, expected)


@given(strided_networks(padded=True), st.integers(24, 31), st.integers(24, 31), seeds)
def test_with_padding_every_cell_of_the_network_is_among_those_of_its_dense_twin(drawn, height, width, seed):
    net, _, factor = drawn
    image = randn(seed, 1, 2, height, width)
    expected = net.eval()(image.clone())
    got = atrous(net)(image.clone())[..., ::factor, ::factor]
    torch.testing.assert_close(got[..., : expected.shape[2], : expected.shape[3]], expected)


def test_strides_and_kernels_that_differ_between_rows_and_columns():
    net = nn.Sequential(
        nn.Conv2d(1, 2, (3, 1), stride=(2, 1), padding=(1, 0)),
        nn.MaxPool2d((1, 2), stride=(1, 3)),
        nn.Conv2d(2, 2, (2, 3), stride=(1, 2), padding=(0, 2), dilation=(2, 1)),
        nn.Conv2d(2, 1, 3, padding="same"),
    ).double()
    dense = atrous(net)
    assert dense[2].dilation == (4, 3)
    assert dense[2].padding == (0, 6)
    assert dense[3].dilation == (2, 6)
    image = randn(0, 1, 1, 27, 31)
    expected = net(image)
    got = dense(image)[..., ::2, ::6]
    torch.testing.assert_close(got[..., : expected.shape[2], : expected.shape[3]], expected)


def test_the_dense_twin_is_a_copy_with_the_names_nesting_and_flags_of_the_network():
    pool = nn.MaxPool2d(2)
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4)))
    net.add_module("pool", pool)
    net.add_module("again", pool)
    net.add_module("scores", nn.Conv2d(4, 2, 2))
    net.stem[1].eval()
    net.stem[0].weight.requires_grad_(False)
    settings_before = [(m.stride, m.dilation) for m in (net.stem[0], net.pool, net.scores)]

    dense = atrous(net)
    assert [name for name, _ in dense.named_modules(remove_duplicate=False)] == [
        name for name, _ in net.named_modules(remove_duplicate=False)
    ]
    assert dense.training
    assert not dense.stem[1].training
    assert dense.scores.training
    assert not dense.stem[0].weight.requires_grad
    assert (dense.pool.dilation, dense.again.dilation, dense.scores.dilation) == ((2, 2), (4, 4), (8, 8))
    assert settings_before == [(m.stride, m.dilation) for m in (net.stem[0], net.pool, net.scores)]
    with torch.no_grad():
        dense.scores.weight.zero_()
        dense.stem[1].running_mean.fill_(9)
    assert net.scores.weight.abs().sum() > 0
    assert net.stem[1].running_mean.abs().sum() == 0
    assert atrous(copy.deepcopy(net).eval()).training is False


def test_shift_and_stitch_runs_in_evaluation_mode_and_leaves_the_mode_as_found():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.BatchNorm2d(2), nn.Dropout(0.9))
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    image = randn(0, 1, 1, 9, 8, dtype=torch.float32)
    first, second = shift_and_stitch(net, image, 2), shift_and_stitch(net, image, 2)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert [m.training for m in net] == [True, False, True]
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


# Dtypes, devices


FUNCTIONS = {
    "nearest": lambda x: nearest_upsample(x, 2),
    "nails": lambda x: bed_of_nails(x, 2),
    "pool": lambda x: max_pool_with_switches(x, 2)[0],
    "unpool": lambda x: max_unpool(x, torch.arange(24, device=x.device).reshape(1, 2, 3, 4), (5, 7)),
    "transposed": lambda x: conv_transpose2d(x, x.new_ones(2, 3, 3, 3), x.new_ones(3), 2, 1, 1),
    "by zeros": lambda x: conv_transpose2d_by_zeros(x, x.new_ones(2, 3, 3, 3), x.new_ones(3), 2, 1, 1),
    "stitch": lambda x: shift_and_stitch(nn.Conv2d(2, 1, 2, stride=2).to(x), x, 2),
    "matrix": lambda x: transposed_conv_matrix(x[0, 0, 0], 3, 2),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtype_is_carried_through(name, dtype):
    x = torch.arange(24).reshape(1, 2, 3, 4).to(dtype)
    y = FUNCTIONS[name](x)
    assert y.dtype == dtype
    if name != "stitch":
        torch.testing.assert_close(y, FUNCTIONS[name](x.double()).to(dtype))


@pytest.mark.parametrize("name", ["nearest", "nails", "pool", "unpool", "matrix"])
def test_integers_become_float32(name):
    x = torch.arange(24, dtype=torch.uint8).reshape(1, 2, 3, 4)
    y = FUNCTIONS[name](x)
    assert y.dtype == torch.float32
    assert torch.equal(y, FUNCTIONS[name](x.float()))


@pytest.mark.gpu
@pytest.mark.parametrize("name", FUNCTIONS)
def test_on_the_gpu(name):
    x = randn(0, 1, 2, 3, 4)
    torch.manual_seed(0)
    expected = FUNCTIONS[name](x)
    torch.manual_seed(0)
    y = FUNCTIONS[name](x.cuda())
    assert y.is_cuda
    torch.testing.assert_close(y.cpu(), expected)
