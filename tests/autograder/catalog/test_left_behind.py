"""What an otherwise right answer leaves behind in a network that it was handed costs points, whichever it is."""

import functools
import inspect
import re
from dataclasses import replace

import pytest

from autograder import catalog
from autograder.oracle import evaluate
from autograder.oracle.exam import Exam

# Exercises whose answers are handed networks, the arguments that are some, and the claims that look at them afterwards.
HANDED = {
    "capture_activations": (("model",), ("as_found",)),
    "maximize_activation": (("model",), ("as_found",)),
    "fold_batchnorm": (("conv", "bn"), ("originals",)),
    "linear_to_conv": (("linear",), ("apart",)),
    "convolutionalize": (("cnn",), ("apart", "modes")),
    "class_heatmaps": (("fcn",), ("as_found",)),
    "sliding_window": (("cnn",), ("as_found",)),
    "shift_and_stitch": (("net",), ("mode",)),
    "atrous": (("net",), ("apart",)),
    "overlap_tile": (("net",), ("mode",)),
}


def hooked(net):
    net.register_forward_hook(lambda *seen: None)


def hooked_inside(net):
    [*net.modules()][-1].register_forward_pre_hook(lambda *seen: None)


def with_gradients(net):
    for p in net.parameters():
        p.grad = p.detach().clone()


def frozen(net):
    net.requires_grad_(False)


def one_flag_for_all(net):
    net.train(net.training)


def last_layer_in_eval(net):
    for module in net.modules():
        if not [*module.children()]:
            module.eval()


def all_in_training(net):
    net.train()


EVERYWHERE = [hooked, with_gradients, frozen, all_in_training]
IN_DEPTH = [hooked_inside, one_flag_for_all, last_layer_in_eval]
SINGLE = {"fold_batchnorm", "linear_to_conv"}

TRACES = [
    pytest.param(exercise_id, name, trace, id=f"{exercise_id}, {name} {trace.__name__}")
    for exercise_id, (names, _) in HANDED.items()
    for name in names
    for trace in EVERYWHERE + IN_DEPTH * (exercise_id not in SINGLE)
]


@functools.cache
def looking(exercise_id):
    """The exercise with no other claims than those, and its exam: the others look at something else."""
    exercise, looks = catalog.find(exercise_id), HANDED[exercise_id][1]
    claims = [replace(p, beside="") for p in exercise.properties if p.name in looks]
    exercise = replace(exercise, properties=tuple(claims), misconceptions=())
    return exercise, Exam(exercise)


def leaving(exercise, name, trace):
    """The right answer, which does something to the network of that name in the end."""
    right, signature = exercise.right[0].answer, inspect.signature(exercise.reference)

    def answer(*args, **kwargs):
        result = right(*args, **kwargs)
        trace(signature.bind(*args, **kwargs).arguments[name])
        return result

    answer.__name__ = exercise.id
    return answer


def nothing(net):
    pass


@pytest.mark.parametrize("exercise_id", HANDED)
def test_without_a_trace_there_are_full_points(known, exercise_id):
    exercise, exam = looking(exercise_id)
    known(exercise)
    assert evaluate(exercise_id, leaving(exercise, HANDED[exercise_id][0][0], nothing), exam=exam).correct


@pytest.mark.parametrize(("exercise_id", "name", "trace"), TRACES)
def test_a_trace_costs_points(known, monkeypatch, exercise_id, name, trace):
    # The smallest input that shows it is nobody's question here.
    monkeypatch.setattr("autograder.oracle.examine.SHRINK_SECONDS", 0.0)
    exercise, exam = looking(exercise_id)
    known(exercise)
    assert not evaluate(exercise_id, leaving(exercise, name, trace), exam=exam).correct


@pytest.mark.parametrize("exercise_id", HANDED)
def test_no_help_makes_the_mistake_of_one_flag_for_all(exercise_id):
    exercise = catalog.find(exercise_id)
    told = [*(hint.help for hint in exercise.hints), *(m.repair for m in exercise.misconceptions)]
    whole = r"(fcn|cnn|net|model)\.train\((was|mode|(fcn|cnn|net|model)\.training)\)(?! is not enough| reaches all layers[.])"
    assert not [text for text in told if re.search(whole, text)]
