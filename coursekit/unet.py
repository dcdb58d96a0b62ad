"""U-Net: contracting and expanding path, and the tricks that train it on few images."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from coursekit import _validate as validate
from coursekit.modes import evaluation_mode
from coursekit.training import Descent, Run, Task, drawn_from, fit, one_cycle, quarter_turns

# Up to here single precision holds every whole number.
EXACT = 2**24


def unet_output_size(size: int, depth: int = 4) -> int:
    """The side of the map that a U-Net makes of an image of side `size`.

    Args:
        size: side of the input, in pixels.
        depth: number of poolings.

    Returns:
        The side of the output, in pixels; 572 gives 388.

    Raises:
        ValueError: some pooling does not divide evenly, or nothing is left.

    Source: Ronneberger, Fischer and Brox 2015, section 2 and figure 1.
    """
    validate.whole("size", size, 1)
    validate.whole("depth", depth, 1)
    return _output_size("size", size, depth)


def crop_and_concat(skip: Tensor, up: Tensor) -> Tensor:
    """Crop the skip to the center that the upsampled map covers, and put its channels in front.

    Args:
        skip: features of the contracting path, (N, C, H, W).
        up: upsampled features of the expanding path, (N, C', h, w), no larger than `skip`.

    Returns:
        (N, C + C', h, w). An odd difference crops the extra row or column at the bottom or right.

    Raises:
        ValueError: `up` is larger than `skip`, or holds another number of images.

    Source: Ronneberger, Fischer and Brox 2015, section 2 and figure 1 ("copy and crop").
    """
    validate.tensor("skip", skip, ["(N, C, H, W)"])
    validate.tensor("up", up, ["(N, C, H, W)"])
    h, w = up.shape[2:]
    top, left = (skip.shape[2] - h) // 2, (skip.shape[3] - w) // 2
    if top < 0 or left < 0:
        expected = f"no larger than skip, {tuple(skip.shape[2:])}"
        raise validate.refuse("up", expected, tuple(up.shape[2:]))
    if len(up) != len(skip):
        raise validate.refuse("up", f"of {len(skip)} images, as skip", len(up))
    return torch.cat([skip[:, :, top : top + h, left : left + w], up], dim=1)


class DoubleConv(nn.Module):
    """Two 3×3 convolutions without padding, each followed by a ReLU: 4 pixels less along each side.

    Weights are drawn with standard deviation √(2 / fan_in), biases are 0.

    Args:
        in_channels: channels of the input.
        out_channels: channels of both outputs.

    Raises:
        ValueError: an argument below 1; in `forward`, another number of channels or a side below 5.

    Source: Ronneberger, Fischer and Brox 2015, section 2; the weights, section 3.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = validate.whole("in_channels", in_channels, 1)
        validate.whole("out_channels", out_channels, 1)
        self.conv1 = _initialized(nn.Conv2d(in_channels, out_channels, 3), fan_in=9 * in_channels)
        self.conv2 = _initialized(nn.Conv2d(out_channels, out_channels, 3), fan_in=9 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        _check_images(x, self.in_channels)
        if min(x.shape[2:]) < 5:
            raise validate.refuse("x", "of at least 5×5 pixels", validate.shape_of(x))
        return self.conv2(self.conv1(x).relu()).relu()


class UNet(nn.Module):
    """The U-Net: a contracting path for what there is, an expanding one for where, joined by skips.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the output.
        base: channels of the first level; they double at each level down.
        depth: number of poolings.

    Raises:
        ValueError: an argument below 1; in `forward`, another number of channels, or a side that
            `unet_output_size` refuses.

    Source: Ronneberger, Fischer and Brox 2015, figure 1; without the dropout at the end of the contracting
    path, whose rate the paper does not give.
    """

    def __init__(self, in_channels: int, num_classes: int, base: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.in_channels = validate.whole("in_channels", in_channels, 1)
        validate.whole("num_classes", num_classes, 1)
        validate.whole("base", base, 1)
        self.depth = validate.whole("depth", depth, 1)
        channels = [base * 2**level for level in range(depth + 1)]
        self.contracting = nn.ModuleList(
            DoubleConv(before, after)
            for before, after in zip([in_channels, *channels[:-2]], channels[:-1], strict=True)
        )
        self.bottom = DoubleConv(channels[-2], channels[-1])
        self.upsampling = nn.ModuleList(
            # Stride and kernel are equal, so a unit reads one position: its fan-in is the channels alone.
            _initialized(nn.ConvTranspose2d(2 * c, c, 2, stride=2), fan_in=2 * c)
            for c in reversed(channels[:-1])
        )
        self.expanding = nn.ModuleList(DoubleConv(2 * c, c) for c in reversed(channels[:-1]))
        self.top = _initialized(nn.Conv2d(base, num_classes, 1), fan_in=base)

    def forward(self, x: Tensor) -> Tensor:
        _check_images(x, self.in_channels)
        for side in x.shape[2:]:
            _output_size("each side of x", side, self.depth)
        skips = []
        for block in self.contracting:
            skips.append(block(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.bottom(x)
        for up, block in zip(self.upsampling, self.expanding, strict=True):
            x = block(crop_and_concat(skips.pop(), up(x)))
        return self.top(x)


def unet_weight_map(
    instances: Tensor,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: tuple[float, float] | None = None,
) -> Tensor:
    """How much each pixel counts in the loss: its class, and on background the border between close cells.

    Args:
        instances: id of the cell at every pixel, (H, W) integers; 0 is background. Pixels of one id are one
            cell, in one piece or not.
        w0: height of the border term.
        sigma: width of the border term, in pixels.
        class_weights: (background, cell); None balances the two, each summing to half of H·W where it is
            present (so with one class alone every weight is ½).

    Returns:
        (H, W) float32: w_c + w0 · exp(−(d1 + d2)² / 2σ²) on background, with d1 and d2 the Euclidean distances
        to the nearest pixel of the nearest and of the second nearest cell; w_c on cells (the paper does not
        say), and everywhere with fewer than two cells. Equal to `weight_map_by_sorting` but for border terms
        below 2⁻²⁵, half of what float32 resolves at a weight of ½.

    Raises:
        ValueError: `instances` is of another rank or dtype or has a negative id, or a number does not fit.

    Source: Ronneberger, Fischer and Brox 2015, equation 2.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    weights = _class_weight_map(instances, w0, sigma, class_weights)
    if w0 == 0 or (instances != 0).all():
        return weights
    # Farther from a cell than this, any border term that it takes part in is below a millionth.
    reach = sigma * math.sqrt(2 * math.log(max(w0 * 1e6, 1)))
    margin = math.ceil(min(reach, max(instances.shape)))

    cells = instances.cpu().long().numpy()
    if cells.max() > cells.size:
        # find_objects lists every id up to the highest.
        cells = np.unique(cells, return_inverse=True)[1].reshape(cells.shape)
    d1, d2 = np.full((2, *cells.shape), np.inf)
    for cell, box in enumerate(find_objects(cells), start=1):
        if box is not None:
            around = tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)
            d = distance_transform_edt(cells[around] != cell)
            nearest, second = d1[around], d2[around]
            np.minimum(second, np.maximum(nearest, d), out=second)
            np.minimum(nearest, d, out=nearest)
    return _with_border(weights, instances, torch.from_numpy(d1), torch.from_numpy(d2), w0, sigma)


def weight_map_by_sorting(
    instances: Tensor,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: tuple[float, float] | None = None,
) -> Tensor:
    """`unet_weight_map` as its formula says it: the distance to every cell, sorted; slow, and large in memory.

    Args:
        instances: id of the cell at every pixel, (H, W) integers; 0 is background.
        w0: height of the border term.
        sigma: width of the border term, in pixels.
        class_weights: (background, cell); None balances the two.

    Returns:
        (H, W) float32, as `unet_weight_map`.

    Raises:
        ValueError: as `unet_weight_map`.

    Source: Ronneberger, Fischer and Brox 2015, equation 2.
    """
    from scipy.ndimage import distance_transform_edt

    weights = _class_weight_map(instances, w0, sigma, class_weights)
    ids = [i for i in instances.unique() if i != 0]
    if len(ids) < 2:
        return weights
    distances = [torch.from_numpy(distance_transform_edt((instances != i).cpu())) for i in ids]
    d1, d2 = torch.stack(distances, dim=2).sort(dim=2).values[..., :2].unbind(2)
    return _with_border(weights, instances, d1, d2, w0, sigma)


def train_unet(dataset: Dataset, generator: torch.Generator | None) -> nn.Module:
    """A U-Net for touching cells, trained from nothing; about 25 seconds on two cores.

    Args:
        dataset: map-style, with items `{"image": (1, H, W), "instances": (H, W)}`; about a hundred images of
            128×128 pixels are what its length of training was chosen for.
        generator: of the weights, the order of the images and their augmentation.

    Returns:
        A network in evaluation mode, on the CPU, from images (N, 1, H, W) from 0 to 1 to logits (N, 2, H', W') of
        background and cell, sizes as `unet_output_size` for depth 2.

    Source: Ronneberger, Fischer and Brox 2015, section 3, with a smaller network.
    """
    items = []
    for index in range(len(dataset)):  # type: ignore[arg-type]
        item = dataset[index]
        weights = unet_weight_map(item["instances"])
        items.append({"image": item["image"], "labels": (item["instances"] > 0).long(), "weights": weights})
    with drawn_from(generator):
        net = UNet(1, 2, base=16, depth=2)
    fit(
        net,
        items,  # type: ignore[arg-type]
        steps=320,
        batch_size=4,
        descent=Descent(torch.optim.Adam(net.parameters(), lr=3e-3), one_cycle()),
        task=Task(("labels", "weights"), weighted_cross_entropy, augment=quarter_turns),
        generator=generator,
        run=Run(device="cuda" if torch.cuda.is_available() else "cpu"),
    )
    return net.cpu().eval()


def weighted_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """The loss of the U-Net: each pixel's cross entropy times its weight, averaged over the pixels.

    Args:
        logits: (N, L, H, W).
        target: class of every pixel, (N, H, W).
        weights: of every pixel, (N, H, W), as `unet_weight_map` gives them.

    Source: Ronneberger, Fischer and Brox 2015, equation 1, divided by the number of pixels.
    """
    return (weights * F.cross_entropy(logits, target, reduction="none")).mean()


def overlap_tile(
    net: Callable[[Tensor], Tensor], image: Tensor, tile: int, context: int, num_classes: int
) -> Tensor:
    """Segment an image of any size, tile by tile, each seen with the context that the network needs.

    The image is mirrored at its border, the edge pixel not repeated; where the context exceeds the image, the
    mirror image is mirrored again. Tiles lie side by side from the top left, so every pixel is predicted once.
    They go through the network one at a time: memory depends on the tile, not on the image.

    Args:
        net: maps (1, C, tile + 2·context, tile + 2·context) to scores (1, L, tile, tile) of the central tile;
            called without gradients and, if it is a module, in evaluation mode, which is then left as it was.
        image: (C, H, W).
        tile: side of a tile, in pixels; for a U-Net, divisible by its total stride 2^depth if the tiles are to
            agree with one pass over the whole image.
        context: pixels that the network needs on each side of a tile.
        num_classes: channels L of the network's output.

    Returns:
        Scores (L, H, W), in the dtype of `image` (float32 for integers).

    Raises:
        ValueError: an argument out of range, or the network's output is not (1, L, tile, tile).

    Source: Ronneberger, Fischer and Brox 2015, section 2 and figure 2.
    """
    if not callable(net):
        raise validate.refuse("net", "a network", type(net).__name__)
    validate.tensor("image", image, ["(C, H, W)"])
    validate.whole("tile", tile, 1)
    validate.whole("context", context, 0)
    validate.whole("num_classes", num_classes, 1)
    height, width = image.shape[1:]
    dtype = validate.as_float(image[:, :0]).dtype
    scores = torch.empty(num_classes, height, width, dtype=dtype, device=image.device)
    window = torch.arange(-context, tile + context, device=image.device)
    mode = evaluation_mode(net) if isinstance(net, nn.Module) else nullcontext()
    with mode, torch.no_grad():
        for top in range(0, height, tile):
            rows = _mirror(top + window, height)
            for left in range(0, width, tile):
                columns = _mirror(left + window, width)
                y = net(image[:, rows[:, None], columns][None].to(dtype))
                if not isinstance(y, Tensor) or y.shape != (1, num_classes, tile, tile):
                    expected = f"a network to (1, {num_classes}, {tile}, {tile})"
                    raise validate.refuse("net", expected, validate.shape_of(y))
                inside = y[0, :, : height - top, : width - left]
                scores[:, top : top + tile, left : left + tile] = inside
    return scores


def elastic_deformation(
    image: Tensor,
    labels: Tensor,
    grid: int = 3,
    sigma: float = 10.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Bend an image and its labels by one smooth random displacement field.

    Args:
        image: (C, H, W).
        labels: (H, W) integers.
        grid: lattice points along each side; the outer ones lie on the image's corners.
        sigma: standard deviation of the displacement of a lattice point, in pixels.
        generator: source of the displacements, drawn in float32 as (row, column) × grid × grid on its device.

    Returns:
        The image, bilinear, in its dtype (float32 for integers), and the labels, nearest, in their dtype.

    Raises:
        ValueError: a shape, dtype or number does not fit.

    Source: Ronneberger, Fischer and Brox 2015, section 3.1.
    """
    validate.whole("grid", grid, 2)
    validate.number("sigma", sigma)
    device = "cpu" if generator is None else generator.device
    lattice = sigma * torch.randn(2, grid, grid, generator=generator, device=device, dtype=torch.float32)
    return deform(image, labels, lattice)


def deform(image: Tensor, labels: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
    """Bend an image and its labels by the displacements of a lattice of points.

    Args:
        image: (C, H, W).
        labels: (H, W) integers.
        lattice: (2, g, g), the row and column displacement of each point, in pixels: a pixel of the result is
            read at its own place plus its displacement. Between the points displacements are bicubic; the
            lattice's corners lie on the image's.

    Returns:
        The image, bilinear, and the labels, nearest; beyond the border both are mirrored, the edge pixel not
        repeated.

    Raises:
        ValueError: a shape or dtype does not fit.

    Source: Ronneberger, Fischer and Brox 2015, section 3.1.
    """
    image = validate.as_float(validate.tensor("image", image, ["(C, H, W)"]))
    validate.integers("labels", labels, ["(H, W)"])
    validate.floating("lattice", lattice, ["(2, g, g)"])
    if len(lattice) != 2:
        raise validate.refuse("lattice", "of shape (2, g, g)", validate.shape_of(lattice))
    height, width = labels.shape
    if image.shape[1:] != labels.shape:
        expected = f"of the size of image, {tuple(image.shape[1:])}"
        raise validate.refuse("labels", expected, validate.shape_of(labels))

    if not lattice.any():
        return image.clone(), labels.clone()
    # Half precision could not tell the pixels of a large image apart.
    lattice = lattice.to(device=image.device, dtype=torch.promote_types(image.dtype, torch.float32))
    where = _places(lattice, height, width)
    # The labels first: while they are read there is no other result to keep.
    classes = _classes_looked_up(labels, where)
    return _looked_up(image.to(where.dtype), where, "bilinear").to(image.dtype), classes


def _places(lattice: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel is read, (H, W, 2), as `grid_sample` counts: (x, y), −1 the first pixel and 1 the last.

    One matrix product: bicubic interpolation down the columns, and each pixel's own place in two rows more.
    """
    points = lattice.shape[-1]
    # Interpolation goes one axis at a time: few columns of the lattice make it cheap.
    along = F.interpolate(lattice[None], size=(points, width), mode="bicubic", align_corners=True)[0]
    pixel = lattice.new_tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)])
    rows, columns = (torch.arange(n, device=lattice.device, dtype=lattice.dtype) for n in (height, width))
    shifts = along.flip(0).permute(1, 2, 0) * pixel
    start = torch.stack([columns * pixel[0] - 1, torch.full_like(columns, -1)], dim=-1)
    step = torch.stack([torch.zeros_like(columns), pixel[1].expand(width)], dim=-1)
    right = torch.cat([shifts, start[None], step[None]]).flatten(1)
    left = torch.cat(
        [_bicubic(points, height, lattice), torch.ones_like(rows)[:, None], rows[:, None]], dim=1
    )
    return (left @ right).view(height, width, 2)


def _looked_up(image: Tensor, where: Tensor, mode: str) -> Tensor:
    """The image (C, H, W) read at those places, mirrored beyond its border."""
    # Torch shares the batch out to the cores, so each row is an image here; but gradients would be kept for each.
    bands = 1 if image.requires_grad else len(where)
    read = F.grid_sample(
        image.expand(bands, *image.shape),
        where.unflatten(0, (bands, -1)),
        mode=mode,
        padding_mode="reflection",
        align_corners=True,
    )
    return read.transpose(0, 1).reshape(len(image), *where.shape[:2])


def _classes_looked_up(labels: Tensor, where: Tensor) -> Tensor:
    """The labels (H, W) at the places nearest to those, in their dtype."""
    if labels.element_size() < 4 or all(abs(int(end)) <= EXACT for end in labels.aminmax()):
        return _looked_up(labels[None].to(where.dtype), where, "nearest")[0].to(labels.dtype)
    distinct, ranks = labels.unique(return_inverse=True)
    return distinct[_looked_up(ranks[None].double(), where.double(), "nearest")[0].long()]


def _output_size(argument: str, size: int, depth: int) -> int:
    side = size
    for _ in range(depth):
        side -= 4
        if side < 2 or side % 2:
            raise validate.refuse(argument, f"a size that {depth} poolings divide evenly", size)
        side //= 2
    side -= 4
    for _ in range(depth):
        side = 2 * side - 4
    if side < 1:
        raise validate.refuse(argument, f"large enough for {depth} poolings to leave a pixel", size)
    return side


def _check_images(x: Tensor, channels: int) -> None:
    validate.floating("x", x, ["(N, C, H, W)"])
    if x.shape[1] != channels:
        raise validate.refuse("x", f"of {channels} channels, as in_channels says", validate.shape_of(x))


Convolution = TypeVar("Convolution", nn.Conv2d, nn.ConvTranspose2d)


def _initialized(conv: Convolution, fan_in: int) -> Convolution:
    nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_in))
    nn.init.zeros_(conv.get_parameter("bias"))
    return conv


def _class_weight_map(
    instances: Tensor, w0: float, sigma: float, class_weights: tuple[float, float] | None
) -> Tensor:
    """w_c at every pixel, float32."""
    validate.integers("instances", instances, ["(H, W)"])
    if (instances < 0).any():
        raise validate.refuse("instances", "ids from 0", instances.min().item())
    validate.number("w0", w0)
    if validate.number("sigma", sigma) == 0:
        raise validate.refuse("sigma", "a positive number", repr(sigma))
    is_cell = instances != 0
    if class_weights is None:
        cell = int(is_cell.sum())
        half = is_cell.numel() / 2
        w_background, w_cell = half / max(is_cell.numel() - cell, 1), half / max(cell, 1)
    elif isinstance(class_weights, tuple | list) and len(class_weights) == 2:
        w_background, w_cell = (validate.number("class_weights", w) for w in class_weights)
    else:
        raise validate.refuse("class_weights", "(background, cell) or None", repr(class_weights))
    return torch.where(is_cell, w_cell, w_background).float()


def _with_border(
    weights: Tensor, instances: Tensor, d1: Tensor, d2: Tensor, w0: float, sigma: float
) -> Tensor:
    border = w0 * torch.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return torch.where(instances == 0, weights + border.to(weights), weights)


def _bicubic(points: int, size: int, like: Tensor) -> Tensor:
    """The matrix (size, points) of bicubic interpolation from lattice points to pixels, corners on corners."""
    each = torch.eye(points, dtype=like.dtype, device=like.device)[None, :, :, None]
    return F.interpolate(each, size=(size, 1), mode="bicubic", align_corners=True)[0, :, :, 0].T


def _mirror(index: Tensor, size: int) -> Tensor:
    """Whole coordinates folded back into 0 … size − 1, as if mirrors stood on the first and last pixel."""
    period = max(2 * (size - 1), 1)
    index = index.long() % period
    return torch.minimum(index, period - index) if size > 1 else index
