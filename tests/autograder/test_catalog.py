"""What every entry of the catalogue promises: enough mistakes, right answers and hints, points that add up."""

import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from autograder import catalog
from autograder.exercise import Property, names
from coursekit import TOPICS

ROOT = Path(catalog.__file__).parents[2]
EXERCISES = catalog.every()
KINDS = ("Exercise", "Training")
EXERCISE = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.id)


@EXERCISE
def test_an_entry_is_complete(exercise):
    assert len(exercise.misconceptions) >= 4
    assert len(exercise.right) >= 2
    assert len(exercise.hints) == 3
    assert exercise.topic in TOPICS
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
    assert all(p.points > 0 and p.says for p in exercise.properties)
    assert all(p.examples >= 2 for p in exercise.properties if isinstance(p, Property))
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
def test_a_block_has_no_long_line(exercise):
    name = re.sub("(?<=[a-z])(?=[A-Z])", "_", exercise.id).lower()
    path = ROOT / "autograder" / "catalog" / exercise.topic / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    assert [line for text in texts if "\n" in text for line in text.split("\n") if len(line) > 110] == []


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


@pytest.mark.parametrize("topic", TOPICS)
def test_one_exercise_is_one_file_that_bears_its_name(topic):
    ids = {}
    for path in (ROOT / "autograder" / "catalog" / topic).glob("*.py"):
        module = ast.parse(path.read_text(encoding="utf-8"))
        made = [n for n in ast.walk(module) if isinstance(n, ast.Call) and ast.unparse(n.func) in KINDS]
        if path.stem in ("__init__", "draws"):
            assert not made
            continue
        entries = [n for n in module.body if isinstance(n, ast.Assign) and n.value in made]
        assert [ast.unparse(n.targets[0]) for n in entries] == ["CLAIMS"]
        assert len(made) == 1
        assert ast.unparse(module.body[-1]) == "EXERCISE = answers.exercise()"
        ids[path.stem] = import_module(f"{catalog.__name__}.{topic}.{path.stem}").EXERCISE.id
    assert ids == {re.sub("(?<=[a-z])(?=[A-Z])", "_", e).lower(): e for e in ids.values()}
    order = import_module(f"{catalog.__name__}.{topic}").ORDER
    assert sorted(order) == sorted(ids.values())
    assert tuple(e.id for e in catalog.topic(topic)) == order


def test_looking_one_exercise_up_imports_that_one_alone():
    program = (
        "import sys; from autograder import catalog; catalog.find('BatchNorm');"
        "print(*(n for n, m in sys.modules.items() if n.startswith(catalog.__name__) and hasattr(m, 'EXERCISE')))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["autograder.catalog.batchnorm.batch_norm"]


def test_no_module_is_too_long_to_be_read():
    paths = (path for package in ("autograder", "coursekit") for path in (ROOT / package).rglob("*.py"))
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in paths}
    assert {name: lines for name, lines in lengths.items() if lines > 700} == {}


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
