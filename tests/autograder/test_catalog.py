"""What every entry of the catalogue promises: enough mistakes, right answers and hints, points that add up."""

import inspect
import re

import pytest

from autograder import catalog
from autograder.exercise import names

EXERCISES = catalog.every()
EXERCISE = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.id)


@EXERCISE
def test_an_entry_is_complete(exercise):
    assert len(exercise.misconceptions) >= 4
    assert len(exercise.right) >= 2
    assert len(exercise.hints) == 3
    assert exercise.topic in catalog.TOPICS
    assert exercise.minutes > 0
    assert 1 <= exercise.difficulty <= 5
    assert exercise.title
    assert exercise in catalog.topic(exercise.topic)
    assert catalog.find(exercise.id) is exercise


@EXERCISE
def test_the_id_is_the_reference_s_name_in_the_topic_s_module(exercise):
    assert exercise.reference.__name__ == exercise.id
    assert exercise.reference.__module__ == f"coursekit.{exercise.topic}"
    assert exercise.signature.startswith(f"{exercise.id}(")


@EXERCISE
def test_properties_have_names_of_their_own_sentences_and_points(exercise):
    own = names(exercise.properties)
    assert len(set(own)) == len(own)
    assert all(p.points > 0 and p.says and p.examples >= 2 for p in exercise.properties)
    assert exercise.points == sum(p.points for p in exercise.properties) == int(exercise.points)


@EXERCISE
def test_misconceptions_are_told_apart_and_fail_something_known(exercise):
    own = [m.name for m in exercise.misconceptions]
    assert len(set(own)) == len(own)
    for m in exercise.misconceptions:
        assert re.fullmatch(r"[a-z0-9_]+", m.name)
        assert m.mistake.endswith(".")
        assert m.repair.endswith(".") or m.repair.endswith("`.")
        assert m.fails
        assert set(m.fails) <= set(names(exercise.properties))


@EXERCISE
def test_every_property_is_failed_by_some_misconception(exercise):
    failed = {name for m in exercise.misconceptions for name in m.fails}
    # What no wrong answer of the catalogue fails may be checking nothing.
    assert set(names(exercise.properties)) == failed


@EXERCISE
def test_answers_take_what_the_reference_takes(exercise):
    expected = list(inspect.signature(exercise.reference).parameters)
    for answer in [m.answer for m in exercise.misconceptions] + [v.answer for v in exercise.right]:
        assert list(inspect.signature(answer).parameters) == expected, answer


def test_an_unknown_exercise_or_topic_is_a_value_error_that_names_the_known():
    with pytest.raises(ValueError, match="batchnorm_forward"):
        catalog.find("batchnorm")
    with pytest.raises(ValueError, match="batchnorm"):
        catalog.topic("cooking")


# Fixed with the exercises: a gradebook, a card and a syllabus rely on them.
POINTS = {
    "mean_image": 2,
    "channel_statistics": 3,
    "streaming_statistics": 4,
    "zca_whiten": 4,
    "Standardizer": 4,
    "split_then_standardize": 3,
    "batchnorm_forward": 4,
    "batchnorm_backward": 4,
    "BatchNorm": 6,
    "fold_batchnorm": 4,
    "group_norm": 3,
    "filter_grid": 3,
    "capture_activations": 4,
    "total_variation": 2,
    "maximize_activation": 5,
    "linear_to_conv": 4,
    "receptive_field": 4,
    "top_patches": 3,
    "convolutionalize": 6,
    "class_heatmaps": 2,
    "sliding_window": 4,
    "cell_to_box": 2,
    "instances_to_targets": 3,
    "shift_and_stitch": 4,
    "atrous": 4,
    "nearest_upsample": 2,
    "bed_of_nails": 2,
    "max_pool_with_switches": 3,
    "max_unpool": 3,
    "transposed_conv_matrix": 2,
    "conv_transpose2d": 5,
    "bilinear_kernel": 3,
    "sample_patches": 4,
    "pixel_cross_entropy": 5,
    "median_frequency_weights": 3,
    "SkipFCN": 6,
    "confusion_matrix": 3,
    "segmentation_scores": 4,
    "train_fcn": 6,
    "unet_output_size": 3,
    "crop_and_concat": 2,
    "DoubleConv": 2,
    "UNet": 6,
    "unet_weight_map": 5,
    "elastic_deformation": 4,
    "overlap_tile": 5,
    "train_unet": 6,
}


def test_points_are_the_fixed_ones():
    assert {e.id: e.points for e in EXERCISES} == POINTS
