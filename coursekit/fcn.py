"""Fully convolutional networks: from patches to whole images, skips, and how a segmentation is scored."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from coursekit import _validate as validate
from coursekit.data.items import VOID, InMemory
from coursekit.models import Backbone, SmallBackbone
from coursekit.training import Descent, Run, Task, drawn_from, fit, one_cycle, quarter_turns
from coursekit.upsampling import bilinear_kernel

# From coarse to fine, the strides whose features each variant scores.
VARIANTS = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}


def sample_patches(
    image: Tensor, labels: Tensor, size: int, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw equally many patches of every class, each labeled by its center pixel.

    Args:
        image: (C, H, W).
        labels: class of every pixel, (H, W) integers; 255 is void.
        size: side of a patch, in pixels; its center pixel is at row and column size // 2.
        per_class: patches drawn of each class, with replacement.
        generator: source of the draws.

    Returns:
        Patches (n, C, size, size), all inside the image, and their classes (n,) int64. Classes come one after
        another; one with no center that lies far enough inside is left out, and so is void.

    Raises:
        ValueError: `size` is larger than the image, a negative label, or shapes that differ.

    Source: lecture, patch-based training; Ciresan et al. 2012, section 2.
    """
    image = validate.as_float(validate.tensor("image", image, ["(C, H, W)"]))
    validate.integers("labels", labels, ["(H, W)"])
    if image.shape[1:] != labels.shape:
        expected = f"of the size of image, {tuple(image.shape[1:])}"
        raise validate.refuse("labels", expected, validate.shape_of(labels))
    validate.whole("per_class", per_class, 1)
    if validate.whole("size", size, 1) > min(labels.shape):
        raise validate.refuse("size", f"at most the image's {tuple(labels.shape)}", size)
    if (labels < 0).any():
        raise validate.refuse("labels", f"classes from 0, {VOID} for void", labels.min().item())

    patches = image.unfold(1, size, 1).unfold(2, size, 1).movedim(0, 2)
    h, w = patches.shape[:2]
    centers = labels.long()[size // 2 :, size // 2 :][:h, :w]
    drawn = [torch.empty(0, 2, dtype=torch.int64, device=labels.device)]
    for c in centers.unique():
        if c != VOID:
            legal = (centers == c).nonzero()
            index = torch.randint(len(legal), (per_class,), generator=generator, device=generator.device)
            drawn.append(legal[index.to(labels.device)])
    row, column = torch.cat(drawn).T
    return patches[row, column], centers[row, column]


def pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: int = VOID,
) -> Tensor:
    """The weighted mean of the cross entropy over the valid pixels of a batch.

    Args:
        logits: scores of the classes, (N, L, H, W).
        target: class of every pixel, (N, H, W) integers.
        class_weights: w, (L,), 0 or more; None weighs all classes alike.
        mask: M, (N, H, W), bool or 0 or more: how much each pixel counts, for instance a random half of them.
        ignore_index: the void label, any integer, also that of a class; its pixels do not count.

    Returns:
        Σ w·M·ℓ / Σ w·M over the valid pixels, a scalar in the dtype of `logits`, with ℓ = −log softmax of the
        true class; 0, with a zero gradient, where Σ w·M = 0.

    Raises:
        ValueError: shapes or dtypes do not fit, a label is neither a class nor void, or a weight is negative.

    Source: Long, Shelhamer and Darrell 2015, sections 3.4 and 4.3.
    """
    validate.floating("logits", logits, ["(N, L, H, W)"])
    validate.integers("target", target, ["(N, H, W)"])
    num_classes = logits.shape[1]
    if target.shape != logits[:, 0].shape:
        expected = f"of the size of logits, {tuple(logits[:, 0].shape)}"
        raise validate.refuse("target", expected, validate.shape_of(target))
    target = target.long()
    valid = target != ignore_index
    _classes("target", target[valid], num_classes)

    # Half precision cannot count the pixels of one image.
    dtype = torch.promote_types(logits.dtype, torch.float32)
    true_class = torch.where(valid, target, 0)
    loss = -logits.to(dtype).log_softmax(1).gather(1, true_class[:, None])[:, 0]
    weight = valid.to(dtype)
    if class_weights is not None:
        _weights("class_weights", validate.vector("class_weights", class_weights, num_classes))
        weight = weight * class_weights.to(dtype)[true_class]
    if mask is not None:
        validate.tensor("mask", mask, ["(N, H, W)"])
        if mask.dtype != torch.bool:
            validate.floating("mask", mask, ["(N, H, W)"])
        if mask.shape != target.shape:
            expected = f"of the shape of target, {tuple(target.shape)}"
            raise validate.refuse("mask", expected, validate.shape_of(mask))
        weight = weight * _weights("mask", mask).to(dtype)

    total = weight.sum()
    mean = (weight * loss).sum() / torch.where(total > 0, total, 1)
    return torch.where(total > 0, mean, 0).to(logits.dtype)


def median_frequency_weights(
    label_maps: Iterable[Tensor], num_classes: int, ignore_index: int = VOID
) -> Tensor:
    """Class weights that make rare classes count as much as common ones.

    Args:
        label_maps: maps (H, W) of integers, whose sizes may differ, or one tensor (N, H, W).
        num_classes: number of classes L.
        ignore_index: the void label; its pixels count nowhere.

    Returns:
        (L,) float32: median(freq) / freq(c), with freq(c) = pixels of c / valid pixels of the images in which
        c is present, and the median taken over the classes present anywhere (of an even number, the mean of
        the middle two); 0 for an absent class.

    Raises:
        ValueError: there is no map, or a label is neither a class nor void.

    Source: Eigen and Fergus 2015, section 4.4 (median frequency balancing).
    """
    validate.whole("num_classes", num_classes, 1)
    if isinstance(label_maps, Tensor):
        validate.integers("label_maps", label_maps, ["(N, H, W)"])
    pixels, images = torch.zeros(2, num_classes, dtype=torch.float64)
    labels = None
    for index, labels in enumerate(label_maps):
        name = f"map {index} of label_maps"
        labels = validate.integers(name, labels, ["(H, W)"]).long()
        valid = labels[labels != ignore_index]
        count = _classes(name, valid, num_classes).bincount(minlength=num_classes)
        pixels, images = pixels.to(count.device) + count, images.to(count.device) + (count > 0) * len(valid)
    if labels is None:
        raise validate.refuse("label_maps", "at least one map", "none")

    weights = torch.zeros_like(pixels)
    present = pixels > 0
    if present.any():
        frequency = pixels[present] / images[present]
        weights[present] = frequency.quantile(0.5) / frequency
    return weights.float()


class SkipFCN(nn.Module):
    """The head of FCN-32s, FCN-16s or FCN-8s: scores of coarse features, upsampled and added to finer ones.

    A 1×1 convolution `score_s` scores the features of stride s; a transposed convolution `up_s` enlarges the
    sum at stride s, to the next finer stride or, at last, to the image. Both learn; the scores start at
    zero, the enlargement as bilinear interpolation.

    Each transposed convolution takes ⌈(factor − 1) / 2⌉ of padding, so that factor × factor pixels lie around
    the center of their cell, and n cells give exactly factor · n pixels. Features of ⌈size / stride⌉ cells
    thus cover the finer map, and what is cropped is at the bottom and right alone. The paper pads the image
    by 100 pixels instead and cuts an offset away.

    Args:
        num_classes: number of classes L.
        channels: channels of the features of strides 8, 16 and 32.
        variant: `"32s"`, `"16s"` or `"8s"`; the finest stride that is scored.

    Raises:
        ValueError: an argument out of range; in `forward`, features that are missing or of another shape.

    Source: Long, Shelhamer and Darrell 2015, section 4.2 and figure 3.
    """

    score_32: nn.Conv2d
    up_32: nn.ConvTranspose2d

    def __init__(self, num_classes: int, channels: tuple[int, int, int], variant: str) -> None:
        super().__init__()
        validate.whole("num_classes", num_classes, 1)
        if not isinstance(channels, tuple | list) or len(channels) != 3:
            raise validate.refuse("channels", "(c8, c16, c32)", repr(channels))
        if variant not in VARIANTS:
            raise validate.refuse("variant", f"one of {', '.join(VARIANTS)}", repr(variant))
        self.variant = variant
        self.channels = {
            s: validate.whole("channels", c, 1) for s, c in zip((8, 16, 32), channels, strict=True)
        }
        strides = VARIANTS[variant]
        for stride in strides:
            self.add_module(f"score_{stride}", _zero_score(self.channels[stride], num_classes))
            factor = stride if stride == strides[-1] else 2
            self.add_module(f"up_{stride}", _bilinear_upsampling(num_classes, factor))

    def forward(self, features: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """Class scores (N, L, *size) from features {stride: (N, c, ⌈H / stride⌉, ⌈W / stride⌉)}, size = (H, W)."""
        self._check(features, size)
        up = self.up_32(self.score_32(features[32]))
        for stride in VARIANTS[self.variant][1:]:
            score = self.get_submodule(f"score_{stride}")(features[stride])
            up = self.get_submodule(f"up_{stride}")(score + _top_left(up, score.shape[-2:]))
        return _top_left(up, size)

    def _check(self, features: dict[int, Tensor], size: tuple[int, int]) -> None:
        if not isinstance(size, tuple | list) or len(size) != 2:
            raise validate.refuse("size", "(H, W)", repr(size))
        height, width = (validate.whole("size", side, 1) for side in size)
        batch = None
        for stride in VARIANTS[self.variant]:
            if not isinstance(features, dict) or stride not in features:
                got = list(features) if isinstance(features, dict) else type(features).__name__
                raise validate.refuse("features", f"a dict with stride {stride}", got)
            x = validate.floating(f"features[{stride}]", features[stride], ["(N, C, H, W)"])
            batch = len(x) if batch is None else batch
            expected = (batch, self.channels[stride], -(-height // stride), -(-width // stride))
            if x.shape != expected:
                raise validate.refuse(f"features[{stride}]", f"of shape {expected}", validate.shape_of(x))

    def extra_repr(self) -> str:
        return f"variant={self.variant!r}"


class FCN(nn.Module):
    """A fully convolutional network for semantic segmentation: a backbone and its skips.

    Args:
        num_classes: logits L.
        variant: "32s", "16s" or "8s": the finest features that are used.
        backbone: features of strides 8, 16 and 32; None is a new `Backbone` of `channels`.
        channels: (c8, c16, c32) of the backbone.

    Returns, from `forward`: logits (N, L, H, W) for images (N, C, H, W) of any size.

    Source: Long, Shelhamer and Darrell 2015, sections 4.2 and 4.3.
    """

    def __init__(
        self,
        num_classes: int,
        variant: str = "8s",
        backbone: nn.Module | None = None,
        channels: tuple[int, int, int] = (128, 160, 192),
    ) -> None:
        super().__init__()
        self.backbone = Backbone(channels) if backbone is None else backbone
        self.head = SkipFCN(num_classes, channels, variant)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images), images.shape[2:])


def train_fcn(dataset: Dataset, generator: torch.Generator | None) -> nn.Module:
    """An FCN-8s for scenes, trained from nothing; about 25 seconds on two cores.

    Args:
        dataset: map-style, with `classes` and items `{"image": (3, H, W), "labels": (H, W)}`, 255 = void;
            several hundred scenes of 96×96 pixels are what its length of training was chosen for.
        generator: of the weights, the order of the images and their augmentation.

    Returns:
        A network in evaluation mode, on the CPU, from images (N, 3, H, W) from 0 to 1, H and W divisible by 32,
        to logits (N, L, H, W).

    Source: Long, Shelhamer and Darrell 2015, section 4, with a smaller network.
    """
    channels = (64, 96, 128)
    with drawn_from(generator):
        net = FCN(len(dataset.classes), "8s", SmallBackbone(channels), channels)  # type: ignore[attr-defined]
    fit(
        net,
        InMemory(dataset),
        steps=400,
        batch_size=16,
        descent=Descent(torch.optim.AdamW(net.parameters(), lr=6e-3, weight_decay=0.05), one_cycle()),
        task=Task("labels", pixel_cross_entropy, augment=quarter_turns),
        generator=generator,
        run=Run(device="cuda" if torch.cuda.is_available() else "cpu"),
    )
    return net.cpu().eval()


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count, for every pair of classes, the pixels of the one that were predicted as the other.

    Args:
        prediction: class of every pixel, integers of any shape; what it says of void pixels does not matter.
        target: true class of every pixel, integers of the same shape.
        num_classes: number of classes L.
        ignore_index: the void label; its pixels count nowhere.

    Returns:
        (L, L) int64, rows = truth, columns = prediction.

    Raises:
        ValueError: the shapes differ, a dtype is not an integer one, or a label is neither a class nor void.

    Source: Long, Shelhamer and Darrell 2015, section 5: the n_ij of its metrics.
    """
    validate.whole("num_classes", num_classes, 1)
    for name, labels in (("prediction", prediction), ("target", target)):
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
            got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise validate.refuse(name, "an integer tensor", got)
    if prediction.shape != target.shape:
        expected = f"of the shape of target, {tuple(target.shape)}"
        raise validate.refuse("prediction", expected, validate.shape_of(prediction))

    target = target.long()
    valid = target != ignore_index
    truth = _classes("target", target[valid], num_classes)
    predicted = _classes("prediction", prediction[valid].long(), num_classes)
    pairs = truth * num_classes + predicted
    return pairs.bincount(minlength=num_classes**2).reshape(num_classes, num_classes)


def segmentation_scores(matrix: Tensor) -> dict[str, float | Tensor]:
    """The four usual scores of a segmentation, and the intersection over union of every class.

    Args:
        matrix: confusion matrix (L, L), rows = truth, columns = prediction.

    Returns:
        `pixel_accuracy`, `mean_accuracy`, `mean_iou` and `frequency_weighted_iou` as floats, `iou` as (L,)
        float64. A class in neither truth nor prediction is NaN in `iou` and left out of the means; one that
        is only predicted has IoU 0 and is left out of `mean_accuracy`. Without a pixel every score is NaN.

    Raises:
        ValueError: `matrix` is not square or has a negative entry.

    Source: Long, Shelhamer and Darrell 2015, section 5, "Metrics".
    """
    validate.tensor("matrix", matrix, ["(L, L)"])
    if matrix.shape[0] != matrix.shape[1]:
        raise validate.refuse("matrix", "square, (L, L)", validate.shape_of(matrix))
    if (matrix < 0).any():
        raise validate.refuse("matrix", "of counts, 0 or more", matrix.min().item())
    matrix = matrix.double()
    hits, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = hits / (truth + predicted - hits)
    return {
        "pixel_accuracy": (hits.sum() / truth.sum()).item(),
        "mean_accuracy": (hits / truth).nanmean().item(),
        "mean_iou": iou.nanmean().item(),
        "frequency_weighted_iou": ((truth * iou).nansum() / truth.sum()).item(),
        "iou": iou,
    }


def _classes(argument: str, labels: Tensor, num_classes: int) -> Tensor:
    """The valid labels, if each of them is a class."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise validate.refuse(argument, f"classes from 0 to {num_classes - 1}", int(wrong[0]))
    return labels


def _weights(argument: str, weights: Tensor) -> Tensor:
    if (weights < 0).any():
        raise validate.refuse(argument, "of weights, 0 or more", weights.min().item())
    return weights


def _zero_score(channels: int, num_classes: int) -> nn.Conv2d:
    # nn.Conv2d would draw weights that nobody needs, and move the global random state with them.
    score = nn.utils.skip_init(nn.Conv2d, channels, num_classes, 1)
    nn.init.zeros_(score.weight)
    nn.init.zeros_(score.bias)
    return score


class _Enlarging(nn.ConvTranspose2d):
    """A transposed convolution whose kernel is two strides wide, on a CPU several times faster for wide ones.

    Every output pixel gets its value from 2×2 inputs. So the same numbers are a convolution by 2×2 with a channel
    for each of stride × stride places, and a pixel shuffle that puts them there.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        channels, outputs = self.weight.shape[:2]
        stride, before = self.stride[0], int(self.padding[0])
        if x.is_cuda or stride < 8 or output_size is not None:
            return super().forward(x, output_size)
        split = self.weight.reshape(channels, outputs, 2, stride, 2, stride)
        kernel = split.flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(-1, channels, 2, 2)
        full = F.pixel_shuffle(F.conv2d(x, kernel, padding=1), stride)
        return full[..., before : full.shape[-2] - before, before : full.shape[-1] - before]


def _bilinear_upsampling(channels: int, factor: int) -> nn.ConvTranspose2d:
    kernel = bilinear_kernel(channels, factor)
    up = nn.utils.skip_init(
        _Enlarging,
        channels,
        channels,
        kernel.shape[-1],
        stride=factor,
        padding=factor // 2,
        bias=False,
    )
    up.weight = nn.Parameter(kernel.to(up.weight.dtype))
    return up


def _top_left(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps[..., : size[0], : size[1]]
