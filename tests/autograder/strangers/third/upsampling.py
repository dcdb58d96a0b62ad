# %% wrong shift_and_stitch: The map of shift (r, c) is put at row -r and column -c (modulo factor), because skipping pixels moves the picture the other way, so for factors above 2 the maps of r and factor - r are exchanged (or do not fit and fail); factors 1 and 2 come out right.
def shift_and_stitch(net: nn.Module, image: Tensor, factor: int) -> Tensor:
    before = [(module, module.training) for module in net.modules()]
    net.eval()
    maps = {}
    with torch.no_grad():
        for r in range(factor):
            for c in range(factor):
                maps[r, c] = net(image[..., r:, c:].clone())
    for module, training in before:
        module.training = training

    first = maps[0, 0]
    height = sum(maps[r, 0].shape[2] for r in range(factor))
    width = sum(maps[0, c].shape[3] for c in range(factor))
    out = first.new_zeros(first.shape[0], first.shape[1], height, width)
    for (r, c), m in maps.items():
        # the image was moved up by r and left by c, so we go back by as much
        out[..., -r % factor :: factor, -c % factor :: factor] = m
    return out


# %% right shift_and_stitch: no empty result and no slices with steps: maps are unbound into strips, which are dealt out in turn and stacked, first columns, then rows
from itertools import product


def shift_and_stitch(net: nn.Module, image: Tensor, factor: int) -> Tensor:
    shifts = range(factor)
    modes = {module: module.training for module in net.modules()}

    def deal(strands: list[Tensor], axis: int) -> Tensor:
        strips = [strand.unbind(axis) for strand in strands]
        total = sum(map(len, strips))
        return torch.stack([strips[i % factor][i // factor] for i in range(total)], dim=axis)

    with torch.set_grad_enabled(False):
        try:
            net.eval()
            maps = {(r, c): net(image[..., r:, c:].clone()) for r, c in product(shifts, shifts)}
        finally:
            for module, mode in modes.items():
                module.training = mode
        bands = [deal([maps[r, c] for c in shifts], 3) for r in shifts]
        return deal(bands, 2)


# %% wrong atrous: The dilation (and the factor of the padding) is only the stride of the last layer that had one, not the product of all strides removed so far, so behind two strided layers it is too small.
def _two(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def atrous(net: nn.Sequential) -> nn.Sequential:
    layers = []
    removed = (1, 1)
    for old in net:
        if isinstance(old, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
            raise ValueError("average pools have no dense twin here")
        if isinstance(old, nn.MaxPool2d) and _two(old.padding) != (0, 0):
            raise ValueError("padded max pools have no dense twin here")

        layer = copy.deepcopy(old)
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            stride = _two(layer.stride)
            layer.stride = (1, 1)
            layer.dilation = tuple(d * r for d, r in zip(_two(layer.dilation), removed))
            if isinstance(layer, nn.Conv2d) and not isinstance(layer.padding, str):
                layer.padding = tuple(p * r for p, r in zip(_two(layer.padding), removed))
            # a stride of 1 does not change how dense the map is
            removed = tuple(s if s > 1 else r for s, r in zip(stride, removed))
        layers.append(layer)

    dense = nn.Sequential(*layers)
    dense.training = net.training
    return dense


# %% wrong atrous: The new convolutions get the old padding as it was; it is not multiplied by the strides removed before them.
def as_tuple(v):
    return (v, v) if isinstance(v, int) else tuple(v)


def dense_conv(conv, rows, columns):
    d_rows, d_columns = conv.dilation
    new = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=1,
        padding=conv.padding,
        dilation=(d_rows * rows, d_columns * columns),
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    new.load_state_dict(conv.state_dict())
    new.training = conv.training
    return new


def dense_pool(pool, rows, columns):
    if any(as_tuple(pool.padding)):
        raise ValueError("cannot make a padded pool dense")
    d_rows, d_columns = as_tuple(pool.dilation)
    new = copy.deepcopy(pool)
    new.stride = 1
    new.dilation = (d_rows * rows, d_columns * columns)
    return new


def atrous(net: nn.Sequential) -> nn.Sequential:
    result = nn.Sequential()
    rows = columns = 1
    for i, layer in enumerate(net):
        name = str(i)
        if isinstance(layer, nn.Conv2d):
            result.add_module(name, dense_conv(layer, rows, columns))
        elif isinstance(layer, nn.MaxPool2d):
            result.add_module(name, dense_pool(layer, rows, columns))
        elif isinstance(layer, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
            raise ValueError(f"cannot make {type(layer).__name__} dense")
        else:
            result.add_module(name, copy.deepcopy(layer))
            continue
        s_rows, s_columns = as_tuple(layer.stride)
        rows *= s_rows
        columns *= s_columns
    result.training = net.training
    return result


# %% right atrous: the list of all strides is accumulated as numpy pairs and zipped with the layers; a second walk puts the finished layers into Sequentials of the old names
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate

import numpy as np


def pair_of(value: int | tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, dtype=np.int64), 2)


def leaves(sequence: nn.Sequential) -> Iterator[nn.Module]:
    for child in sequence:  # repeats included, unlike children()
        if isinstance(child, nn.Sequential):
            yield from leaves(child)
        else:
            yield child


def own_stride(layer: nn.Module) -> np.ndarray:
    return pair_of(layer.stride if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)) else 1)


def refuse(layer: nn.Module) -> None:
    average = isinstance(layer, (nn.AvgPool2d, nn.AdaptiveAvgPool2d))
    if average or (isinstance(layer, nn.MaxPool2d) and pair_of(layer.padding).any()):
        raise ValueError(f"no dense twin of {layer}")


def widened(layer: nn.Module, removed: np.ndarray) -> nn.Module:
    twin = copy.deepcopy(layer)
    if isinstance(twin, (nn.Conv2d, nn.MaxPool2d)):
        twin.stride = (1, 1)
        twin.dilation = tuple((pair_of(twin.dilation) * removed).tolist())
    if isinstance(twin, nn.Conv2d):
        # left, right, top, bottom, as F.pad wants them; "same" is spelled out there, too
        rows, columns = removed.tolist()
        left, right, top, bottom = twin._reversed_padding_repeated_twice
        edges = [left * columns, right * columns, top * rows, bottom * rows]
        twin._reversed_padding_repeated_twice = edges
        if edges[0] == edges[1] and edges[2] == edges[3]:
            twin.padding = (edges[2], edges[0])
        elif twin.padding_mode == "zeros":  # one more on one side: F.pad has to do it
            twin.padding_mode = "constant"
    return twin


def atrous(net: nn.Sequential) -> nn.Sequential:
    old = list(leaves(net))
    for layer in old:
        refuse(layer)
    products = accumulate(map(own_stride, old), np.multiply, initial=pair_of(1))
    finished = iter([widened(layer, removed) for layer, removed in zip(old, products)])

    def rebuild(sequence: nn.Sequential) -> nn.Sequential:
        twin = nn.Sequential(
            OrderedDict(
                (name, rebuild(child) if isinstance(child, nn.Sequential) else next(finished))
                for name, child in sequence._modules.items()
            )
        )
        twin.training = sequence.training
        return twin

    return rebuild(net)


# %% wrong nearest_upsample: The places to read are spread evenly from the first to the last value (as align_corners does) and cut to whole numbers, so blocks are of unequal size and the last row and column appear only once.
def nearest_upsample(x: Tensor, factor: int) -> Tensor:
    _, _, H, W = x.shape
    rows = torch.linspace(0, H - 1, factor * H, device=x.device).long()
    cols = torch.linspace(0, W - 1, factor * W, device=x.device).long()
    return x[:, :, rows][:, :, :, cols]


# %% right nearest_upsample: the map stacked with itself along a new last axis, which is then flattened away
def nearest_upsample(x: Tensor, factor: int) -> Tensor:
    wide = torch.stack([x] * factor, dim=-1).flatten(-2)
    return torch.stack([wide] * factor, dim=-2).flatten(-3, -2)


# %% wrong bed_of_nails: The values are written under no_grad into zeros that require a gradient themselves, so the result is a leaf of its own and no gradient flows back to x.
def bed_of_nails(x: Tensor, factor: int) -> Tensor:
    N, C, H, W = x.shape
    out = torch.zeros(
        N, C, factor * H, factor * W, dtype=x.dtype, device=x.device, requires_grad=x.requires_grad
    )
    with torch.no_grad():  # else: "a view of a leaf Variable that requires grad is being used in-place"
        out[:, :, ::factor, ::factor] = x
    return out


# %% right bed_of_nails: masked_scatter fills the places that a boolean mask of remainders marks
def bed_of_nails(x: Tensor, factor: int) -> Tensor:
    images, channels, *sides = x.shape
    down, across = (
        torch.arange(factor * side, device=x.device).remainder(factor).eq(0) for side in sides
    )
    nails = (down.unsqueeze(1) & across).expand(images, channels, -1, -1).contiguous()
    board = torch.zeros(nails.shape, dtype=x.dtype, device=x.device)
    return board.masked_scatter(nails, x.contiguous())


# %% wrong max_pool_with_switches: The running maximum starts at 0, so a window without a positive value gives 0 with the switch 0 instead of its maximum and its place.
def max_pool_with_switches(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    N, C, H, W = x.shape
    h, w = H // k, W // k
    best = x.new_zeros(N, C, h, w)
    switches = torch.zeros(N, C, h, w, dtype=torch.int64, device=x.device)
    top = k * torch.arange(h, device=x.device)[:, None]
    left = k * torch.arange(w, device=x.device)[None, :]
    for r in range(k):
        for c in range(k):
            candidate = x[:, :, r : h * k : k, c : w * k : k]
            place = (top + r) * W + (left + c)
            better = candidate > best
            best = torch.where(better, candidate, best)
            switches = torch.where(better, place, switches)
    return best, switches


# %% right max_pool_with_switches: no argmax: the smallest pixel number among those whose value is not below the window's maximum, over axes that are never permuted
def max_pool_with_switches(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    images, channels, height, width = x.shape
    h, w = height // k, width // k
    inside = (..., slice(h * k), slice(w * k))

    values = x.detach()[inside].reshape(images, channels, h, k, w, k)
    numbers = torch.arange(height * width, device=x.device).reshape(height, width)
    numbers = numbers[inside].reshape(h, k, w, k)

    beaten = values < values.amax(dim=(3, 5), keepdim=True)
    beyond = torch.full_like(numbers, height * width)
    switches = torch.where(beaten, beyond, numbers).amin(dim=(3, 5))
    y = x.flatten(2).gather(2, switches.flatten(2)).reshape(switches.shape)
    return y, switches


# %% wrong max_unpool: index_copy takes a one-dimensional index, so the switches of the first image's first channel are used for all images and channels.
def max_unpool(y: Tensor, switches: Tensor, size: tuple[int, int]) -> Tensor:
    N, C, h, w = y.shape
    H, W = size
    flat = torch.zeros(N, C, H * W, dtype=y.dtype, device=y.device)
    index = switches[0, 0].flatten()  # index_copy wants a vector
    flat = flat.index_copy(2, index, y.flatten(2))
    return flat.reshape(N, C, H, W)


# %% right max_unpool: index_put with four broadcast grids: image, channel, row, column
def max_unpool(y: Tensor, switches: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    count = lambda n: torch.arange(n, device=y.device)
    address = (
        count(y.shape[0]).view(-1, 1, 1, 1),
        count(y.shape[1]).view(1, -1, 1, 1),
        torch.div(switches, width, rounding_mode="floor"),
        torch.remainder(switches, width),
    )
    return y.new_zeros(*y.shape[:2], height, width).index_put(address, y)


# %% wrong transposed_conv_matrix: The shifted copies of the kernel are stacked as rows instead of columns, so the matrix comes out transposed, (length, rows).
def transposed_conv_matrix(kernel: Tensor, length: int, stride: int = 1) -> Tensor:
    columns = []
    for j in range(length):
        above = stride * j
        below = stride * (length - 1 - j)
        columns.append(F.pad(kernel, (above, below)))
    return torch.stack(columns)


# %% right transposed_conv_matrix: one long tape of the padded kernel, cut into pieces that are stride shorter than its period, so that each piece slips on by itself
def transposed_conv_matrix(kernel: Tensor, length: int, stride: int = 1) -> Tensor:
    rows = stride * (length - 1) + len(kernel)
    # The tape repeats after rows + stride numbers. Piece j begins at j * rows, that is j * stride before
    # the period's beginning, so the kernel stands j * stride numbers into the piece.
    period = torch.cat([kernel, kernel.new_zeros(rows + stride - len(kernel))])
    tape = period.repeat(length)
    return tape[: length * rows].reshape(length, rows).T.contiguous()


# %% wrong conv_transpose2d: output_padding is appended as rows and columns of zeros at the very end, after cutting and after the bias, so they hold neither the products that should remain there nor the bias.
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
    rows = stride * (H - 1) + kh
    cols = stride * (W - 1) + kw
    out = x.new_zeros(N, K, rows, cols)
    for r in range(kh):
        for c in range(kw):
            tap = torch.einsum("nchw,ck->nkhw", x, weight[:, :, r, c])
            last_row = r + stride * (H - 1)
            last_col = c + stride * (W - 1)
            out[:, :, r : last_row + 1 : stride, c : last_col + 1 : stride] += tap
    out = out[:, :, padding : rows - padding, padding : cols - padding]
    if bias is not None:
        out = out + bias.view(1, -1, 1, 1)
    return F.pad(out, (0, output_padding, 0, output_padding))


# %% right conv_transpose2d: sub-pixel convolution: an ordinary convolution gives all stride x stride phases as channels, pixel_shuffle interlaces them
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
    s = stride
    inputs, outputs, kh, kw = weight.shape
    height, width = (
        s * (side - 1) + k - 2 * padding + output_padding
        for side, k in zip(x.shape[2:], (kh, kw))
    )

    # taps that each phase sees, the kernel filled up with zeros so that all phases see as many
    qh, qw = -(-kh // s), -(-kw // s)
    filled = F.pad(weight, (0, qw * s - kw, 0, qh * s - kh))
    phases = filled.reshape(inputs, outputs, qh, s, qw, s).flip(2, 4).permute(1, 3, 5, 0, 2, 4)
    phases = phases.reshape(outputs * s * s, inputs, qh, qw)

    canvas = F.pixel_shuffle(F.conv2d(x, phases, padding=(qh - 1, qw - 1)), s)
    canvas = F.pad(canvas, (0, s, 0, s))  # output_padding may reach beyond the last copy
    out = canvas[..., padding : padding + height, padding : padding + width]
    return out.clone() if bias is None else out + bias[:, None, None]


# %% right conv_transpose2d: tensors of zeros and ones say which cell and tap meet in which row and column of the final map; three einsums, nothing is ever cut
def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
) -> Tensor:
    if output_padding >= stride:
        raise ValueError("output_padding has to be below stride")

    def meeting(cells: int, taps: int) -> Tensor:
        """(pixels, cells, taps): 1 where this tap of this cell's copy falls on this pixel."""
        pixels = stride * (cells - 1) + taps - 2 * padding + output_padding
        place = lambda n: torch.arange(n, device=x.device)
        falls_on = stride * place(cells)[:, None] + place(taps) - padding
        return (place(pixels)[:, None, None] == falls_on).to(x.dtype)

    down = meeting(x.shape[2], weight.shape[2])
    across = meeting(x.shape[3], weight.shape[3])
    spread = torch.einsum("phi,nchw->ncpiw", down, x)
    spread = torch.einsum("qwj,ncpiw->ncpiqj", across, spread)
    out = torch.einsum("ncpiqj,ckij->nkpq", spread, weight)
    if bias is not None:
        out = out + bias.reshape(1, -1, 1, 1)
    return out


# %% wrong bilinear_kernel: The pyramid is the smaller of the two ramps at each pixel (a pyramid with flat faces) instead of their product.
def bilinear_kernel(channels: int, factor: int) -> Tensor:
    k = 2 * factor - factor % 2
    distance = (torch.arange(k, dtype=torch.float32) - (k - 1) / 2).abs()
    ramp = 1 - distance / factor
    pyramid = torch.minimum(ramp[:, None], ramp[None, :])
    weight = torch.zeros(channels, channels, k, k)
    for channel in range(channels):
        weight[channel, channel] = pyramid
    return weight.float()


# %% right bilinear_kernel: whole numbers up to the last division, block_diag for the channels, the big square cut into blocks again
def bilinear_kernel(channels: int, factor: int) -> Tensor:
    k = 2 * factor - factor % 2
    steps = torch.tensor([2 * factor - abs(2 * i - (k - 1)) for i in range(k)])  # in units of 1 / (2 factor)
    pyramid = torch.einsum("r,c->rc", steps, steps).to(torch.float64) / (2 * factor) ** 2
    square = torch.block_diag(*[pyramid] * channels)
    blocks = square.reshape(channels, k, channels, k).swapaxes(1, 2)
    return blocks.to(torch.float32).contiguous()
