"""Lecture 04: a classifier becomes fully convolutional."""

ORDER = (
    "linear_to_conv",
    "convolutionalize",
    "class_heatmaps",
    "sliding_window",
    "cell_to_box",
    "instances_to_targets",
)
"""Its exercises, in the order of the notebook."""
