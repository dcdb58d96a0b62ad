"""Bad input to every public function: refused with the argument's name, what came and what was expected."""

import re

import pytest
import torch
from torch import nn

from coursekit.batchnorm import BatchNorm, batchnorm_backward, batchnorm_forward, fold_batchnorm, group_norm
from coursekit.convolutionalize import convolutionalize, linear_to_conv
from coursekit.data import small_images, textures
from coursekit.data.photographs import load
from coursekit.fcn import confusion_matrix, segmentation_scores
from coursekit.figures import curves, grid, overlay_labels, show
from coursekit.notebook import predict, start
from coursekit.preprocessing import streaming_statistics
from coursekit.training import fit
from coursekit.unet import deform, elastic_deformation
from coursekit.visualization import maximize_activation, total_variation

x, c3, c2 = torch.randn(2, 3, 4, 5), torch.ones(3), torch.ones(2)
conv = nn.Conv2d(3, 3, 1)
net = nn.Sequential(conv, nn.Flatten(), nn.Linear(60, 2))
maps = torch.zeros(4, 5, dtype=torch.int64)
dense = nn.Sequential(nn.Flatten(), nn.Linear(60, 2))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.used(x)


CASES = {
    # batchnorm
    "rank": (lambda: batchnorm_forward(x[0], c3, c3), "x must be", "(3, 4, 5)"),
    "not a tensor": (lambda: batchnorm_forward([1.0], c3, c3), "x must be", "list"),
    "integers": (lambda: batchnorm_forward(x.long(), c3, c3), "x must be a floating", "torch.int64"),
    "empty": (lambda: batchnorm_forward(x[:0], c3, c3), "x must be", "(0, 3, 4, 5)"),
    "gamma size": (lambda: batchnorm_forward(x, c2, c3), "gamma must be", "(2,)"),
    "gamma rank": (lambda: batchnorm_forward(x, c3[None], c3), "gamma must be", "(1, 3)"),
    "gamma dtype": (lambda: batchnorm_forward(x, c3.long(), c3), "gamma must be a floating", "int64"),
    "beta size": (lambda: batchnorm_forward(x, c3, c2), "beta must be", "(2,)"),
    "eps": (lambda: batchnorm_forward(x, c3, c3, eps=-1.0), "eps must be", "-1.0"),
    "grad_y": (lambda: batchnorm_backward(x[:1], x, c3), "grad_y must be", "(1, 3, 4, 5)"),
    "num_features": (lambda: BatchNorm(0), "num_features must be", "0"),
    "momentum": (lambda: BatchNorm(3, momentum=2.0), "momentum must be", "2.0"),
    "channels": (lambda: BatchNorm(2)(x), "x must be of 2 channels", "(2, 3, 4, 5)"),
    "one value": (lambda: BatchNorm(3)(x[:1, :, :1, :1]), "x must be of more than one value", "(1, 3, 1, 1)"),
    "one row": (lambda: BatchNorm(3)(x[:1, :, 0, 0]), "x must be of more than one value", "(1, 3)"),
    "layer rank": (lambda: BatchNorm(3)(x[0]), "x must be", "(3, 4, 5)"),
    "conv": (lambda: fold_batchnorm(nn.Linear(3, 3), nn.BatchNorm2d(3)), "conv must be", "Linear"),
    "bn": (lambda: fold_batchnorm(conv, nn.BatchNorm1d(3)), "bn must be", "BatchNorm1d"),
    "bn size": (lambda: fold_batchnorm(conv, nn.BatchNorm2d(2)), "bn must be", "2"),
    "no statistics": (
        lambda: fold_batchnorm(conv, nn.BatchNorm2d(3, track_running_stats=False)), "bn must be", "False"),
    "groups": (lambda: group_norm(x, 2, c3, c3), "num_groups must be", "2"),
    "no groups": (lambda: group_norm(x, 0, c3, c3), "num_groups must be", "0"),
    "group rank": (lambda: group_norm(x[:, :, 0, 0], 1, c3, c3), "x must be", "(2, 3)"),
    # preprocessing
    "nothing": (lambda: streaming_statistics([]), "batches must be", "none"),
    "batch rank": (lambda: streaming_statistics(x), "batch 0 of batches must be", "(3, 4, 5)"),
    "batch channels": (lambda: streaming_statistics([x, x[:, :2]]), "batch 1 of batches", "(2, 2, 4, 5)"),
    # visualization
    "variation": (lambda: total_variation(x[0]), "x must be", "(3, 4, 5)"),
    "layer": (lambda: maximize_activation(net, "7", 0), "layer must be one of 0, 1, 2", "'7'"),
    "uncalled": (lambda: maximize_activation(Unused(), "spare", 0), "layer must be", "no output"),
    "channel": (lambda: maximize_activation(conv, "", 3), "channel must be", "3"),
    "position": (lambda: maximize_activation(conv, "", 0, (64, 0)), "position must be", "(64, 0)"),
    "steps": (lambda: maximize_activation(conv, "", 0, steps=-1), "steps must be", "-1"),
    # convolutionalize
    "linear": (lambda: linear_to_conv(conv, 3), "linear must be", "Conv2d"),
    "sizes": (lambda: linear_to_conv(nn.Linear(12, 1), 3, (2, 3)), "in_channels and kernel_size", "3·2·3"),
    "kernel": (lambda: linear_to_conv(nn.Linear(12, 1), 3, 2), "kernel_size must be", "2"),
    "cnn": (lambda: convolutionalize(conv, (3, 4, 5)), "cnn must be", "Conv2d"),
    "input_size": (lambda: convolutionalize(net, (4, 5)), "input_size must be", "(4, 5)"),
    "a map": (lambda: convolutionalize(nn.Sequential(conv), (3, 4, 5)), "cnn must be", "4×5"),
    "no counterpart": (
        lambda: convolutionalize(nn.Sequential(*dense, nn.LayerNorm(2)), (3, 4, 5)), "cnn must be", "LayerNorm"),
    "last axis": (lambda: convolutionalize(nn.Sequential(nn.Linear(5, 2)), (3, 4, 5)), "cnn must", "Linear"),
    "uneven pool": (
        lambda: convolutionalize(nn.Sequential(nn.AdaptiveAvgPool2d((3, 1))), (3, 4, 5)), "cnn must", "Adaptive"),
    "max pool": (
        lambda: convolutionalize(nn.Sequential(nn.AdaptiveMaxPool2d(1)), (3, 4, 5)), "cnn must", "AdaptiveMax"),
    # fcn
    "float labels": (lambda: confusion_matrix(maps.float(), maps, 2), "prediction must be", "float32"),
    "label shapes": (lambda: confusion_matrix(maps[:2], maps, 2), "prediction must be", "(2, 5)"),
    "a label": (lambda: confusion_matrix(maps, maps + 2, 2), "target must be classes from 0 to 1", "2"),
    "a prediction": (lambda: confusion_matrix(maps - 1, maps, 2), "prediction must be classes", "-1"),
    "classes": (lambda: confusion_matrix(maps, maps, 0), "num_classes must be", "0"),
    "square": (lambda: segmentation_scores(maps), "matrix must be square", "(4, 5)"),
    "negative": (lambda: segmentation_scores(-torch.eye(2)), "matrix must be of counts", "-1"),
    # unet
    "image": (lambda: elastic_deformation(x, maps), "image must be", "(2, 3, 4, 5)"),
    "soft labels": (lambda: elastic_deformation(x[0], maps.float()), "labels must be an integer", "float32"),
    "label size": (lambda: elastic_deformation(x[0], maps[:3]), "labels must be", "(3, 5)"),
    "grid": (lambda: elastic_deformation(x[0], maps, grid=1), "grid must be", "1"),
    "sigma": (lambda: elastic_deformation(x[0], maps, sigma=-1), "sigma must be", "-1"),
    "lattice": (lambda: deform(x[0], maps, torch.zeros(3, 3)), "lattice must be", "(3, 3)"),
    "lattice axes": (lambda: deform(x[0], maps, torch.zeros(3, 3, 3)), "lattice must be", "(3, 3, 3)"),
    # data
    "photograph": (lambda: load("dog"), "name must be one of astronaut", "'dog'"),
    "split": (lambda: textures.textures("valid"), "split must be one of train", "'valid'"),
    "per_class": (lambda: textures.textures("val", 0), "per_class must be", "0"),
    "source": (lambda: small_images("val", source="mnist"), "source must be", "'mnist'"),
    # figures, notebook, training
    "alt": (lambda: show(curves({"a": [1.0]}, "x", "y"), alt=" "), "alt must be", "' '"),
    "images": (lambda: grid([]), "images must be", "none"),
    "image shape": (lambda: grid(x[:, :2]), "images must be of 1 or 3", "(2, 4, 5)"),
    "titles": (lambda: grid(x[:, :1], titles=["one"]), "titles must be", "1"),
    "series": (lambda: curves({}, "x", "y"), "series must be", "none"),
    "overlay": (lambda: overlay_labels(x[0], maps[:2]), "labels must be", "(2, 5)"),
    "topic": (lambda: start("08_gan"), "topic must be one of 01_preprocessing", "'08_gan'"),
    "one option": (lambda: predict("?", ["a"], "a", "b"), "options must be", "['a']"),
    "no answer": (lambda: predict("?", ["a", "b"], "c", "d"), "answer must be", "'c'"),
    "epochs": (lambda: fit(net, None), "epochs or steps must be", "None"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused(case):
    call, expected, got = CASES[case]
    with pytest.raises(ValueError, match="^" + re.escape(expected)) as refusal:
        call()
    assert got in str(refusal.value).split("got", 1)[1]
