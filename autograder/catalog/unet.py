"""Exercises of lecture 07: sizes, skips, the network, what makes it learn from few images, and its training."""

from __future__ import annotations

from autograder.catalog._train_unet import TRAIN_UNET
from autograder.catalog._unet_elastic import ELASTIC
from autograder.catalog._unet_network import CROP, DOUBLE, SIZE, UNET
from autograder.catalog._unet_tiles import TILES
from autograder.catalog._unet_weights import WEIGHTS

EXERCISES = (SIZE, CROP, DOUBLE, UNET, TILES, ELASTIC, WEIGHTS, TRAIN_UNET)
