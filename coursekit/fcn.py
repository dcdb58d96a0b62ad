"""Fully convolutional networks: from patches to whole images, skips, and how a segmentation is scored."""

from torch import Tensor

from coursekit import _validate as validate


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

    valid = target != ignore_index
    truth, predicted = target[valid].long(), prediction[valid].long()
    for name, labels in (("target", truth), ("prediction", predicted)):
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        if len(wrong):
            raise validate.refuse(name, f"classes from 0 to {num_classes - 1}", int(wrong[0]))
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
