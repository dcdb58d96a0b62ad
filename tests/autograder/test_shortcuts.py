"""A library call that is the exercise, and the reference itself, earn nothing; building blocks are free."""

import _thread
import cProfile
import functools
import importlib.util
import inspect
import itertools
import linecache
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from entries import right
from torch import nn
from torch.nn.functional import batch_norm as renamed
from torch.nn.utils.fusion import fuse_conv_bn_eval

from autograder import catalog
from autograder.exercise import Outcome
from autograder.oracle import evaluate
from coursekit import batchnorm as reference

ROOT = Path(__file__).parents[2]


def statistics(x):
    axes = [axis for axis in range(x.ndim) if axis != 1]
    return x.mean(axes).detach(), x.var(axes, correction=0).detach()


def by_functional(x, gamma, beta, eps=1e-5):
    return F.batch_norm(x, None, None, gamma, beta, True, 0.1, eps)


def by_torch(x, gamma, beta, eps=1e-5):
    return torch.batch_norm(x, gamma, beta, None, None, True, 0.1, eps, False)


def by_operator(x, gamma, beta, eps=1e-5):
    return torch.ops.aten.native_batch_norm(x, gamma, beta, None, None, True, 0.1, eps)[0]


def by_native(x, gamma, beta, eps=1e-5):
    return torch.native_batch_norm(x, gamma, beta, None, None, True, 0.1, eps)[0]


def by_another_name(x, gamma, beta, eps=1e-5):
    return renamed(x, None, None, gamma, beta, training=True, eps=eps)


def by_module(x, gamma, beta, eps=1e-5):
    layer = (nn.BatchNorm1d if x.ndim == 2 else nn.BatchNorm2d)(x.shape[1], eps=eps).to(x)
    return torch.func.functional_call(layer, {"weight": gamma, "bias": beta}, (x,))


def by_evaluation(x, gamma, beta, eps=1e-5):
    return F.batch_norm(x, *statistics(x), gamma, beta, False, 0.1, eps)


def by_instance_norm(x, gamma, beta, eps=1e-5):
    as_one = x.reshape(1, *x.shape) if x.ndim == 2 else x
    columns = as_one.transpose(-1, -2) if x.ndim == 2 else x.transpose(0, 1).reshape(1, x.shape[1], -1)
    y = F.instance_norm(columns, None, None, gamma, beta, True, 0.1, eps)
    if x.ndim == 2:
        return y[0].T
    return y.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


def by_group_norm(x, gamma, beta, eps=1e-5):
    flat = x.transpose(0, 1).reshape(1, x.shape[1], -1)
    y = torch.group_norm(flat, x.shape[1], gamma, beta, eps)
    return y.reshape(x.transpose(0, 1).shape).transpose(0, 1)


def by_layer_norm(x, gamma, beta, eps=1e-5):
    channels = x.transpose(0, 1)
    y = F.layer_norm(channels.flatten(1), (x.numel() // x.shape[1],), None, None, eps).reshape(channels.shape)
    shape = [-1] + [1] * (x.ndim - 1)
    return (y * gamma.view(shape) + beta.view(shape)).transpose(0, 1)


class Wrapped(nn.Module):
    def forward(self, x, gamma, beta, eps=1e-5):
        return by_functional(x, gamma, beta, eps)


def in_a_thread(x, gamma, beta, eps=1e-5):
    answer = []
    thread = threading.Thread(target=lambda: answer.append(by_functional(x, gamma, beta, eps)))
    thread.start()
    thread.join()
    return answer[0]


def in_inference_mode(x, gamma, beta, eps=1e-5):
    with torch.inference_mode():
        return by_functional(x, gamma, beta, eps).clone()


LIBRARY = {
    "F.batch_norm": by_functional,
    "torch.batch_norm": by_torch,
    "torch.ops": by_operator,
    "torch.native_batch_norm": by_native,
    "an import under another name": by_another_name,
    "nn.BatchNorm2d inside": by_module,
    "its evaluation branch": by_evaluation,
    "a partial": functools.partial(F.batch_norm, training=True),
    "a partial of an own function": functools.partial(by_functional),
    "a module around it": Wrapped(),
    "another thread": in_a_thread,
    "inference mode": in_inference_mode,
    "a decorated function": functools.wraps(lambda: None)(by_functional),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_call_is_a_shortcut_and_named(name):
    answer = LIBRARY[name]
    if name == "a partial":
        answer = functools.partial(lambda f, x, g, b, eps=1e-5: f(x, None, None, g, b, eps=eps), answer)
    verdict = evaluate("batchnorm_forward", answer, seed=1)
    assert verdict.outcome is Outcome.SHORTCUT
    assert verdict.points == 0
    assert set(verdict.outcomes.values()) == {Outcome.SHORTCUT}
    assert "F.batch_norm" in verdict.message
    assert verdict.flags


@pytest.mark.parametrize(
    ("answer", "call"),
    [(by_instance_norm, ""), (by_group_norm, "F.group_norm"), (by_layer_norm, "F.layer_norm")],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_its_relatives_are_shortcuts_too(answer, call):
    verdict = evaluate("batchnorm_forward", answer, seed=1)
    assert verdict.outcome is Outcome.SHORTCUT
    assert call in verdict.message


class Inherited(nn.BatchNorm1d):
    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__(num_features, eps, momentum)

    def _check_input_dim(self, x):
        if self.training and x.numel() == self.num_features:
            raise ValueError("one value")


class Holding(nn.Module):
    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        inner = Inherited(num_features, eps, momentum)
        self.weight, self.bias = inner.weight, inner.bias
        for name, buffer in inner.named_buffers():
            self.register_buffer(name, buffer)
        self.eps, self.momentum = eps, momentum

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
                            self.momentum or 0.0, self.eps)  # fmt: skip


@pytest.mark.parametrize("answer", [Inherited, Holding, nn.BatchNorm1d])
def test_a_layer_that_is_torchs_is_a_shortcut(answer):
    verdict = evaluate("BatchNorm", answer, seed=1)
    assert verdict.outcome is Outcome.SHORTCUT
    assert verdict.points == 0
    assert "F.batch_norm" in verdict.message


def fused(conv, bn):
    return fuse_conv_bn_eval(conv.eval(), bn.eval())


def test_torchs_fusion_is_a_shortcut():
    verdict = evaluate("fold_batchnorm", fused, seed=1)
    assert verdict.outcome is Outcome.SHORTCUT
    assert "torch.nn.utils.fusion" in verdict.message


@pytest.mark.parametrize("call", [F.group_norm, torch.group_norm], ids=["F.group_norm", "torch.group_norm"])
def test_torchs_group_norm_is_a_shortcut(call):
    def group_norm(x, num_groups, gamma, beta, eps=1e-5):
        if x.shape[1] % num_groups:
            raise ValueError
        return call(x, num_groups, gamma, beta, eps)

    verdict = evaluate("group_norm", group_norm, seed=1)
    assert verdict.outcome is Outcome.SHORTCUT
    assert "F.group_norm" in verdict.message


# -- the watch itself ----------------------------------------------------------------------------------------


def unprofiled(x, gamma, beta, eps=1e-5):
    watching = sys.getprofile()
    sys.setprofile(None)
    try:
        return by_functional(x, gamma, beta, eps)
    finally:
        sys.setprofile(watching)


def unprofiled_for_good(x, gamma, beta, eps=1e-5):
    sys.setprofile(None)
    return by_native(x, gamma, beta, eps)


def honest_where_watched(x, gamma, beta, eps=1e-5):
    if sys.getprofile() is None:
        return by_native(x, gamma, beta, eps)
    return right(x, gamma, beta, eps)


def honest_where_a_mode_is_on(x, gamma, beta, eps=1e-5):
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    if _get_current_dispatch_mode() is None:
        return by_native(x, gamma, beta, eps)
    return right(x, gamma, beta, eps)


def without_modes(x, gamma, beta, eps=1e-5):
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        return by_native(x, gamma, beta, eps)


def without_dispatch(x, gamma, beta, eps=1e-5):
    with torch._C._DisableTorchDispatch():
        return by_native(x, gamma, beta, eps)


def profiled_by_another(x, gamma, beta, eps=1e-5):
    other = cProfile.Profile()
    other.enable()
    y = by_native(x, gamma, beta, eps)
    other.disable()
    return y


def in_a_bare_thread(x, gamma, beta, eps=1e-5):
    answer, done = [], threading.Event()
    _thread.start_new_thread(lambda: (answer.append(by_native(x, gamma, beta, eps)), done.set()), ())
    done.wait()
    return answer[0]


@pytest.mark.parametrize(
    "answer",
    [
        unprofiled,
        unprofiled_for_good,
        honest_where_watched,
        honest_where_a_mode_is_on,
        without_modes,
        without_dispatch,
        profiled_by_another,
    ],
    ids=lambda f: f.__name__,
)
def test_the_watch_is_not_switched_off_unseen(answer):
    verdict = evaluate("batchnorm_forward", answer, seed=1)
    assert verdict.outcome is Outcome.SHORTCUT
    assert verdict.points == 0
    assert verdict.flags
    assert sys.getprofile() is None


def in_a_process(x, gamma, beta, eps=1e-5):
    subprocess.run(["true"], check=True)
    return right(x, gamma, beta, eps)


@pytest.mark.parametrize("answer", [in_a_bare_thread, in_a_process], ids=lambda f: f.__name__)
def test_what_is_done_where_nobody_looks_is_flagged(answer):
    (flag,) = evaluate("batchnorm_forward", answer, seed=1).flags
    assert "another process or a bare thread" in flag or "F.batch_norm" in flag


# -- one operator, two convolutions -------------------------------------------------------------------------


def by_functional_transposed(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)


def by_transposed_layer(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    layer = nn.ConvTranspose2d(
        *weight.shape[:2], weight.shape[2:], stride, padding, output_padding, bias=False
    )
    y = torch.func.functional_call(layer, {"weight": weight}, (x,))
    return y if bias is None else y + bias[:, None, None]


def by_transposed_flag(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    pairs = [[n, n] for n in (stride, padding, 1, output_padding)]
    return torch.convolution(x, weight, bias, *pairs[:3], True, pairs[3], 1)


@pytest.mark.parametrize(
    "answer", [by_functional_transposed, by_transposed_layer, by_transposed_flag], ids=lambda f: f.__name__
)
def test_a_transposed_convolution_is_a_shortcut_and_a_convolution_is_none(answer):
    verdict = evaluate("conv_transpose2d", answer, seed=1)
    assert verdict.outcome is Outcome.SHORTCUT
    assert "F.conv_transpose2d" in verdict.message
    zeros = next(v for v in catalog.find("conv_transpose2d").right if "convolution" in v.name)
    assert evaluate("conv_transpose2d", zeros.answer, seed=1).correct


# -- a gradient by machine ----------------------------------------------------------------------------------


def formula(x, gamma, eps):
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
    return lambda x, gamma, beta: gamma.view(shape) * (
        (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + eps).sqrt()
    ) + beta.view(shape) + 0 * (mean + var)  # fmt: skip


def leaves(x, gamma):
    return [v.detach().clone().requires_grad_() for v in (x, gamma, torch.zeros_like(gamma))]


def by_backward(grad_y, x, gamma, eps=1e-5):
    own = leaves(x, gamma)
    formula(x, gamma, eps)(*own).backward(grad_y)
    return tuple(v.grad for v in own)


def by_grad(grad_y, x, gamma, eps=1e-5):
    own = leaves(x, gamma)
    return torch.autograd.grad(formula(x, gamma, eps)(*own), own, grad_y)


def by_autograd_backward(grad_y, x, gamma, eps=1e-5):
    own = leaves(x, gamma)
    torch.autograd.backward(formula(x, gamma, eps)(*own), grad_y)
    return tuple(v.grad for v in own)


def by_engine(grad_y, x, gamma, eps=1e-5):
    own = leaves(x, gamma)
    engine = torch.autograd.Variable._execution_engine
    y = formula(x, gamma, eps)(*own)
    return engine.run_backward(
        (y,), (grad_y,), False, False, tuple(own), allow_unreachable=False, accumulate_grad=False
    )


def by_vjp(grad_y, x, gamma, eps=1e-5):
    return torch.func.vjp(formula(x, gamma, eps), x, gamma, torch.zeros_like(gamma))[1](grad_y)


def by_func_grad(grad_y, x, gamma, eps=1e-5):
    f = formula(x, gamma, eps)
    return torch.func.grad(lambda *v: (f(*v) * grad_y).sum(), (0, 1, 2))(x, gamma, torch.zeros_like(gamma))


def by_jacrev(grad_y, x, gamma, eps=1e-5):
    f = formula(x, gamma, eps)
    return torch.func.jacrev(lambda *v: (f(*v) * grad_y).sum(), (0, 1, 2))(x, gamma, torch.zeros_like(gamma))


def by_jacfwd(grad_y, x, gamma, eps=1e-5):
    f = formula(x, gamma, eps)
    return torch.func.jacfwd(lambda *v: (f(*v) * grad_y).sum(), (0, 1, 2))(x, gamma, torch.zeros_like(gamma))


def by_jacobian(grad_y, x, gamma, eps=1e-5):
    f = formula(x, gamma, eps)
    arguments = (x, gamma, torch.zeros_like(gamma))
    return torch.autograd.functional.jacobian(lambda *v: (f(*v) * grad_y).sum(), arguments)


MACHINES = [by_backward, by_grad, by_autograd_backward, by_engine, by_vjp, by_func_grad, by_jacrev, by_jacfwd, by_jacobian]  # fmt: skip


@pytest.mark.parametrize("answer", MACHINES, ids=lambda f: f.__name__)
def test_autograd_is_a_shortcut_in_the_backward_pass(answer):
    verdict = evaluate("batchnorm_backward", answer, seed=1)
    assert verdict.outcome is Outcome.SHORTCUT
    assert verdict.points == 0
    assert "autograd" in verdict.message


def test_the_library_s_own_backward_is_a_shortcut():
    def batchnorm_backward(grad_y, x, gamma, eps=1e-5):
        axes = [axis for axis in range(x.ndim) if axis != 1]
        inverse = (x.var(axes, correction=0) + eps).rsqrt()
        return torch.ops.aten.native_batch_norm_backward(
            grad_y, x, gamma, None, None, x.mean(axes), inverse, True, eps, [True, True, True]
        )

    verdict = evaluate("batchnorm_backward", batchnorm_backward, seed=1)
    assert verdict.outcome is Outcome.SHORTCUT
    assert "native_batch_norm_backward" in verdict.message


# -- the reference ------------------------------------------------------------------------------------------


def test_extending_or_holding_the_reference_is_a_shortcut():
    class BatchNorm(reference.BatchNorm):
        pass

    class Held(nn.Module):
        def __init__(self, *args, **kwargs):
            super().__init__()
            self.inner = reference.BatchNorm(*args, **kwargs)

        def forward(self, x):
            return self.inner(x)

    for answer in (BatchNorm, Held):
        assert evaluate("BatchNorm", answer, seed=1).outcome is Outcome.SHORTCUT


def test_a_reference_that_an_exercise_may_use_is_none():
    from coursekit.fcn import confusion_matrix
    from coursekit.upsampling import bilinear_kernel

    written_out = catalog.find("SkipFCN").right[1].answer

    class Interpolating(written_out):
        def __init__(self, *args):
            super().__init__(*args)
            bilinear_kernel(3, 2)

    class Counting(written_out):
        def __init__(self, *args):
            super().__init__(*args)
            confusion_matrix(torch.zeros(1).long(), torch.zeros(1).long(), 1)

    assert evaluate("SkipFCN", Interpolating, seed=1).correct
    assert evaluate("SkipFCN", Counting, seed=1).outcome is Outcome.SHORTCUT


def test_a_method_of_the_reference_is_a_shortcut():
    class BatchNorm(nn.Module):
        __init__ = reference.BatchNorm.__init__
        forward = reference.BatchNorm.forward

    assert evaluate("BatchNorm", BatchNorm, seed=1).outcome in (Outcome.SHORTCUT, Outcome.RAISED)


def test_the_reference_s_file_under_another_name_is_a_shortcut():
    spec = importlib.util.spec_from_file_location("mine", reference.__file__)
    mine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mine)
    for answer in (
        mine.batchnorm_forward,
        lambda x, gamma, beta, eps=1e-5: mine.batchnorm_forward(x, gamma, beta, eps),
    ):
        verdict = evaluate("batchnorm_forward", answer, seed=1)
        assert verdict.outcome is Outcome.SHORTCUT


CELLS = itertools.count()


def typed(source: str, name: str):
    """An object typed into a cell: its source is where IPython keeps it."""
    file = f"<cell {next(CELLS)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    namespace = dict(vars(reference)) | {"__name__": "__main__"}
    exec(compile(source, file, "exec"), namespace)
    return namespace[name]


def source_of(name: str, with_helpers: bool = True) -> str:
    module = inspect.getsource(reference)
    helpers = module[module.index("def _check(") :] if with_helpers else ""
    return inspect.getsource(getattr(reference, name)) + "\n\n" + helpers


def without_docstring(source: str) -> str:
    return re.sub(r'\n    """.*?"""', "", source, count=1, flags=re.S)


COPIES = {
    "as it is": lambda s: s,
    "without the docstring": without_docstring,
    "with other variables": lambda s: re.sub(r"\b(mean|var|axes|count|scale|groups|x_hat)\b(?!\()", r"my_\1", s)
    .replace("x.my_mean", "x.mean").replace("x.my_var", "x.var").replace("groups.my_mean", "groups.mean"),
    "without the checks": lambda s: re.sub(r"\n +(validate\.|_check\(|if |raise )[^\n]*", "", s),
    "with a comment and a blank line": lambda s: s.replace("\n    axes", "\n\n    # mine\n    axes"),
    "without annotations": lambda s: re.sub(r": (Tensor|float|int)\b", "", s).replace(" -> Tensor", ""),
}  # fmt: skip


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ["batchnorm_forward", "batchnorm_backward"])
def test_a_copy_of_the_reference_is_a_shortcut(name, how):
    original = source_of(name, with_helpers=False)
    changed = COPIES[how](original)
    assert (changed != original) == (how != "as it is") or how == "with a comment and a blank line"
    helpers = source_of(name).removeprefix(original)
    verdict = evaluate(name, typed(f"{changed}\n\n{helpers}", name), seed=1)
    assert verdict.outcome is Outcome.SHORTCUT, verdict.outcomes
    assert "copy" in verdict.message


def test_a_copy_under_another_function_s_name_is_a_shortcut():
    source = source_of("batchnorm_forward").replace("def batchnorm_forward(", "def mine(")
    assert evaluate("batchnorm_forward", typed(source, "mine"), seed=1).outcome is Outcome.SHORTCUT


def test_a_copy_whose_source_is_lost_is_a_shortcut():
    namespace = dict(vars(reference)) | {"__name__": "__main__"}
    exec(source_of("batchnorm_backward"), namespace)
    verdict = evaluate("batchnorm_backward", namespace["batchnorm_backward"], seed=1)
    assert verdict.outcome is Outcome.SHORTCUT


@pytest.mark.parametrize("name", ["BatchNorm", "fold_batchnorm", "group_norm"])
def test_a_copied_class_and_longer_functions_are_shortcuts(name):
    source = without_docstring(source_of(name, with_helpers=False))
    if name == "BatchNorm":
        # Beside it the copy has its own forward pass: calling the reference's would be seen anyway.
        source = source_of("batchnorm_forward") + "\n\n" + source
    assert evaluate(name, typed(source, name), seed=1).outcome is Outcome.SHORTCUT


# -- and what is none ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False], ids=["source at hand", "source lost"])
@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("batchnorm_forward", ") + _along(beta, x)", ") - _along(beta, x)"),
        ("batchnorm_backward", "grad_y - _along(grad_beta / count, x) -", "grad_y - _along(grad_beta / count, x) +"),
        ("batchnorm_backward", "gamma / (var + eps).sqrt()", "gamma * (var + eps).sqrt()"),
        ("group_norm", "groups - mean", "mean - groups"),
    ],
)  # fmt: skip
def test_a_reference_with_one_sign_or_one_place_changed_is_a_wrong_answer(name, one, other, kept):
    source = source_of(name)
    assert source.count(one) == 1
    changed = source.replace(one, other)
    if kept:
        answer = typed(changed, name)
    else:
        namespace = dict(vars(reference)) | {"__name__": "__main__"}
        exec(changed, namespace)
        answer = namespace[name]
    verdict = evaluate(name, answer, seed=1)
    assert verdict.outcome is not Outcome.SHORTCUT
    assert verdict.points < verdict.max_points


def hand_written(x, gamma, beta, eps=1e-5):
    axes = (0,) if x.ndim == 2 else (0, 2, 3)
    var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    shape = (1, -1) if x.ndim == 2 else (1, -1, 1, 1)
    return gamma.view(shape) * (x - mean) / torch.sqrt(var + eps) + beta.view(shape)


def test_a_formula_by_hand_is_none():
    assert evaluate("batchnorm_forward", hand_written, seed=1).correct


def test_uses_elsewhere_in_the_notebook_are_none():
    x = torch.randn(3, 2)
    namespace = {"batchnorm_forward": hand_written, "theirs": F.batch_norm, "layer": nn.BatchNorm1d(2)}
    namespace["layer"](x)
    F.batch_norm(x, None, None, training=True)
    reference.batchnorm_forward(x, torch.ones(2), torch.zeros(2))
    assert evaluate("batchnorm_forward", namespace, seed=1).correct


def test_naming_a_call_without_making_it_is_none():
    def batchnorm_forward(x, gamma, beta, eps=1e-5):
        theirs = F.batch_norm
        assert theirs is not None
        return hand_written(x, gamma, beta, eps)

    assert evaluate("batchnorm_forward", batchnorm_forward, seed=1).correct


def through_a_convolution(x, gamma, beta, eps=1e-5):
    """einsum, conv2d and pad are building blocks."""
    if x.ndim == 2:
        return through_a_convolution(x[:, :, None, None], gamma, beta, eps)[:, :, 0, 0]
    count = x.numel() // x.shape[1]
    mean = torch.einsum("nchw->c", x) / count
    centered = x - mean[:, None, None]
    var = torch.einsum("nchw,nchw->c", centered, centered) / count
    weight = torch.diag(gamma / (var + eps).sqrt())[:, :, None, None]
    padded = F.pad(centered, (1, 1, 1, 1))
    return F.conv2d(padded, weight, beta)[:, :, 1:-1, 1:-1]


def test_building_blocks_are_none():
    assert evaluate("batchnorm_forward", through_a_convolution, seed=1).correct


def test_batch_normalization_inside_a_network_that_is_handed_in_is_none():
    # The networks of these exercises hold nn.BatchNorm2d, which runs while they are judged.
    for exercise_id in ("maximize_activation", "fold_batchnorm"):
        exercise = catalog.find(exercise_id)
        assert evaluate(exercise_id, exercise.right[0].answer, seed=1).correct
