"""Lecture 06: patches, the loss of a whole image, skips, scores, and a training."""

ORDER = (
    "sample_patches",
    "pixel_cross_entropy",
    "median_frequency_weights",
    "SkipFCN",
    "confusion_matrix",
    "segmentation_scores",
    "train_fcn",
)
"""Its exercises, in the order of the notebook."""
