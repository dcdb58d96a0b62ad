"""Lecture 03: filters as a picture, activations, the input that maximizes a unit, receptive fields."""

ORDER = (
    "filter_grid",
    "capture_activations",
    "total_variation",
    "maximize_activation",
    "receptive_field",
    "top_patches",
)
"""Its exercises, in the order of the notebook."""
