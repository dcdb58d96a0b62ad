"""Every claim about the speed and memory of coursekit, beside the peer it is held against."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import Row, at_least, at_most, peak_memory, rate, seconds

Benchmark = Callable[[], Iterator[Row]]


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _both_ways(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], object]:
    """The call forward, and backward to every input."""
    grad = torch.randn(function(*inputs).shape, generator=_seeded(1))
    leaves = [x.clone().requires_grad_() for x in inputs]
    return lambda: torch.autograd.grad(function(*leaves), leaves, grad)


def _stride_four_cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 6 * 6, 40), nn.ReLU(), nn.Linear(40, 10),
    ).eval()  # fmt: skip


def fcn_vs_patches() -> Iterator[Row]:
    from coursekit.convolutionalize import convolutionalize, sliding_window

    cnn = _stride_four_cnn()
    fcn = convolutionalize(cnn, (3, 32, 32))
    image = torch.rand(3, 256, 256, generator=_seeded())

    @torch.no_grad()
    def dense() -> Tensor:
        return fcn(image[None])[0]

    def patches() -> Tensor:
        return sliding_window(cnn, image, 32, 4)

    torch.testing.assert_close(dense(), patches(), atol=1e-4, rtol=1e-4)
    yield at_least("fcn_vs_patches", *seconds(dense, patches), 30)


def batchnorm() -> Iterator[Row]:
    from coursekit.batchnorm import batchnorm_in_blocks

    x = torch.randn(32, 64, 56, 56, generator=_seeded())
    gamma, beta = torch.rand(64) + 0.5, torch.randn(64)

    def theirs(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, gamma, beta, training=True)

    calls = _both_ways(batchnorm_in_blocks, x, gamma, beta), _both_ways(theirs, x, gamma, beta)
    yield at_most("batchnorm", *seconds(*calls, repeats=15), 1.2)


def conv_transpose2d() -> Iterator[Row]:
    from coursekit import upsampling

    x = torch.randn(8, 64, 28, 28, generator=_seeded())
    weight = torch.randn(64, 64, 4, 4, generator=_seeded(2)) / 32

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return upsampling.conv_transpose2d(x, weight, stride=2, padding=1)

    def theirs(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, stride=2, padding=1)

    calls = _both_ways(ours, x, weight), _both_ways(theirs, x, weight)
    yield at_most("conv_transpose2d", *seconds(*calls, repeats=9), 2)


def max_unpool() -> Iterator[Row]:
    from coursekit import upsampling

    x = torch.randn(32, 64, 56, 56, generator=_seeded())

    def ours(x: Tensor) -> Tensor:
        y, switches = upsampling.max_pool_with_switches(x, 2)
        return upsampling.max_unpool(y, switches, (56, 56))

    def theirs(x: Tensor) -> Tensor:
        y, switches = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y, switches, 2)

    yield at_most("max_unpool", *seconds(_both_ways(ours, x), _both_ways(theirs, x), repeats=9), 2)


def _disks(size: int, count: int) -> Tensor:
    """`count` disks at random, none in another."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    instances = np.zeros((size, size), np.int64)
    placed = 0
    while placed < count:
        (row, column), radius = generator.uniform(0, size, 2), generator.uniform(6, 16)
        disk = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        if disk.any() and not instances[disk].any():
            placed += 1
            instances[disk] = placed
    return torch.from_numpy(instances)


def _weight_map() -> Callable[[], Tensor]:
    from coursekit.unet import unet_weight_map

    unet_weight_map(_disks(64, 3))
    instances = _disks(512, 150)
    return lambda: unet_weight_map(instances)


def weight_map() -> Iterator[Row]:
    from coursekit.unet import unet_weight_map, weight_map_by_sorting

    instances = _disks(512, 150)

    def ours() -> Tensor:
        return unet_weight_map(instances)

    def theirs() -> Tensor:
        return weight_map_by_sorting(instances)

    torch.testing.assert_close(ours(), theirs(), atol=1e-5, rtol=0)
    fast = seconds(ours)
    slow = seconds(theirs, repeats=1)
    yield at_least("weight_map", *fast, *slow, 50)
    yield at_most("weight_map memory", peak_memory(_weight_map), 50, 1, "MB")


def elastic() -> Iterator[Row]:
    from scipy.ndimage import map_coordinates

    from coursekit.unet import deform

    image = torch.rand(1, 512, 512, generator=_seeded())
    labels = torch.randint(0, 3, (512, 512), generator=_seeded())
    lattice = 10 * torch.randn(2, 3, 3, generator=_seeded())
    field = F.interpolate(lattice[None], size=(512, 512), mode="bicubic", align_corners=True)[0].numpy()
    where = np.indices((512, 512)) + field
    pixels, classes = image[0].numpy(), labels.numpy()

    def ours() -> object:
        return deform(image, labels, lattice)

    def theirs() -> object:
        return (
            map_coordinates(pixels, where, order=1, mode="mirror"),
            map_coordinates(classes, where, order=0, mode="mirror"),
        )

    yield at_least("elastic", *seconds(ours, theirs), 5)


_CONTEXT = 32
_SIDE = 2048


def _pointwise_net() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 9), nn.ReLU(), nn.Conv2d(8, 8, 9, dilation=7), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 2, 1)).eval()


def _tiled() -> Callable[[], Tensor]:
    from coursekit.unet import overlap_tile

    net, image = _pointwise_net(), torch.rand(1, _SIDE, _SIDE, generator=_seeded())
    overlap_tile(net, image[:, :256, :256], 256, _CONTEXT, 2)
    return lambda: overlap_tile(net, image, 256, _CONTEXT, 2)


def _whole() -> Callable[[], Tensor]:
    net, image = _pointwise_net(), torch.rand(1, _SIDE, _SIDE, generator=_seeded())

    @torch.no_grad()
    def run() -> Tensor:
        return net(F.pad(image[None], [_CONTEXT] * 4, mode="reflect"))[0]

    net(torch.rand(1, 1, 320, 320))
    return run


def overlap_tile() -> Iterator[Row]:
    tiled, whole = _tiled(), _whole()
    torch.testing.assert_close(tiled(), whole(), atol=1e-5, rtol=1e-5)
    yield at_least("overlap_tile memory", peak_memory(_tiled), peak_memory(_whole), 4, "MB")
    yield at_most("overlap_tile", *seconds(tiled, whole, repeats=3), 1.3)


def streaming_statistics() -> Iterator[Row]:
    from coursekit.preprocessing import streaming_statistics as streaming

    images = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8, generator=_seeded())
    pixels = images.numpy()

    def ours() -> object:
        return streaming(images.split(500))

    def theirs() -> object:
        return pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))

    yield at_most("streaming_statistics", *seconds(ours, theirs, repeats=3), 1)


def generated() -> Iterator[Row]:
    from coursekit.data.cells import Cells
    from coursekit.data.scenes import Scenes

    for name, data, goal in (("scenes", Scenes(300, size=128), 300), ("cells", Cells(60, size=128), 30)):
        (taken,) = seconds(lambda data=data: [data[i] for i in range(len(data))], repeats=3)  # type: ignore[misc]
        yield rate(name, len(data) / taken, goal, "images/s")


MODULES = (
    "preprocessing", "batchnorm", "visualization", "convolutionalize", "upsampling", "fcn", "unet", "metrics",
    "models", "modes", "training", "figures", "notebook", "data",
)  # fmt: skip


def startup() -> Iterator[Row]:
    timed = f"import time, torch; t = time.perf_counter(); from coursekit import {', '.join(MODULES)}"
    program = [sys.executable, "-c", f"{timed}; print(time.perf_counter() - t)"]
    extra = min(float(subprocess.run(program, capture_output=True, check=True).stdout) for _ in range(7))
    yield at_most("import", extra, 0.3, 1)


def unet_gpu() -> Iterator[Row]:
    """Images a second of `fit` on the paper's U-Net, against the plain loop in single precision."""
    from coursekit.training import Descent, Task, Watch, fit
    from coursekit.unet import UNet

    batch, steps = 4, 20
    images = torch.rand(batch * steps, 1, 572, 572, generator=_seeded())
    labels = (images[:, 0, 92:480, 92:480] > 0.5).long()
    data = [{"image": image, "labels": label} for image, label in zip(images, labels, strict=True)]

    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = UNet(1, 2).cuda()
        return net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    losses: dict[str, list[float]] = {}

    def ours() -> None:
        net, optimizer = start()
        history = fit(
            net, data, steps=steps, batch_size=batch, descent=Descent(optimizer), task=Task("labels"),
            generator=_seeded(), watch=Watch(progress=False),
        )  # type: ignore[arg-type]  # fmt: skip
        losses["ours"] = history.loss

    def theirs() -> None:
        net, optimizer = start()
        loader = torch.utils.data.DataLoader(data, batch, shuffle=True, generator=_seeded())  # type: ignore[arg-type]
        losses["theirs"] = []
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
            for part in loader:
                loss = F.cross_entropy(net(part["image"].cuda()), part["labels"].cuda())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses["theirs"].append(loss.item())

    row = at_least("unet_gpu", *seconds(ours, theirs, repeats=2), 2.5)
    torch.testing.assert_close(
        torch.tensor(losses["ours"]).mean(), torch.tensor(losses["theirs"]).mean(), atol=0.02, rtol=0.05
    )
    yield row


# Arithmetic against arithmetic: both sides keep their memory from call to call.
OPERATIONS: tuple[Benchmark, ...] = (batchnorm, conv_transpose2d, max_unpool, elastic, streaming_statistics)
EVERYWHERE: tuple[Benchmark, ...] = (
    startup,
    fcn_vs_patches,
    *OPERATIONS,
    weight_map,
    overlap_tile,
    generated,
)
WITH_GPU: tuple[Benchmark, ...] = (unet_gpu,)
