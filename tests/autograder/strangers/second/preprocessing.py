# %% wrong mean_image: the running sum starts as images[0], which is a view, and is added to in place, so with float images the first image of the argument is overwritten by the sum of all (the returned mean is right)
def mean_image(images: Tensor) -> Tensor:
    if not images.is_floating_point():
        images = images.float()
    total = images[0]
    for image in images[1:]:
        total += image
    return total / len(images)


# %% right mean_image: recursion, the sum of the first half plus the sum of the second half
def mean_image(images: Tensor) -> Tensor:
    def total(part: Tensor) -> Tensor:
        if len(part) < 2:
            return part.sum(0, dtype=torch.float64)
        half = len(part) // 2
        return total(part[:half]) + total(part[half:])

    kind = images.dtype if images.is_floating_point() else torch.float32
    return (total(images) / len(images)).to(kind)


# %% wrong channel_statistics: the variance is taken at each pixel over the images and then averaged over the pixels, so it measures the spread around the mean image and not around the channel's mean (0 for a single image)
def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    x = images.double()
    mean = x.mean((0, 2, 3))
    variance = x.var(0, correction=0).mean((1, 2))
    dtype = images.dtype if images.is_floating_point() else torch.float32
    return mean.to(dtype), variance.sqrt().to(dtype)


# %% right channel_statistics: numpy inside, with constant channels found by their minimum and maximum
import numpy as np


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    kind = images.dtype if images.is_floating_point() else torch.float32
    pixels = images.detach().cpu().to(torch.float64).numpy()
    over = {"axis": (0, 2, 3)}
    low, high = pixels.min(**over), pixels.max(**over)
    mean = np.where(low == high, low, pixels.mean(**over))
    std = np.where(low == high, 0.0, pixels.std(**over))

    def back(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(kind).to(images.device)

    return back(mean), back(std)


# %% wrong streaming_statistics: next(iter(batches)) looks up the channels and the dtype in a first batch, which is thereby used up and missing from the statistics when batches is a generator (for a list all is right)
def streaming_statistics(batches) -> tuple[Tensor, Tensor]:
    first = next(iter(batches))
    dtype = first.dtype if first.is_floating_point() else torch.float32
    n = 0
    mean = torch.zeros(first.shape[1], dtype=torch.float64, device=first.device)
    m2 = torch.zeros_like(mean)
    for batch in batches:
        rows = batch.double().transpose(0, 1).flatten(1)
        k = rows.shape[1]
        b = rows.mean(1)
        q = (rows - b[:, None]).square().sum(1)
        delta = b - mean
        m2 += q + delta**2 * (n * k / (n + k))
        mean += delta * (k / (n + k))
        n += k
    return mean.to(dtype), (m2 / n).sqrt().to(dtype)


# %% right streaming_statistics: a coroutine that is sent the batches and returns its sums, measured from the very first pixel
def _tally():
    count, pivot, first, second = 0, None, 0.0, 0.0
    while (batch := (yield)) is not None:
        rows = batch.detach().double().transpose(0, 1).flatten(1)
        if pivot is None:
            pivot = rows[:, :1].clone()
        moved = rows - pivot
        count += moved.shape[1]
        first = first + moved.sum(1)
        second = second + moved.square().sum(1)
    offset = first / count
    variance = second / count - offset.square()
    return pivot[:, 0] + offset, variance.clamp(min=0).sqrt()


def streaming_statistics(batches) -> tuple[Tensor, Tensor]:
    tally = _tally()
    next(tally)
    kind = torch.float32
    for batch in batches:
        if batch.is_floating_point():
            kind = batch.dtype
        tally.send(batch)
    try:
        tally.send(None)
    except StopIteration as end:
        mean, std = end.value
    return mean.to(kind), std.to(kind)


# %% wrong zca_whiten: the rows of what eigh returns are taken for the eigenvectors (they are its columns), so W is Uᵀ D U instead of U D Uᵀ, symmetric but wrong
def zca_whiten(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    dtype = x.dtype if x.is_floating_point() else torch.float32
    c = x.double()
    c = c - c.mean(0)
    cov = c.T @ c / c.shape[0]
    S, U = torch.linalg.eigh(cov)
    d = 1 / torch.sqrt(S.clamp(min=0) + eps)
    W = U.T @ torch.diag(d) @ U
    return (c @ W).to(dtype), W.to(dtype)


# %% right zca_whiten: no covariance at all: eps becomes D extra samples below the centered ones, and one thin SVD of them all gives the root
import math


def zca_whiten(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    n, d = x.shape
    wide = x.double()
    centered = wide - wide.mean(0, keepdim=True)
    # stacked.T @ stacked / n is the covariance plus eps on the diagonal
    ridge = math.sqrt(n * eps) * torch.eye(d, dtype=torch.float64, device=x.device)
    stacked = torch.cat([centered, ridge])
    _, singular, vh = torch.linalg.svd(stacked, full_matrices=False)
    w = vh.T @ ((math.sqrt(n) / singular)[:, None] * vh)
    w = (w + w.T) / 2
    kind = x.dtype if x.is_floating_point() else torch.float32
    return (centered @ w).to(kind), w.to(kind)


# %% wrong Standardizer: the buffers are registered as None instead of empty, so they are missing from an unfitted one's state and loading a fitted one's state into it fails with unexpected keys
class Standardizer(nn.Module):
    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", None)
        self.register_buffer("std", None)

    @torch.no_grad()
    def fit(self, images: Tensor) -> "Standardizer":
        dtype = images.dtype if images.is_floating_point() else torch.float32
        x = images.double()
        if self.mode == "mean_image":
            mean = x.mean(0)
        else:
            mean = x.mean((0, 2, 3))[:, None, None]
        std = torch.ones_like(mean)
        if self.mode == "channel_standard":
            std = x.std((0, 2, 3), correction=0)[:, None, None]
            std = torch.where(std == 0, torch.ones_like(std), std)
        self.mean = mean.to(dtype)
        self.std = std.to(dtype)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            raise RuntimeError("call fit first")
        dtype = images.dtype if images.is_floating_point() else torch.float32
        return ((images - self.mean) / self.std).to(dtype)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        # Given: an empty buffer takes the shape of what is about to be loaded.
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), self._buffers.get(name)
            if saved is not None and own is not None and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


# %% right Standardizer: an Enum whose members know their axes and do the measuring, and a property that tells fitted from unfitted
import enum


class _Mode(enum.Enum):
    mean_image = ((0,), False)
    channel_mean = ((0, 2, 3), False)
    channel_standard = ((0, 2, 3), True)

    def measure(self, images: Tensor) -> tuple[Tensor, Tensor]:
        axes, divides = self.value
        wide = images.double()
        mean = wide.mean(axes, keepdim=True)
        std = torch.ones_like(mean)
        if divides:
            varies = wide.amax(axes, keepdim=True) > wide.amin(axes, keepdim=True)
            deviation = (wide - mean).square().mean(axes, keepdim=True).sqrt()
            std = torch.where(varies, deviation, std)
        return mean, std


class Standardizer(nn.Module):
    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        self.mode = _Mode[mode].name
        for name in ("mean", "std"):
            self.register_buffer(name, torch.empty(0))

    @property
    def fitted(self) -> bool:
        return self.mean.numel() > 0 and self.std.numel() > 0

    @torch.no_grad()
    def fit(self, images: Tensor) -> "Standardizer":
        kind = images.dtype if images.is_floating_point() else torch.float32
        mean, std = (part.to(kind) for part in _Mode[self.mode].measure(images))
        self.mean, self.std = mean, std.masked_fill(std == 0, 1.0)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if not self.fitted:
            raise RuntimeError("this Standardizer has neither been fitted nor loaded")
        kind = images.dtype if images.is_floating_point() else torch.float32
        work = torch.promote_types(kind, self.mean.dtype)
        return ((images.to(work) - self.mean) / self.std).to(kind)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        # Given: an empty buffer takes the shape of what is about to be loaded.
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), self._buffers.get(name)
            if saved is not None and own is not None and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


# %% wrong split_then_standardize: the validation part is standardized by a second Standardizer that is fitted on the validation part itself (fit_transform on both parts), not by the training statistics
class Standardizer(nn.Module):
    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def fit(self, images: Tensor) -> "Standardizer":
        dtype = images.dtype if images.is_floating_point() else torch.float32
        x = images.detach().double()
        mean = x.mean(0) if self.mode == "mean_image" else x.mean((0, 2, 3))[:, None, None]
        std = torch.ones_like(mean)
        if self.mode == "channel_standard":
            std = x.std((0, 2, 3), correction=0)[:, None, None]
            std = torch.where(std == 0, torch.ones_like(std), std)
        self.mean, self.std = mean.to(dtype), std.to(dtype)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.numel() == 0:
            raise RuntimeError("not fitted")
        dtype = images.dtype if images.is_floating_point() else torch.float32
        return ((images - self.mean) / self.std).to(dtype)

    def fit_transform(self, images: Tensor) -> Tensor:
        return self.fit(images)(images)

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
    order = torch.randperm(count, generator=generator)
    val, train = images[order[:num_val]], images[order[num_val:]]

    standardizer = Standardizer()
    train = standardizer.fit_transform(train)
    if num_val > 0:
        val = Standardizer().fit_transform(val)
    else:
        val = standardizer(val)
    return train, val, standardizer


# %% right split_then_standardize: Fisher and Yates by hand on a Python list, one randint of the generator per swap, and a Standardizer that works on one row per channel
class Standardizer(nn.Module):
    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    @staticmethod
    def kind(images: Tensor) -> torch.dtype:
        return images.dtype if images.is_floating_point() else torch.float32

    @torch.no_grad()
    def fit(self, images: Tensor) -> "Standardizer":
        rows = images.double().transpose(0, 1).flatten(1)
        if self.mode == "mean_image":
            mean = images.double().mean(0)
        else:
            mean = rows.mean(1).reshape(-1, 1, 1)
        std = torch.ones_like(mean)
        if self.mode == "channel_standard":
            constant = (rows == rows[:, :1]).all(1)
            std = rows.std(1, correction=0).masked_fill(constant, 1.0).reshape(-1, 1, 1)
        std = std.to(self.kind(images))
        self.mean = mean.to(self.kind(images))
        self.std = std.masked_fill(std == 0, 1.0)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.numel() == 0:
            raise RuntimeError("fit first, or load a state")
        return torch.div(images - self.mean, self.std).to(self.kind(images))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), self._buffers.get(name)
            if saved is not None and own is not None and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def split_then_standardize(
    images: Tensor, val_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, nn.Module]:
    deck = list(range(len(images)))
    for last in range(len(deck) - 1, 0, -1):
        pick = torch.randint(last + 1, (), generator=generator, device=generator.device).item()
        deck[last], deck[pick] = deck[pick], deck[last]

    def deal(cards: list[int]) -> Tensor:
        return images.index_select(0, torch.tensor(cards, dtype=torch.long, device=images.device))

    held_out = round(len(deck) * val_fraction)
    train, val = deal(deck[held_out:]), deal(deck[:held_out])
    standardizer = Standardizer("channel_standard").fit(train)
    return *map(standardizer, (train, val)), standardizer
