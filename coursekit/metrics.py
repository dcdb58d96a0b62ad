"""Metrics: what is reported of a segmentation, over a whole data set and instance by instance."""

import math

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from coursekit import _validate as validate
from coursekit.data.items import VOID
from coursekit.fcn import confusion_matrix, segmentation_scores
from coursekit.modes import evaluation_mode
from coursekit.training import Transform, central, device_of, unit_range

MAPS = ["(H, W)", "(N, H, W)"]


class SegmentationScores:
    """The scores of `segmentation_scores` over a data set, one batch at a time.

    Args:
        num_classes: number of classes L.
        ignore_index: the void label; its pixels count nowhere.

    Raises:
        ValueError: as `confusion_matrix`.

    Source: Long, Shelhamer and Darrell 2015, section 5, "Metrics": pixels are counted over all images.
    """

    def __init__(self, num_classes: int, ignore_index: int = VOID) -> None:
        self.num_classes = validate.whole("num_classes", num_classes, 1)
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count the pixels of a batch: predicted and true classes, integers of one shape."""
        matrix = confusion_matrix(prediction, target, self.num_classes, self.ignore_index)
        self.matrix = self.matrix + matrix.to(self.matrix.device)

    def compute(self) -> dict[str, float | Tensor]:
        """The scores of all pixels seen so far; NaN before the first."""
        return segmentation_scores(self.matrix)


@torch.no_grad()
def accuracy(
    model: nn.Module,
    dataset: Dataset,
    transform: Transform = unit_range,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> float:
    """The share of images that a classifier, in evaluation mode, gives its largest logit for the right class.

    Args:
        model: maps (N, C, H, W) floats to logits (N, L); its mode is left as found.
        dataset: map-style, with items `{"image": (C, H, W), "label": int}`.
        transform: from a batch of images, on the device, to the model's input.
        batch_size: images at a time.
        device: where the model is; None finds out.
    """
    device = device_of(model) if device is None else torch.device(device)
    correct = 0
    with evaluation_mode(model):
        for batch in DataLoader(dataset, batch_size):
            logits = model(transform(batch["image"].to(device)))
            correct += (logits.argmax(1) == batch["label"].to(device)).sum().item()
    return correct / len(dataset)  # type: ignore[arg-type]


@torch.no_grad()
def mean_iou(
    model: nn.Module,
    dataset: Dataset,
    transform: Transform = unit_range,
    *,
    batch_size: int = 16,
    target: str = "labels",
    device: torch.device | str | None = None,
) -> float:
    """Mean intersection over union of a network, in evaluation mode, over all pixels of a data set.

    Args:
        model: maps (N, C, H, W) floats to logits (N, L, h, w); its mode is left as found.
        dataset: map-style, with items `{"image": (C, H, W), target: (H, W)}`, 255 = void. A map larger than
            the logits is cropped to its center.
        transform: from a batch of images, on the device, to the model's input.
        batch_size: images at a time.
        target: the field that holds the true classes.
        device: where the model is; None finds out.
    """
    device = device_of(model) if device is None else torch.device(device)
    matrix: Tensor | int = 0
    with evaluation_mode(model):
        for batch in DataLoader(dataset, batch_size):
            logits = model(transform(batch["image"].to(device)))
            truth = central(batch[target].to(device), logits)
            matrix = matrix + confusion_matrix(logits.argmax(1), truth, logits.shape[1])
    if isinstance(matrix, int):
        raise validate.refuse("dataset", "at least one item", "none")
    return float(segmentation_scores(matrix)["mean_iou"])


def pixel_error(prediction: Tensor, target: Tensor, ignore_index: int = VOID) -> float:
    """The share of the valid pixels whose class is wrong.

    Args:
        prediction: class of every pixel, (H, W) or (N, H, W) integers.
        target: true class of every pixel, integers of the same shape.
        ignore_index: the void label; its pixels do not count.

    Returns:
        From 0 to 1; NaN without a valid pixel.

    Raises:
        ValueError: another rank or dtype, or shapes that differ.

    Source: Ronneberger, Fischer and Brox 2015, table 1; Arganda-Carreras et al. 2015.
    """
    for name, labels in (("prediction", prediction), ("target", target)):
        validate.integers(name, labels, MAPS)
    _same_shape(prediction, target, "target")
    prediction, target = prediction.long(), target.long()
    valid = target != ignore_index
    return (prediction != target)[valid].double().mean().item()


def connected_components(mask: Tensor) -> Tensor:
    """Number the connected pieces of a mask: instances out of a semantic segmentation.

    Args:
        mask: (H, W), bool or integers; what is not 0 is foreground. Pixels that share an edge are connected.

    Returns:
        (H, W) int64: 1, 2, … on the pieces, 0 elsewhere.

    Raises:
        ValueError: another rank or dtype.

    Source: lecture, instances out of a U-Net.
    """
    from scipy.ndimage import label

    validate.integers("mask", mask, ["(H, W)"])
    pieces, _ = label((mask != 0).cpu().numpy())
    return torch.from_numpy(pieces).to(device=mask.device, dtype=torch.int64)


def match_instances(prediction: Tensor, truth: Tensor, threshold: float = 0.5) -> Tensor:
    """The pairs of a predicted and a true instance whose intersection over union exceeds a threshold.

    Args:
        prediction: id of the predicted instance at every pixel, (H, W) integers; 0 is background.
        truth: id of the true instance, of the same shape.
        threshold: from 0.5; above it, no instance can be in two pairs.

    Returns:
        (m, 2) int64: predicted id, true id; ascending.

    Raises:
        ValueError: shapes or dtypes do not fit, a negative id, or a threshold outside 0.5 … 1.

    Source: Kirillov et al. 2019, section 4.1.
    """
    _check_instances(prediction, truth, ["(H, W)"])
    _check_threshold(threshold)
    predicted, p, p_area = prediction.long().unique(return_inverse=True, return_counts=True)
    true, t, t_area = truth.long().unique(return_inverse=True, return_counts=True)
    pairs, intersection = (p * len(true) + t).unique(return_counts=True)
    p, t = pairs // len(true), pairs % len(true)
    iou = intersection.double() / (p_area[p] + t_area[t] - intersection)
    matched = (iou > threshold) & (predicted[p] != 0) & (true[t] != 0)
    return torch.stack([predicted[p][matched], true[t][matched]], dim=1)


def instance_scores(prediction: Tensor, truth: Tensor, threshold: float = 0.5) -> dict[str, float]:
    """How many instances were found, and how many of those found are right.

    Args:
        prediction: id of the predicted instance at every pixel, (H, W) or (N, H, W) integers; 0 is background.
            Ids are told apart per image, and the instances of all images are counted together.
        truth: id of the true instance, of the same shape.
        threshold: intersection over union that a match must exceed, from 0.5.

    Returns:
        `precision` (matches / predicted instances), `recall` (matches / true instances) and `f1`
        (2 · matches / both); NaN where there is nothing to divide by.

    Raises:
        ValueError: as `match_instances`.

    Source: Caicedo et al. 2019, "Evaluation metrics": F1 over objects at a threshold of intersection over union.
    """
    _check_instances(prediction, truth, MAPS)
    _check_threshold(threshold)
    matches = predicted = true = 0
    size = prediction.shape[-2:]
    for p, t in zip(prediction.reshape(-1, *size), truth.reshape(-1, *size), strict=True):
        matches += len(match_instances(p, t, threshold))
        predicted += len(p[p != 0].unique())
        true += len(t[t != 0].unique())
    return {
        "precision": _share(matches, predicted),
        "recall": _share(matches, true),
        "f1": _share(2 * matches, predicted + true),
    }


def instance_f1(prediction: Tensor, truth: Tensor, threshold: float = 0.5) -> float:
    """The F1 score of the instances: the harmonic mean of precision and recall.

    Args:
        prediction: id of the predicted instance at every pixel, (H, W) or (N, H, W) integers; 0 is background.
        truth: id of the true instance, of the same shape.
        threshold: intersection over union that a match must exceed, from 0.5.

    Returns:
        `f1` of `instance_scores`.

    Raises:
        ValueError: as `match_instances`.

    Source: Caicedo et al. 2019, "Evaluation metrics".
    """
    return instance_scores(prediction, truth, threshold)["f1"]


def rand_error(prediction: Tensor, truth: Tensor) -> float:
    """The Rand error of ISBI 2012: 1 − F, F being over pairs of pixels in one segment, on true foreground.

    A pair of foreground pixels that truth and prediction both put into one segment is a hit; precision divides
    the hits by the pairs of one predicted segment, recall by those of one true segment, and F is their harmonic
    mean. Predicted background on true foreground is one more segment.

    Args:
        prediction: id of the predicted segment at every pixel, (H, W) integers; 0 is background.
        truth: id of the true segment, of the same shape; pixels of 0 do not count.

    Returns:
        From 0 to 1; NaN where the truth has no foreground.

    Raises:
        ValueError: shapes or dtypes do not fit, or a negative id.

    Source: Arganda-Carreras et al. 2015 (foreground-restricted Rand F-score).
    """
    _check_instances(prediction, truth, ["(H, W)"])
    foreground = truth != 0
    if not foreground.any():
        return math.nan
    predicted, p = prediction[foreground].unique(return_inverse=True)
    _, t = truth[foreground].unique(return_inverse=True)
    pairs_in_both = _pairs(t * len(predicted) + p)
    pairs = _pairs(p) + _pairs(t)
    return 1 - 2 * pairs_in_both / pairs if pairs else 0.0


def _pairs(segments: Tensor) -> int:
    """Pairs of different pixels that lie in one segment."""
    counts = segments.unique(return_counts=True)[1]
    return int((counts * (counts - 1)).sum()) // 2


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _same_shape(prediction: Tensor, other: Tensor, name: str) -> None:
    if prediction.shape != other.shape:
        expected = f"of the shape of {name}, {tuple(other.shape)}"
        raise validate.refuse("prediction", expected, validate.shape_of(prediction))


def _check_instances(prediction: Tensor, truth: Tensor, layouts: list[str]) -> None:
    for name, ids in (("prediction", prediction), ("truth", truth)):
        validate.integers(name, ids, layouts)
        if (ids < 0).any():
            raise validate.refuse(name, "ids from 0", ids.min().item())
    _same_shape(prediction, truth, "truth")


def _check_threshold(threshold: float) -> None:
    if validate.number("threshold", threshold, 0.5) >= 1:
        raise validate.refuse("threshold", "from 0.5 to below 1", threshold)
