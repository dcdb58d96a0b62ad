"""Bad input to every public function: refused with the argument's name, what came and what was expected."""

import re

import pytest
import torch
from torch import nn

from coursekit.batchnorm import (
    BatchNorm,
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_in_blocks,
    fold_batchnorm,
    group_norm,
)
from coursekit.convolutionalize import (
    cell_to_box,
    class_heatmaps,
    convolutionalize,
    instances_to_targets,
    linear_to_conv,
    sliding_window,
)
from coursekit.data import small_images, textures, whereabouts
from coursekit.data.camvid import camvid
from coursekit.data.cells import Cells
from coursekit.data.cifar10 import cifar10
from coursekit.data.isbi2012 import isbi2012
from coursekit.data.nuclei import nuclei
from coursekit.data.pets import pets
from coursekit.data.photographs import load
from coursekit.data.scenes import Scenes
from coursekit.data.sealions import sealion_patches
from coursekit.data.transforms import Normalize, RandomCrop, RandomFlip, RandomScale, Resize, Transformed
from coursekit.data.voc import voc
from coursekit.fcn import (
    FCN,
    SkipFCN,
    confusion_matrix,
    median_frequency_weights,
    pixel_cross_entropy,
    sample_patches,
    segmentation_scores,
)
from coursekit.figures import curves, grid, overlay_labels, show
from coursekit.metrics import (
    SegmentationScores,
    connected_components,
    instance_f1,
    match_instances,
    mean_iou,
    pixel_error,
    rand_error,
)
from coursekit.models import Backbone, SmallBackbone, pretrained, settings, small_classifier
from coursekit.notebook import predict, start
from coursekit.preprocessing import (
    Standardizer,
    channel_statistics,
    mean_image,
    split_then_standardize,
    streaming_statistics,
    zca_whiten,
)
from coursekit.quizzes import Quiz
from coursekit.training import Descent, Task, Validation, fit, one_cycle
from coursekit.unet import (
    DoubleConv,
    UNet,
    crop_and_concat,
    deform,
    elastic_deformation,
    overlap_tile,
    unet_output_size,
    unet_weight_map,
    weight_map_by_sorting,
)
from coursekit.upsampling import (
    atrous,
    bed_of_nails,
    bilinear_kernel,
    conv_transpose2d,
    conv_transpose2d_by_zeros,
    max_pool_with_switches,
    max_unpool,
    nearest_upsample,
    shift_and_stitch,
    transposed_conv_matrix,
)
from coursekit.visualization import (
    capture_activations,
    filter_grid,
    maximize_activation,
    receptive_field,
    top_patches,
    total_variation,
)

x, c3, c2 = torch.randn(2, 3, 4, 5), torch.ones(3), torch.ones(2)
conv = nn.Conv2d(3, 3, 1)
net = nn.Sequential(conv, nn.Flatten(), nn.Linear(60, 2))
maps = torch.zeros(4, 5, dtype=torch.int64)
pair = torch.zeros(2, 4, 5, dtype=torch.int64)
skip = SkipFCN(2, (1, 3, 3), "16s")
seeded = torch.Generator().manual_seed(0)
dense = nn.Sequential(nn.Flatten(), nn.Linear(60, 2))
w32 = torch.ones(3, 2, 3, 3)
switches = torch.zeros(2, 3, 4, 5, dtype=torch.int64)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.used(x)


class Backwards(nn.Sequential):
    def forward(self, x):
        return super().forward(x.flip(3))


def hollow(*layers):
    """A dense twin of a strided convolution and what follows it."""
    return atrous(nn.Sequential(nn.Conv2d(3, 3, 1, stride=2), *layers))


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
    "rank, in blocks": (lambda: batchnorm_in_blocks(x[0], c3, c3), "x must be", "(3, 4, 5)"),
    "gamma, in blocks": (lambda: batchnorm_in_blocks(x, c2, c3), "gamma must be", "(2,)"),
    "beta, in blocks": (lambda: batchnorm_in_blocks(x, c3, c2), "beta must be", "(2,)"),
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
    "mean image rank": (lambda: mean_image(x[0]), "images must be", "(3, 4, 5)"),
    "mean image empty": (lambda: mean_image(x[:0]), "images must be", "(0, 3, 4, 5)"),
    "statistics rank": (lambda: channel_statistics(x[0]), "images must be", "(3, 4, 5)"),
    "statistics empty": (lambda: channel_statistics(x[..., :0]), "images must be", "(2, 3, 4, 0)"),
    "statistics of a list": (lambda: channel_statistics([1]), "images must be", "list"),
    "mode": (lambda: Standardizer("zscore"), "mode must be one of mean_image", "'zscore'"),
    "fit rank": (lambda: Standardizer().fit(x[0]), "images must be", "(3, 4, 5)"),
    "fit empty": (lambda: Standardizer("mean_image").fit(x[:0]), "images must be", "(0, 3, 4, 5)"),
    "standardize rank": (lambda: Standardizer().fit(x)(x[0]), "images must be", "(3, 4, 5)"),
    "standardize channels": (
        lambda: Standardizer().fit(x)(x[:, :1]), "images must be of the size of the statistics", "(2, 1, 4, 5)"),
    "standardize size": (
        lambda: Standardizer("mean_image").fit(x)(x[..., 1:]), "images must be of the size", "(2, 3, 4, 4)"),
    "split rank": (lambda: split_then_standardize(x[0], 0.5, seeded), "images must be", "(3, 4, 5)"),
    "split fraction": (lambda: split_then_standardize(x, -0.1, seeded), "val_fraction must be", "-0.1"),
    "nothing to train on": (lambda: split_then_standardize(x, 1.0, seeded), "val_fraction must be", "1.0"),
    "split generator": (lambda: split_then_standardize(x, 0.5, None), "generator must be", "NoneType"),
    "whiten rank": (lambda: zca_whiten(x), "x must be", "(2, 3, 4, 5)"),
    "whiten empty": (lambda: zca_whiten(x[:0, 0, 0]), "x must be", "(0, 5)"),
    "whiten eps": (lambda: zca_whiten(x[0, 0], -1e-5), "eps must be", "-1e-05"),
    # visualization
    "variation": (lambda: total_variation(x[0]), "x must be", "(3, 4, 5)"),
    "layer": (lambda: maximize_activation(net, "7", 0), "layer must be one of 0, 1, 2", "'7'"),
    "uncalled": (lambda: maximize_activation(Unused(), "spare", 0), "layer must be", "no output"),
    "channel": (lambda: maximize_activation(conv, "", 3), "channel must be", "3"),
    "position": (lambda: maximize_activation(conv, "", 0, (64, 0)), "position must be", "(64, 0)"),
    "no model": (lambda: maximize_activation(len, "", 0), "model must be an nn.Module", "builtin"),
    "variation empty": (lambda: total_variation(x[:0]), "x must be", "(0, 3, 4, 5)"),
    "filter rank": (lambda: filter_grid(x[0]), "weight must be", "(3, 4, 5)"),
    "filter empty": (lambda: filter_grid(x[:0]), "weight must be", "(0, 3, 4, 5)"),
    "filter channels": (lambda: filter_grid(x[:, :2]), "weight must be of filters with 1 or 3", "(2, 2, 4, 5)"),
    "filter columns": (lambda: filter_grid(x, 0), "columns must be", "0"),
    "filter padding": (lambda: filter_grid(x, padding=-1), "padding must be", "-1"),
    "capture model": (lambda: capture_activations(len, x, ["0"]), "model must be an nn.Module", "builtin"),
    "capture input": (lambda: capture_activations(net, [1.0], ["0"]), "x must be a tensor", "list"),
    "capture a string": (lambda: capture_activations(net, x, "0"), "layers must be a list", "'0'"),
    "capture layer": (lambda: capture_activations(net, x, ["7"]), "layers must be one of 0, 1, 2", "'7'"),
    "capture uncalled": (
        lambda: capture_activations(Unused(), x, ["spare"]), "layers must be", "'spare' with no output"),
    "capture no tensor": (
        lambda: capture_activations(nn.AdaptiveMaxPool2d(1, True), x, [""]), "layers must be", "tuple"),
    "field of nothing": (lambda: receptive_field(3), "layers must be a list", "3"),
    "three numbers": (lambda: receptive_field([(3, 1, 0)]), "layer 0 of layers must be", "(3, 1, 0)"),
    "field kernel": (
        lambda: receptive_field([(3, 1, 0, 1), (0, 1, 0, 1)]), "kernel of layer 1 of layers must be", "0"),
    "field stride": (lambda: receptive_field([(3, 0, 0, 1)]), "stride of layer 0 of layers must be", "0"),
    "field padding": (lambda: receptive_field([(3, 1, -1, 1)]), "padding of layer 0 of layers must be", "-1"),
    "field dilation": (lambda: receptive_field([(3, 1, 0, 0)]), "dilation of layer 0 of layers must be", "0"),
    "patch rank": (lambda: top_patches(x[0], 0, 1, (3, 1, 0.0), (9, 9)), "activations must be", "(3, 4, 5)"),
    "patch dtype": (lambda: top_patches(x.long(), 0, 1, (3, 1, 0.0), (9, 9)), "activations must be", "int64"),
    "patch empty": (lambda: top_patches(x[:0], 0, 1, (3, 1, 0.0), (9, 9)), "activations must be", "(0, 3, 4, 5)"),
    "patch channel": (lambda: top_patches(x, 3, 1, (3, 1, 0.0), (9, 9)), "channel must be below the 3", "3"),
    "no patches": (lambda: top_patches(x, 0, 0, (3, 1, 0.0), (9, 9)), "k must be", "0"),
    "patch field": (lambda: top_patches(x, 0, 1, (3, 1), (9, 9)), "field must be", "(3, 1)"),
    "patch field size": (lambda: top_patches(x, 0, 1, (0, 1, 0.0), (9, 9)), "field size must be", "0"),
    "patch jump": (lambda: top_patches(x, 0, 1, (3, 0, 0.0), (9, 9)), "field jump must be", "0"),
    "patch edge": (lambda: top_patches(x, 0, 1, (3, 1, 0.5), (9, 9)), "field must be", "(3, 1, 0.5)"),
    "patch images": (lambda: top_patches(x, 0, 1, (3, 1, 0.0), 9), "image_size must be a pair", "9"),
    "patch of no image": (lambda: top_patches(x, 0, 1, (3, 1, 0.0), (9, 0)), "image_size must be", "0"),
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
    "heatmap rank": (lambda: class_heatmaps(conv, x[0]), "images must be", "(3, 4, 5)"),
    "heatmap empty": (lambda: class_heatmaps(conv, x[:0]), "images must be", "(0, 3, 4, 5)"),
    "heatmap net": (lambda: class_heatmaps(len, x), "fcn must be an nn.Module", "builtin"),
    "no heatmap": (lambda: class_heatmaps(net, x), "fcn must be a network to maps", "(2, 2)"),
    "window rank": (lambda: sliding_window(net, x, 4, 1), "image must be", "(2, 3, 4, 5)"),
    "window net": (lambda: sliding_window(None, x[0], 4, 1), "cnn must be", "NoneType"),
    "window": (lambda: sliding_window(net, x[0], 5, 1), "window must be at most the image's (4, 5)", "5"),
    "no window": (lambda: sliding_window(net, x[0], 0, 1), "window must be", "0"),
    "stride": (lambda: sliding_window(net, x[0], 4, 0), "stride must be", "0"),
    "window output": (lambda: sliding_window(conv, x[0], 4, 1), "cnn must be a classifier", "(2, 3, 4, 4)"),
    "row": (lambda: cell_to_box(-1, 0, (3, 1, 0.0), (3, 1, 0.0)), "row must be", "-1"),
    "column": (lambda: cell_to_box(0, 0.5, (3, 1, 0.0), (3, 1, 0.0)), "col must be", "0.5"),
    "field": (lambda: cell_to_box(0, 0, (3, 1), (3, 1, 0.0)), "field_y must be", "(3, 1)"),
    "field size": (lambda: cell_to_box(0, 0, (3, 1, 0.0), (0, 1, 0.0)), "field_x size must be", "0"),
    "field jump": (lambda: cell_to_box(0, 0, (3, 0, 0.0), (3, 1, 0.0)), "field_y jump must be", "0"),
    "half a pixel": (lambda: cell_to_box(0, 0, (3, 1, 0.0), (3, 1, 0.5)), "field_x must be", "(3, 1, 0.5)"),
    "instance rank": (lambda: instances_to_targets(maps[0], {}), "instances must be", "(5,)"),
    "instance dtype": (lambda: instances_to_targets(maps.float(), {}), "instances must be", "float32"),
    "negative id": (lambda: instances_to_targets(maps - 1, {}), "instances must be ids from 0", "-1"),
    "id without class": (lambda: instances_to_targets(maps + 7, {6: 1}), "classes must be", "none for 7"),
    "class of an id": (lambda: instances_to_targets(maps + 7, {7: 0}), "classes must be", "0"),
    # upsampling
    "nearest rank": (lambda: nearest_upsample(x[0], 2), "x must be", "(3, 4, 5)"),
    "nearest factor": (lambda: nearest_upsample(x, 0), "factor must be", "0"),
    "nails rank": (lambda: bed_of_nails(x[0], 2), "x must be", "(3, 4, 5)"),
    "nails empty": (lambda: bed_of_nails(x[:0], 2), "x must be", "(0, 3, 4, 5)"),
    "nails factor": (lambda: bed_of_nails(x, 1.5), "factor must be", "1.5"),
    "pool rank": (lambda: max_pool_with_switches(x[0], 2), "x must be", "(3, 4, 5)"),
    "pool window": (lambda: max_pool_with_switches(x, 5), "k must be at most the size of x, (4, 5)", "5"),
    "pool nothing": (lambda: max_pool_with_switches(x, 0), "k must be", "0"),
    "unpool rank": (lambda: max_unpool(x[0], switches, (4, 5)), "y must be", "(3, 4, 5)"),
    "unpool dtype": (lambda: max_unpool(x, x, (4, 5)), "switches must be an integer", "float32"),
    "unpool shapes": (lambda: max_unpool(x, switches[:1], (4, 5)), "switches must be of the shape", "(1, 3, 4, 5)"),
    "unpool size": (lambda: max_unpool(x, switches, 4), "size must be a pair", "4"),
    "unpool no size": (lambda: max_unpool(x, switches, (4, 0)), "size must be", "0"),
    "switch beyond": (lambda: max_unpool(x, switches + 20, (4, 5)), "switches must be from 0 to 19", "20"),
    "switch before": (lambda: max_unpool(x, switches - 1, (4, 5)), "switches must be from 0 to 19", "-1"),
    "matrix kernel": (lambda: transposed_conv_matrix(x, 3), "kernel must be", "(2, 3, 4, 5)"),
    "matrix of nothing": (lambda: transposed_conv_matrix(c3[:0], 3), "kernel must be", "(0,)"),
    "matrix length": (lambda: transposed_conv_matrix(c3, 0), "length must be", "0"),
    "matrix stride": (lambda: transposed_conv_matrix(c3, 3, 0), "stride must be", "0"),
    "transposed rank": (lambda: conv_transpose2d(x[0], w32), "x must be", "(3, 4, 5)"),
    "transposed dtype": (lambda: conv_transpose2d(x.long(), w32), "x must be a floating", "int64"),
    "transposed empty": (lambda: conv_transpose2d(x[:0], w32), "x must be", "(0, 3, 4, 5)"),
    "transposed weight rank": (lambda: conv_transpose2d(x, w32[0]), "weight must be", "(2, 3, 3)"),
    "transposed channels": (
        lambda: conv_transpose2d(x, w32[:2]), "weight must be of 3 input channels", "(2, 2, 3, 3)"),
    "transposed weight dtype": (lambda: conv_transpose2d(x, w32.double()), "weight must be", "float64"),
    "transposed bias": (lambda: conv_transpose2d(x, w32, c3), "bias must be", "(3,)"),
    "transposed bias dtype": (lambda: conv_transpose2d(x, w32, c2.double()), "bias must be", "float64"),
    "transposed stride": (lambda: conv_transpose2d(x, w32, None, 0), "stride must be", "0"),
    "transposed pair": (lambda: conv_transpose2d(x, w32, None, (2, 2)), "stride must be", "(2, 2)"),
    "transposed padding": (lambda: conv_transpose2d(x, w32, None, 2, -1), "padding must be", "-1"),
    "transposed nothing": (lambda: conv_transpose2d(x, w32, None, 1, 3), "padding must be one that leaves", "3"),
    "output_padding": (lambda: conv_transpose2d(x, w32, None, 2, 1, 2), "output_padding must be below", "2"),
    "no output_padding": (lambda: conv_transpose2d(x, w32, None, 2, 1, -1), "output_padding must be", "-1"),
    "by zeros": (lambda: conv_transpose2d_by_zeros(x, w32, None, 2, 1, 2), "output_padding must be below", "2"),
    "bilinear channels": (lambda: bilinear_kernel(0, 2), "channels must be", "0"),
    "bilinear factor": (lambda: bilinear_kernel(1, 0), "factor must be", "0"),
    "stitch net": (lambda: shift_and_stitch(len, x, 2), "net must be an nn.Module", "builtin"),
    "stitch rank": (lambda: shift_and_stitch(conv, x[0], 2), "image must be", "(3, 4, 5)"),
    "stitch factor": (lambda: shift_and_stitch(conv, x, 0), "factor must be", "0"),
    "stitch scores": (lambda: shift_and_stitch(net, x, 1), "net must be a network to maps", "(2, 2)"),
    "stitch stride": (
        lambda: shift_and_stitch(conv, x, 3), "factor must be the total stride of net", "(2, 3, 4, 5)"),
    "stitch size": (
        lambda: shift_and_stitch(nn.Conv2d(3, 1, 4, stride=2), x, 2), "image must be so large", "(2, 3, 3, 5)"),
    "dense net": (lambda: atrous(conv), "net must be an nn.Sequential", "Conv2d"),
    "dense forward": (lambda: hollow(Backwards(conv)), "net must be made of Sequentials", "Backwards"),
    "dense average": (lambda: hollow(nn.AvgPool2d(2)), "net must be made of convolutions", "AvgPool2d"),
    "dense scores": (lambda: hollow(nn.Flatten()), "net must be made of convolutions", "Flatten"),
    "dense softmax": (lambda: hollow(nn.Softmax(3)), "net must be made of convolutions", "Softmax"),
    "dense padded pool": (lambda: hollow(nn.MaxPool2d(3, 2, 1)), "net must be one whose max pools", "MaxPool2d"),
    "dense ceiling": (lambda: hollow(nn.MaxPool2d(2, ceil_mode=True)), "net must be one whose max", "MaxPool2d"),
    "dense indices": (lambda: hollow(nn.MaxPool2d(2, return_indices=True)), "net must be one whose", "MaxPool2d"),
    "dense mirror": (
        lambda: hollow(nn.Conv2d(3, 1, 3, padding=1, padding_mode="reflect")), "net must be one whose padding", "reflect"),
    "dense lopsided": (
        lambda: hollow(nn.Conv2d(3, 1, 2, padding="same")), "net must be one whose padding", "padding=same"),
    # fcn
    "patch image": (lambda: sample_patches(x, maps, 2, 1, seeded), "image must be", "(2, 3, 4, 5)"),
    "patch labels": (lambda: sample_patches(x[0], maps.float(), 2, 1, seeded), "labels must be", "float32"),
    "patch sizes": (lambda: sample_patches(x[0], maps[1:], 2, 1, seeded), "labels must be", "(3, 5)"),
    "patch label": (lambda: sample_patches(x[0], maps - 3, 2, 1, seeded), "labels must be classes", "-3"),
    "patch size": (lambda: sample_patches(x[0], maps, 5, 1, seeded), "size must be at most", "5"),
    "no patch": (lambda: sample_patches(x[0], maps, 2, 0, seeded), "per_class must be", "0"),
    "logits rank": (lambda: pixel_cross_entropy(x[0], maps[None]), "logits must be", "(3, 4, 5)"),
    "logits dtype": (lambda: pixel_cross_entropy(x.long(), pair), "logits must be", "int64"),
    "target rank": (lambda: pixel_cross_entropy(x, maps), "target must be", "(4, 5)"),
    "target dtype": (lambda: pixel_cross_entropy(x, pair.float()), "target must be", "float32"),
    "target size": (lambda: pixel_cross_entropy(x, pair[:, 1:]), "target must be of the size", "(2, 3, 5)"),
    "target label": (lambda: pixel_cross_entropy(x, pair + 3), "target must be classes from 0 to 2", "3"),
    "negative target": (lambda: pixel_cross_entropy(x, pair - 1), "target must be classes", "-1"),
    "weights": (lambda: pixel_cross_entropy(x, pair, c2), "class_weights must be", "(2,)"),
    "weights dtype": (lambda: pixel_cross_entropy(x, pair, c3.long()), "class_weights must be", "int64"),
    "negative weights": (lambda: pixel_cross_entropy(x, pair, -c3), "class_weights must be of weights", "-1"),
    "mask size": (lambda: pixel_cross_entropy(x, pair, mask=x[:1, 0]), "mask must be", "(1, 4, 5)"),
    "mask dtype": (lambda: pixel_cross_entropy(x, pair, mask=pair), "mask must be", "int64"),
    "negative mask": (lambda: pixel_cross_entropy(x, pair, mask=pair - 0.5), "mask must be", "-0.5"),
    "maps rank": (lambda: median_frequency_weights(maps, 2), "label_maps must be", "(4, 5)"),
    "no maps": (lambda: median_frequency_weights([], 2), "label_maps must be at least one", "none"),
    "a map's rank": (lambda: median_frequency_weights([maps, pair], 2), "map 1 of label_maps", "(2, 4, 5)"),
    "a map's dtype": (lambda: median_frequency_weights([maps.float()], 2), "map 0 of label_maps", "float32"),
    "a map's label": (lambda: median_frequency_weights([maps, maps + 2], 2), "map 1 of label_maps", "2"),
    "no classes": (lambda: median_frequency_weights([maps], 0), "num_classes must be", "0"),
    "skip classes": (lambda: SkipFCN(0, (1, 1, 1), "8s"), "num_classes must be", "0"),
    "skip channels": (lambda: SkipFCN(2, (1, 1), "8s"), "channels must be (c8, c16, c32)", "(1, 1)"),
    "no channels": (lambda: SkipFCN(2, (1, 0, 1), "8s"), "channels must be", "0"),
    "variant": (lambda: SkipFCN(2, (1, 1, 1), "4s"), "variant must be one of 32s, 16s, 8s", "'4s'"),
    "no feature": (lambda: skip({32: x}, (128, 160)), "features must be a dict with stride 16", "[32]"),
    "no dict": (lambda: skip([x, x], (128, 160)), "features must be a dict", "list"),
    "feature rank": (lambda: skip({32: x[0], 16: x}, (128, 160)), "features[32] must be", "(3, 4, 5)"),
    "feature size": (
        lambda: skip({32: x, 16: x}, (128, 160)), "features[16] must be of shape (2, 3, 8, 10)", "(2, 3, 4, 5)"),
    "skip size": (lambda: skip({32: x, 16: x}, 128), "size must be (H, W)", "128"),
    "empty size": (lambda: skip({32: x, 16: x}, (128, 0)), "size must be", "0"),
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
    "odd pooling": (lambda: unet_output_size(571), "size must be a size that 4 poolings", "571"),
    "nothing left": (lambda: unet_output_size(16, 1), "size must be large enough", "16"),
    "too small": (lambda: unet_output_size(4, 1), "size must be", "4"),
    "no size": (lambda: unet_output_size(0), "size must be", "0"),
    "depth": (lambda: unet_output_size(572, 0), "depth must be", "0"),
    "skip rank": (lambda: crop_and_concat(x[0], x), "skip must be", "(3, 4, 5)"),
    "up rank": (lambda: crop_and_concat(x, x[0]), "up must be", "(3, 4, 5)"),
    "up size": (lambda: crop_and_concat(x[..., 1:], x), "up must be no larger than skip, (4, 4)", "(4, 5)"),
    "up batch": (lambda: crop_and_concat(x, x[:1]), "up must be of 2 images", "1"),
    "block": (lambda: DoubleConv(0, 1), "in_channels must be", "0"),
    "block output": (lambda: DoubleConv(1, 0), "out_channels must be", "0"),
    "block rank": (lambda: DoubleConv(3, 1)(x[0]), "x must be", "(3, 4, 5)"),
    "block dtype": (lambda: DoubleConv(3, 1)(x.long()), "x must be", "int64"),
    "block channels": (lambda: DoubleConv(2, 1)(x), "x must be of 2 channels", "(2, 3, 4, 5)"),
    "block size": (lambda: DoubleConv(3, 1)(x), "x must be of at least 5×5", "(2, 3, 4, 5)"),
    "unet channels": (lambda: UNet(0, 2), "in_channels must be", "0"),
    "unet classes": (lambda: UNet(1, 0), "num_classes must be", "0"),
    "unet base": (lambda: UNet(1, 2, base=0), "base must be", "0"),
    "unet depth": (lambda: UNet(1, 2, depth=0), "depth must be", "0"),
    "unet rank": (lambda: UNet(3, 2, 1, 1)(x[0]), "x must be", "(3, 4, 5)"),
    "unet input": (lambda: UNet(2, 2, 1, 1)(x), "x must be of 2 channels", "(2, 3, 4, 5)"),
    "unet size": (lambda: UNet(1, 2, 1, 1)(torch.zeros(1, 1, 18, 19)), "each side of x must be", "19"),
    "cells rank": (lambda: unet_weight_map(pair), "instances must be", "(2, 4, 5)"),
    "cells dtype": (lambda: unet_weight_map(maps.float()), "instances must be", "float32"),
    "cells empty": (lambda: unet_weight_map(maps[:0]), "instances must be", "(0, 5)"),
    "cells ids": (lambda: unet_weight_map(maps - 2), "instances must be ids from 0", "-2"),
    "w0": (lambda: unet_weight_map(maps, w0=-1.0), "w0 must be", "-1.0"),
    "border width": (lambda: unet_weight_map(maps, sigma=0), "sigma must be a positive", "0"),
    "a weight": (lambda: unet_weight_map(maps, class_weights=(1, -1)), "class_weights must be", "-1"),
    "one weight": (lambda: unet_weight_map(maps, class_weights=1.0), "class_weights must be", "1.0"),
    "sorted cells": (lambda: weight_map_by_sorting(maps - 2), "instances must be ids from 0", "-2"),
    "tiled net": (lambda: overlap_tile(None, x[0], 2, 0, 3), "net must be", "NoneType"),
    "tiled image": (lambda: overlap_tile(conv, x, 2, 0, 3), "image must be", "(2, 3, 4, 5)"),
    "tile": (lambda: overlap_tile(conv, x[0], 0, 0, 3), "tile must be", "0"),
    "context": (lambda: overlap_tile(conv, x[0], 2, -1, 3), "context must be", "-1"),
    "tile classes": (lambda: overlap_tile(conv, x[0], 2, 0, 0), "num_classes must be", "0"),
    "tile output": (lambda: overlap_tile(conv, x[0], 2, 1, 3), "net must be a network", "(1, 3, 4, 4)"),
    # metrics
    "running classes": (lambda: SegmentationScores(0), "num_classes must be", "0"),
    "running shapes": (lambda: SegmentationScores(2).update(maps[1:], maps), "prediction must be", "(3, 5)"),
    "running label": (lambda: SegmentationScores(2).update(maps, maps + 2), "target must be classes", "2"),
    "error rank": (lambda: pixel_error(maps[0], maps), "prediction must be", "(5,)"),
    "error dtype": (lambda: pixel_error(maps, maps.float()), "target must be", "float32"),
    "error shapes": (lambda: pixel_error(maps[1:], maps), "prediction must be", "(3, 5)"),
    "pieces rank": (lambda: connected_components(pair), "mask must be", "(2, 4, 5)"),
    "pieces dtype": (lambda: connected_components(maps.float()), "mask must be", "float32"),
    "match rank": (lambda: match_instances(pair, pair), "prediction must be", "(2, 4, 5)"),
    "match shapes": (lambda: match_instances(maps[1:], maps), "prediction must be", "(3, 5)"),
    "match ids": (lambda: match_instances(maps, maps - 4), "truth must be ids from 0", "-4"),
    "low threshold": (lambda: instance_f1(maps, maps, 0.4), "threshold must be", "0.4"),
    "high threshold": (lambda: instance_f1(maps, maps, 1.0), "threshold must be", "1.0"),
    "rand dtype": (lambda: rand_error(maps, maps.float()), "truth must be", "float32"),
    "rand ids": (lambda: rand_error(maps - 1, maps), "prediction must be ids from 0", "-1"),
    # data
    "photograph": (lambda: load("dog"), "name must be one of astronaut", "'dog'"),
    "split": (lambda: textures.textures("valid"), "split must be one of train", "'valid'"),
    "per_class": (lambda: textures.textures("val", 0), "per_class must be", "0"),
    "source": (lambda: small_images("val", source="mnist"), "source must be", "'mnist'"),
    "data set": (lambda: whereabouts("mnist"), "name must be one of small_images", "'mnist'"),
    "camvid split": (lambda: camvid("test"), "split must be one of train, val", "'test'"),
    "slices": (lambda: isbi2012("test"), "split must be one of train, val", "'test'"),
    "nuclei split": (lambda: nuclei("test"), "split must be one of train, val", "'test'"),
    "voc split": (lambda: voc("test"), "split must be one of train, val", "'test'"),
    "pets split": (lambda: pets("trainval"), "split must be one of train, val, test", "'trainval'"),
    "patches": (lambda: sealion_patches("valid"), "split must be one of train, val, test", "'valid'"),
    "patches a class": (lambda: sealion_patches("val", 0), "per_class must be", "0"),
    "cifar split": (lambda: cifar10("valid"), "split must be one of train, val, test", "'valid'"),
    "scenes": (lambda: Scenes(0), "count must be", "0"),
    "scene size": (lambda: Scenes(1, 31), "size must be an integer of at least 32", "31"),
    "scene seed": (lambda: Scenes(1, seed=-1), "seed must be", "-1"),
    "scene split": (lambda: Scenes(1, split="valid"), "split must be one of train", "'valid'"),
    "cells": (lambda: Cells(0), "count must be", "0"),
    "cell size": (lambda: Cells(1, 16.0), "size must be an integer of at least 32", "16.0"),
    "cell seed": (lambda: Cells(1, seed=None), "seed must be", "None"),
    "density": (lambda: Cells(1, density=1.5), "density must be a share from 0 to 1", "1.5"),
    "contrast": (lambda: Cells(1, contrast=-0.1), "contrast must be", "-0.1"),
    "no item": (lambda: Resize(4)(x[0]), "item must be a dict with an image", "Tensor"),
    "item image": (lambda: Resize(4)({"image": x}), "image must be", "(2, 3, 4, 5)"),
    "item labels": (
        lambda: RandomFlip()({"image": x[0], "labels": maps[:3]}), "labels must be of the image's size", "(3, 5)"),
    "item instances": (
        lambda: RandomCrop(2)({"image": x[0], "instances": maps.float()}), "instances must be", "float32"),
    "item points": (
        lambda: RandomCrop(2)({"image": x[0], "points": c3}), "points must be floating-point", "(3,)"),
    "no pixels": (lambda: Resize(0), "size must be an integer of at least 1", "0"),
    "sizes of three": (lambda: RandomCrop((1, 2, 3)), "size must be a side or (height, width)", "(1, 2, 3)"),
    "probability": (lambda: RandomFlip(1.5), "probability must be", "1.5"),
    "smallest": (lambda: RandomScale(0.0), "smallest must be a positive number", "0.0"),
    "largest": (lambda: RandomScale(1.0, 0.5), "largest must be", "0.5"),
    "std": (lambda: Normalize((0.0,), (0.0,)), "std must be positive", "0.0"),
    "mean": (lambda: Normalize((0.0, 1.0))({"image": x[0]}), "image must be of 2 and 1 channels", "(3, 4, 5)"),
    "transform": (lambda: Transformed([], None), "transform must be callable", "NoneType"),
    # models
    "no logits": (lambda: small_classifier(0), "num_classes must be", "0"),
    "no widths": (lambda: small_classifier(3, ()), "widths must be at least one", "()"),
    "a width": (lambda: small_classifier(3, (4, 0)), "widths must be", "0"),
    "no image channel": (lambda: small_classifier(3, (4,), 0), "in_channels must be", "0"),
    "two strides": (lambda: Backbone((8, 8)), "channels must be (c8, c16, c32)", "(8, 8)"),
    "two strides, small": (lambda: SmallBackbone((8, 8)), "channels must be (c8, c16, c32)", "(8, 8)"),
    "no channel, small": (lambda: SmallBackbone(in_channels=0), "in_channels must be", "0"),
    "another stride": (
        lambda: Backbone((8, 8, 8), small_classifier(3, (4, 8))), "classifier must be of stride 8 and 8", "stride 2"),
    "variant of FCN": (lambda: FCN(3, "4s"), "variant must be one of 32s", "'4s'"),
    "network": (lambda: pretrained("lenet"), "name must be one of cifar10, alexnet", "'lenet'"),
    "network of ours": (lambda: settings("alexnet"), "name must be one of cifar10", "'alexnet'"),
    # figures, notebook, training
    "batch_size": (lambda: fit(net, [{}], epochs=1, batch_size=0), "batch_size must be", "0"),
    "nothing to learn": (lambda: fit(net, [], epochs=1), "train must be at least one item", "none"),
    "target": (
        lambda: fit(net, [{"image": x[0]}], epochs=1, task=Task("labels")),
        "target must be among the fields image", "'labels'"),
    "no target": (lambda: Task(()), "target must be a field or several", "()"),
    "a loss for a target": (lambda: Task(nn.functional.cross_entropy), "target must be", "cross_entropy"),
    "loss": (lambda: Task(loss=None), "loss must be callable", "None"),
    "augmentation": (lambda: Task(augment=2), "augment must be callable", "2"),
    "task": (lambda: fit(net, [{}], epochs=1, task="labels"), "task must be a Task", "str"),
    "a set without its score": (
        lambda: fit(net, [{}], [{}], epochs=1), "val must be a set with its score, Validation(data, score)", "list"),
    "score": (lambda: Validation([{}], None), "score must be", "None"),
    "patience": (lambda: Validation([{}], mean_iou, patience=0), "patience must be", "0"),
    "clip": (lambda: Descent(clip=-1.0), "clip must be", "-1.0"),
    "optimizer": (lambda: Descent(torch.optim.Adam), "optimizer must be", "type"),
    "two rates": (
        lambda: fit(net, [{}], epochs=1, lr=1.0, descent=Descent(torch.optim.SGD(net.parameters()))),
        "lr must be left to the optimizer", "1.0"),
    "warmup": (lambda: one_cycle(1.0), "warmup must be", "1.0"),
    "nothing to score": (lambda: mean_iou(conv, []), "dataset must be at least one item", "none"),
    "alt": (lambda: show(curves({"a": [1.0]}, "x", "y"), alt=" "), "alt must be", "' '"),
    "images": (lambda: grid([]), "images must be", "none"),
    "image shape": (lambda: grid(x[:, :2]), "images must be of 1 or 3", "(2, 4, 5)"),
    "titles": (lambda: grid(x[:, :1], titles=["one"]), "titles must be", "1"),
    "series": (lambda: curves({}, "x", "y"), "series must be", "none"),
    "overlay": (lambda: overlay_labels(x[0], maps[:2]), "labels must be", "(2, 5)"),
    "topic": (lambda: start("08_gan"), "topic must be one of 01_preprocessing", "'08_gan'"),
    "quiz": (lambda: predict("gain"), "name must be one of line_through", "'gain'"),
    "one option": (lambda: Quiz("?", "a", "b", {}), "wrong must be", "[]"),
    "the same option": (lambda: Quiz("?", "a", "b", {"a": "c"}), "wrong must be", "['a']"),
    "numbers": (lambda: predict("wasteful_windows", window=3), "numbers must be", "['window']"),
    "epochs": (lambda: fit(net, None), "epochs or steps must be", "None"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused(case):
    call, expected, got = CASES[case]
    with pytest.raises(ValueError, match="^" + re.escape(expected)) as refusal:
        call()
    assert got in str(refusal.value).split("got", 1)[1]
