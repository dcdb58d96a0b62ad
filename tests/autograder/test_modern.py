"""Right answers in modern dress: wrapped, compiled, scripted, mapped. None loses a point, called before or not."""

import functools
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autograder import catalog
from autograder.oracle import evaluate
from autograder.oracle.exam import Exam


def forward(x, gamma, beta, eps: float = 1e-5):
    axes = [0] if x.dim() == 2 else [0, 2, 3]
    mean = x.mean(axes, keepdim=True)
    var = x.var(axes, keepdim=True, unbiased=False)
    shape = [1, -1] if x.dim() == 2 else [1, -1, 1, 1]
    return gamma.view(shape) * (x - mean) / torch.sqrt(var + eps) + beta.view(shape)


class Slotted:
    __slots__ = ("calls",)

    def __call__(self, x, gamma, beta, eps=1e-5):
        return forward(x, gamma, beta, eps)


def mapped(x, gamma, beta, eps=1e-5):
    def one(column, g, b):
        return g * (column - column.mean()) / torch.sqrt(column.var(unbiased=False) + eps) + b

    return torch.func.vmap(one, in_dims=(1, 0, 0), out_dims=1)(x, gamma, beta)


class _Scale(nn.Module):
    def __init__(self, gamma, beta):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(gamma), nn.Parameter(beta)

    def forward(self, x, eps):
        return forward(x, self.gamma, self.beta, eps)


def functional(x, gamma, beta, eps=1e-5):
    layer = _Scale(torch.zeros_like(gamma), torch.zeros_like(beta))
    return torch.func.functional_call(layer, {"gamma": gamma, "beta": beta}, (x, eps))


def compiled_inside(x, gamma, beta, eps=1e-5):
    return torch.compile(forward, backend="eager")(x, gamma, beta, eps)


def through_numpy(images):
    mean = images.numpy().astype(np.float64).mean(0)
    return torch.from_numpy(mean).to(images.dtype if images.is_floating_point() else torch.float32)


FUNCTIONS = {
    "partial": lambda: functools.partial(forward),
    "callable object": Slotted,
    "vmap": lambda: mapped,
    "functional_call": lambda: functional,
    "script": lambda: torch.jit.script(forward),
    "eager": lambda: torch.compile(forward, backend="eager"),
    "aot_eager": lambda: torch.compile(forward, backend="aot_eager"),
    "inductor": lambda: torch.compile(forward),
    "fullgraph": lambda: torch.compile(forward, backend="eager", fullgraph=True),
    "compiled inside": lambda: compiled_inside,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_in_modern_dress_is_right(name):
    exam = Exam(catalog.find("batchnorm_forward"))
    answer = FUNCTIONS[name]()
    first, again = (evaluate("batchnorm_forward", answer, exam=exam) for _ in range(2))
    assert first.correct, first.outcomes
    assert again.correct, again.outcomes


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_layer_is_right(backend):
    class BatchNorm(catalog.find("BatchNorm").right[0].answer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.compile(backend=backend)

    assert evaluate("BatchNorm", BatchNorm).correct


def test_a_compiled_mistake_keeps_its_name():
    wrong = catalog.find("batchnorm_forward").misconception("unbiased_variance").answer
    verdict = evaluate("batchnorm_forward", torch.compile(wrong, backend="eager"))
    assert verdict.diagnosis == "unbiased_variance"


def test_what_was_compiled_before_runs_compiled_afterwards():
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    answer = torch.compile(forward, backend=backend)
    assert evaluate("batchnorm_forward", answer).correct
    assert not seen
    answer(torch.ones(3, 2), torch.ones(2), torch.zeros(2))
    assert seen


@pytest.mark.parametrize("answer", [through_numpy, torch.no_grad()(through_numpy)], ids=["numpy", "no_grad"])
def test_numpy_inside_and_decorators_of_torch_are_right(answer):
    assert evaluate("mean_image", answer).correct


def test_a_compiler_that_the_answer_itself_brings_in_costs_nothing():
    """In a process where nothing was compiled before."""
    program = f"""
        import sys, torch
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_modern import compiled_inside
        from autograder.oracle import evaluate
        assert "torch._dynamo" not in sys.modules
        for seed in range(3):
            verdict = evaluate("batchnorm_forward", compiled_inside, seed=seed)
            assert verdict.correct, verdict.outcomes
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_where_no_compiler_is_installed_nothing_is_lost(tmp_path, monkeypatch):
    for name, value in {"PATH": str(tmp_path), "CC": "no-compiler", "CXX": "no-compiler"}.items():
        monkeypatch.setenv(name, value)
    assert evaluate("batchnorm_forward", torch.compile(forward)).correct


def test_a_subclass_with_slots_is_right():
    class Named(catalog.find("BatchNorm").right[0].answer):
        __slots__ = ("seen",)

        def forward(self, x):
            self.seen = len(x)
            return super().forward(x)

    assert evaluate("BatchNorm", Named).correct
