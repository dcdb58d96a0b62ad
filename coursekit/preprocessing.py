"""Preprocessing: the statistics of a training set, and images standardized by them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from coursekit import _validate as validate

IMAGES = ["(N, C, H, W)"]
CHANNEL_AXES = (0, 2, 3)
SLICE = 256
MODES = ("mean_image", "channel_mean", "channel_standard")


def mean_image(images: Tensor) -> Tensor:
    """The average of all images, pixel by pixel: what AlexNet subtracts.

    Args:
        images: (N, C, H, W).

    Returns:
        (C, H, W), in the dtype of `images` (float32 for integers).

    Raises:
        ValueError: `images` is empty or of another rank.

    Source: Krizhevsky, Sutskever and Hinton 2012, section 2.
    """
    validate.tensor("images", images, IMAGES)
    return images.double().mean(0).to(_float_dtype(images))


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel over all images and pixels.

    Args:
        images: (N, C, H, W).

    Returns:
        mean (C,), what VGG subtracts, and population standard deviation (C,), by which ResNet's
        implementations also divide; in the dtype of `images` (float32 for integers).

    Raises:
        ValueError: `images` is empty or of another rank.

    Source: Simonyan and Zisserman 2015, section 2.1 (mean); lecture (standard deviation).
    """
    validate.tensor("images", images, IMAGES)
    # In slices: all images at once in float64 would be eight times as large as bytes are.
    return streaming_statistics(images.split(SLICE))


def streaming_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, in one pass over batches that need not fit in memory.

    Args:
        batches: tensors (n, C, H, W); n, H and W may differ between them, and every pixel counts the same.

    Returns:
        mean (C,) and population standard deviation (C,), in the dtype of the first batch (float32 for
        integers).

    Raises:
        ValueError: there is no pixel at all, or a batch has another rank or number of channels.

    Source: Chan, Golub and LeVeque 1983, equation 2.1: counts, means and sums of squared deviations are
    merged in float64, so a large mean costs no accuracy.
    """
    count, mean, squares, dtype = 0, torch.tensor(0.0), torch.tensor(0.0), None
    for index, batch in enumerate(batches):
        name = f"batch {index} of batches"
        if not isinstance(batch, Tensor) or batch.ndim != 4:
            raise validate.refuse(name, "a tensor of shape (n, C, H, W)", validate.shape_of(batch))
        if batch.numel() == 0:
            continue
        if dtype is None:
            dtype = _float_dtype(batch)
            mean = squares = torch.zeros(batch.shape[1], dtype=torch.float64, device=batch.device)
        if batch.shape[1] != len(mean):
            expected = f"of {len(mean)} channels, as the batches before it"
            raise validate.refuse(name, expected, validate.shape_of(batch))

        n = batch.numel() // batch.shape[1]
        total = count + n
        # In place on a copy: fresh memory would take longer than the arithmetic.
        pixels = batch.to(mean, copy=True)
        batch_mean = pixels.mean(CHANNEL_AXES)
        batch_squares = pixels.sub_(batch_mean[:, None, None]).square_().sum(CHANNEL_AXES)
        delta = batch_mean - mean
        squares = squares + batch_squares + delta**2 * count * n / total
        mean = mean + delta * n / total
        count = total
    if count == 0:
        raise validate.refuse("batches", "at least one pixel", "none")
    return mean.to(dtype), (squares / count).sqrt().to(dtype)


class Standardizer(nn.Module):
    """Subtracts a mean and divides by a standard deviation that were measured on a training set.

    `fit` measures them, or `load_state_dict` brings them from another Standardizer. The buffers `mean` and
    `std` are (C, H, W) for a mean image and (C, 1, 1) otherwise; `std` is 1 where the mode has none or where
    a channel is constant.

    Args:
        mode: `"mean_image"` subtracts the mean image, `"channel_mean"` the mean of each channel, and
            `"channel_standard"` divides by the channel's standard deviation as well.

    Raises:
        ValueError: another mode; in `forward`, images that do not fit the statistics.
        RuntimeError: `forward` before `fit` or a load.

    Source: lecture; Krizhevsky, Sutskever and Hinton 2012, section 2; Simonyan and Zisserman 2015, section 2.1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        if mode not in MODES:
            raise validate.refuse("mode", f"one of {', '.join(MODES)}", repr(mode))
        self.mode = mode
        # Empty, not None: these are in the state dict and go along with `.to()`.
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def fit(self, images: Tensor) -> "Standardizer":
        """Measure the statistics of images (N, C, H, W); returns the Standardizer itself."""
        if self.mode == "mean_image":
            self.mean = mean_image(images)
            self.std = torch.ones_like(self.mean)
            return self
        mean, std = channel_statistics(images)
        if self.mode == "channel_mean":
            std = torch.ones_like(mean)
        self.mean = mean[:, None, None]
        # Rounding can leave a constant channel a tiny deviation.
        constant = (images == images[:1, :, :1, :1]).all(CHANNEL_AXES)
        self.std = torch.where(constant | (std == 0), 1, std)[:, None, None]
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.numel() == 0:
            raise RuntimeError("this Standardizer has no statistics: call fit or load a state first")
        if not isinstance(images, Tensor) or images.ndim != 4:
            raise validate.refuse("images", "a tensor of shape (N, C, H, W)", validate.shape_of(images))
        fits = all(
            size in (1, there) for size, there in zip(self.mean.shape[1:], images.shape[2:], strict=True)
        )
        if not fits or images.shape[1] != len(self.mean):
            expected = f"of the size of the statistics, {tuple(self.mean.shape)}"
            raise validate.refuse("images", expected, validate.shape_of(images))
        return ((images - self.mean) / self.std).to(_float_dtype(images))

    def extra_repr(self) -> str:
        return repr(self.mode)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # The shapes depend on the images that the other one was fitted to.
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(saved, Tensor) and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def split_then_standardize(
    images: Tensor, val_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Standardizer]:
    """Shuffle images, split them, and standardize both parts by the statistics of the training part alone.

    Args:
        images: (N, C, H, W).
        val_fraction: part of the images that goes to validation, round(N · val_fraction) of them; 0 is none.
        generator: source of the shuffle.

    Returns:
        train and validation images, standardized, in the dtype of `images` (float32 for integers), and the
        Standardizer, of mode `"channel_standard"`.

    Raises:
        ValueError: `images` is empty or of another rank, or `val_fraction` leaves no image to train on.

    Source: lecture, no statistic may see the validation images.
    """
    validate.tensor("images", images, IMAGES)
    num_val = round(len(images) * validate.number("val_fraction", val_fraction))
    if num_val >= len(images):
        expected = f"a fraction that leaves one of the {len(images)} images to train on"
        raise validate.refuse("val_fraction", expected, val_fraction)
    if not isinstance(generator, torch.Generator):
        raise validate.refuse("generator", "a torch.Generator", type(generator).__name__)
    order = torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)
    train, val = images[order[num_val:]], images[order[:num_val]]
    standardizer = Standardizer("channel_standard").fit(train)
    return standardizer(train), standardizer(val), standardizer


def zca_whiten(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Turn the features so that they are uncorrelated with variance 1, and stay as close to themselves as can be.

    Args:
        x: N samples of D features, (N, D).
        eps: added to every eigenvalue of the covariance; above 0 where the features are dependent.

    Returns:
        The whitened samples (x − mean) W, (N, D), and the symmetric W = U (S + eps)^(−1/2) Uᵀ, (D, D), where
        U S Uᵀ is the covariance (÷ N); in the dtype of `x` (float32 for integers).

    Raises:
        ValueError: `x` is empty or of another rank, or `eps` is negative.

    Source: Krizhevsky 2009, appendix A; Bell and Sejnowski 1997.
    """
    validate.tensor("x", x, ["(N, D)"])
    validate.number("eps", eps)
    centered = x.double() - x.double().mean(0)
    covariance = centered.T @ centered / len(x)
    S, U = torch.linalg.eigh(covariance)
    # Rounding can leave an eigenvalue of 0 below it.
    W = U @ torch.diag((S.clamp(min=0) + eps) ** -0.5) @ U.T
    dtype = _float_dtype(x)
    return (centered @ W).to(dtype), W.to(dtype)


def _float_dtype(images: Tensor) -> torch.dtype:
    return images.dtype if images.is_floating_point() else torch.float32
