# %% wrong shift_and_stitch: The image is rolled with torch.roll instead of cut at r and c, so that all maps have the same size; where H' or W' is no multiple of the factor, the result is too large and its last rows and columns come from windows that wrap around to the other side.
def shift_and_stitch(net: nn.Module, image: Tensor, factor: int) -> Tensor:
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            out = None
            for r in range(factor):
                for c in range(factor):
                    shifted = torch.roll(image, shifts=(-r, -c), dims=(2, 3))
                    maps = net(shifted)
                    if out is None:
                        n, labels, h, w = maps.shape
                        out = maps.new_zeros(n, labels, factor * h, factor * w)
                    out[..., r::factor, c::factor] = maps
    finally:
        for module, mode in modes.items():
            module.training = mode
    return out

# %% wrong shift_and_stitch: Only the mode of the network itself is remembered and given to all its layers with net.train(mode) at the end, so a layer that had another mode than the network (a frozen batch norm, say) is left in the wrong one.
def shift_and_stitch(net: nn.Module, image: Tensor, factor: int) -> Tensor:
    was_training = net.training
    net.eval()
    pieces = {}
    with torch.no_grad():
        for r in range(factor):
            for c in range(factor):
                pieces[r, c] = net(image[..., r:, c:].clone())
    net.train(was_training)

    height = sum(pieces[r, 0].shape[-2] for r in range(factor))
    width = sum(pieces[0, c].shape[-1] for c in range(factor))
    first = pieces[0, 0]
    out = first.new_empty(first.shape[0], first.shape[1], height, width)
    for (r, c), piece in pieces.items():
        out[..., r::factor, c::factor] = piece
    return out

# %% right shift_and_stitch: ExitStack puts the modes back; one axis at a time is interlaced with index_copy_
from contextlib import ExitStack


def interlace(maps: list[Tensor], dim: int) -> Tensor:
    """Deal the slices of the maps along dim out in turn: first of each, second of each, ..."""
    total = sum(m.shape[dim] for m in maps)
    shape = list(maps[0].shape)
    shape[dim] = total
    out = maps[0].new_empty(shape)
    for start, m in enumerate(maps):
        out.index_copy_(dim, torch.arange(start, total, len(maps), device=m.device), m)
    return out


def shift_and_stitch(net: nn.Module, image: Tensor, factor: int) -> Tensor:
    with ExitStack() as afterwards:
        afterwards.enter_context(torch.no_grad())
        for module in net.modules():
            afterwards.callback(setattr, module, "training", module.training)
        net.eval()
        return interlace(
            [
                # a clone, in case the first layer works in place
                interlace([net(image[..., r:, c:].clone()) for c in range(factor)], 3)
                for r in range(factor)
            ],
            2,
        )

# %% wrong atrous: Batch norms are built anew and given the old state dict, but not the old eps, which falls back to the default of 1e-5.
def atrous(net: nn.Sequential) -> nn.Sequential:
    def two(value):
        return (value, value) if isinstance(value, int) else tuple(value)

    def times(a, b):
        return a[0] * b[0], a[1] * b[1]

    removed = (1, 1)
    layers = []
    for layer in net:
        if isinstance(layer, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
            raise ValueError("an average pool has no dilation")
        if isinstance(layer, nn.MaxPool2d):
            if two(layer.padding) != (0, 0):
                raise ValueError("a padded max pool cannot be made dense")
            new = nn.MaxPool2d(
                layer.kernel_size,
                stride=1,
                dilation=times(two(layer.dilation), removed),
                return_indices=layer.return_indices,
                ceil_mode=layer.ceil_mode,
            )
            removed = times(removed, two(layer.stride))
        elif isinstance(layer, nn.Conv2d):
            padding = layer.padding
            if not isinstance(padding, str):
                padding = times(two(padding), removed)
            new = nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                stride=1,
                padding=padding,
                dilation=times(two(layer.dilation), removed),
                groups=layer.groups,
                bias=layer.bias is not None,
                padding_mode=layer.padding_mode,
            ).to(layer.weight)
            new.load_state_dict(layer.state_dict())
            removed = times(removed, two(layer.stride))
        elif isinstance(layer, nn.BatchNorm2d):
            new = nn.BatchNorm2d(
                layer.num_features,
                momentum=layer.momentum,
                affine=layer.affine,
                track_running_stats=layer.track_running_stats,
            ).to(next(net.parameters()))
            new.load_state_dict(layer.state_dict())
        else:
            new = copy.deepcopy(layer)
        new.train(layer.training)
        layers.append(new)
    dense = nn.Sequential(*layers)
    dense.training = net.training
    return dense

# %% right atrous: a recursive closure with a match statement, names kept, nested Sequentials too
from collections import OrderedDict


def atrous(net: nn.Sequential) -> nn.Sequential:
    removed = [1, 1]  # rows, columns

    def pair(value) -> tuple[int, int]:
        return tuple(value) if isinstance(value, (tuple, list)) else (value, value)

    def scaled(value) -> tuple[int, int]:
        return tuple(v * s for v, s in zip(pair(value), removed))

    def twin(layer: nn.Module) -> nn.Module:
        match layer:
            case nn.AvgPool2d() | nn.AdaptiveAvgPool2d():
                raise ValueError(f"cannot be dilated: {layer}")
            case nn.MaxPool2d() if any(pair(layer.padding)):
                raise ValueError(f"padded pool: {layer}")
            case nn.Sequential():
                # zip over the layers themselves: named_children() would skip a layer used twice
                new = nn.Sequential(
                    OrderedDict((name, twin(child)) for name, child in zip(layer._modules, layer))
                )
                new.training = layer.training
            case nn.MaxPool2d() | nn.Conv2d():
                new = copy.deepcopy(layer)
                new.stride = (1, 1)
                new.dilation = scaled(layer.dilation)
                if isinstance(new, nn.Conv2d):
                    down, across = removed
                    # what F.pad gets (left, right, top, bottom) if the padding mode is not "zeros"
                    new._reversed_padding_repeated_twice = [
                        p * s
                        for p, s in zip(
                            layer._reversed_padding_repeated_twice, (across, across, down, down)
                        )
                    ]
                    if not isinstance(layer.padding, str):
                        new.padding = scaled(layer.padding)
                    elif layer.padding == "same" and layer.padding_mode == "zeros":
                        # an even kernel pads unevenly, and the difference has to grow as well
                        new.padding_mode = "constant"
                removed[:] = scaled(layer.stride)
            case _:
                new = copy.deepcopy(layer)
        return new

    return twin(net)

# %% wrong nearest_upsample: Each value is repeated factor*factor times along its row and the result is then reshaped, so that the values run on along the rows instead of forming blocks (right only for maps of one column).
def nearest_upsample(x: Tensor, factor: int) -> Tensor:
    n, c, h, w = x.shape
    repeated = x.repeat_interleave(factor * factor, dim=3)
    return repeated.reshape(n, c, factor * h, factor * w)

# %% right nearest_upsample: a Kronecker product with a block of ones
def nearest_upsample(x: Tensor, factor: int) -> Tensor:
    block = x.new_ones(1, 1, factor, factor)
    return torch.kron(x, block)

# %% wrong bed_of_nails: The zeros are made with torch.zeros in the default dtype, so a float64 x comes back as float32.
def bed_of_nails(x: Tensor, factor: int) -> Tensor:
    N, C, H, W = x.shape
    out = torch.zeros((N, C, H * factor, W * factor), device=x.device)
    out[:, :, ::factor, ::factor] = x
    return out

# %% right bed_of_nails: padded with channels of zeros, then pixel_shuffle
def bed_of_nails(x: Tensor, factor: int) -> Tensor:
    # (N, C, factor², H, W): place 0 of each block is x, the others are zeros
    places = F.pad(x.unsqueeze(2), (0, 0, 0, 0, 0, factor**2 - 1))
    return F.pixel_shuffle(places.flatten(1, 2), factor)

# %% wrong max_pool_with_switches: The rows of a switch are counted with the width of the cut map, not with W, so the switches are wrong where the last columns fill no window.
def max_pool_with_switches(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    N, C, H, W = x.shape
    h, w = H // k, W // k
    x = x[:, :, : h * k, : w * k]
    windows = x.reshape(N, C, h, k, w, k).permute(0, 1, 2, 4, 3, 5).flatten(4)
    best = windows.argmax(dim=-1)
    y = windows.gather(-1, best.unsqueeze(-1)).squeeze(-1)
    i = torch.arange(h, device=x.device)[:, None]
    j = torch.arange(w, device=x.device)
    rows = k * i + best // k
    columns = k * j + best % k
    switches = rows * x.shape[-1] + columns
    return y, switches

# %% right max_pool_with_switches: a tournament over the k*k taps with functools.reduce and torch.where
import functools
import itertools


def max_pool_with_switches(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    height, width = x.shape[-2:]
    bottom, right = height // k * k, width // k * k
    numbers = torch.arange(height * width, device=x.device).reshape(height, width)

    def tap(of: Tensor, r: int, c: int) -> Tensor:
        return of[..., r:bottom:k, c:right:k]

    def duel(champion: tuple[Tensor, Tensor], place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        best, where = champion
        rival = tap(x, *place)
        wins = rival > best  # strictly: of equal values the earlier one stays
        return torch.where(wins, rival, best), torch.where(wins, tap(numbers, *place), where)

    start = tap(x, 0, 0), tap(numbers, 0, 0)
    return functools.reduce(duel, itertools.product(range(k), range(k)), start)

# %% wrong max_unpool: The row and the column are taken from a switch by dividing by the height H instead of the width W, which is right for square maps only.
def max_unpool(y: Tensor, switches: Tensor, size: tuple[int, int]) -> Tensor:
    N, C = y.shape[:2]
    H, W = size
    out = y.new_zeros(N, C, H, W)
    n = torch.arange(N, device=y.device)[:, None, None, None]
    c = torch.arange(C, device=y.device)[None, :, None, None]
    out[n, c, switches // H, switches % H] = y
    return out

# %% right max_unpool: one flat number for the whole batch, written with Tensor.put
def max_unpool(y: Tensor, switches: Tensor, size: tuple[int, int]) -> Tensor:
    match size:
        case (height, width):
            n, c = y.shape[:2]
            first = torch.arange(n * c, device=y.device).mul(height * width).reshape(n, c, 1, 1)
            return y.new_zeros(n, c, height, width).put(switches + first, y)

# %% wrong transposed_conv_matrix: The matrix has stride*length + K - 1 rows, as if stride - 1 zeros followed the last value too, so for strides above 1 there are stride - 1 rows of zeros too many at the bottom.
def transposed_conv_matrix(kernel: Tensor, length: int, stride: int = 1) -> Tensor:
    k = len(kernel)
    matrix = kernel.new_zeros(stride * length + k - 1, length)
    for j in range(length):
        start = j * stride
        matrix[start : start + k, j] = kernel
    return matrix

# %% right transposed_conv_matrix: the slanted columns seen through as_strided, filled at once
def transposed_conv_matrix(kernel: Tensor, length: int, stride: int = 1) -> Tensor:
    (taps,) = kernel.shape
    matrix = kernel.new_zeros((length - 1) * stride + taps, length)
    # entry (stride * j + t, j) lies at j * (stride * length + 1) + t * length
    copies = matrix.as_strided((length, taps), (stride * length + 1, length))
    copies.copy_(kernel)
    return matrix

# %% wrong conv_transpose2d: The rows and columns of output_padding are never made but only less is cut off, so for an output_padding larger than padding the result is too small: the rows and columns of bias alone are missing.
def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
) -> Tensor:
    if output_padding >= stride:
        raise ValueError("output_padding must be smaller than stride")
    N, C, H, W = x.shape
    _, K, kh, kw = weight.shape
    rows, cols = stride * (H - 1) + kh, stride * (W - 1) + kw
    out = x.new_zeros(N, K, rows, cols)
    for r in range(kh):
        for c in range(kw):
            layer = torch.einsum("nchw,ck->nkhw", x, weight[:, :, r, c])
            out[
                :,
                :,
                r : r + stride * (H - 1) + 1 : stride,
                c : c + stride * (W - 1) + 1 : stride,
            ] += layer
    out = out[
        :,
        :,
        padding : rows - padding + output_padding,
        padding : cols - padding + output_padding,
    ]
    if bias is not None:
        out = out + bias[:, None, None]
    return out

# %% right conv_transpose2d: zeros between the values, then an ordinary convolution with the flipped kernel
def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
) -> Tensor:
    if not output_padding < stride:
        raise ValueError(f"output_padding {output_padding} is not below stride {stride}")
    n, channels, height, width = x.shape
    kh, kw = weight.shape[2:]
    spread = x.new_zeros(n, channels, stride * (height - 1) + 1, stride * (width - 1) + 1)
    spread[..., ::stride, ::stride] = x
    margin = (kw - 1, kw - 1 + output_padding, kh - 1, kh - 1 + output_padding)
    full = F.conv2d(F.pad(spread, margin), weight.flip(2, 3).transpose(0, 1), bias)
    rows, columns = full.shape[2:]
    return full[..., padding : rows - padding, padding : columns - padding]

# %% right conv_transpose2d: one einsum makes all copies, F.fold lays them down; a frozen dataclass for the geometry
from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    stride: int
    padding: int
    output_padding: int

    def __post_init__(self) -> None:
        if self.output_padding >= self.stride:
            raise ValueError("output_padding has to be below stride")

    def full(self, cells: int, taps: int) -> int:
        return self.stride * (cells - 1) + taps

    def trim(self, out: Tensor) -> Tensor:
        out = F.pad(out, (0, self.output_padding, 0, self.output_padding))
        for dim in (2, 3):
            out = out.narrow(dim, self.padding, out.shape[dim] - 2 * self.padding)
        return out


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
) -> Tensor:
    geometry = Geometry(stride, padding, output_padding)
    h, w = x.shape[2:]
    kh, kw = weight.shape[2:]
    copies = torch.einsum("nchw,ckab->nkabhw", x, weight).flatten(4).flatten(1, 3)
    laid = F.fold(
        copies,
        output_size=(geometry.full(h, kh), geometry.full(w, kw)),
        kernel_size=(kh, kw),
        stride=stride,
    )
    out = geometry.trim(laid)
    return out if bias is None else out + bias.reshape(1, -1, 1, 1)

# %% wrong bilinear_kernel: The peak is put at k // 2 instead of (k - 1) / 2, so for even factors it stands on a pixel, half a pixel too far to the bottom right.
def bilinear_kernel(channels: int, factor: int) -> Tensor:
    k = 2 * factor - factor % 2
    center = k // 2
    ramp = 1 - (torch.arange(k, dtype=torch.float32) - center).abs() / factor
    pyramid = ramp[:, None] * ramp[None, :]
    weights = torch.zeros(channels, channels, k, k)
    for i in range(channels):
        weights[i, i] = pyramid
    return weights

# %% right bilinear_kernel: the ramp as a numpy convolution of boxes, written on the diagonal view
import numpy as np


def bilinear_kernel(channels: int, factor: int) -> Tensor:
    box = np.ones(factor)
    ramp = np.convolve(box, box) / factor  # 1, 2, ..., factor, ..., 2, 1 over factor
    if factor % 2 == 0:
        ramp = np.convolve(ramp, [0.5, 0.5])  # the peak moves between two pixels
    pyramid = torch.from_numpy(np.multiply.outer(ramp, ramp)).to(torch.float32)
    weights = torch.zeros((channels, channels, *pyramid.shape), dtype=torch.float32)
    weights.diagonal(dim1=0, dim2=1).copy_(pyramid[..., None])
    return weights
