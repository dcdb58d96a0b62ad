"""Lecture 02: batch normalization, its backward pass, the layer, folding, group normalization."""

ORDER = ("batchnorm_forward", "BatchNorm", "batchnorm_backward", "fold_batchnorm", "group_norm")
"""Its exercises, in the order of the notebook."""
