# %% wrong mean_image: only uint8 is turned into floats, so other integer images (int16, int32, int64) reach mean() as they are and raise a RuntimeError instead of giving float32
def mean_image(images: Tensor) -> Tensor:
    # bytes have no mean in torch
    if images.dtype == torch.uint8:
        images = images.float()
    return images.mean(dim=0)


# %% right mean_image: a matrix product with a row of ones, in float64
def mean_image(images: Tensor) -> Tensor:
    result_dtype = images.dtype if images.is_floating_point() else torch.float32
    number, *shape = images.shape
    ones = torch.ones(1, number, dtype=torch.float64, device=images.device)
    total = ones @ images.flatten(1).to(torch.float64)
    return (total / number).reshape(shape).to(result_dtype)


# %% wrong channel_statistics: uint8 images are scaled to 0..1 first (the habit of torchvision's ToTensor), so mean and std of bytes are 255 times too small
def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    dtype = images.dtype if images.is_floating_point() else torch.float32
    x = images.double()
    if images.dtype == torch.uint8:
        x = x / 255  # networks want 0..1
    mean = x.mean(dim=(0, 2, 3))
    std = x.std(dim=(0, 2, 3), correction=0)
    return mean.to(dtype), std.to(dtype)


# %% right channel_statistics: one row per channel, measured from its first pixel; the std is the length of a vector
def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    dtype = images.dtype if images.is_floating_point() else torch.float32
    rows = images.transpose(0, 1).flatten(1).to(torch.float64)  # (C, N * H * W)
    anchor = rows[:, :1]
    offsets = rows - anchor  # all 0 in a channel that never changes
    center = offsets.mean(dim=1, keepdim=True)
    length = torch.linalg.vector_norm(offsets - center, dim=1)
    mean = (anchor + center).squeeze(1)
    std = length / rows.shape[1] ** 0.5
    return mean.to(dtype), std.to(dtype)


# %% wrong streaming_statistics: a batch is weighted by its number of images rather than its number of pixels, so pixels of small images count too much where H and W differ from batch to batch
def streaming_statistics(batches) -> tuple[Tensor, Tensor]:
    n = 0
    mean = m2 = dtype = None
    for batch in batches:
        x = batch.double()
        k = x.shape[0]
        b = x.mean((0, 2, 3))
        q = x.var((0, 2, 3), correction=0) * k
        if n == 0:
            mean, m2 = b, q
            dtype = batch.dtype if batch.is_floating_point() else torch.float32
        else:
            delta = b - mean
            m2 = m2 + q + delta**2 * n * k / (n + k)
            mean = mean + delta * k / (n + k)
        n += k
    return mean.to(dtype), (m2 / n).sqrt().to(dtype)


# %% right streaming_statistics: a frozen dataclass that can be added, folded together with reduce over a map
from dataclasses import dataclass
from functools import reduce
from operator import add


@dataclass(frozen=True)
class Moments:
    count: int
    mean: Tensor
    squares: Tensor  # the sum of squared deviations from mean
    dtype: torch.dtype

    @classmethod
    def of(cls, batch: Tensor) -> "Moments":
        pixels = batch.detach().to(torch.float64)
        var, mean = torch.var_mean(pixels, dim=(0, 2, 3), correction=0)
        count = batch.numel() // batch.shape[1]
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        return cls(count, mean, var * count, dtype)

    def __add__(self, other: "Moments") -> "Moments":
        total = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            total,
            self.mean + delta * (other.count / total),
            self.squares + other.squares + delta.square() * (self.count * other.count / total),
            self.dtype,
        )

    @property
    def std(self) -> Tensor:
        return (self.squares / self.count).sqrt()


def streaming_statistics(batches) -> tuple[Tensor, Tensor]:
    moments = reduce(add, map(Moments.of, batches))
    return moments.mean.to(moments.dtype), moments.std.to(moments.dtype)


# %% wrong zca_whiten: the reduced SVD of the samples has only N of the D directions where N < D, so W lacks the 1/sqrt(eps) along all the others (the whitened samples are right, W is not)
def zca_whiten(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    dtype = x.dtype if x.is_floating_point() else torch.float32
    x = x.double()
    centered = x - x.mean(0)
    # the right singular vectors are the eigenvectors of the covariance: no need to build it
    _, singular, vh = torch.linalg.svd(centered, full_matrices=False)
    eigenvalues = singular**2 / len(x)
    w = vh.T @ torch.diag((eigenvalues + eps) ** -0.5) @ vh
    return (centered @ w).to(dtype), w.to(dtype)


# %% right zca_whiten: SVD of the covariance instead of eigh, W as one einsum of outer products
def zca_whiten(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    out = x.dtype if torch.is_floating_point(x) else torch.float32
    wide = x.to(torch.float64)
    centered = wide - wide.mean(dim=0, keepdim=True)
    covariance = torch.einsum("ni,nj->ij", centered, centered) / x.shape[0]
    # symmetric and nowhere negative: its singular values are its eigenvalues, and never below 0
    u, s, _ = torch.linalg.svd(covariance)
    w = torch.einsum("ik,k,jk->ij", u, torch.rsqrt(s + eps), u)
    w = (w + w.mT) / 2
    return torch.einsum("ni,ij->nj", centered, w).to(out), w.to(out)


# %% wrong Standardizer: every channel with a std below 0.001 is taken for constant and divided by 1, not only those with a std of 0
class Standardizer(nn.Module):
    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def fit(self, images: Tensor) -> "Standardizer":
        dtype = images.dtype if images.is_floating_point() else torch.float32
        x = images.detach().double()
        if self.mode == "mean_image":
            mean = x.mean(0)
        else:
            mean = x.mean((0, 2, 3))[:, None, None]
        std = torch.ones_like(mean)
        if self.mode == "channel_standard":
            std = x.std((0, 2, 3), correction=0)[:, None, None]
            # never compare floats with ==
            std = torch.where(std < 1e-3, torch.ones_like(std), std)
        self.mean, self.std = mean.to(dtype), std.to(dtype)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.numel() == 0:
            raise RuntimeError("call fit first")
        dtype = images.dtype if images.is_floating_point() else torch.float32
        return ((images.to(dtype) - self.mean) / self.std).to(dtype)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        # Given: an empty buffer takes the shape of what is about to be loaded.
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), self._buffers.get(name)
            if saved is not None and own is not None and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


# %% right Standardizer: match statement over the modes, statistics kept with four axes, measured from the first pixel
class Standardizer(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        match mode:
            case "mean_image":
                self.axes, self.divides = (0,), False
            case "channel_mean":
                self.axes, self.divides = (0, 2, 3), False
            case "channel_standard":
                self.axes, self.divides = (0, 2, 3), True
            case _:
                raise ValueError(f"unknown mode {mode!r}")
        self.mode = mode
        for name in ("mean", "std"):
            self.register_buffer(name, torch.empty(0))

    @staticmethod
    def _result_dtype(images: Tensor) -> torch.dtype:
        return images.dtype if images.is_floating_point() else torch.float32

    @torch.no_grad()
    def fit(self, images: Tensor) -> "Standardizer":
        dtype = self._result_dtype(images)
        wide = images.to(torch.float64)
        anchor = wide[:1, :, :1, :1]  # a constant channel is exactly 0 from here on
        offsets = wide - anchor
        center = offsets.mean(dim=self.axes, keepdim=True)
        self.mean = (anchor + center).to(dtype)
        if self.divides:
            std = (offsets - center).square().mean(dim=self.axes, keepdim=True).sqrt().to(dtype)
            self.std = std.masked_fill(std == 0, 1.0)
        else:
            self.std = torch.ones_like(self.mean)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if not self.mean.numel():
            raise RuntimeError("this Standardizer has neither been fitted nor loaded")
        dtype = self._result_dtype(images)
        working = torch.promote_types(dtype, self.mean.dtype)
        return ((images.to(working) - self.mean) / self.std).to(dtype)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        # Given: an empty buffer takes the shape of what is about to be loaded.
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), self._buffers.get(name)
            if saved is not None and own is not None and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


# %% wrong split_then_standardize: seeds the handed-in generator with 42 before it draws, so the shuffle is the same whatever generator, or state of it, is handed in
class Standardizer(nn.Module):
    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def fit(self, images: Tensor) -> "Standardizer":
        dtype = images.dtype if images.is_floating_point() else torch.float32
        x = images.detach().double()
        std = x.std((0, 2, 3), correction=0)
        self.mean = x.mean((0, 2, 3))[:, None, None].to(dtype)
        self.std = torch.where(std == 0, torch.ones_like(std), std)[:, None, None].to(dtype)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.numel() == 0:
            raise RuntimeError("fit first")
        return (images - self.mean) / self.std


def split_then_standardize(
    images: Tensor, val_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, nn.Module]:
    generator.manual_seed(42)  # reproducible
    order = torch.randperm(len(images), generator=generator)
    num_val = round(len(images) * val_fraction)
    val, train = images[order[:num_val]], images[order[num_val:]]
    standardizer = Standardizer("channel_standard").fit(train)
    return standardizer(train), standardizer(val), standardizer


# %% right split_then_standardize: shuffles by sorting random keys, cuts with tensor_split, brings its own Standardizer
class Standardizer(nn.Module):
    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    @torch.no_grad()
    def fit(self, images: Tensor) -> "Standardizer":
        dtype = images.dtype if images.is_floating_point() else torch.float32
        axes = (0,) if self.mode == "mean_image" else (0, 2, 3)
        wide = images.double()
        first = wide[:1, :, :1, :1]
        away = wide - first
        middle = away.mean(axes, keepdim=True)
        self.mean = (first + middle).to(dtype)
        self.std = torch.ones_like(self.mean)
        if self.mode == "channel_standard":
            std = (away - middle).pow(2).mean(axes, keepdim=True).sqrt().to(dtype)
            self.std = torch.where(std == 0, self.std, std)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.numel() == 0:
            raise RuntimeError("fit or load first")
        dtype = images.dtype if images.is_floating_point() else torch.float32
        return images.to(dtype).sub(self.mean).div(self.std).to(dtype)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), self._buffers.get(name)
            if saved is not None and own is not None and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def split_then_standardize(
    images: Tensor, val_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, nn.Module]:
    number = images.shape[0]
    keys = torch.rand(number, generator=generator, dtype=torch.float64, device=generator.device)
    shuffled = keys.argsort().to(images.device)
    val_at, train_at = torch.tensor_split(shuffled, [round(number * val_fraction)])
    train, val = (images.index_select(0, at) for at in (train_at, val_at))
    return (s := Standardizer().fit(train))(train), s(val), s
