"""Upsampling: from coarse maps back to pixels, by copying, unpooling, transposed convolution or not pooling."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coursekit import _validate as validate
from coursekit.batchnorm import BatchNorm
from coursekit.convolutionalize import ELEMENTWISE
from coursekit.modes import evaluation_mode
from coursekit.preprocessing import Standardizer

MAPS = ["(N, C, H, W)"]
# Layers that treat every position alike, and so also do with the positions further apart.
POSITIONWISE = (
    *ELEMENTWISE, nn.Dropout2d, nn.PReLU, nn.LocalResponseNorm, nn.BatchNorm2d, nn.Softmax2d, BatchNorm, Standardizer,
)  # fmt: skip


def nearest_upsample(x: Tensor, factor: int) -> Tensor:
    """Repeat every value factor × factor times.

    Args:
        x: maps, (N, C, H, W).
        factor: pixels per value along each axis.

    Returns:
        (N, C, factor · H, factor · W), in the dtype of `x` (float32 for integers).

    Raises:
        ValueError: `x` is empty or of another rank, or `factor` is below 1.

    Source: lecture, unpooling by nearest neighbor.
    """
    x = validate.as_float(validate.tensor("x", x, MAPS))
    validate.whole("factor", factor, 1)
    return x.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


def bed_of_nails(x: Tensor, factor: int) -> Tensor:
    """Put every value at the top left of a factor × factor block of zeros.

    Args:
        x: maps, (N, C, H, W).
        factor: pixels per value along each axis.

    Returns:
        (N, C, factor · H, factor · W), in the dtype of `x` (float32 for integers).

    Raises:
        ValueError: `x` is empty or of another rank, or `factor` is below 1.

    Source: lecture, unpooling by a bed of nails.
    """
    x = validate.as_float(validate.tensor("x", x, MAPS))
    validate.whole("factor", factor, 1)
    N, C, H, W = x.shape
    nails = x.new_zeros(N, C, factor * H, factor * W)
    nails[..., ::factor, ::factor] = x
    return nails


def max_pool_with_switches(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The maximum of every k × k window, and where it stood.

    Args:
        x: maps, (N, C, H, W).
        k: side and stride of the windows, which do not overlap; rows and columns that fill no window are
            dropped.

    Returns:
        y (N, C, ⌊H / k⌋, ⌊W / k⌋), in the dtype of `x` (float32 for integers), and the switches, int64 of the
        same shape: row · W + column of each maximum in `x`, of the first one in row order among equals.

    Raises:
        ValueError: `x` is empty, of another rank or smaller than a window, or `k` is below 1.

    Source: Zeiler and Fergus 2014, section 2.1 (switches).
    """
    x = validate.as_float(validate.tensor("x", x, MAPS))
    N, C, H, W = x.shape
    if validate.whole("k", k, 1) > min(H, W):
        raise validate.refuse("k", f"at most the size of x, {(H, W)}", k)

    def windows(maps: Tensor) -> Tensor:
        """(n, c, h, w) as (n, c, k², ⌊h / k⌋, ⌊w / k⌋): what each window holds, in row order."""
        return F.pixel_unshuffle(maps[..., : H // k * k, : W // k * k], k).unflatten(1, (-1, k * k))

    best = windows(x.detach()).max(2).indices
    pixel = torch.arange(H * W, device=x.device).reshape(1, 1, H, W)
    switches = windows(pixel).expand(N, C, -1, -1, -1).gather(2, best[:, :, None])[:, :, 0]
    y = x.flatten(2).gather(2, switches.flatten(2)).reshape(switches.shape)
    return y, switches


def max_unpool(y: Tensor, switches: Tensor, size: tuple[int, int]) -> Tensor:
    """Put pooled values back where they stood, among zeros.

    Args:
        y: pooled maps, (N, C, h, w).
        switches: row · W + column of each value, int64 of the shape of `y`, as from `max_pool_with_switches`.
        size: (H, W) of the result, in pixels.

    Returns:
        (N, C, H, W), in the dtype of `y` (float32 for integers).

    Raises:
        ValueError: shapes or dtypes do not fit, or a switch lies outside `size`.

    Source: Zeiler and Fergus 2014, section 2.1 (unpooling); Noh, Hong and Han 2015, section 3.2.1.
    """
    y = validate.as_float(validate.tensor("y", y, MAPS))
    validate.integers("switches", switches, MAPS)
    if switches.shape != y.shape:
        raise validate.refuse("switches", f"of the shape of y, {tuple(y.shape)}", validate.shape_of(switches))
    H, W = _size(size)
    first, last = switches.aminmax()
    if first < 0 or last >= H * W:
        expected = f"from 0 to {H * W - 1}, inside size {(H, W)}"
        raise validate.refuse("switches", expected, int(first if first < 0 else last))
    N, C = y.shape[:2]
    maps = y.new_zeros(N, C, H * W)
    maps.scatter_(2, switches.long().flatten(2), y.flatten(2))
    return maps.reshape(N, C, H, W)


def transposed_conv_matrix(kernel: Tensor, length: int, stride: int = 1) -> Tensor:
    """The matrix of a transposed convolution along one axis: a copy of the kernel in every column.

    Args:
        kernel: f, (k,).
        length: entries of the input.
        stride: rows from one column's copy to the next one's.

    Returns:
        M (stride · (length − 1) + k, length), with M x the transposed convolution of x, in the dtype of
        `kernel` (float32 for integers). Its transpose is the convolution with this stride, as networks
        convolve: without a flip.

    Raises:
        ValueError: `kernel` is empty or of another rank, or a number is below 1.

    Source: lecture; Dumoulin and Visin 2016, section 4.1.
    """
    kernel = validate.as_float(validate.tensor("kernel", kernel, ["(k,)"]))
    validate.whole("length", length, 1)
    validate.whole("stride", stride, 1)
    k = len(kernel)
    matrix = kernel.new_zeros(stride * (length - 1) + k, length)
    for column in range(length):
        matrix[stride * column : stride * column + k, column] = kernel
    return matrix


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
) -> Tensor:
    """Transposed convolution: every value of `x` lays down a copy of the kernel, and overlapping copies add up.

    Fast: row stride · q + r of the result is reached by kernel rows r, r + stride, … only, and by no zero of
    an upsampled map. So each of the stride² phases (r, c) is an ordinary convolution of `x` with its own taps
    of the kernel; one convolution computes all of them, and a pixel shuffle puts them side by side.
    `conv_transpose2d_by_zeros` is the plain form.

    Args:
        x: maps, (N, Cin, H, W).
        weight: kernels, (Cin, Cout, kh, kw).
        bias: (Cout,), or None.
        stride: s, pixels between neighboring copies.
        padding: p, rows and columns cut off at each side.
        output_padding: a, rows and columns added at the bottom and right, below `stride`.

    Returns:
        (N, Cout, s (H − 1) + kh − 2p + a, s (W − 1) + kw − 2p + a), in the dtype of `x`.

    Raises:
        ValueError: shapes or dtypes do not fit, a number is out of range, or `padding` leaves nothing.

    Source: Long, Shelhamer and Darrell 2015, section 3.3; Shi et al. 2016, section 2.2 (phases).
    """
    height, width = _check_transposed(x, weight, bias, stride, padding, output_padding)
    Cin, Cout, kh, kw = weight.shape
    rows, columns = -(-kh // stride), -(-kw // stride)  # taps of a phase
    padded = F.pad(weight, (0, columns * stride - kw, 0, rows * stride - kh))
    phases = padded.reshape(Cin, Cout, rows, stride, columns, stride).permute(1, 3, 5, 0, 2, 4)
    taps = phases.reshape(Cout * stride**2, Cin, rows, columns).flip(2, 3)
    y = F.pixel_shuffle(F.conv2d(x, taps, padding=(rows - 1, columns - 1)), stride)
    y = F.pad(y, (-padding, width + padding - y.shape[3], -padding, height + padding - y.shape[2]))
    return y if bias is None else y + bias[:, None, None]


def conv_transpose2d_by_zeros(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
) -> Tensor:
    """Transposed convolution as zero insertion, followed by a convolution with the flipped kernel.

    The same as `conv_transpose2d`, with the same arguments, and plainer; but it multiplies stride² − 1 zeros for
    each value.

    Source: Dumoulin and Visin 2016, section 4.5.
    """
    height, width = _check_transposed(x, weight, bias, stride, padding, output_padding)
    H, W = x.shape[2:]
    kh, kw = weight.shape[2:]
    spread = bed_of_nails(x, stride)[..., : stride * (H - 1) + 1, : stride * (W - 1) + 1]
    spread = F.pad(spread, (kw - 1, kw - 1 + output_padding, kh - 1, kh - 1 + output_padding))
    y = F.conv2d(spread, weight.flip(2, 3).transpose(0, 1), bias)
    return y[..., padding : padding + height, padding : padding + width]


def bilinear_kernel(channels: int, factor: int) -> Tensor:
    """The weights with which a transposed convolution of stride `factor` interpolates bilinearly.

    Args:
        channels: C; each is interpolated on its own.
        factor: f, the upsampling factor.

    Returns:
        (C, C, k, k) float32 with k = 2f − f mod 2: a pyramid on the diagonal, zeros elsewhere. With stride f
        and padding ⌈(f − 1) / 2⌉ a map n wide becomes f · n wide.

    Raises:
        ValueError: a number is below 1.

    Source: Long, Shelhamer and Darrell 2015, section 3.3, as its published code initializes it.
    """
    validate.whole("channels", channels, 1)
    validate.whole("factor", factor, 1)
    k = 2 * factor - factor % 2
    center = (k - 1) / 2
    ramp = 1 - (torch.arange(k, dtype=torch.float32) - center).abs() / factor
    return torch.eye(channels, dtype=torch.float32)[:, :, None, None] * torch.outer(ramp, ramp)


def shift_and_stitch(net: nn.Module, image: Tensor, factor: int) -> Tensor:
    """A dense map out of a network of stride `factor`: run it on every shift of the image and interlace.

    Args:
        net: a network from (N, C, h, w) to maps (N, L, h', w') of total stride `factor`; it runs in evaluation
            mode and without gradients, and its mode is left as it was.
        image: (N, C, H, W).
        factor: total stride of `net`.

    Returns:
        (N, L, H', W'): the map of `image[..., r:, c:]` stands at `[..., r::factor, c::factor]`. Without padding
        in `net`, H' = H − field + 1.

    Raises:
        ValueError: `factor` is not the network's stride, its output is no map, or the image is so small that a
            shift of it leaves no cell.

    Source: Long, Shelhamer and Darrell 2015, section 3.2; Sermanet et al. 2014, section 3.3.
    """
    if not isinstance(net, nn.Module):
        raise validate.refuse("net", "an nn.Module", type(net).__name__)
    image = validate.as_float(validate.tensor("image", image, MAPS))
    validate.whole("factor", factor, 1)
    shifts = [(r, c) for r in range(factor) for c in range(factor)]
    with evaluation_mode(net), torch.no_grad():
        maps = {(r, c): _shifted_map(net, image, r, c) for r, c in shifts}

    N, L = maps[0, 0].shape[:2]
    height = sum(maps[r, 0].shape[2] for r in range(factor))
    width = sum(maps[0, c].shape[3] for c in range(factor))
    out = maps[0, 0].new_empty(N, L, height, width)
    for r, c in shifts:
        cells = out[..., r::factor, c::factor]
        if cells.shape != maps[r, c].shape:
            got = f"{factor}, where shift {(r, c)} gives {validate.shape_of(maps[r, c])}"
            raise validate.refuse("factor", f"the total stride of net, of maps {tuple(cells.shape)}", got)
        cells.copy_(maps[r, c])
    return out


def atrous(net: nn.Sequential) -> nn.Sequential:
    """Make a network dense: no layer steps any more, and those after a step look further apart instead.

    Args:
        net: convolutions, max pools and layers that act on every position alike; Sequentials may nest.

    Returns:
        A network with copies of the weights, all strides 1, and the dilation of every convolution and max pool
        multiplied by the strides removed before it, as is the padding of a convolution. Without padding it
        gives what `shift_and_stitch` gives. Names, nesting and training flags stay.

    Raises:
        ValueError: a layer of another kind, a padded or ceiling-mode pool, or a padding that cannot be dilated.

    Source: Long, Shelhamer and Darrell 2015, section 3.2; Chen et al. 2015, section 3.1 (the hole algorithm).
    """
    if not isinstance(net, nn.Sequential):
        raise validate.refuse("net", "an nn.Sequential", type(net).__name__)
    dense, _ = _dense(net, (1, 1))
    return dense


Pair = tuple[int, int]


def _dense(net: nn.Sequential, removed: Pair) -> tuple[nn.Sequential, Pair]:
    """The dense twin of `net`, where the strides `removed` came before it; and those removed after it."""
    if type(net).forward is not nn.Sequential.forward:
        raise validate.refuse("net", "made of Sequentials that run their layers in order", type(net).__name__)
    dense = nn.Sequential()
    # Not named_children(), which lists a layer that stands at two places only once.
    for name, layer in net._modules.items():
        twin: nn.Module
        if isinstance(layer, nn.Sequential):
            twin, removed = _dense(layer, removed)
        elif isinstance(layer, nn.Conv2d):
            twin, removed = _dense_conv(layer, removed)
        elif isinstance(layer, nn.MaxPool2d):
            twin, removed = _dense_pool(layer, removed)
        elif isinstance(layer, POSITIONWISE) or _over_classes(layer):
            twin = copy.deepcopy(layer)
        else:
            raise validate.refuse(
                "net", "made of convolutions, max pools and positionwise layers", repr(layer)
            )
        dense.add_module(name, twin)
    dense.training = net.training
    return dense, removed


def _dense_conv(conv: nn.Conv2d, removed: Pair) -> tuple[nn.Conv2d, Pair]:
    twin = copy.deepcopy(conv)
    twin.stride = (1, 1)
    if removed != (1, 1):
        twin.dilation = _times(conv.dilation, removed)
        if not isinstance(conv.padding, str):
            twin.padding = _times(conv.padding, removed)
        # A mirrored or wrapped border, or a lopsided one, is another one on every shift of the image.
        lopsided = conv.padding == "same" and any(
            dilation * (size - 1) % 2 for dilation, size in zip(conv.dilation, conv.kernel_size, strict=True)
        )
        padded = conv.padding not in ("valid", (0, 0))
        if lopsided or (padded and conv.padding_mode != "zeros"):
            raise validate.refuse(
                "net", "one whose padding is of zeros and the same on both sides", repr(conv)
            )
    return twin, _times(removed, conv.stride)


def _dense_pool(pool: nn.MaxPool2d, removed: Pair) -> tuple[nn.MaxPool2d, Pair]:
    if _pair(pool.padding) != (0, 0) or pool.ceil_mode or pool.return_indices:
        expected = "one whose max pools have no padding, no ceil_mode and no indices"
        raise validate.refuse("net", expected, repr(pool))
    twin = copy.deepcopy(pool)
    twin.stride = (1, 1)
    twin.dilation = _times(_pair(pool.dilation), removed)
    return twin, _times(removed, _pair(pool.stride))


def _over_classes(layer: nn.Module | None) -> bool:
    return isinstance(layer, nn.Softmax | nn.LogSoftmax) and layer.dim in (1, -3)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _times(a: tuple[int, ...], b: tuple[int, ...]) -> Pair:
    return a[0] * b[0], a[1] * b[1]


def _size(size: Pair) -> Pair:
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise validate.refuse("size", "a pair (H, W)", repr(size))
    return validate.whole("size", size[0], 1), validate.whole("size", size[1], 1)


def _shifted_map(net: nn.Module, image: Tensor, r: int, c: int) -> Tensor:
    # A copy, since a network may begin with an in-place layer.
    shifted = image[..., r:, c:].clone()
    try:
        maps = net(shifted)
    except RuntimeError as error:
        # The whole image went through, so that this one is too small.
        if (r, c) == (0, 0):
            raise
        raise validate.refuse("image", _LARGER, f"{validate.shape_of(shifted)} at shift {(r, c)}") from error
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        raise validate.refuse("net", "a network to maps (N, L, h, w)", validate.shape_of(maps))
    if maps.numel() == 0:
        raise validate.refuse("image", _LARGER, f"{validate.shape_of(shifted)} at shift {(r, c)}")
    return maps


_LARGER = "so large that every shift of it gives the network's map a cell"


def _check_transposed(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, output_padding: int
) -> Pair:
    """Refuses what does not fit; (height, width) of the result otherwise."""
    validate.floating("x", x, MAPS)
    validate.floating("weight", weight, ["(Cin, Cout, kh, kw)"])
    if weight.shape[0] != x.shape[1]:
        expected = f"of {x.shape[1]} input channels, as x has"
        raise validate.refuse("weight", expected, validate.shape_of(weight))
    if weight.dtype != x.dtype:
        raise validate.refuse("weight", f"of the dtype of x, {x.dtype}", weight.dtype)
    if bias is not None:
        validate.vector("bias", bias, weight.shape[1])
        if bias.dtype != x.dtype:
            raise validate.refuse("bias", f"of the dtype of x, {x.dtype}", bias.dtype)
    validate.whole("stride", stride, 1)
    validate.whole("padding", padding, 0)
    if validate.whole("output_padding", output_padding, 0) >= stride:
        raise validate.refuse("output_padding", f"below the stride, {stride}", output_padding)
    H, W = x.shape[2:]
    kh, kw = weight.shape[2:]
    height = stride * (H - 1) + kh - 2 * padding + output_padding
    width = stride * (W - 1) + kw - 2 * padding + output_padding
    if min(height, width) < 1:
        raise validate.refuse("padding", f"one that leaves a pixel, not {height}×{width}", padding)
    return height, width
