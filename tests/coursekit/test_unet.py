import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.distance import cdist
from torch import nn
from torch.nn import functional as F

from coursekit.data.cells import Cells
from coursekit.metrics import connected_components, instance_f1
from coursekit.unet import (
    DoubleConv,
    UNet,
    crop_and_concat,
    deform,
    elastic_deformation,
    overlap_tile,
    train_unet,
    unet_output_size,
    unet_weight_map,
    weight_map_by_sorting,
    weighted_cross_entropy,
)
from tests.coursekit.draws import layouts, randn, seeds, sizes

sides = st.integers(2, 17)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def size_by_running(size, depth):
    """The output side of a U-Net of ones, or None where a pooling drops a row or nothing is left."""
    kernel, x = torch.ones(1, 1, 3), torch.ones(1, 1, size)

    def double_conv(x):
        return F.conv1d(F.conv1d(x, kernel), kernel)

    try:
        for _ in range(depth):
            x = double_conv(x)
            if x.shape[2] % 2:
                return None
            x = F.max_pool1d(x, 2)
        x = double_conv(x)
        for _ in range(depth):
            x = double_conv(F.conv_transpose1d(x, torch.ones(1, 1, 2), stride=2))
    except RuntimeError:
        return None
    return x.shape[2]


def test_the_paper_maps_572_pixels_to_388():
    assert unet_output_size(572) == 388
    with torch.device("meta"):
        assert UNet(1, 2)(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_output_size_is_that_of_the_operations_run(depth):
    legal = 0
    for size in range(1, 150):
        expected = size_by_running(size, depth)
        if expected is None:
            with pytest.raises(ValueError, match="size must be"):
                unet_output_size(size, depth)
        else:
            legal += 1
            assert unet_output_size(size, depth) == expected
    assert legal > 5


@given(sizes, sizes, sizes, sizes, sizes, st.integers(0, 5), st.integers(0, 5), layouts, seeds)
def test_the_skip_is_cropped_to_its_center_and_stands_first(n, c, d, h, w, taller, wider, layout, seed):
    skip, up = layout(randn(seed, n, c, h + taller, w + wider)), layout(randn(seed + 1, n, d, h, w))
    skip.requires_grad_(), up.requires_grad_()
    got = crop_and_concat(skip, up)
    assert got.shape == (n, c + d, h, w)
    # An odd rest is cut at the bottom and right.
    top, bottom = taller // 2, -(taller - taller // 2) or None
    left, right = wider // 2, -(wider - wider // 2) or None
    assert torch.equal(got[:, :c], skip[:, :, top:bottom, left:right])
    assert torch.equal(got[:, c:], up)
    probe = randn(seed + 2, *got.shape)
    gradients = torch.autograd.grad((got * probe).sum(), (skip, up))
    padding = (left, wider - left, top, taller - top)
    assert torch.equal(gradients[0], F.pad(probe[:, :c], padding))
    assert torch.equal(gradients[1], probe[:, c:])


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(5, 9), st.integers(5, 9), seeds)
def test_double_convolution(n, before, after, h, w, seed):
    block = DoubleConv(before, after).double()
    weights = list(block.parameters())
    assert [tuple(p.shape) for p in weights] == [
        (after, before, 3, 3),
        (after,),
        (after, after, 3, 3),
        (after,),
    ]
    weights[1].data, weights[3].data = randn(seed, after), randn(seed + 1, after)
    x = randn(seed + 2, n, before, h, w).requires_grad_()
    expected = F.relu(F.conv2d(F.relu(F.conv2d(x, *weights[:2])), *weights[2:]))
    got = block(x)
    assert got.shape == (n, after, h - 4, w - 4)
    torch.testing.assert_close(got, expected)
    probe = randn(seed + 3, *got.shape)
    torch.testing.assert_close(
        torch.autograd.grad((got * probe).sum(), [x, *weights]),
        torch.autograd.grad((expected * probe).sum(), [x, *weights]),
    )


def test_weights_start_with_the_spread_of_the_paper():
    torch.manual_seed(0)
    net = UNet(3, 50, base=16, depth=2)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert not module.bias.any()
            # One output reads one position of a 2×2 transposed convolution with stride 2.
            taps = 1 if isinstance(module, nn.ConvTranspose2d) else module.weight[0, 0].numel()
            expected = math.sqrt(2 / (module.in_channels * taps))
            count = module.weight.numel()
            assert module.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * count))
            assert abs(module.weight.mean().item()) < 5 * expected / math.sqrt(count)


def test_the_paper_has_23_convolutional_layers():
    with torch.device("meta"):
        net = UNet(1, 2)
    kernels = [
        (type(m).__name__, m.kernel_size[0])
        for m in net.modules()
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert kernels.count(("Conv2d", 3)) == 18
    assert kernels.count(("ConvTranspose2d", 2)) == 4
    assert kernels.count(("Conv2d", 1)) == 1
    assert len(kernels) == 23


@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 2), (3, 21)])
def test_parameter_count_is_that_of_the_layers_of_figure_1(in_channels, num_classes):
    def conv(kernel, before, after):
        return kernel**2 * before * after + after

    down = [(in_channels, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    contracting = sum(conv(3, a, b) + conv(3, b, b) for a, b in down)
    # The concatenation has as many channels as the map before the up-convolution.
    up = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    expanding = sum(conv(2, a, b) + conv(3, a, b) + conv(3, b, b) for a, b in up)
    expected = contracting + expanding + conv(1, 64, num_classes)
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet(in_channels, num_classes).parameters()) == expected


def unet_by_hand(x, weights, depth):
    """The U-Net as a list of operations on its parameters, in the order of its layers."""
    weights = iter(weights)

    def take(count):
        return [next(weights) for _ in range(count)]

    contracting, bottom = [take(4) for _ in range(depth)], take(4)
    up, expanding, top = [take(2) for _ in range(depth)], [take(4) for _ in range(depth)], take(2)

    def double(x, w1, b1, w2, b2):
        return F.relu(F.conv2d(F.relu(F.conv2d(x, w1, b1)), w2, b2))

    skips = []
    for weights_of_level in contracting:
        x = double(x, *weights_of_level)
        skips.append(x)
        x = F.max_pool2d(x, 2)
    x = double(x, *bottom)
    for weights_up, weights_of_level in zip(up, expanding, strict=True):
        x = F.conv_transpose2d(x, *weights_up, stride=2)
        skip = skips.pop()
        cut = [(a - b) // 2 for a, b in zip(skip.shape[2:], x.shape[2:], strict=True)]
        skip = F.pad(skip, [-cut[1], -cut[1], -cut[0], -cut[0]])
        x = double(torch.cat([skip, x], 1), *weights_of_level)
    return F.conv2d(x, *top)


LEGAL = {1: [18, 20, 22, 24], 2: [44, 48, 52], 3: [92, 100]}


@settings(max_examples=15)
@given(
    st.sampled_from([1, 1, 2, 3]), st.integers(1, 2), st.integers(1, 2), st.integers(1, 3), st.integers(1, 3),
    st.data(), seeds,
)  # fmt: skip
def test_unet_is_its_list_of_operations(depth, n, channels, classes, base, data, seed):
    height, width = (data.draw(st.sampled_from(LEGAL[depth])) for _ in range(2))
    net = UNet(channels, classes, base, depth).double()
    for index, parameter in enumerate(net.parameters()):
        if parameter.ndim == 1:
            parameter.data = 0.1 * randn(seed + index, *parameter.shape)
    x = randn(seed, n, channels, height, width).requires_grad_()
    got, expected = net(x), unet_by_hand(x, net.parameters(), depth)
    assert got.shape == (n, classes, unet_output_size(height, depth), unet_output_size(width, depth))
    torch.testing.assert_close(got, expected)
    probe = randn(seed + 1, *got.shape)
    inputs = [x, *net.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((got * probe).sum(), inputs),
        torch.autograd.grad((expected * probe).sum(), inputs),
    )


def cells(seed, height, width, count, radius, pieces=1):
    """Elliptic cells with random ids, cut off by their neighbors and the border; some in several pieces."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    instances = np.zeros((height, width), dtype=np.int64)
    for cell in rng.choice(np.arange(1, 10 * count + 1), count, replace=False):
        for _ in range(rng.integers(1, pieces + 1)):
            cy, cx, a, b = rng.uniform(0, height), rng.uniform(0, width), *rng.uniform(*radius, 2)
            instances[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 <= 1] = cell
    return torch.from_numpy(instances)


def weight_map_by_loops(instances, w0, sigma, class_weights):
    height, width = instances.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    of = {i: [p for p in pixels if instances[p] == i] for i in set(instances.flatten().tolist())}
    background = of.pop(0, [])
    total = height * width
    w_background, w_cell = class_weights or (
        total / 2 / max(len(background), 1), total / 2 / max(total - len(background), 1)
    )  # fmt: skip
    weights = np.full((height, width), float(w_cell))
    distances = [cdist(background, members).min(1) for members in of.values()] if background else []
    for index, pixel in enumerate(background):
        weights[pixel] = w_background
        if len(of) >= 2:
            d1, d2 = sorted(d[index] for d in distances)[:2]
            weights[pixel] += w0 * math.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return torch.from_numpy(weights).float()


@settings(max_examples=60)
@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(0, 6), st.floats(0, 30), st.floats(0.2, 20),
    st.sampled_from([None, (1.0, 1.0), (0.3, 7.0), (0, 2)]), st.sampled_from([torch.uint8, torch.int32, torch.int64]),
    layouts, seeds,
)  # fmt: skip
def test_weight_map_is_that_of_loops_over_pixels_and_cells(
    h, w, count, w0, sigma, classes, dtype, layout, seed
):
    instances = layout(cells(seed, h, w, count, (0.5, 5), pieces=3).to(dtype))
    before = instances.clone()
    expected = weight_map_by_loops(instances, w0, sigma, classes)
    for weight_map in (unet_weight_map, weight_map_by_sorting):
        got = weight_map(instances, w0, sigma, classes)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=1e-6)
    assert torch.equal(instances, before)


def test_fast_weight_map_equals_the_sorted_one_on_a_large_image_in_little_memory():
    instances = cells(0, 512, 512, 150, (6, 20))
    expected = weight_map_by_sorting(instances)
    tracemalloc.start()
    got = unet_weight_map(instances)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (got - expected).abs().max() < 1e-6
    # What torch allocates goes unseen: two maps of distances and one of labels, 2 MB each, and their copies.
    assert peak < 20e6


def test_balanced_classes_weigh_half_the_image_each():
    instances = cells(3, 40, 31, 4, (3, 6))
    weights = unet_weight_map(instances, w0=0)
    for present in (instances == 0, instances != 0):
        assert weights[present].sum().item() == pytest.approx(40 * 31 / 2, rel=1e-5)
    torch.testing.assert_close(unet_weight_map(torch.zeros(4, 5).long()), torch.full((4, 5), 0.5))
    torch.testing.assert_close(unet_weight_map(torch.full((4, 5), 3)), torch.full((4, 5), 0.5))


def test_one_cell_in_two_pieces_has_no_border():
    pieces = torch.zeros(5, 9, dtype=torch.int64)
    pieces[:, 3] = pieces[:, 5] = 7
    assert unet_weight_map(pieces, class_weights=(1, 1)).unique().tolist() == [1.0]
    pieces[:, 5] = 8
    between = unet_weight_map(pieces, class_weights=(1, 1))[:, 4]
    torch.testing.assert_close(between, torch.full((5,), 1 + 10 * math.exp(-(2**2) / 50)))


def mirrored(image, context, height, width):
    """The whole image, mirrored by numpy: `context` pixels around a canvas of height × width."""
    bottom, right = height - image.shape[1], width - image.shape[2]
    padding = [(0, 0), (context, context + bottom), (context, context + right)]
    return torch.from_numpy(np.pad(image.numpy(), padding, mode="reflect"))


@given(
    st.integers(1, 3), sides, sides, st.integers(1, 9), st.sampled_from([(3, 1, 1), (3, 3, 3), (5, 3, 5)]),
    st.integers(0, 3), layouts, seeds,
)  # fmt: skip
def test_tiles_without_pooling_equal_the_whole_image(classes, h, w, tile, kernels, dilation, layout, seed):
    torch.manual_seed(seed)
    dilations = [1 + dilation * (index == 1) for index in range(3)]
    context = sum((k - 1) // 2 * d for k, d in zip(kernels, dilations, strict=True))
    first, second, third = zip(kernels, dilations, strict=True)
    net = nn.Sequential(
        nn.Conv2d(2, 3, first[0], dilation=first[1]), nn.Tanh(), nn.Conv2d(3, 3, second[0], dilation=second[1]),
        nn.Dropout(), nn.Conv2d(3, classes, third[0], dilation=third[1]),
    ).double()  # fmt: skip
    image = layout(randn(seed, 2, h, w))
    got = overlap_tile(net, image, tile, context, classes)
    assert net.training
    assert not got.requires_grad
    torch.testing.assert_close(got, net.eval()(mirrored(image, context, h, w)[None])[0].detach())


@settings(max_examples=15)
@given(st.sampled_from([(1, 8), (2, 20)]), st.integers(1, 3), sides, sides, seeds)
def test_tiles_of_a_unet_equal_the_whole_image(shape, strides, h, w, seed):
    depth, context = shape
    torch.manual_seed(seed)
    net = UNet(1, 2, base=2, depth=depth).double()
    tile = strides * 2**depth
    image = randn(seed, 1, h, w)
    canvas = [-(-side // tile) * tile for side in (h, w)]
    expected = net(mirrored(image, context, *canvas)[None])[0, :, :h, :w].detach()
    torch.testing.assert_close(overlap_tile(net, image, tile, context, 2), expected)


@given(sides, sides, st.integers(1, 7), st.integers(0, 40))
def test_every_pixel_is_predicted_once_by_the_tile_it_lies_in(h, w, tile, context):
    image = torch.arange(2.0 * h * w).reshape(2, h, w)
    calls = []

    def center(x):
        calls.append(x)
        return x[:, :, context : context + tile, context : context + tile]

    assert torch.equal(overlap_tile(center, image, tile, context, 2), image)
    assert len(calls) == math.ceil(h / tile) * math.ceil(w / tile)
    assert {tuple(x.shape) for x in calls} == {(1, 2, tile + 2 * context, tile + 2 * context)}


def test_tiles_leave_image_mode_and_statistics_as_found():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(2)).train()
    net[0].eval()
    image = torch.randint(0, 256, (2, 9, 7), dtype=torch.uint8)
    got = overlap_tile(net, image, 4, 0, 2)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, image / math.sqrt(1 + 1e-5))
    assert (net[0].training, net[1].training) == (False, True)
    assert net[1].num_batches_tracked == 0
    floats = torch.randn(2, 9, 7)
    kept = floats.clone()
    overlap_tile(net, floats, 4, 0, 2)
    assert torch.equal(floats, kept)


@given(st.integers(1, 3), st.integers(2, 4), sides, sides, seeds)
def test_each_pixel_of_the_loss_counts_as_much_as_its_weight(n, classes, height, width, seed):
    logits = randn(seed, n, classes, height, width).requires_grad_()
    target = torch.randint(classes, (n, height, width), generator=seeded(seed))
    weights = randn(seed + 1, n, height, width).abs()
    loss = weighted_cross_entropy(logits, target, weights)
    expected = 0.0
    for image in range(n):
        for row in range(height):
            for column in range(width):
                scores = logits.detach()[image, :, row, column]
                share = scores.exp()[target[image, row, column]] / scores.exp().sum()
                expected -= (weights[image, row, column] * share.log()).item()
    assert loss.item() == pytest.approx(expected / (n * height * width))
    (grad,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(grad.sum(1), torch.zeros_like(weights), atol=1e-12, rtol=0)


def by_scipy(image, labels, lattice):
    """The same deformation, read off by scipy at the displaced coordinates."""
    size = labels.shape
    field = F.interpolate(lattice[None].double(), size=size, mode="bicubic", align_corners=True)[0].numpy()
    coordinates = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")) + field
    warped = [map_coordinates(c, coordinates, order=1, mode="mirror") for c in image.double().numpy()]
    nearest = map_coordinates(labels.numpy(), np.rint(coordinates), order=0, mode="mirror")
    return torch.from_numpy(np.stack(warped)), torch.from_numpy(nearest)


@given(st.integers(1, 3), sides, sides, st.integers(2, 5), st.sampled_from([0.4, 3.0, 40.0]), seeds)
def test_is_what_scipy_reads_at_the_displaced_coordinates(channels, height, width, grid, sigma, seed):
    image = randn(seed, channels, height, width)
    labels = torch.arange(height * width).reshape(height, width)
    lattice = (sigma * torch.randn(2, grid, grid, generator=seeded(seed))).double()
    expected = by_scipy(image, labels, lattice)
    for got in (
        deform(image, labels, lattice),
        elastic_deformation(image, labels, grid, sigma, seeded(seed)),
    ):
        torch.testing.assert_close(got[0], expected[0], atol=1e-9, rtol=1e-9)
        assert torch.equal(got[1], expected[1])


@given(sides, sides, seeds)
def test_agrees_with_grid_sample(height, width, seed):
    image = randn(seed, 2, height, width)
    lattice = 3 * randn(seed + 1, 2, 3, 3)
    labels = torch.zeros(height, width, dtype=torch.int64)
    dy, dx = F.interpolate(lattice[None], size=(height, width), mode="bicubic", align_corners=True)[0]
    y = 2 * (torch.arange(height)[:, None] + dy) / (height - 1) - 1
    x = 2 * (torch.arange(width) + dx) / (width - 1) - 1
    where = torch.stack([x, y], -1)[None]
    expected = F.grid_sample(image[None], where, "bilinear", "reflection", align_corners=True)[0]
    torch.testing.assert_close(deform(image, labels, lattice)[0], expected, atol=1e-8, rtol=1e-8)


@given(sides, sides, st.sampled_from([torch.float16, torch.float32, torch.float64]), seeds)
def test_without_displacement_nothing_changes(height, width, dtype, seed):
    image, labels = randn(seed, 3, height, width).to(dtype), torch.randint(0, 255, (height, width))
    got = elastic_deformation(image, labels, sigma=0)
    assert torch.equal(got[0], image)
    assert torch.equal(got[1], labels)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool])
def test_no_new_label_and_no_new_dtype(dtype):
    big = 1 if dtype == torch.bool else torch.iinfo(dtype).max - 1
    labels = (torch.rand(31, 18, generator=seeded(0)) < 0.5).to(dtype) * big
    _, warped = elastic_deformation(torch.zeros(1, 31, 18), labels.to(dtype), sigma=9, generator=seeded(1))
    assert warped.dtype == dtype
    assert set(warped.unique().tolist()) <= {0, big}


def test_image_and_labels_share_one_field():
    rows = torch.arange(40.0)[:, None].expand(40, 60)
    ids = torch.arange(40 * 60).reshape(40, 60)
    image, labels = elastic_deformation(rows[None], ids, sigma=4, generator=seeded(2))
    assert ((labels // 60 - image[0]).abs() <= 0.5 + 1e-4).all()
    assert not torch.equal(labels, ids)


def test_displacements_have_the_stated_spread():
    lattice = torch.stack([
        5 * torch.randn(2, 3, 3, generator=seeded(seed)) for seed in range(3)
    ])  # fmt: skip
    height, width = 41, 61
    ramp = torch.arange(width).expand(height, width).double()
    image = torch.stack([torch.arange(height)[:, None].expand(height, width).double(), ramp])
    for seed in range(3):
        warped, _ = elastic_deformation(image, torch.zeros(height, width).long(), 3, 5.0, seeded(seed))
        # A ramp shows the displacement itself; the lattice's middle point lies on the middle pixel.
        middle = warped[:, 20, 30] - torch.tensor([20.0, 30.0])
        torch.testing.assert_close(middle, lattice[seed, :, 1, 1].double(), atol=1e-5, rtol=1e-5)


def test_integer_images_become_float():
    image, _ = elastic_deformation(torch.full((3, 9, 8), 200, dtype=torch.uint8), torch.zeros(9, 8).long())
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, torch.full((3, 9, 8), 200.0))


@pytest.mark.gpu
def test_unet_weight_map_and_tiles_on_the_gpu():
    instances = cells(0, 60, 71, 5, (3, 9))
    got = unet_weight_map(instances.cuda())
    assert got.is_cuda
    torch.testing.assert_close(got.cpu(), unet_weight_map(instances))
    torch.testing.assert_close(weight_map_by_sorting(instances.cuda()).cpu(), unet_weight_map(instances))
    net, image = UNet(1, 2, base=2, depth=1).double(), randn(0, 1, 25, 18)
    expected = overlap_tile(net, image, 8, 8, 2)
    torch.testing.assert_close(overlap_tile(net.cuda(), image.cuda(), 8, 8, 2).cpu(), expected)


@pytest.mark.gpu
def test_on_the_gpu():
    image, labels = randn(0, 3, 20, 15), torch.randint(0, 9, (20, 15))
    got = elastic_deformation(image.cuda(), labels.cuda(), generator=seeded(0))
    expected = elastic_deformation(image, labels, generator=seeded(0))
    assert got[0].is_cuda
    torch.testing.assert_close(got[0].cpu(), expected[0])
    assert (got[1].cpu() != expected[1]).sum() <= 1


@pytest.mark.slow
def test_train_unet_tells_cells_apart_it_never_saw():
    seed = 0
    state = torch.get_rng_state()
    net = train_unet(Cells(100, 128, seed=seed), seeded(seed))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in net.modules())
    fresh = Cells(24, 188, seed=seed + 1000)
    with torch.no_grad():
        logits = net(torch.stack([item["image"] for item in fresh]) / 255)
    side = unet_output_size(188, 2)
    assert logits.shape == (24, 2, side, side)
    margin = (188 - side) // 2
    truth = torch.stack([item["instances"] for item in fresh])[:, margin:-margin, margin:-margin]
    found = torch.stack([connected_components(mask) for mask in logits.argmax(1)])
    score = instance_f1(found, truth)
    print(f"F1 {score:.3f}")
    assert score > 0.5
