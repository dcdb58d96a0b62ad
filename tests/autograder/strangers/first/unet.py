# %% wrong unet_output_size: only the side at the bottom is checked to be positive, not the result, so a size whose map shrinks to 0 or less on the way up is returned instead of refused.
def unet_output_size(size: int, depth: int = 4) -> int:
    side = size
    for _ in range(depth):
        side -= 4
        if side % 2:
            raise ValueError(f"{size}: a pooling meets the odd side {side}")
        side //= 2
    side -= 4
    if side < 1:
        raise ValueError(f"{size}: nothing is left at the bottom")
    for _ in range(depth):
        side = 2 * side - 4
    return side


# %% right unet_output_size: closed form: size + 4 halves at each pooling, so a bit mask tells what is refused
def unet_output_size(size: int, depth: int = 4) -> int:
    """The side of the map that a U-Net makes of an image of side `size`; depth is the number of poolings."""
    unit = 1 << depth
    # Down: s → (s − 4) / 2, that is s + 4 → (s + 4) / 2. Bottom: −4. Up: s → 2s − 4, that is s − 4 → 2(s − 4).
    if (size + 4) & (unit - 1):
        raise ValueError(f"some pooling meets an odd side: {size} + 4 is no multiple of {unit}")
    if (result := size + 8 - 12 * unit) < 1:
        raise ValueError(f"an image of side {size} leaves no pixel at depth {depth}")
    return result


# %% wrong crop_and_concat: the offset is round(difference / 2), which rounds 1.5 up to 2, so for differences of 3, 7, 11 … the extra row or column is cropped at the top or left.
def crop_and_concat(skip: Tensor, up: Tensor) -> Tensor:
    height, width = up.shape[-2:]
    if height > skip.shape[-2] or width > skip.shape[-1]:
        raise ValueError(f"up {tuple(up.shape)} is larger than skip {tuple(skip.shape)}")
    top = int(round((skip.shape[-2] - height) / 2.0))
    left = int(round((skip.shape[-1] - width) / 2.0))
    return torch.cat([skip[..., top : top + height, left : left + width], up], dim=1)


# %% right crop_and_concat: negative padding crops
def crop_and_concat(skip: Tensor, up: Tensor) -> Tensor:
    """Crop skip (N, C, H, W) to the center that up (N, C', h, w) covers; join them, skip's channels first."""
    padding: list[int] = []
    for axis in (3, 2):  # F.pad begins with the last axis
        spare = skip.shape[axis] - up.shape[axis]
        if spare < 0:
            raise ValueError(f"axis {axis}: up has {up.shape[axis]} pixels, skip {skip.shape[axis]} only")
        before = spare // 2
        padding += [-before, before - spare]
    return torch.cat((F.pad(skip, padding), up), dim=1)


# %% wrong DoubleConv: the weights are drawn with kaiming_normal_ in mode fan_out (as ResNets do), so the first convolution has the standard deviation √(2 / fan out) instead of √(2 / fan in).
class DoubleConv(nn.Module):
    """Two 3×3 convolutions without padding, each followed by a ReLU; both have out_channels channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, kernel_size=3),
            nn.ReLU(),
        )
        for module in self.net:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


# %% right DoubleConv: a ModuleList folded with functools.reduce; weights uniform with the standard deviation asked for
import functools


class DoubleConv(nn.Module):
    """Two 3×3 convolutions without padding, each followed by a ReLU; both have out_channels channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(c, out_channels, 3) for c in (in_channels, out_channels))
        for layer in self.layers:
            fan_in = layer.weight[0].numel()
            bound = math.sqrt(3.0) * math.sqrt(2.0 / fan_in)  # U(-b, b) has the deviation b / √3
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.constant_(layer.bias, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return functools.reduce(lambda h, layer: layer(h).relu(), self.layers, x)


# %% wrong UNet: the skips are kept in a list made in __init__ that is never emptied and are looked up by level, so from the second call on the skips of the first call are used.
class _TwoConvs(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3)
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, std=(2 / (9 * conv.in_channels)) ** 0.5)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))))


def _join(skip: Tensor, up: Tensor) -> Tensor:
    h, w = up.shape[2:]
    top, left = (skip.shape[2] - h) // 2, (skip.shape[3] - w) // 2
    if top < 0 or left < 0:
        raise ValueError("up is larger than skip")
    return torch.cat([skip[:, :, top : top + h, left : left + w], up], dim=1)


class UNet(nn.Module):
    """The U-Net: (N, in_channels, H, W) to logits (N, num_classes, H', W') of unet_output_size."""

    def __init__(self, in_channels: int, num_classes: int, base: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.depth = depth
        self.skips = []
        widths = [base * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _TwoConvs(before, after) for before, after in zip([in_channels] + widths, widths[:-1])
        )
        self.bottom = _TwoConvs(widths[-2], widths[-1])
        self.up = nn.ModuleList()
        self.merge = nn.ModuleList()
        for c in reversed(widths[:-1]):
            self.up.append(nn.ConvTranspose2d(2 * c, c, 2, stride=2))
            self.merge.append(_TwoConvs(2 * c, c))
        self.head = nn.Conv2d(base, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.down:
            x = block(x)
            self.skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for level in reversed(range(self.depth)):
            i = self.depth - 1 - level
            x = self.merge[i](_join(self.skips[level], self.up[i](x)))
        return self.head(x)


# %% right UNet: Russian dolls: each level holds the next one inside, no list of skips anywhere
def _valid_pair(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c in (in_channels, out_channels):
        conv = nn.Conv2d(c, out_channels, kernel_size=3)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers)


class _Level(nn.Module):
    """Down by one pooling, whatever lies inside, up again, and across."""

    def __init__(self, in_channels: int, width: int, poolings: int) -> None:
        super().__init__()
        self.contract = _valid_pair(in_channels, width)
        self.inside = (
            _Level(width, 2 * width, poolings - 1) if poolings > 1 else _valid_pair(width, 2 * width)
        )
        self.enlarge = nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2)
        self.expand = _valid_pair(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        across = self.contract(x)
        below = self.enlarge(self.inside(F.max_pool2d(across, 2)))
        for axis in (2, 3):
            length = below.shape[axis]
            across = across.narrow(axis, (across.shape[axis] - length) // 2, length)
        return self.expand(torch.cat((across, below), dim=1))


class UNet(nn.Module):
    """The U-Net: (N, in_channels, H, W) to logits (N, num_classes, H', W') of unet_output_size."""

    def __init__(self, in_channels: int, num_classes: int, base: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.body = _Level(in_channels, base, depth)
        self.scores = nn.Conv2d(base, num_classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.body(x))


# %% wrong overlap_tile: where the tile does not divide a side, the last tiles are moved back inside the image, so they overlap their neighbors and pixels are predicted twice instead of lying side by side from the top left.
def overlap_tile(net: nn.Module, image: Tensor, tile: int, context: int, num_classes: int) -> Tensor:
    x = image if image.is_floating_point() else image.float()
    height, width = x.shape[1:]

    def fold(index, n):
        period = 2 * (n - 1)
        index = index % period
        return torch.minimum(index, period - index)

    flags = [(module, module.training) for module in net.modules()]
    net.eval()
    scores = torch.zeros(num_classes, height, width, dtype=x.dtype, device=x.device)
    tops = [min(top, max(height - tile, 0)) for top in range(0, height, tile)]
    lefts = [min(left, max(width - tile, 0)) for left in range(0, width, tile)]
    with torch.no_grad():
        for top in tops:
            rows = fold(torch.arange(top - context, top + tile + context, device=x.device), height)
            for left in lefts:
                columns = fold(torch.arange(left - context, left + tile + context, device=x.device), width)
                y = net(x[:, rows[:, None], columns][None])[0]
                scores[:, top : top + tile, left : left + tile] = y[:, : height - top, : width - left]
    for module, flag in flags:
        module.training = flag
    return scores


# %% right overlap_tile: a context manager for the flags, a triangle wave for the mirror, tiles joined by nested torch.cat
import contextlib


@contextlib.contextmanager
def _only_answering(net: nn.Module):
    before = {module: module.training for module in net.modules()}
    try:
        net.eval()
        with torch.no_grad():
            yield net
    finally:
        for module, flag in before.items():
            module.training = flag


def overlap_tile(net: nn.Module, image: Tensor, tile: int, context: int, num_classes: int) -> Tensor:
    """Segment an image (C, H, W) tile by tile; returns scores (num_classes, H, W)."""
    source = image.detach() if image.is_floating_point() else image.to(torch.float32)
    height, width = source.shape[-2:]

    def mirrored(start: int, n: int) -> Tensor:
        steps = torch.arange(start - context, start + tile + context, device=source.device)
        return (n - 1) - (steps.remainder(2 * (n - 1)) - (n - 1)).abs()

    def window(top: int, left: int) -> Tensor:
        rows, columns = mirrored(top, height), mirrored(left, width)
        return source[:, rows.unsqueeze(1), columns.unsqueeze(0)].unsqueeze(0)  # a copy

    with _only_answering(net) as answer:
        strips = [
            torch.cat(
                [
                    answer(window(top, left)).reshape(num_classes, tile, tile)
                    for left in range(0, width, tile)
                ],
                dim=2,
            )
            for top in range(0, height, tile)
        ]
        whole = torch.cat(strips, dim=1)
        return whole[:, :height, :width].to(source.dtype).contiguous()


# %% wrong elastic_deformation: both are read with align_corners=False (coordinates scaled for it), so beyond the border grid_sample mirrors at the outer edges of the border pixels and the edge pixel is repeated.
def elastic_deformation(
    image: Tensor,
    labels: Tensor,
    grid: int = 3,
    sigma: float = 10.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    height, width = labels.shape
    dtype = image.dtype if image.is_floating_point() else torch.float32
    lattice = sigma * torch.randn(1, 2, grid, grid, generator=generator)
    field = F.interpolate(lattice, (height, width), mode="bicubic", align_corners=True)[0].double()
    rows = torch.arange(height, dtype=torch.float64)[:, None] + field[0]
    columns = torch.arange(width, dtype=torch.float64)[None, :] + field[1]
    places = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)[None]

    def read(values, mode):
        return F.grid_sample(
            values.double()[None], places, mode=mode, padding_mode="reflection", align_corners=False
        )[0]

    return read(image, "bilinear").to(dtype), read(labels[None], "nearest")[0].to(labels.dtype)


# %% right elastic_deformation: the field from F.interpolate, then numpy and scipy's map_coordinates in its mirror mode
def elastic_deformation(
    image: Tensor,
    labels: Tensor,
    grid: int = 3,
    sigma: float = 10.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Bend an image (C, H, W) and its labels (H, W) by one random field."""
    height, width = labels.shape
    lattice = torch.randn(1, 2, grid, grid, generator=generator) * sigma
    field = F.interpolate(lattice, size=(height, width), mode="bicubic", align_corners=True).squeeze(0)
    places = np.indices((height, width), dtype=np.float64) + field.cpu().numpy().astype(np.float64)

    channels = image.detach().cpu().to(torch.float64).numpy()
    bent = np.stack([ndimage.map_coordinates(c, places, order=1, mode="mirror") for c in channels])
    numbers = labels.detach().cpu().to(torch.int64).numpy()
    moved = ndimage.map_coordinates(numbers, places, order=0, mode="mirror")

    kind = image.dtype if image.is_floating_point() else torch.float32
    return (
        torch.from_numpy(bent).to(device=image.device, dtype=kind),
        torch.from_numpy(moved).to(device=labels.device, dtype=labels.dtype),
    )


# %% wrong unet_weight_map: without class_weights the balance is scikit-learn's, H·W / (number of classes present · pixels), so where one class is alone every weight is 1 instead of ½.
def unet_weight_map(
    instances: Tensor, w0: float = 10.0, sigma: float = 5.0, class_weights: tuple[float, float] | None = None
) -> Tensor:
    cells = instances.cpu().numpy()
    background = cells == 0
    if class_weights is None:
        counts = [background.sum(), (~background).sum()]
        present = sum(count > 0 for count in counts)
        class_weights = [cells.size / (present * count) if count > 0 else 0.0 for count in counts]
    weights = np.where(background, class_weights[0], class_weights[1]).astype(np.float64)
    ids = [i for i in np.unique(cells) if i != 0]
    if len(ids) >= 2:
        distances = np.stack([ndimage.distance_transform_edt(cells != i) for i in ids])
        distances.sort(axis=0)
        border = w0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
        weights[background] += border[background]
    return torch.from_numpy(weights.astype(np.float32))


# %% right unet_weight_map: running smallest and second smallest distance that begin at infinity, so fewer than two cells need no case of their own
def unet_weight_map(
    instances: Tensor, w0: float = 10.0, sigma: float = 5.0, class_weights: tuple[float, float] | None = None
) -> Tensor:
    """Weight of every pixel of instances (H, W), 0 = background: w_c, on background plus the border term."""
    ids = instances.detach().cpu().to(torch.int64).numpy()
    ground = ids == 0

    def balanced(pixels: int) -> float:
        return ids.size / 2 / pixels if pixels else 0.0

    behind, cell = class_weights or (balanced(int(ground.sum())), balanced(int((~ground).sum())))

    nearest, second = np.full((2, *ids.shape), np.inf)
    for one in set(ids.ravel().tolist()) - {0}:
        distance = ndimage.distance_transform_edt(ids != one)
        nearest, second = (
            np.minimum(nearest, distance),
            np.minimum(second, np.maximum(nearest, distance)),
        )
    border = w0 * np.exp(-np.square(nearest + second) / (2.0 * sigma * sigma))  # exp(−∞) = 0
    weights = np.where(ground, behind + border, float(cell))
    return torch.from_numpy(weights.astype(np.float32)).to(instances.device)


# %% wrong train_unet: the network is built without the generator (outside of drawn_from), so its first weights come from torch's global generator and the same generator seed gives different networks.
class _Pair(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, out_channels, 3)
        self.second = nn.Conv2d(out_channels, out_channels, 3)
        for conv in (self.first, self.second):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).relu()


class _Net(nn.Module):
    def __init__(self, base: int = 16) -> None:
        super().__init__()
        self.down1, self.down2 = _Pair(1, base), _Pair(base, 2 * base)
        self.bottom = _Pair(2 * base, 4 * base)
        self.up2 = nn.ConvTranspose2d(4 * base, 2 * base, 2, stride=2)
        self.merge2 = _Pair(4 * base, 2 * base)
        self.up1 = nn.ConvTranspose2d(2 * base, base, 2, stride=2)
        self.merge1 = _Pair(2 * base, base)
        self.head = nn.Conv2d(base, 2, 1)

    @staticmethod
    def join(skip: Tensor, up: Tensor) -> Tensor:
        h, w = up.shape[2:]
        top, left = (skip.shape[2] - h) // 2, (skip.shape[3] - w) // 2
        return torch.cat([skip[:, :, top : top + h, left : left + w], up], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        x = self.bottom(F.max_pool2d(b, 2))
        x = self.merge2(self.join(b, self.up2(x)))
        x = self.merge1(self.join(a, self.up1(x)))
        return self.head(x)


def _border_weights(instances: Tensor, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    cells = instances.numpy()
    background = cells == 0
    weights = np.zeros(cells.shape)
    for part in (background, ~background):
        if part.any():
            weights[part] = cells.size / (2 * part.sum())
    ids = [i for i in np.unique(cells) if i != 0]
    if len(ids) >= 2:
        d = np.sort(np.stack([ndimage.distance_transform_edt(cells != i) for i in ids]), axis=0)
        weights += background * w0 * np.exp(-((d[0] + d[1]) ** 2) / (2 * sigma**2))
    return torch.from_numpy(weights.astype(np.float32))


def train_unet(dataset: Dataset, generator: torch.Generator) -> nn.Module:
    items = []
    for i in range(len(dataset)):
        item = dataset[i]
        instances = item["instances"]
        items.append(
            {
                "image": item["image"],
                "labels": (instances > 0).long(),
                "weights": _border_weights(instances),
            }
        )

    def loss(logits, labels, weights):
        return (weights * F.cross_entropy(logits, labels.long(), reduction="none")).mean()

    net = _Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    fit(
        net,
        items,
        steps=320,
        batch_size=4,
        descent=Descent(optimizer, one_cycle()),
        task=Task(("labels", "weights"), loss, augment=quarter_turns),
        generator=generator,
    )
    return net.eval()


# %% right train_unet: a nested network built by closures from Sequentials, a log-sigmoid form of the loss, the course's fit
class _Across(nn.Module):
    """before → (pool → inside → enlarge) beside it, cropped → after."""

    def __init__(self, before: nn.Module, inside: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.inside, self.after = before, inside, after

    def forward(self, x: Tensor) -> Tensor:
        wide = self.before(x)
        deep = self.inside(wide)
        top, left = ((big - small) // 2 for big, small in zip(wide.shape[2:], deep.shape[2:]))
        wide = wide[:, :, top : top + deep.shape[2], left : left + deep.shape[3]]
        return self.after(torch.cat((wide, deep), dim=1))


def _convolved(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:]):
        conv = nn.Conv2d(before, after, 3)
        nn.init.normal_(conv.weight, std=math.sqrt(2 / (9 * before)))
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers)


def _nested(in_channels: int, width: int, poolings: int) -> nn.Module:
    if poolings == 0:
        return _convolved(in_channels, width, width)
    below = nn.Sequential(
        nn.MaxPool2d(2),
        _nested(width, 2 * width, poolings - 1),
        nn.ConvTranspose2d(2 * width, width, 2, stride=2),
    )
    return _Across(_convolved(in_channels, width, width), below, _convolved(2 * width, width, width))


def _prices(instances: Tensor, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    ids = instances.cpu().to(torch.int64).numpy()
    ground = ids == 0
    share = {side: ids.size / 2 / max(int((ground == side).sum()), 1) for side in (True, False)}
    nearest, second = np.full(ids.shape, np.inf), np.full(ids.shape, np.inf)
    for one in set(ids.ravel().tolist()) - {0}:
        d = ndimage.distance_transform_edt(ids != one)
        second = np.minimum(second, np.maximum(nearest, d))
        nearest = np.minimum(nearest, d)
    border = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return torch.from_numpy(np.where(ground, share[True] + border, share[False]).astype(np.float32))


def train_unet(dataset: Dataset, generator: torch.Generator) -> nn.Module:
    """A network that tells cells apart which it has never seen."""

    def prepared():
        for index in range(len(dataset)):
            item = dataset[index]
            yield {
                "image": item["image"],
                "labels": (item["instances"] > 0).long(),
                "weights": _prices(item["instances"]),
            }

    def loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        # Of two classes, −log softmax at the true one is softplus(other − true).
        lead = logits[:, 1] - logits[:, 0]
        sign = 1 - 2 * labels.to(lead.dtype)
        return (weights * F.softplus(sign * lead)).mean()

    with drawn_from(generator):
        net = nn.Sequential(_nested(1, 16, 2), nn.Conv2d(16, 2, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    fit(
        net,
        list(prepared()),
        steps=340,
        batch_size=4,
        descent=Descent(optimizer, one_cycle()),
        task=Task(("labels", "weights"), loss, augment=quarter_turns),
        generator=generator,
    )
    return net.eval()
