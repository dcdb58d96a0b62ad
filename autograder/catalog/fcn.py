"""Exercises of lecture 06: patches, the loss of a whole image, skips, scores, and a training."""

from __future__ import annotations

from autograder.catalog._fcn_loss import MEDIAN_FREQUENCY, PIXEL_CROSS_ENTROPY, SAMPLE_PATCHES
from autograder.catalog._fcn_scores import CONFUSION, SEGMENTATION_SCORES
from autograder.catalog._fcn_skips import SKIP_FCN
from autograder.catalog._train_fcn import TRAIN_FCN

EXERCISES = (
    SAMPLE_PATCHES,
    PIXEL_CROSS_ENTROPY,
    MEDIAN_FREQUENCY,
    SKIP_FCN,
    CONFUSION,
    SEGMENTATION_SCORES,
    TRAIN_FCN,
)
