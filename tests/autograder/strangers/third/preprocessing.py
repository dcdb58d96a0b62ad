# %% wrong mean_image: the mean so far is halved with each further image, (mean + image) / 2, so from three images on the later ones count more than the earlier ones
def mean_image(images: Tensor) -> Tensor:
    if not images.is_floating_point():
        images = images.float()
    mean = images[0].clone()
    for image in images[1:]:
        mean = (mean + image) / 2
    return mean

# %% right mean_image: an average pooling along the images, whose window holds them all
def mean_image(images: Tensor) -> Tensor:
    kind = images.dtype if images.is_floating_point() else torch.float32
    count = images.shape[0]
    along = images.double().flatten(start_dim=1).T.unsqueeze(0)  # (1, C*H*W, N): time runs over the images
    pooled = F.avg_pool1d(along, kernel_size=count)  # (1, C*H*W, 1)
    return pooled.reshape(images.shape[1:]).to(kind)

# %% wrong channel_statistics: the deviations are measured from the one mean of all channels together, not from each channel's own mean, so the std is too large wherever the channels' means differ (and not 0 for a constant channel)
def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    dtype = images.dtype if images.is_floating_point() else torch.float32
    x = images.double()
    mean = x.mean(dim=(0, 2, 3))
    variance = ((x - x.mean()) ** 2).mean(dim=(0, 2, 3))
    return mean.to(dtype), variance.sqrt().to(dtype)

# %% right channel_statistics: a 2×2 Gram matrix per channel, of ones and the pixels measured from the middle of their range
def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    kind = images.dtype if images.is_floating_point() else torch.float32
    pixels = images.double().movedim(1, 0).flatten(1)  # (C, n)

    low, high = pixels.aminmax(dim=1, keepdim=True)
    middle = low + (high - low) / 2  # of a constant channel: exactly its value

    pairs = torch.stack([torch.ones_like(pixels), pixels - middle], dim=1)  # (C, 2, n)
    gram = pairs @ pairs.mT  # per channel [[n, sum], [sum, sum of squares]]
    count, total, squares = gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1]

    offset = total / count
    variance = (squares / count - offset * offset).clamp(min=0)
    return (middle.squeeze(1) + offset).to(kind), variance.sqrt().to(kind)

# %% wrong streaming_statistics: the mean is updated first and the squared deviations of the new batch are then taken from it, but the old sum isn't moved over to the new mean, so the std is too small where the batches' means differ
def streaming_statistics(batches) -> tuple[Tensor, Tensor]:
    n = 0
    for batch in batches:
        x = batch.double().transpose(0, 1).flatten(1)
        if n == 0:
            dtype = batch.dtype if batch.is_floating_point() else torch.float32
            mean = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
            m2 = torch.zeros_like(mean)
        k = x.shape[1]
        n += k
        mean = mean + (x.mean(dim=1) - mean) * (k / n)
        m2 = m2 + ((x - mean[:, None]) ** 2).sum(dim=1)
    return mean.to(dtype), (m2 / n).sqrt().to(dtype)

# %% right streaming_statistics: no sums at all: a 2×2 triangle per channel that a QR decomposition renews with each batch
@torch.no_grad()
def streaming_statistics(batches) -> tuple[Tensor, Tensor]:
    triangle = origin = kind = None
    for batch in batches:
        rows = batch.movedim(1, 0).flatten(1).to(torch.float64)  # (C, k)
        if triangle is None:
            kind = batch.dtype if batch.is_floating_point() else torch.float32
            origin = rows[:, :1].clone()
            triangle = rows.new_zeros(rows.shape[0], 2, 2)
        points = torch.stack([torch.ones_like(rows), rows - origin], dim=2)  # (C, k, 2)
        # R keeps all inner products of the columns: those of the pixels before, and of the new ones.
        triangle = torch.linalg.qr(torch.cat([triangle, points], dim=1), mode="r").R
    if triangle is None:
        raise ValueError("there is no batch")

    root_n = triangle[:, 0, 0]  # ± sqrt(n)
    mean = origin[:, 0] + triangle[:, 0, 1] / root_n
    std = (triangle[:, 1, 1] / root_n).abs()  # what is left of the pixels beside the ones
    return mean.to(kind), std.to(kind)

# %% wrong zca_whiten: .double() is believed to copy always, but a float64 x comes back as it is, so centering in place overwrites the argument where it is float64
def zca_whiten(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    dtype = x.dtype if x.is_floating_point() else torch.float32
    centered = x.double()
    centered -= centered.mean(dim=0)
    covariance = centered.T @ centered / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    factors = 1 / torch.sqrt(values.clamp(min=0) + eps)
    w = vectors @ torch.diag(factors) @ vectors.T
    return (centered @ w).to(dtype), w.to(dtype)

# %% right zca_whiten: QR shrinks the samples to a triangle, its full SVD has all D directions, missing variances are padded with 0
def zca_whiten(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    kind = x.dtype if x.is_floating_point() else torch.float32
    count, features = x.shape
    centered = torch.sub(wide := x.double(), wide.mean(dim=0))

    triangle = torch.linalg.qr(centered, mode="r").R  # (min(N, D), D), the same covariance as centered
    _, singular, directions = torch.linalg.svd(triangle, full_matrices=True)  # directions (D, D), in rows
    variances = F.pad(singular.square() / count, (0, features - singular.numel()))

    half = directions * (variances + eps).pow(-0.25)[:, None]
    w = half.T @ half
    w = (w + w.T) / 2
    return (centered @ w).to(kind), w.to(kind)

# %% wrong Standardizer: in the two modes that don't divide, forward leaves the division out, but the buffer std holds the measured standard deviation instead of 1
class Standardizer(nn.Module):
    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def fit(self, images: Tensor) -> "Standardizer":
        dtype = images.dtype if images.is_floating_point() else torch.float32
        x = images.double()
        if self.mode == "mean_image":
            mean = x.mean(dim=0)
        else:
            mean = x.mean(dim=(0, 2, 3))[:, None, None]
        std = x.std(dim=(0, 2, 3), correction=0)[:, None, None]
        std = torch.where(std == 0, torch.ones_like(std), std)
        self.mean = mean.to(dtype)
        self.std = std.to(dtype)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.numel() == 0:
            raise RuntimeError("Standardizer must be fitted or loaded first")
        dtype = images.dtype if images.is_floating_point() else torch.float32
        result = images.to(dtype) - self.mean
        if self.mode == "channel_standard":
            result = result / self.std
        return result.to(dtype)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        # Given: an empty buffer takes the shape of what is about to be loaded.
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), self._buffers.get(name)
            if saved is not None and own is not None and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

# %% right Standardizer: a decorator guards forward, a table holds each mode's axes, the two steps are folded with reduce
from functools import reduce, wraps


def fitted_only(method):
    @wraps(method)
    def guarded(self, images: Tensor) -> Tensor:
        if 0 in (self.mean.numel(), self.std.numel()):
            raise RuntimeError("nothing has been measured: call fit, or load the state of a fitted Standardizer")
        return method(self, images)

    return guarded


def float_kind(images: Tensor) -> torch.dtype:
    return images.dtype if images.is_floating_point() else torch.float32


class Standardizer(nn.Module):
    RECIPES = {  # mode: the axes of its statistics, and whether it divides
        "mean_image": ((0,), False),
        "channel_mean": ((0, 2, 3), False),
        "channel_standard": ((0, 2, 3), True),
    }

    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        if mode not in self.RECIPES:
            raise ValueError(f"mode is one of {', '.join(self.RECIPES)}, not {mode!r}")
        self.mode = mode
        for name in ("mean", "std"):
            self.register_buffer(name, torch.empty(0))

    def fit(self, images: Tensor) -> "Standardizer":
        axes, divides = self.RECIPES[self.mode]
        kind, x = float_kind(images), images.detach().double()
        mean = x.mean(axes, keepdim=True)[0]
        std = torch.ones_like(mean)
        if divides:
            moves = x.amin(axes, keepdim=True)[0] != x.amax(axes, keepdim=True)[0]
            spread = (x - mean).square().mean(axes, keepdim=True)[0].sqrt()
            std = torch.where(moves, spread, std)
        std = std.to(kind)
        self.mean, self.std = mean.to(kind), std.masked_fill(std == 0, 1.0)
        return self

    @fitted_only
    def forward(self, images: Tensor) -> Tensor:
        kind = float_kind(images)
        steps = ((torch.sub, self.mean), (torch.div, self.std))
        return reduce(lambda value, step: step[0](value, step[1]), steps, images.to(kind)).to(kind)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        # Given: an empty buffer takes the shape of what is about to be loaded.
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), self._buffers.get(name)
            if saved is not None and own is not None and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

# %% wrong split_then_standardize: the images are cut first and only the training part is shuffled afterwards, so the validation part is always the first images, in their old order, whatever the generator draws
class Standardizer(nn.Module):
    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def fit(self, images: Tensor) -> "Standardizer":
        dtype = images.dtype if images.is_floating_point() else torch.float32
        x = images.double()
        std = x.std(dim=(0, 2, 3), correction=0)
        std = torch.where(std == 0, torch.ones_like(std), std)
        self.mean = x.mean(dim=(0, 2, 3))[:, None, None].to(dtype)
        self.std = std[:, None, None].to(dtype)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.numel() == 0:
            raise RuntimeError("not fitted")
        return (images - self.mean) / self.std

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), self._buffers.get(name)
            if saved is not None and own is not None and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def split_then_standardize(
    images: Tensor, val_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, nn.Module]:
    num_val = round(len(images) * val_fraction)
    val, train = images[:num_val], images[num_val:]
    train = train[torch.randperm(len(train), generator=generator)]
    standardizer = Standardizer().fit(train)
    return standardizer(train), standardizer(val), standardizer

# %% right split_then_standardize: a lottery without replacement (multinomial) draws the order, split and index_select deal it out, its own Standardizer
class Standardizer(nn.Module):
    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        assert mode == "channel_standard", "this one knows a single mode"
        self.mode = mode
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    @staticmethod
    def kind_of(images: Tensor) -> torch.dtype:
        return images.dtype if images.is_floating_point() else torch.float32

    def fit(self, images: Tensor) -> "Standardizer":
        rows = images.detach().double().movedim(1, 0).flatten(1)  # (C, n)
        mean = rows.mean(1)
        std = (rows - mean[:, None]).square().mean(1).sqrt()
        std[(rows == rows[:, :1]).all(1)] = 1.0  # constant channels
        self.mean, self.std = (value.to(self.kind_of(images))[:, None, None] for value in (mean, std))
        return self

    def forward(self, images: Tensor) -> Tensor:
        if not self.mean.numel():
            raise RuntimeError("fit, or load a state, before standardizing")
        kind = self.kind_of(images)
        return images.to(kind).sub(self.mean).div(self.std).to(kind)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), self._buffers.get(name)
            if saved is not None and own is not None and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def split_then_standardize(
    images: Tensor, val_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, nn.Module]:
    count = images.shape[0]
    num_val = round(count * val_fraction)
    tickets = torch.ones(count, dtype=torch.float64, device=generator.device)
    drawn = torch.multinomial(tickets, count, replacement=False, generator=generator).to(images.device)
    train, val = (images.index_select(0, part) for part in drawn.split([count - num_val, num_val]))
    standardizer = Standardizer().fit(train)
    return *map(standardizer, (train, val)), standardizer
