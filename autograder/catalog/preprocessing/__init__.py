"""Lecture 01: the statistics of a training set."""

ORDER = (
    "mean_image",
    "channel_statistics",
    "streaming_statistics",
    "zca_whiten",
    "Standardizer",
    "split_then_standardize",
)
"""Its exercises, in the order of the notebook."""
