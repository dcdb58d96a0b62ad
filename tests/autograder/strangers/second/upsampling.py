# %% wrong shift_and_stitch: The result is made factor·h × factor·w large, h and w being the size of the unshifted map, instead of the sums of the heights and of the widths, so where later shifts give a row or a column less it has rows or columns of zeros too many at the bottom or right.
def shift_and_stitch(net: nn.Module, image: Tensor, factor: int) -> Tensor:
    before = [(module, module.training) for module in net.modules()]
    net.eval()
    out = None
    with torch.no_grad():
        for r in range(factor):
            for c in range(factor):
                scores = net(image[..., r:, c:].clone())
                n, labels, h, w = scores.shape
                if out is None:  # the first map is the largest
                    out = scores.new_zeros(n, labels, factor * h, factor * w)
                # later maps may be one row or column smaller
                out[..., r::factor, c::factor][..., :h, :w] = scores
    for module, training in before:
        module.training = training
    return out


# %% right shift_and_stitch: all pixels of all maps in one long row, put in order by argsort; a class with __enter__ and __exit__ for the modes
from itertools import product


class Resting:
    """A network in eval mode without gradients, for the length of a with block."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.modes = [(module, module.training) for module in net.modules()]
        self.no_grad = torch.no_grad()

    def __enter__(self) -> nn.Module:
        self.no_grad.__enter__()
        self.net.eval()
        return self.net

    def __exit__(self, *problem) -> None:
        for module, training in self.modes:
            module.training = training
        self.no_grad.__exit__(*problem)


def shift_and_stitch(net: nn.Module, image: Tensor, factor: int) -> Tensor:
    with Resting(net) as resting:
        maps = {
            (r, c): resting(image[..., r:, c:].clone())
            for r, c in product(range(factor), repeat=2)
        }
    height = sum(maps[r, 0].shape[-2] for r in range(factor))
    width = sum(maps[0, c].shape[-1] for c in range(factor))

    pixels = torch.cat([scores.flatten(2) for scores in maps.values()], dim=2)
    numbers = torch.arange(height * width, device=pixels.device).reshape(height, width)
    places = torch.cat([numbers[r::factor, c::factor].flatten() for r, c in maps])
    return pixels[..., places.argsort()].reshape(*pixels.shape[:2], height, width)


# %% right shift_and_stitch: smaller maps padded to the size of the first, pixel_shuffle, the padding cropped again; no_grad as a decorator
@torch.no_grad()
def shift_and_stitch(net: nn.Module, image: Tensor, factor: int) -> Tensor:
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        grid = [
            [net(image[..., r:, c:].clone()) for c in range(factor)] for r in range(factor)
        ]
    finally:
        for module, mode in modes:
            module.training = mode

    h, w = grid[0][0].shape[-2:]
    height = sum(row[0].shape[-2] for row in grid)
    width = sum(part.shape[-1] for part in grid[0])

    equal = [
        F.pad(part, (0, w - part.shape[-1], 0, h - part.shape[-2])) for row in grid for part in row
    ]
    # channel l·factor² + r·factor + c goes to pixel (r, c) of each block of channel l
    channels = torch.stack(equal, dim=2).flatten(1, 2)
    return F.pixel_shuffle(channels, factor)[..., :height, :width].contiguous()


# %% wrong atrous: A layer's own stride joins the product before the layer is dilated (and padded), so every layer with a stride is itself dilated by its own stride, too.
def atrous(net: nn.Sequential) -> nn.Sequential:
    def pair(value):
        return tuple(value) if isinstance(value, (tuple, list)) else (value, value)

    removed_rows, removed_columns = 1, 1
    layers = []
    for layer in net:
        if isinstance(layer, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
            raise ValueError("an average pool can't be dilated")
        if isinstance(layer, nn.MaxPool2d) and pair(layer.padding) != (0, 0):
            raise ValueError("a padded max pool can't be made dense")

        new = copy.deepcopy(layer)
        if isinstance(new, (nn.Conv2d, nn.MaxPool2d)):
            # take the stride out ...
            stride_rows, stride_columns = pair(new.stride)
            removed_rows *= stride_rows
            removed_columns *= stride_columns
            new.stride = (1, 1)
            # ... and put holes in
            rows, columns = pair(new.dilation)
            new.dilation = (rows * removed_rows, columns * removed_columns)
            if isinstance(new, nn.Conv2d) and not isinstance(new.padding, str):
                rows, columns = pair(new.padding)
                new.padding = (rows * removed_rows, columns * removed_columns)
        layers.append(new)
    return nn.Sequential(*layers)


# %% wrong atrous: Only convolutions are dilated: max pools lose their stride but keep their old dilation, so a max pool behind another stride looks at neighboring cells instead of cells that are the removed strides apart.
def atrous(net: nn.Sequential) -> nn.Sequential:
    def as_pair(v):
        return (v, v) if isinstance(v, int) else tuple(v)

    twin = nn.Sequential()
    removed = (1, 1)
    for i, layer in enumerate(net):
        layer = copy.deepcopy(layer)
        match layer:
            case nn.AvgPool2d() | nn.AdaptiveAvgPool2d():
                raise ValueError(f"layer {i} is an average pool")
            case nn.MaxPool2d():
                if any(as_pair(layer.padding)):
                    raise ValueError(f"layer {i} is a padded pool")
                stride = as_pair(layer.stride)
                layer.stride = 1
                removed = (removed[0] * stride[0], removed[1] * stride[1])
            case nn.Conv2d():
                stride = layer.stride
                layer.stride = (1, 1)
                layer.dilation = tuple(d * s for d, s in zip(layer.dilation, removed))
                if not isinstance(layer.padding, str):
                    layer.padding = tuple(p * s for p, s in zip(layer.padding, removed))
                removed = (removed[0] * stride[0], removed[1] * stride[1])
        twin.append(layer)
    return twin


# %% right atrous: a visitor class as in ast, methods found along the type's __mro__, nested Sequentials keep their structure
class DenseTwin:
    """Visits the layers in the order in which they run and remembers the strides removed so far."""

    def __init__(self) -> None:
        self.removed = (1, 1)

    @staticmethod
    def pair(value) -> tuple[int, int]:
        return tuple(value) if isinstance(value, (tuple, list)) else (value, value)

    @staticmethod
    def times(a, b) -> tuple[int, int]:
        return (a[0] * b[0], a[1] * b[1])

    def visit(self, layer: nn.Module) -> nn.Module:
        for kind in type(layer).__mro__:
            if method := getattr(self, f"visit_{kind.__name__}", None):
                return method(layer)
        return copy.deepcopy(layer)

    def visit_Module(self, layer):
        return copy.deepcopy(layer)

    def visit_Sequential(self, net):
        twin = copy.deepcopy(net)
        for index, layer in enumerate(net):  # by place: a layer may stand at two places
            twin[index] = self.visit(layer)
        return twin

    def visit_AvgPool2d(self, layer):
        raise ValueError(f"no dense twin of {layer}")

    visit_AdaptiveAvgPool2d = visit_AvgPool2d

    def visit_MaxPool2d(self, layer):
        if any(self.pair(layer.padding)):
            raise ValueError(f"no dense twin of a padded pool: {layer}")
        return self.with_holes(layer)

    def visit_Conv2d(self, layer):
        rows, columns = removed = self.removed
        twin = self.with_holes(layer)
        # what is padded at the left, right, top and bottom where padding is not with plain zeros
        sides = layer._reversed_padding_repeated_twice
        sides = [n * s for n, s in zip(sides, (columns, columns, rows, rows))]
        twin._reversed_padding_repeated_twice = sides
        if not isinstance(layer.padding, str):
            twin.padding = self.times(layer.padding, removed)
        elif layer.padding_mode == "zeros" and (sides[0], sides[2]) != (sides[1], sides[3]):
            twin.padding_mode = "constant"  # "same" around an even kernel: not alike at both sides
        return twin

    def with_holes(self, layer):
        twin = copy.deepcopy(layer)
        twin.stride = (1, 1)
        twin.dilation = self.times(self.pair(layer.dilation), self.removed)
        self.removed = self.times(self.removed, self.pair(layer.stride))
        return twin


def atrous(net: nn.Sequential) -> nn.Sequential:
    return DenseTwin().visit(net)


# %% wrong nearest_upsample: The whole map is tiled factor × factor times (torch's repeat taken for numpy's), so the picture repeats itself instead of each value becoming a block.
def nearest_upsample(x: Tensor, factor: int) -> Tensor:
    """Repeat every value factor times down and factor times to the right."""
    return x.repeat(1, 1, factor, factor)


# %% right nearest_upsample: reduce over the two axes, index_select with floor-divided positions
from functools import reduce


def nearest_upsample(x: Tensor, factor: int) -> Tensor:
    def stretch(values: Tensor, axis: int) -> Tensor:
        position = torch.arange(factor * values.shape[axis], device=values.device)
        return values.index_select(axis, position // factor)

    return reduce(stretch, (2, 3), x)


# %% wrong bed_of_nails: The map ends with the last nail: it has factor·(H−1)+1 rows and factor·(W−1)+1 columns, so the factor−1 rows and columns of zeros behind the last values are missing.
def bed_of_nails(x: Tensor, factor: int) -> Tensor:
    n, c, h, w = x.shape
    # factor - 1 zeros between each two neighbors
    out = x.new_zeros(n, c, factor * (h - 1) + 1, factor * (w - 1) + 1)
    out[:, :, ::factor, ::factor] = x
    return out


# %% right bed_of_nails: slice_scatter into fresh zeros, one axis at a time
def bed_of_nails(x: Tensor, factor: int) -> Tensor:
    def spread(values: Tensor, axis: int) -> Tensor:
        shape = list(values.shape)
        shape[axis] *= factor
        return values.new_zeros(shape).slice_scatter(values, dim=axis, step=factor)

    return spread(spread(x, 3), 2)


# %% wrong max_pool_with_switches: The values of a window are lined up column by column, so among equal values the first in column order wins instead of the first in row order.
def max_pool_with_switches(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n, c, height, width = x.shape
    h, w = height // k, width // k
    windows = x[:, :, : h * k, : w * k].reshape(n, c, h, k, w, k)
    windows = windows.permute(0, 1, 2, 4, 5, 3).flatten(4)  # (N, C, h, w, k·k)

    best = windows.argmax(dim=-1)
    y = windows.gather(-1, best.unsqueeze(-1)).squeeze(-1)

    i = torch.arange(h, device=x.device).reshape(h, 1)
    j = torch.arange(w, device=x.device)
    row = k * i + best % k
    column = k * j + best // k
    return y, row * width + column


# %% right max_pool_with_switches: separable: the winners along each row first, then along the columns, their numbers gathered along
def winners(values: Tensor, numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The largest of each k neighbors along the last axis (the first of equal ones), and its number."""
    count = values.shape[-1] // k
    shape = (*values.shape[:-1], count, k)
    values, numbers = (t[..., : count * k].reshape(shape) for t in (values, numbers))
    best = values.argmax(dim=-1, keepdim=True)
    return values.gather(-1, best).squeeze(-1), numbers.gather(-1, best).squeeze(-1)


def max_pool_with_switches(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    height, width = x.shape[-2:]
    numbers = torch.arange(height * width, device=x.device).reshape(height, width).expand(x.shape)
    y, switches = winners(x, numbers, k)  # (N, C, H, w): the leftmost of equal ones in its row
    y, switches = winners(y.transpose(2, 3), switches.transpose(2, 3), k)  # the upmost of the rows
    return y.transpose(2, 3).contiguous(), switches.transpose(2, 3).contiguous()


# %% wrong max_unpool: The values are put in with scatter_reduce and "amax", which counts the zero that stands there already, so negative values are lost: zeros remain at their switches.
def max_unpool(y: Tensor, switches: Tensor, size: tuple[int, int]) -> Tensor:
    n, c = y.shape[:2]
    height, width = size
    flat = y.new_zeros(n, c, height * width)
    # it undoes a max pool, so the maximum is what should stay
    flat = flat.scatter_reduce(2, switches.flatten(2), y.flatten(2), reduce="amax")
    return flat.reshape(n, c, height, width)


# %% right max_unpool: turned into a gather: a table says for each pixel which value it shows, a zero is appended for all the others
def max_unpool(y: Tensor, switches: Tensor, size: tuple[int, int]) -> Tensor:
    (n, c, h, w), (height, width) = y.shape, size
    nothing = h * w  # the number of the appended zero
    values = F.pad(y.flatten(2), (0, 1))
    table = torch.full((n, c, height * width), nothing, dtype=torch.int64, device=y.device)
    everyone = torch.arange(nothing, device=y.device).repeat(n, c, 1)
    table = table.scatter(2, switches.flatten(2), everyone)
    return values.gather(2, table).reshape(n, c, height, width)


# %% wrong transposed_conv_matrix: The kernel is flipped before it is written into the columns (as the convolution of mathematics is believed to want it), so each column holds it upside down.
def transposed_conv_matrix(kernel: Tensor, length: int, stride: int = 1) -> Tensor:
    size = len(kernel)
    matrix = kernel.new_zeros(stride * (length - 1) + size, length)
    mirrored = kernel.flip(0)
    for j in range(length):
        matrix[stride * j : stride * j + size, j] = mirrored
    return matrix


# %% right transposed_conv_matrix: itertools.accumulate rolls the padded kernel on by stride for each next column
from itertools import accumulate


def transposed_conv_matrix(kernel: Tensor, length: int, stride: int = 1) -> Tensor:
    first = F.pad(kernel, (0, stride * (length - 1)))  # has room for the last copy: no roll wraps
    columns = accumulate(
        range(1, length), lambda column, _: column.roll(stride, dims=0), initial=first
    )
    return torch.stack(list(columns), dim=1)


# %% wrong conv_transpose2d: Zeros are put between the values and an ordinary convolution follows, but the kernel isn't flipped for it, so each value lays down a copy that is rotated by 180 degrees.
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
    n, c, h, w = x.shape
    kh, kw = weight.shape[2:]

    nails = x.new_zeros(n, c, stride * (h - 1) + 1, stride * (w - 1) + 1)
    nails[:, :, ::stride, ::stride] = x

    # a full convolution needs k - 1 zeros at each side; padding takes some away
    top, left = kh - 1 - padding, kw - 1 - padding
    nails = F.pad(nails, (left, left + output_padding, top, top + output_padding))
    return F.conv2d(nails, weight.transpose(0, 1), bias)


# %% right conv_transpose2d: one einsum makes all products, index_add sums them up, first along the columns and then along the rows; narrow cuts
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

    def landing(count: int, taps: int) -> Tensor:
        """Where tap r of value i lands, for all i and r: stride·i + r."""
        i = torch.arange(count, device=x.device).unsqueeze(1)
        return (stride * i + torch.arange(taps, device=x.device)).flatten()

    (h, w), (kh, kw) = x.shape[2:], weight.shape[2:]
    full_h = stride * (h - 1) + kh + output_padding
    full_w = stride * (w - 1) + kw + output_padding

    sheet = torch.einsum("nihw,iorc->nohrwc", x, weight).flatten(4, 5)
    ground = sheet.new_zeros(*sheet.shape[:4], full_w)
    sheet = ground.index_add(4, landing(w, kw), sheet).flatten(2, 3)
    ground = sheet.new_zeros(*sheet.shape[:2], full_h, full_w)
    sheet = ground.index_add(2, landing(h, kh), sheet)

    sheet = sheet.narrow(2, padding, full_h - 2 * padding).narrow(3, padding, full_w - 2 * padding)
    return sheet if bias is None else sheet + bias[:, None, None]


# %% wrong bilinear_kernel: The pyramid is divided by its sum, as one does with a smoothing kernel, so the weights that reach one output pixel sum to 1/factor² instead of 1 and the image comes out darker.
def bilinear_kernel(channels: int, factor: int) -> Tensor:
    k = 2 * factor - factor % 2
    center = (k - 1) / 2
    ramp = 1 - (torch.arange(k, dtype=torch.float32) - center).abs() / factor
    pyramid = ramp[:, None] * ramp[None, :]
    pyramid = pyramid / pyramid.sum()
    weight = torch.zeros(channels, channels, k, k)
    for channel in range(channels):
        weight[channel, channel] = pyramid
    return weight


# %% right bilinear_kernel: the smaller of a rising line and its mirror image, diag_embed for the channels, float64 until the end
def bilinear_kernel(channels: int, factor: int) -> Tensor:
    k = 2 * factor - factor % 2
    rising = 1 + (2 * torch.arange(k, dtype=torch.float64) - (k - 1)) / (2 * factor)
    ramp = torch.minimum(rising, rising.flip(0))
    pyramid = torch.einsum("r,c->rc", ramp, ramp)
    everywhere = pyramid.unsqueeze(-1).expand(k, k, channels)
    return torch.diag_embed(everywhere).permute(2, 3, 0, 1).float().contiguous()
