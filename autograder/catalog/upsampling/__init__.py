"""Lecture 05: dense maps out of coarse ones, unpooling, transposed convolution, bilinear kernels."""

ORDER = (
    "shift_and_stitch",
    "atrous",
    "nearest_upsample",
    "bed_of_nails",
    "max_pool_with_switches",
    "max_unpool",
    "transposed_conv_matrix",
    "conv_transpose2d",
    "bilinear_kernel",
)
"""Its exercises, in the order of the notebook."""
