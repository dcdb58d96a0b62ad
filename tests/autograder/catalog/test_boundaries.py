"""Every exam, whatever its seed, asks for the ends of what is allowed: what an answer does there is not left to luck."""

import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from autograder import catalog
from autograder.exercise import Training
from autograder.oracle.exam import Exam
from autograder.values import Batches, Network

SEEDS = range(3)


@functools.cache
def drawn(exercise_id: str, seed: int) -> Exam:
    return Exam(catalog.find(exercise_id), seed)


def calls(exercise_id: str, seed: int, claims: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """The arguments, by name, of everything an exam calls, or some of its claims do."""
    exam = drawn(exercise_id, seed)
    signature = inspect.signature(exam.exercise.reference)
    for prop in exam.exercise.properties:
        for case in exam.cases(prop) if not claims or prop.name in claims else ():
            for args, kwargs in [(case.args, case.kwargs), *((a, {}) for a in parts(case.extra, tuple))]:
                try:
                    bound = signature.bind(*args, **kwargs)
                except TypeError:
                    continue
                bound.apply_defaults()
                yield {**case.extra, **bound.arguments}


def parts(value: Any, kind: type) -> Iterator[Any]:
    """What of a kind lies somewhere in a value."""
    if isinstance(value, kind):
        yield value
    within: Any = ()
    if isinstance(value, Network):
        within = [value.layers]
    elif isinstance(value, Batches):
        within = value.items
    elif isinstance(value, Mapping):
        within = value.values()
    elif isinstance(value, list | tuple):
        within = value
    for part in within:
        yield from parts(part, kind)


def layers(call: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    """The arguments of the layers of a kind in the networks of a call."""
    for entry in parts(call, list):
        if len(entry) == 2 and entry[0] == kind:
            yield entry[1]


def unequal(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and pair[0] != pair[1]


def asked(exercise_id: str, holds: Any, claims: tuple[str, ...] = ()) -> bool:
    """Whether each exam has a call for which it holds."""
    return all(any(map(holds, calls(exercise_id, seed, claims))) for seed in SEEDS)


# Where an argument has an end, an input that lies there, and which of them the exam must have.
ENDS = [
    ("BatchNorm", "momentum=0", lambda a: a["momentum"] == 0, ("running_statistics",)),
    ("BatchNorm", "momentum=1", lambda a: a["momentum"] == 1, ("running_statistics",)),
    ("BatchNorm", "eps=0, training", lambda a: a["eps"] == 0, ("training_output",)),
    ("BatchNorm", "eps=0, eval", lambda a: a["eps"] == 0, ("eval_mode",)),
    ("batchnorm_forward", "eps=0", lambda a: a["eps"] == 0, ()),
    ("batchnorm_backward", "eps=0", lambda a: a["eps"] == 0, ()),
    ("group_norm", "eps=0", lambda a: a["eps"] == 0, ()),
    ("fold_batchnorm", "eps=0", lambda a: any(bn["eps"] == 0 for bn in layers(a, "BatchNorm2d")), ("eps",)),
    ("zca_whiten", "eps=0", lambda a: a["eps"] == 0, ()),
    ("group_norm", "one group", lambda a: a["num_groups"] == 1 < a["x"].shape[1], ()),
    ("group_norm", "C groups", lambda a: 1 < a["num_groups"] == a["x"].shape[1], ()),
    ("group_norm", "one channel", lambda a: a["num_groups"] == a["x"].shape[1] == 1, ()),
    ("nearest_upsample", "factor=1", lambda a: a["factor"] == 1, ()),
    ("bed_of_nails", "factor=1", lambda a: a["factor"] == 1, ()),
    ("bilinear_kernel", "factor=1", lambda a: a["factor"] == 1, ()),
    ("shift_and_stitch", "factor=1", lambda a: a["factor"] == 1, ()),
    ("max_pool_with_switches", "k=1", lambda a: a["k"] == 1, ()),
    ("max_pool_with_switches", "one window", lambda a: a["k"] == a["x"].shape[2] == a["x"].shape[3], ()),
    ("conv_transpose2d", "stride > kernel", lambda a: a["stride"] > max(a["weight"].shape[2:]), ()),
    ("transposed_conv_matrix", "stride > kernel", lambda a: a["stride"] > len(a["kernel"]), ()),
    ("transposed_conv_matrix", "length=1", lambda a: a["length"] == 1, ()),
    ("receptive_field", "stride > kernel", lambda a: any(s > k for k, s, _, _ in a["layers"]), ("size",)),
    ("receptive_field", "no layers", lambda a: len(a["layers"]) == 0, ()),
    ("sliding_window", "stride > window", lambda a: a["stride"] > a["window"], ()),
    ("sliding_window", "window=1", lambda a: a["window"] == 1, ()),
    ("sliding_window", "stride=1", lambda a: a["stride"] == 1, ()),
    ("filter_grid", "padding=0", lambda a: a["padding"] == 0 < a["columns"] < len(a["weight"]), ()),
    ("filter_grid", "columns=1", lambda a: a["columns"] == 1 < len(a["weight"]), ()),
    ("conv_transpose2d", "padding=0", lambda a: a["padding"] == 0 < a["output_padding"], ()),
    ("overlap_tile", "context=0", lambda a: a["context"] == 0, ()),
    ("overlap_tile", "tile=1", lambda a: a["tile"] == 1, ()),
    ("split_then_standardize", "val_fraction=0", lambda a: a["val_fraction"] == 0, ()),
    ("elastic_deformation", "sigma=0", lambda a: a["sigma"] == 0, ()),
    ("elastic_deformation", "grid=2", lambda a: a["grid"] == 2, ()),
    ("unet_weight_map", "w0=0", lambda a: a["w0"] == 0, ()),
    ("maximize_activation", "steps=0", lambda a: a["steps"] == 0, ()),
    ("top_patches", "k=1", lambda a: a["k"] == 1, ()),
    ("top_patches", "all images", lambda a: 1 < a["k"] == len(a["activations"]), ()),
    ("sample_patches", "size=1", lambda a: a["size"] == 1, ()),
    ("UNet", "depth=1", lambda a: a["depth"] == 1, ()),
    ("UNet", "base=1", lambda a: a["base"] == 1, ()),
    ("unet_output_size", "depth=1", lambda a: a["depth"] == 1, ()),
    ("DoubleConv", "one channel", lambda a: 1 in (a["in_channels"], a["out_channels"]), ("output",)),
]


@pytest.mark.parametrize(
    ("exercise_id", "holds", "claims"),
    [pytest.param(e, holds, claims, id=f"{e}, {end}") for e, end, holds, claims in ENDS],
)
def test_an_argument_at_the_end_of_its_range_is_in_every_exam(exercise_id, holds, claims):
    assert asked(exercise_id, holds, claims)


def one_image(a):
    """Of two values a channel: training on one of them is refused."""
    return [x.numel() // x.shape[1] for x in a["batches"][:1] if len(x) == 1] == [2]


# The nearest to what is refused, on the side that is not.
NEIGHBORS = [
    ("BatchNorm", "one image of two values", one_image, ("training_output",)),
    ("BatchNorm", "one value in eval mode", lambda a: a["batches"][-1].shape[0] == 1, ("eval_mode",)),
    ("group_norm", "as many groups as channels", lambda a: a["num_groups"] == a["x"].shape[1], ()),
    ("linear_to_conv", "a window of one pixel", lambda a: a["kernel_size"] == (1, 1), ("default_window",)),
    ("filter_grid", "one channel", lambda a: a["weight"].shape[1] == 1, ("gray",)),
    ("filter_grid", "three channels", lambda a: a["weight"].shape[1] == 3, ("scaled",)),
    ("capture_activations", "no path at all", lambda a: len(a["layers"]) == 0, ()),
    (
        "conv_transpose2d",
        "one less than the stride",
        lambda a: 0 < a["output_padding"] == a["stride"] - 1,
        ("output_padding",),
    ),
    ("atrous", "a pool padded by (0, 0)", lambda a: _zero_pair(a), ()),
    ("crop_and_concat", "the same rows", lambda a: _as_large(a) == (True, False), ("same_size",)),
    ("crop_and_concat", "the same columns", lambda a: _as_large(a) == (False, True), ("same_size",)),
    ("crop_and_concat", "the same size", lambda a: _as_large(a) == (True, True), ("same_size",)),
    ("unet_output_size", "the smallest of depth 1", lambda a: (a["size"], a["depth"]) == (18, 1), ()),
]


def _zero_pair(a):
    return any(pool.get("padding") in ((0, 0), [0, 0]) for pool in layers(a, "MaxPool2d"))


def _as_large(a):
    return tuple(one == other for one, other in zip(a["skip"].shape[2:], a["up"].shape[2:], strict=True))


@pytest.mark.parametrize(
    ("exercise_id", "holds", "claims"),
    [pytest.param(e, holds, claims, id=f"{e}, {what}") for e, what, holds, claims in NEIGHBORS],
)
def test_beside_a_refusal_the_nearest_input_that_is_not_refused_is_in_every_exam(exercise_id, holds, claims):
    assert asked(exercise_id, holds, claims)


# Pairs of axes that get different numbers: who takes one for both is seen.
PAIRS = [
    ("fold_batchnorm", "Conv2d", "kernel_size"),
    ("fold_batchnorm", "Conv2d", "stride"),
    ("fold_batchnorm", "Conv2d", "padding"),
    ("fold_batchnorm", "Conv2d", "dilation"),
    ("atrous", "Conv2d", "kernel_size"),
    ("atrous", "MaxPool2d", "stride"),
    ("atrous", "Conv2d", "padding"),
    ("atrous", "Conv2d", "dilation"),
]


@pytest.mark.parametrize(("exercise_id", "kind", "what"), PAIRS)
def test_layers_with_another_number_along_each_axis_are_in_every_exam(exercise_id, kind, what):
    assert asked(exercise_id, lambda a: any(unequal(layer.get(what)) for layer in layers(a, kind)))


OTHER_PAIRS = [
    ("conv_transpose2d", "kernel", lambda a: unequal(a["weight"].shape[2:])),
    ("linear_to_conv", "kernel_size", lambda a: unequal(a["kernel_size"])),
    ("cell_to_box", "field", lambda a: all(y != x for y, x in zip(a["field_y"], a["field_x"], strict=True))),
    ("top_patches", "image_size", lambda a: unequal(a["image_size"])),
    ("maximize_activation", "shape", lambda a: unequal(a["shape"][2:])),
    ("convolutionalize", "input_size", lambda a: unequal(a["input_size"][1:])),
    ("max_unpool", "size", lambda a: unequal(a["size"])),
]


@pytest.mark.parametrize(
    ("exercise_id", "holds"), [pytest.param(e, holds, id=f"{e}, {what}") for e, what, holds in OTHER_PAIRS]
)
def test_arguments_with_another_number_along_each_axis_are_in_every_exam(exercise_id, holds):
    assert asked(exercise_id, holds)


@pytest.mark.parametrize(
    ("exercise_id", "channels"),
    [
        ("fold_batchnorm", lambda a: [(c["in_channels"], c["out_channels"]) for c in layers(a, "Conv2d")]),
        ("atrous", lambda a: [(c["in_channels"], c["out_channels"]) for c in layers(a, "Conv2d")]),
        ("convolutionalize", lambda a: [(c["in_channels"], c["out_channels"]) for c in layers(a, "Conv2d")]),
        ("linear_to_conv", lambda a: [(c["in_features"], c["out_features"]) for c in layers(a, "Linear")]),
        ("conv_transpose2d", lambda a: [a["weight"].shape[:2]]),
        ("DoubleConv", lambda a: [(a["in_channels"], a["out_channels"])]),
    ],
)
def test_as_many_channels_come_in_as_go_out_in_every_exam(exercise_id, channels):
    assert asked(exercise_id, lambda a: any(one == other > 1 for one, other in channels(a)))


def test_a_grid_other_than_three_is_in_every_exam():
    for claim in ("identity", "field", "border", "image", "labels"):
        assert asked("elastic_deformation", lambda a: a["grid"] < 3, ("identity",))
        assert asked("elastic_deformation", lambda a: a["grid"] > 3, (claim,))


# What goes in is no image.
WITHOUT_IMAGES = {
    "zca_whiten",
    "receptive_field",
    "cell_to_box",
    "transposed_conv_matrix",
    "bilinear_kernel",
    "segmentation_scores",
    "unet_output_size",
}


@pytest.mark.parametrize(
    "exercise_id",
    [e.id for e in catalog.every() if not isinstance(e, Training) and e.id not in WITHOUT_IMAGES],
)
def test_an_image_three_times_as_wide_as_high_is_in_every_exam(exercise_id):
    def wide(a):
        sizes = [a.get("shape", ()), *(t.shape for t in parts(a, torch.Tensor))]
        return any(len(size) > 1 and size[-1] >= 3 * size[-2] > 0 for size in sizes)

    assert asked(exercise_id, wide)
