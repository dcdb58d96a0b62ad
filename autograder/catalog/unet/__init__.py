"""Lecture 07: sizes, skips, the network, what makes it learn from few images, and its training."""

ORDER = (
    "unet_output_size",
    "crop_and_concat",
    "DoubleConv",
    "UNet",
    "overlap_tile",
    "elastic_deformation",
    "unet_weight_map",
    "train_unet",
)
"""Its exercises, in the order of the notebook."""
