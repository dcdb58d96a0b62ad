"""Exercises of lecture 05: dense maps out of coarse ones, unpooling, transposed convolution, bilinear kernels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Raised
from autograder.catalog._common import (
    AUTOGRAD,
    changed_tensors,
    component,
    described,
    filled,
    gradients,
    share_memory,
)
from autograder.exercise import Case, Exercise, Forbidden, Hint, Misconception, Property, Variant
from autograder.values import Network
from coursekit import upsampling as reference

INTERPOLATE = Forbidden(
    "F.interpolate",
    (
        "torch.nn.functional.interpolate",
        "torch.nn.functional.upsample",
        "aten.upsample_nearest2d",
        "aten._upsample_nearest_exact2d",
        "aten.upsample_bilinear2d",
        "aten._upsample_bilinear2d_aa",
    ),
)
CONV_TRANSPOSE = Forbidden(
    "F.conv_transpose2d",
    (
        "aten.convolution(transposed=True)",
        "aten.conv_transpose1d",
        "aten.conv_transpose2d",
        "aten.slow_conv_transpose2d",
        "aten.cudnn_convolution_transpose",
        "aten.miopen_convolution_transpose",
        "torch.nn.grad.conv2d_input",
    ),
)
MAX_UNPOOL = Forbidden("F.max_unpool2d", ("torch.nn.functional.max_unpool2d", "aten.max_unpool2d"))
MAX_POOL = Forbidden(
    "F.max_pool2d",
    (
        "torch.nn.functional.max_pool2d_with_indices",
        "torch.nn.functional._max_pool2d",
        "torch.nn.functional.adaptive_max_pool2d_with_indices",
        "torch.nn.functional._adaptive_max_pool2d",
        "aten.max_pool2d",
        "aten.max_pool2d_with_indices",
        "aten.adaptive_max_pool2d",
        "aten.fractional_max_pool2d",
    ),
)


def _maps(d: Any) -> torch.Tensor:
    return d.tensor(d.choice([2, 1]), d.choice([2, 1, 3]), d.choice([2, 3, 4]), d.choice([3, 2, 5]))


def _each(subject: Any, case: Case) -> dict[str, Any]:
    """The answers to several calls, whose arguments stand beside the case by label: none is left to chance."""
    return {label: subject(*args) for label, args in case.extra.items()}


def _carries(*names: str) -> Callable[[Any, Case], dict[str, Any]]:
    """Kind of the answer, and the arguments changed in place by name; the numbers are other properties' business."""

    def observe(subject: Any, case: Case) -> dict[str, Any]:
        answer = described(subject(*case.args, **case.kwargs))
        changed = [names[int(c)] for c in subject.changed(*case.args, **case.kwargs)]
        return {"answer": answer, "changed in place": ", ".join(changed) or "nothing"}

    return observe


def _promoted(answer: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def promoted(x, factor):
        return answer(x, factor).double()

    return promoted


# -- shift_and_stitch ---------------------------------------------------------------------------------------


def _filled(d: Any, *layers: nn.Module) -> nn.Module:
    return filled(d, nn.Sequential(*layers), scale=0.5)


def _pooling_net(d: Any) -> nn.Sequential:
    c, k = d.choice([2, 1]), d.choice([2, 3])
    return _filled(d, nn.Conv2d(c, k, d.choice([2, 3])), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(k, 2, 2))


def _striding_net(d: Any) -> nn.Sequential:
    c, k, stride = d.choice([2, 1]), d.choice([2, 3]), d.choice([2, 3])
    return _filled(d, nn.Conv2d(c, k, 3, stride), nn.Tanh(), nn.Conv2d(k, 2, 2))


def _deep_net(d: Any) -> nn.Sequential:
    layers = (nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.Conv2d(2, 2, 2), nn.Tanh(), nn.MaxPool2d(2))
    return _filled(d, *layers, nn.Conv2d(2, 2, d.choice([1, 2])))


def _normalizing_net(d: Any) -> nn.Sequential:
    net = _filled(d, nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 2))
    net[1].running_mean.copy_(d.tensor(2))
    net[1].running_var.copy_(d.positive(2))
    return net


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _reach(net: nn.Sequential) -> tuple[int, int]:
    """Field and total stride of a network without padding whose windows are square."""
    field, jump = 1, 1
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            size, stride, dilation = (_pair(v)[0] for v in (layer.kernel_size, layer.stride, layer.dilation))
            field, jump = field + (size - 1) * dilation * jump, jump * stride
    return field, jump


def _stitch_case(
    make: Callable[[Any], nn.Sequential], *, ragged: bool = False, training: bool = False
) -> Any:
    def draw(d: Any) -> Case:
        net = make(d).train(training)
        field, factor = _reach(net)
        more = (d.integer(1, factor - 1), d.integer(0, factor - 1)) if ragged else (0, 0)
        cells = (factor * d.integer(1, 2) + more[0], factor * d.integer(2, 3) + more[1])
        channels = net[0].in_channels
        image = d.tensor(d.choice([2, 1]), channels, cells[0] + field - 1, cells[1] + field - 1)
        return Case((Network.describe(net), image, factor))

    return draw


def _both_modes(d: Any) -> Case:
    case = _stitch_case(_normalizing_net, training=True)(d)
    return Case(case.args, {}, {"the same in eval mode": Network.describe(case.args[0].build().eval())})


def _left_as_found(subject: Any, case: Case) -> Any:
    seen: dict[str, Any] = {}
    for mode, given in (("training", case.args[0]), ("eval", case.extra["the same in eval mode"])):
        net = subject.build(given)
        before = net.inspect()
        reply = subject.vjp(net, *case.args[1:], wrt=[net, 1])
        after = net.inspect()
        seen[f"map, net in {mode} mode"] = reply["value"]
        seen[f"net in {mode} mode: its mode afterwards"] = _mode(after)
        seen[f"net in {mode} mode: tensors changed"] = ", ".join(changed_tensors(before, after)) or "none"
        kept = any(g is not None for g in (reply["grads"] or {}).values())
        seen[f"net in {mode} mode: gradients"] = "recorded" if kept else "not recorded"
    return seen


def _mode(seen: dict[str, Any]) -> str:
    flags = set(seen["training"].values())
    if len(flags) > 1:
        return "some layers in eval mode, others in training mode"
    return "training mode" if True in flags else "eval mode"


def _stitch(
    net,
    image,
    factor,
    *,
    shift=None,
    into=None,
    cut=False,
    whole_blocks=False,
    side_by_side=False,
    mode="restored",
    graph=False,
):
    """The shifts with a switch for each mistake."""
    was = [(m, m.training) for m in net.modules()]
    if mode != "training":
        net.eval()
    maps = {}
    with torch.set_grad_enabled(graph):
        for r in range(factor):
            for c in range(factor):
                maps[r, c] = net(shift(image, r, c) if shift else image[..., r:, c:])
    if mode == "restored":
        for module, flag in was:
            module.training = flag
    if mode == "back to training":
        net.train()
    if cut:
        h = min(m.shape[2] for m in maps.values())
        w = min(m.shape[3] for m in maps.values())
        maps = {key: m[..., :h, :w] for key, m in maps.items()}
    if side_by_side:
        rows = [torch.cat([maps[r, c] for c in range(factor)], 3) for r in range(factor)]
        return torch.cat(rows, 2)
    first = maps[0, 0]
    height = sum(maps[r, 0].shape[2] for r in range(factor))
    width = sum(maps[0, c].shape[3] for c in range(factor))
    if whole_blocks:
        height, width = factor * first.shape[2], factor * first.shape[3]
    out = first.new_zeros(*first.shape[:2], height, width)
    for (r, c), m in maps.items():
        row, column = into(r, c) if into else (r, c)
        out[..., row::factor, column::factor][..., : m.shape[2], : m.shape[3]] = m
    return out


def _stitch_swapped(net, image, factor):
    return _stitch(net, image, factor, shift=lambda x, r, c: x[..., c:, r:])


def _stitch_padded(net, image, factor):
    def shift(x, r, c):
        return F.pad(x, (c, 0, r, 0))[..., : x.shape[2], : x.shape[3]]

    return _stitch(net, image, factor, shift=shift)


def _stitch_larger(net, image, factor):
    return _stitch(net, image, factor, shift=lambda x, r, c: F.pad(x, (c, 0, r, 0)))


def _stitch_cut_behind(net, image, factor):
    return _stitch(net, image, factor, shift=lambda x, r, c: x[..., : x.shape[2] - r, : x.shape[3] - c])


def _stitch_padded_behind(net, image, factor):
    def shift(x, r, c):
        return F.pad(x, (0, factor - 1, 0, factor - 1))[..., r : r + x.shape[2], c : c + x.shape[3]]

    return _stitch(net, image, factor, shift=shift)


def _stitch_rolled(net, image, factor):
    return _stitch(net, image, factor, shift=lambda x, r, c: x.roll((-r, -c), (2, 3)), whole_blocks=True)


def _stitch_backwards(net, image, factor):
    return _stitch(net, image, factor, into=lambda r, c: (factor - 1 - r, factor - 1 - c), cut=True)


def _stitch_cut(net, image, factor):
    return _stitch(net, image, factor, cut=True)


def _stitch_whole_blocks(net, image, factor):
    return _stitch(net, image, factor, whole_blocks=True)


def _stitch_side_by_side(net, image, factor):
    return _stitch(net, image, factor, side_by_side=True)


def _stitch_upsampled(net, image, factor):
    was = net.training
    with torch.no_grad():
        out = _nearest(net.eval()(image), factor)
    net.train(was)
    return out


def _stitch_interpolated(net, image, factor):
    was = net.training
    with torch.no_grad():
        out = F.interpolate(net.eval()(image), scale_factor=factor, mode="bilinear")
    net.train(was)
    return out


def _stitch_back_to_training(net, image, factor):
    return _stitch(net, image, factor, mode="back to training")


def _stitch_graph(net, image, factor):
    return _stitch(net, image, factor, graph=True)


def _stitch_training(net, image, factor):
    return _stitch(net, image, factor, mode="training")


def _stitch_eval_left(net, image, factor):
    return _stitch(net, image, factor, mode="left")


def _stitch_clone(net, image, factor):
    """On a copy of the network, so that its mode is nobody's business."""
    twin = copy.deepcopy(net).eval()
    with torch.no_grad():
        rows = []
        for r in range(factor):
            row = [twin(image[:, :, r:, c:].clone()) for c in range(factor)]
            width = sum(m.shape[3] for m in row)
            rows.append(torch.stack([row[j % factor][..., j // factor] for j in range(width)], 3))
        height = sum(m.shape[2] for m in rows)
        return torch.stack([rows[i % factor][:, :, i // factor] for i in range(height)], 2)


def _stitch_cells(net, image, factor):
    """Cell after cell into a canvas that is large enough, cut at the end."""
    was = net.training
    net.eval()
    canvas, height, width = None, 0, 0
    try:
        with torch.no_grad():
            for r in range(factor):
                for c in range(factor):
                    cells = net(image[:, :, r:, c:])
                    if canvas is None:
                        canvas = cells.new_zeros(*cells.shape[:2], *image.shape[2:])
                    for i in range(cells.shape[2]):
                        for j in range(cells.shape[3]):
                            canvas[:, :, r + i * factor, c + j * factor] = cells[:, :, i, j]
                            height, width = max(height, r + i * factor + 1), max(width, c + j * factor + 1)
    finally:
        net.train(was)
    return canvas[:, :, :height, :width]


STITCHED = ("stitched", "larger_factors", "ragged")

STITCH = Exercise(
    id="shift_and_stitch",
    topic="upsampling",
    title="Every shift of the image, interlaced",
    reference=reference.shift_and_stitch,
    minutes=18,
    difficulty=3,
    properties=(
        Property(
            "stitched",
            "the map of image[..., r:, c:] fills out[..., r::factor, c::factor]",
            1.5,
            _stitch_case(_pooling_net),
            examples=6,
        ),
        Property(
            "larger_factors",
            "a factor of 4, from two pools of stride 2",
            0.75,
            _stitch_case(_deep_net),
            examples=4,
        ),
        Property(
            "ragged",
            "a strided convolution, and images whose later shifts give a row or a column less",
            1.0,
            _stitch_case(_striding_net, ragged=True),
            examples=6,
        ),
        Property(
            "mode",
            "the network runs in eval mode and without gradients, and its mode is left as it was, training or eval",
            0.75,
            _both_modes,
            _left_as_found,
            examples=2,
            tried="the result and the network afterwards, once found in training and once in eval mode",
        ),
    ),
    misconceptions=(
        Misconception(
            "rows_and_columns_swapped",
            "You shifted by c rows and r columns, and stitched into row r and column c.",
            "The shift that skips r rows fills rows r, r + factor, …; the same with c and the columns.",
            (*STITCHED, "mode"),
            _stitch_swapped,
        ),
        Misconception(
            "shifted_the_other_way",
            "You shifted the image down and to the right, so zeros came in at the top and left.",
            "Skip rows and columns instead: image[..., r:, c:]. Cell (0, 0) then looks at pixel (r, c).",
            (*STITCHED, "mode"),
            _stitch_padded,
        ),
        Misconception(
            "shifted_by_padding",
            "You shifted the image down and to the right by zeros at the top and left, so it grew.",
            "Skip rows and columns instead: image[..., r:, c:]. Cell (0, 0) then looks at pixel (r, c).",
            (*STITCHED, "mode"),
            _stitch_larger,
        ),
        Misconception(
            "cut_at_the_end",
            "You cut rows off at the bottom and columns at the right, so every shift begins at pixel (0, 0).",
            "Cut them off at the top and left: image[..., r:, c:].",
            (*STITCHED, "mode"),
            _stitch_cut_behind,
        ),
        Misconception(
            "padded_at_the_end",
            "You padded the image at the bottom and right, so that all maps have the same size.",
            "Windows that reach beyond the image don't count: later shifts may have a row or a column less.",
            ("ragged",),
            _stitch_padded_behind,
        ),
        Misconception(
            "stitched_backwards",
            "You interlaced the maps in the opposite order.",
            "The map of shift (r, c) begins at row r, column c of the result.",
            (*STITCHED, "mode"),
            _stitch_backwards,
        ),
        Misconception(
            "smallest_map",
            "You cut all maps to the size of the smallest one.",
            "Later shifts may have a row or a column less. The result has as many rows as the maps of column shift 0 together.",
            ("ragged",),
            _stitch_cut,
        ),
        Misconception(
            "whole_blocks",
            "You made the result factor times the first map, so its last rows or columns stay empty.",
            "Later shifts may have a row or a column less: add up the rows of the maps that you have.",
            ("ragged",),
            _stitch_whole_blocks,
        ),
        Misconception(
            "rolled_around",
            "You rolled the image, so rows that left at the top came back at the bottom.",
            "Cut them off, image[..., r:, c:]: windows that hold both borders of the image mean nothing.",
            ("ragged",),
            _stitch_rolled,
        ),
        Misconception(
            "side_by_side",
            "You put the maps side by side.",
            "Interlace them: neighbors in the result come from neighboring shifts.",
            (*STITCHED, "mode"),
            _stitch_side_by_side,
        ),
        Misconception(
            "coarse_map_enlarged",
            "You ran the network once and enlarged its map.",
            "The values in between are there to be computed: run the network on each of the factor² shifts.",
            (*STITCHED, "mode"),
            _stitch_upsampled,
        ),
        Misconception(
            "coarse_map_interpolated",
            "You ran the network once and interpolated its map.",
            "The values in between are there to be computed: run the network on each of the factor² shifts.",
            (*STITCHED, "mode"),
            _stitch_interpolated,
        ),
        Misconception(
            "eval_forgotten",
            "The network ran in the mode you found it in: in training mode, batch norm uses the batch.",
            "Call net.eval() before, and put the mode back afterwards.",
            ("mode",),
            _stitch_training,
        ),
        Misconception(
            "left_in_eval_mode",
            "You left the network in eval mode.",
            "Remember net.training before, and call net.train(was) afterwards.",
            ("mode",),
            _stitch_eval_left,
        ),
        Misconception(
            "always_back_to_training",
            "You put the network into training mode afterwards, even if you found it in eval mode.",
            "Remember net.training before, and call net.train(was) afterwards.",
            ("mode",),
            _stitch_back_to_training,
        ),
        Misconception(
            "gradients_recorded",
            "Your result hangs on the graph: the network's gradients were recorded.",
            "Run the network under torch.no_grad(): this map is an answer, not a step of training.",
            ("mode",),
            _stitch_graph,
        ),
    ),
    right=(
        Variant("a copy of the network, rows and columns stacked", _stitch_clone),
        Variant("cell by cell", _stitch_cells),
    ),
    hints=(
        Hint(
            "I don't see where a map goes",
            "Cell (0, 0) of the unshifted map looks at the window that begins at pixel (0, 0). At which pixel does it begin when r rows have been skipped?",
        ),
        Hint(
            "The sizes don't match",
            "Skipping rows can cost the map its last row. Count: the rows of the result are those of the maps of shifts (0, 0), (1, 0), … together.",
        ),
        Hint(
            "I don't know how to start",
            "Two loops over r and c, in eval mode without gradients: maps[r, c] = net(image[..., r:, c:]). Then an empty tensor with the sum of heights and the sum of widths, and out[..., r::factor, c::factor] = maps[r, c].",
        ),
    ),
)


# -- atrous -------------------------------------------------------------------------------------------------


def _atrous_case(make: Callable[[Any], nn.Sequential], *, training: bool = False) -> Any:
    def draw(d: Any) -> Case:
        net = make(d).train(training)
        field, _ = _reach(net)
        size = (field + d.integer(1, 4), field + d.integer(2, 6))
        return Case(
            (Network.describe(net),), {}, {"image": d.tensor(d.choice([1, 2]), net[0].in_channels, *size)}
        )

    return draw


def _dilated_net(d: Any) -> nn.Sequential:
    """Two pools, and between them a convolution that is dilated already.

    The strides have another sum than product, and are other numbers than the sizes of their pools.
    """
    k = d.choice([2, 3])
    layers = (
        nn.Conv2d(1, k, 2),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(k, 2, 2, dilation=2),
        nn.Tanh(),
        nn.MaxPool2d(2, 3),
    )
    return _filled(d, *layers, nn.Conv2d(2, 2, 2))


def _padded_net(d: Any) -> nn.Sequential:
    k = d.choice([2, 3])
    layers = (
        nn.Conv2d(1, k, 3, padding=1),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(k, 2, 3, padding=d.choice([1, 2]), dilation=2),
    )
    return _filled(d, *layers)


def _made_dense(subject: Any, case: Case) -> Any:
    dense = subject(*case.args)
    return dense(case.extra["image"]) if callable(dense) else dense


def _made_dense_in_eval_mode(subject: Any, case: Case) -> Any:
    """In which mode the twin comes is left open."""
    dense = subject(*case.args)
    if not callable(dense):
        return dense
    dense.do("eval")
    return dense(case.extra["image"])


def _beside(subject: Any, case: Case) -> Any:
    net = subject.build(case.args[0])
    before = net.inspect()
    dense = subject(net)
    after = net.inspect()
    if not callable(dense):
        return dense
    seen = dense.inspect()
    return {
        "net unchanged": before["config"] == after["config"] and not changed_tensors(before, after),
        "net in the mode it had": before["training"] == after["training"],
        "weights shared with net": share_memory(seen, before),
        "result": seen["kinds"].get(""),
    }


def _not_to_be_dilated(d: Any) -> Case:
    pools = (nn.AvgPool2d(2), nn.MaxPool2d(3, 2, padding=1))
    nets = [Network.describe(_filled(d, nn.Conv2d(1, 2, 2), pool, nn.Conv2d(2, 1, 2))) for pool in pools]
    return Case((), {}, {"an average pool": (nets[0],), "a padded max pool": (nets[1],)})


def _refusals(subject: Any, case: Case) -> dict[str, str]:
    """Which of several calls are refused. Any other error is the answer's own."""
    seen = {}
    for label, args in case.extra.items():
        try:
            subject(*args)
            seen[label] = "accepted"
        except Raised as raised:
            if "ValueError" not in raised.kinds:
                raise
            seen[label] = "refused with a ValueError"
    return seen


def _dense(
    net, *, dilate=True, own=False, pools=True, product=True, multiply=True, keep_pools=True, padding=True,
    accept=(), duplicate=copy.deepcopy, keep_strides=False, count=lambda layer: _pair(layer.stride),
):  # fmt: skip
    """The dense twin with a switch for each mistake."""
    removed, layers = (1, 1), []
    for layer in net:
        average = isinstance(layer, nn.AvgPool2d)
        padded = isinstance(layer, nn.MaxPool2d) and _pair(layer.padding) != (0, 0)
        if (average and "average" not in accept) or (padded and "padded" not in accept):
            raise ValueError(f"net must have max pools without padding only, got {layer}")
        twin = duplicate(layer)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            stride = count(layer)
            after = tuple(a * b for a, b in zip(removed, stride, strict=True)) if product else stride
            if not product and stride == (1, 1):
                after = removed
            hole = after if own else removed
            if keep_strides and isinstance(layer, nn.Conv2d):
                stride = (1, 1)
                after = removed
            else:
                twin.stride = (1, 1)
            if dilate and (pools or isinstance(layer, nn.Conv2d)) and hole != (1, 1):
                old = _pair(layer.dilation) if multiply else (1, 1)
                twin.dilation = tuple(a * b for a, b in zip(old, hole, strict=True))
                if isinstance(layer, nn.Conv2d) and padding:
                    times = twin.dilation if padding == "dilation" else hole
                    twin.padding = tuple(a * b for a, b in zip(layer.padding, times, strict=True))
            removed = after
        elif average:
            twin.stride = (1, 1)
        if keep_pools or not isinstance(layer, nn.MaxPool2d):
            layers.append(twin)
    return nn.Sequential(*layers).train(net.training)


def _dense_strides_only(net):
    return _dense(net, dilate=False)


def _dense_own(net):
    return _dense(net, own=True)


def _dense_convolutions_only(net):
    return _dense(net, pools=False)


def _dense_last_stride(net):
    return _dense(net, product=False)


def _dense_overwritten(net):
    return _dense(net, multiply=False)


def _dense_no_pools(net):
    return _dense(net, keep_pools=False)


def _dense_padding_kept(net):
    return _dense(net, padding=False)


def _dense_added(net):
    """Strides added up: 2 and 2 make 4 either way, 2 and 3 do not."""
    total, layers = 0, []
    for layer, twin in zip(net, _dense(net), strict=True):
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            hole = max(total, 1)
            twin.dilation = tuple(hole * v for v in _pair(layer.dilation))
            if isinstance(layer, nn.Conv2d):
                twin.padding = tuple(hole * v for v in layer.padding)
            total += _pair(layer.stride)[0] if _pair(layer.stride) != (1, 1) else 0
        layers.append(twin)
    return nn.Sequential(*layers)


def _dense_kernel_size(net):
    def count(layer):
        return layer.stride if isinstance(layer, nn.Conv2d) else _pair(layer.kernel_size)

    return _dense(net, count=count)


def _dense_strided(net):
    return _dense(net, keep_strides=True)


def _dense_padding_twice(net):
    return _dense(net, padding="dilation")


def _dense_fresh_norm(net):
    dense = _dense(net)
    fresh = [
        nn.BatchNorm2d(m.num_features).to(m.weight) if isinstance(m, nn.BatchNorm2d) else m for m in dense
    ]
    return nn.Sequential(*fresh)


def _dense_left_in_eval(net):
    net.eval()
    return _dense(net)


def _dense_accepting(net):
    return _dense(net, accept=("average", "padded"))


def _dense_accepting_averages(net):
    return _dense(net, accept=("average",))


def _dense_accepting_padded(net):
    return _dense(net, accept=("padded",))


def _dense_in_place(net):
    return _dense(net, duplicate=lambda layer: layer)


def _dense_shared(net):
    return _dense(net, duplicate=copy.copy)


def _dense_copied(net):
    """The whole network copied, then its layers changed."""
    dense, jump = copy.deepcopy(net), 1
    for layer in dense:
        if isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            raise ValueError(f"net must not average, got {layer}")
        if isinstance(layer, nn.Conv2d):
            step = layer.stride[0]
            layer.stride = (1, 1)
            layer.dilation = tuple(jump * v for v in layer.dilation)
            layer.padding = tuple(jump * v for v in layer.padding)
            jump *= step
        elif isinstance(layer, nn.MaxPool2d):
            if layer.padding not in (0, (0, 0)):
                raise ValueError(f"net must not have padded pools, got {layer}")
            step = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
            layer.stride, layer.dilation = 1, jump * _pair(layer.dilation)[0]
            jump *= step
    return dense


def _dense_rebuilt(net):
    """Each layer built anew, weights loaded."""
    made, holes = [], 1
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            new = nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, stride=1,
                padding=(layer.padding[0] * holes, layer.padding[1] * holes),
                dilation=(layer.dilation[0] * holes, layer.dilation[1] * holes),
                groups=layer.groups, bias=layer.bias is not None,
            ).to(layer.weight)  # fmt: skip
            new.load_state_dict(layer.state_dict())
            holes *= layer.stride[0]
        elif type(layer) is nn.MaxPool2d and _pair(layer.padding) == (0, 0):
            new = nn.MaxPool2d(layer.kernel_size, stride=1, dilation=holes * _pair(layer.dilation)[0])
            holes *= _pair(layer.stride)[0]
        elif "Pool" in type(layer).__name__:
            raise ValueError(f"net has a pool that cannot be made dense: {layer}")
        else:
            new = copy.deepcopy(layer)
        made.append(new)
    return nn.Sequential(*made)


ATROUS = Exercise(
    id="atrous",
    topic="upsampling",
    title="Holes instead of strides",
    reference=reference.atrous,
    minutes=22,
    difficulty=4,
    properties=(
        Property(
            "pool",
            "a max pool moves by one pixel, and the convolution behind it looks at every second cell",
            1.0,
            _atrous_case(_pooling_net),
            _made_dense,
            examples=6,
            tried="atrous(net)(image)",
        ),
        Property(
            "strided_convolution",
            "a convolution with a stride becomes dense in the same way",
            0.75,
            _atrous_case(_striding_net),
            _made_dense,
            examples=6,
            tried="atrous(net)(image)",
        ),
        Property(
            "deep",
            "dilations multiply: after strides of 2 and 3, on max pools (whose stride may differ from their size), "
            "and where a layer is dilated already",
            0.75,
            _atrous_case(_dilated_net),
            _made_dense,
            examples=4,
            tried="atrous(net)(image)",
        ),
        Property(
            "padded",
            "a padded convolution has its padding multiplied by the strides removed before it, and not by a dilation "
            "that it had already",
            0.5,
            _atrous_case(_padded_net),
            _made_dense,
            examples=4,
            tried="atrous(net)(image)",
        ),
        Property(
            "batch_norm",
            "batch norm comes along with its weights and its running statistics",
            0.25,
            _atrous_case(_normalizing_net),
            _made_dense_in_eval_mode,
            examples=4,
            tried="atrous(net).eval()(image)",
        ),
        Property(
            "refuses",
            "average pools and padded pools are refused with a ValueError",
            0.25,
            _not_to_be_dilated,
            _refusals,
            examples=2,
            tried="atrous(net) for two networks",
        ),
        Property(
            "apart",
            "the network given stays as it was, its mode too, and shares no weight with the new one",
            0.5,
            _atrous_case(_pooling_net, training=True),
            _beside,
            examples=4,
            tried="the network before and after, and the result",
        ),
    ),
    misconceptions=(
        Misconception(
            "strides_only",
            "You set the strides to 1 and dilated nothing: every later layer now looks at the wrong cells.",
            "Behind a removed stride s, the cells that belonged together are s apart: dilation s.",
            ("pool", "strided_convolution", "deep", "padded", "batch_norm"),
            _dense_strides_only,
        ),
        Misconception(
            "own_stride",
            "You dilated the layer whose stride you removed.",
            "Its own window stays as it is: only the layers behind it are dilated.",
            ("pool", "strided_convolution", "deep", "padded", "batch_norm"),
            _dense_own,
        ),
        Misconception(
            "convolutions_only",
            "You dilated the convolutions and not the max pools.",
            "A max pool behind a removed stride looks further apart as well: nn.MaxPool2d has a dilation.",
            ("deep",),
            _dense_convolutions_only,
        ),
        Misconception(
            "last_stride_only",
            "You dilated by the last stride removed.",
            "The strides multiply: behind two of 2, dilation 4.",
            ("deep",),
            _dense_last_stride,
        ),
        Misconception(
            "strides_added",
            "You added the strides up. With two of 2 it comes to the same, but not with 2 and 3.",
            "The strides multiply: behind a stride of 2 and one of 3, cells that belonged together are 6 apart.",
            ("deep",),
            _dense_added,
        ),
        Misconception(
            "kernel_size_for_stride",
            "You took the size of a max pool for its stride.",
            "nn.MaxPool2d(3, 2) has windows of 3 that move by 2: multiply by its stride.",
            ("deep",),
            _dense_kernel_size,
        ),
        Misconception(
            "convolutions_keep_stride",
            "You removed the strides of the max pools, and the convolutions kept theirs.",
            "Every stride becomes 1, a convolution's too, and the layers behind it are dilated by it.",
            ("strided_convolution",),
            _dense_strided,
        ),
        Misconception(
            "own_dilation_lost",
            "You overwrote the dilation that a layer had already.",
            "Multiply it by the strides removed before.",
            ("deep", "padded"),
            _dense_overwritten,
        ),
        Misconception(
            "pools_removed",
            "You removed the max pools.",
            "Keep them, with stride 1: the maximum over a window is part of what the network computes.",
            ("pool", "deep", "padded", "batch_norm"),
            _dense_no_pools,
        ),
        Misconception(
            "padding_kept",
            "You kept the padding of dilated convolutions as it was.",
            "Their cells are further apart, and so is the border: multiply the padding as well.",
            ("padded",),
            _dense_padding_kept,
        ),
        Misconception(
            "padding_times_own_dilation",
            "You multiplied the padding by the layer's new dilation, and so by the one it had already.",
            "Multiply the padding by the strides removed before: its own dilation was in it from the start.",
            ("padded",),
            _dense_padding_twice,
        ),
        Misconception(
            "fresh_batch_norm",
            "You made a new batch norm: its weights and running statistics are lost.",
            "Copy the layer, with copy.deepcopy: its buffers belong to what the network has learned.",
            ("batch_norm",),
            _dense_fresh_norm,
        ),
        Misconception(
            "accepts_any_pool",
            "You accept average pools and padded pools.",
            "Raise a ValueError: a padded border has no place between the pixels, and AvgPool2d has no dilation.",
            ("refuses",),
            _dense_accepting,
        ),
        Misconception(
            "accepts_average_pools",
            "You accept average pools.",
            "Raise a ValueError: nn.AvgPool2d has no dilation, so its window cannot be spread.",
            ("refuses",),
            _dense_accepting_averages,
        ),
        Misconception(
            "accepts_padded_pools",
            "You accept padded max pools.",
            "Raise a ValueError: the border of a padded pool would lie between the pixels.",
            ("refuses",),
            _dense_accepting_padded,
        ),
        Misconception(
            "changed_in_place",
            "You changed the network that was given.",
            "Change copies of its layers: copy.deepcopy.",
            ("apart",),
            _dense_in_place,
        ),
        Misconception(
            "left_in_eval_mode",
            "You put the network that was given into eval mode.",
            "Leave its mode as it was: nothing here has to run it.",
            ("apart",),
            _dense_left_in_eval,
        ),
        Misconception(
            "weights_shared",
            "The two networks share their weights: training one changes the other.",
            "copy.copy copies the layer and not its weights; take copy.deepcopy.",
            ("apart",),
            _dense_shared,
        ),
    ),
    right=(
        Variant("the whole network copied, then changed", _dense_copied),
        Variant("every layer built anew", _dense_rebuilt),
    ),
    hints=(
        Hint(
            "I don't see what a dilation is for",
            "Without the stride, the map is s times as dense: what used to be the next cell is now s cells away.",
        ),
        Hint(
            "It works with one pool and not with two",
            "Keep a running product of the strides removed so far. A layer is dilated by the product before its own stride joins it.",
        ),
        Hint(
            "I don't know how to start",
            "removed = 1. For each layer, deepcopy it. For a convolution or max pool: stride 1, dilation times removed (a convolution's padding too), then removed times the old stride. Refuse AvgPool2d and padded pools; copy the rest.",
        ),
    ),
)


# -- nearest_upsample ---------------------------------------------------------------------------------------


def _blocks_case(d: Any) -> Case:
    return Case((_maps(d), d.choice([2, 3])))


def _narrow_case(d: Any) -> Case:
    calls = {
        "one row, factor 4": (d.tensor(1, 2, 1, 3), 4),
        "one column, factor 5": (d.tensor(2, 1, 3, 1), 5),
        "one value, factor 2": (d.tensor(1, 1, 1, 1), 2),
        "factor 1": (d.tensor(1, 1, 5, 4), 1),
    }
    return Case((), {}, calls)


def _single_precision(d: Any) -> Case:
    return Case((d.tensor(2, 2, d.integer(2, 3), d.integer(2, 4), dtype=torch.float32), d.choice([2, 3])))


def _nearest_tiled(x, factor):
    return x.repeat(1, 1, factor, factor)


def _nearest_rows_only(x, factor):
    return x.repeat_interleave(factor, dim=2)


def _nearest_wrong_axes(x, factor):
    return x.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def _nearest_flat(x, factor):
    N, C, H, W = x.shape
    return x.repeat_interleave(factor * factor).reshape(N, C, factor * H, factor * W)


def _nails(x, factor, offset=0):
    N, C, H, W = x.shape
    out = x.new_zeros(N, C, factor * H, factor * W)
    out[..., offset::factor, offset::factor] = x
    return out


def _nearest_nails(x, factor):
    return _nails(x, factor)


def _nearest(x, factor):
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def _nearest_index(x, factor):
    rows = torch.arange(factor * x.shape[2], device=x.device) // factor
    columns = torch.arange(factor * x.shape[3], device=x.device) // factor
    return x[:, :, rows][:, :, :, columns]


def _nearest_expand(x, factor):
    N, C, H, W = x.shape
    blocks = x[:, :, :, None, :, None].expand(N, C, H, factor, W, factor)
    return blocks.reshape(N, C, H * factor, W * factor)


def _nearest_loop(x, factor):
    rows = []
    for i in range(x.shape[2]):
        row = torch.cat([x[:, :, i, j : j + 1] for j in range(x.shape[3]) for _ in range(factor)], dim=2)
        rows += [row] * factor
    return torch.stack(rows, dim=2)


NEAREST = Exercise(
    id="nearest_upsample",
    topic="upsampling",
    title="Each value becomes a block",
    reference=reference.nearest_upsample,
    minutes=4,
    difficulty=1,
    properties=(
        Property("blocks", "each value is repeated factor×factor times, as one block", 1.0, _blocks_case),
        Property(
            "narrow",
            "maps of one row, one column or one value; factor 1",
            0.5,
            _narrow_case,
            _each,
            examples=2,
            tried="nearest_upsample for each of these",
        ),
        Property(
            "carries",
            "float32 stays float32, and x is not modified in place",
            0.5,
            _single_precision,
            _carries("x", "factor"),
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "map_repeated",
            "You repeated the whole map like tiles, instead of each value.",
            "x.repeat copies the map; x.repeat_interleave along an axis copies its entries one by one.",
            ("blocks", "narrow"),
            _nearest_tiled,
        ),
        Misconception(
            "rows_only",
            "You repeated the rows and not the columns.",
            "Do the same along axis 3.",
            ("blocks", "narrow", "carries"),
            _nearest_rows_only,
        ),
        Misconception(
            "axes_off_by_one",
            "You repeated along axes 1 and 2: the channels and the rows.",
            "In (N, C, H, W) the rows are axis 2 and the columns axis 3.",
            ("blocks", "narrow", "carries"),
            _nearest_wrong_axes,
        ),
        Misconception(
            "flattened_first",
            "You repeated the flattened values, so the factor² copies of a value lie in one line.",
            "Repeat along axis 2 and along axis 3, each factor times.",
            ("blocks", "narrow"),
            _nearest_flat,
        ),
        Misconception(
            "zeros_between",
            "You put zeros around each value: that is the bed of nails.",
            "Fill the whole block with the value.",
            ("blocks", "narrow"),
            _nearest_nails,
        ),
        Misconception(
            "always_float64",
            "Your result is float64 whatever x was.",
            "Make the result from x, or with x.new_zeros, so that it keeps the dtype.",
            ("carries",),
            _promoted(_nearest),
        ),
    ),
    right=(
        Variant("integer division of the index", _nearest_index),
        Variant("expand and reshape", _nearest_expand),
        Variant("a loop", _nearest_loop),
    ),
    hints=(
        Hint(
            "The picture repeats itself",
            "You need copies of each value next to it, not copies of the whole map.",
        ),
        Hint(
            "The shape is right, the values are mixed up",
            "Work along one axis at a time: first every row factor times, then every column.",
        ),
        Hint(
            "I don't know how to start", "x.repeat_interleave(factor, dim=2), and then the same with dim=3."
        ),
    ),
    forbidden=(INTERPOLATE, CONV_TRANSPOSE),
)


# -- bed_of_nails -------------------------------------------------------------------------------------------


def _nails_case(d: Any) -> Case:
    return Case((_maps(d), d.choice([3, 2, 4, 1])))


def _nails_bottom_right(x, factor):
    return _nails(x, factor, factor - 1)


def _nails_centered(x, factor):
    return _nails(x, factor, factor // 2)


def _nails_no_tail(x, factor):
    return _nails(x, factor)[..., : factor * (x.shape[2] - 1) + 1, : factor * (x.shape[3] - 1) + 1]


def _nails_corner(x, factor):
    N, C, H, W = x.shape
    out = x.new_zeros(N, C, factor * H, factor * W)
    out[..., :H, :W] = x
    return out


def _nails_detached(x, factor):
    return _nails(x.detach(), factor)


def _nails_default_dtype(x, factor):
    N, C, H, W = x.shape
    out = torch.zeros(N, C, factor * H, factor * W, device=x.device)
    out[..., ::factor, ::factor] = x
    return out


def _nails_mask(x, factor):
    big = _nearest(x, factor)
    rows = torch.arange(big.shape[2], device=x.device) % factor == 0
    columns = torch.arange(big.shape[3], device=x.device) % factor == 0
    return big * (rows[:, None] & columns)


def _nails_stack(x, factor):
    N, C, H, W = x.shape
    zero = torch.zeros_like(x)
    wide = torch.stack([x] + [zero] * (factor - 1), dim=4).reshape(N, C, H, W * factor)
    zero = torch.zeros_like(wide)
    return torch.stack([wide] + [zero] * (factor - 1), dim=3).reshape(N, C, H * factor, W * factor)


def _nails_pad(x, factor):
    N, C, H, W = x.shape
    cells = x.reshape(N, C, H, 1, W, 1)
    cells = F.pad(cells, (0, factor - 1, 0, 0, 0, factor - 1))
    return cells.reshape(N, C, H * factor, W * factor)


BED = Exercise(
    id="bed_of_nails",
    topic="upsampling",
    title="Each value becomes a nail",
    reference=reference.bed_of_nails,
    minutes=5,
    difficulty=1,
    properties=(
        Property(
            "nails",
            "each value at the top left of its factor×factor block, zeros elsewhere",
            1.0,
            _nails_case,
        ),
        Property(
            "gradients",
            "gradients flow back to x",
            0.5,
            _nails_case,
            gradients(0),
            tried="the gradient of the output's inner product with fixed random numbers",
        ),
        Property(
            "carries",
            "float32 stays float32, and x is not modified in place",
            0.5,
            _single_precision,
            _carries("x", "factor"),
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "bottom_right",
            "Your nails stand at the bottom right of their blocks.",
            "Top left is index 0 of each block: out[..., ::factor, ::factor].",
            ("nails", "gradients"),
            _nails_bottom_right,
        ),
        Misconception(
            "in_the_middle",
            "Your nails stand in the middle of their blocks.",
            "Top left is index 0 of each block: out[..., ::factor, ::factor].",
            ("nails", "gradients"),
            _nails_centered,
        ),
        Misconception(
            "last_zeros_missing",
            "You put zeros between the values, but none after the last one.",
            "Every value has a whole block, the last one too: the result is (factor·H, factor·W).",
            ("nails", "gradients", "carries"),
            _nails_no_tail,
        ),
        Misconception(
            "all_in_one_corner",
            "You copied the map into the top left corner as it is.",
            "Spread the values out: factor pixels from one to the next.",
            ("nails", "gradients"),
            _nails_corner,
        ),
        Misconception(
            "value_repeated",
            "You filled each block with its value: that is the nearest neighbor.",
            "Only the top left pixel of the block has the value, the others are 0.",
            ("nails", "gradients"),
            _nearest,
        ),
        Misconception(
            "detached",
            "Your result is cut from the graph, so no gradient reaches x.",
            "Leave out detach, .data, .item() and no_grad; writing x into a slice of a new tensor keeps the graph.",
            ("gradients",),
            _nails_detached,
        ),
        Misconception(
            "default_dtype",
            "Your zeros are float32 whatever x is.",
            "x.new_zeros(...) makes zeros of the dtype and on the device of x.",
            ("nails",),
            _nails_default_dtype,
        ),
        Misconception(
            "always_float64",
            "Your result is float64 whatever x was.",
            "x.new_zeros(...) makes zeros of the dtype and on the device of x.",
            ("carries",),
            _promoted(_nails),
        ),
    ),
    right=(
        Variant("nearest neighbor times a mask", _nails_mask),
        Variant("stacked with zeros", _nails_stack),
        Variant("blocks padded with zeros", _nails_pad),
    ),
    hints=(
        Hint(
            "I don't know what size to make", "Each value owns factor×factor pixels, the last ones included."
        ),
        Hint("No gradient arrives", "Write x itself into the zeros, not its numbers."),
        Hint(
            "I don't know how to start",
            "out = x.new_zeros(N, C, factor * H, factor * W), then assign x to out[..., ::factor, ::factor].",
        ),
    ),
    forbidden=(CONV_TRANSPOSE, MAX_UNPOOL),
)


# -- max_pool_with_switches ---------------------------------------------------------------------------------


def _distinct(d: Any, *shape: int) -> torch.Tensor:
    """Positive numbers, no two of which are equal."""
    count = torch.Size(shape).numel()
    return (torch.randperm(count, generator=d.source).double() + 1).reshape(shape) / 10


def _pool_size(d: Any, k: int, *, ragged: bool = False) -> tuple[int, int]:
    """Height and width that differ, in whole windows or a little more."""
    more = (d.integer(1, k - 1), d.integer(1, k - 1)) if ragged else (0, 0)
    size = (2 * k + more[0], d.integer(3, 4) * k + more[1])
    return size if ragged or not d.flag() else size[::-1]


def _pool_case(ragged: bool = False, sign: float = 1.0) -> Any:
    def draw(d: Any) -> Case:
        k = d.choice([2, 3])
        x = sign * _distinct(d, d.choice([1, 2]), d.choice([2, 1, 3]), *_pool_size(d, k, ragged=ragged))
        return Case((x, k))

    return draw


def _pool_ties(d: Any) -> Case:
    k = d.choice([2, 3])
    x = d.integers(d.choice([1, 2]), 2, *_pool_size(d, k), low=1, high=2).double()
    # Every map begins with a window of equal values, so that no draw is without ties.
    x[..., :k, :k] = 2.0
    # In the window beside it the first in row order is not the first in column order.
    x[..., :k, k : 2 * k] = 2.0
    x[..., 0, k] = 1.0
    return Case((x, k))


def _windows(x: torch.Tensor, k: int) -> tuple[torch.Tensor, int, int]:
    """(N, C, h, w, k·k), whatever fills no window dropped."""
    N, C, H, W = x.shape
    h, w = H // k, W // k
    cells = x[..., : h * k, : w * k].reshape(N, C, h, k, w, k).permute(0, 1, 2, 4, 3, 5)
    return cells.reshape(N, C, h, w, k * k), h, w


def _pool(
    x,
    k,
    *,
    index=lambda row, column, H, W, k: row * W + column,
    last=False,
    floor=False,
    detach=False,
    swap=False,
):
    cells, h, w = _windows(x.detach() if detach else x, k)
    best = cells.detach().argmax(-1)
    if last:
        best = k * k - 1 - cells.detach().flip(-1).argmax(-1)
    y = cells.gather(-1, best[..., None])[..., 0]
    if floor:
        best = torch.where(y > 0, best, 0)
        y = y.clamp(min=0)
    rows = torch.arange(h, device=x.device)[:, None] * k + best // k
    columns = torch.arange(w, device=x.device) * k + best % k
    switches = index(rows, columns, x.shape[2], x.shape[3], k)
    return (switches, y) if swap else (y, switches)


def _pool_single_precision(d: Any) -> Case:
    # With a ragged edge, which is easily overwritten.
    return Case((_distinct(d, 2, 2, 5, 7).float(), 2))


def _pool_local(x, k):
    return _pool(x, k, index=lambda row, column, H, W, k: row % k * k + column % k)


def _pool_cut_width(x, k):
    return _pool(x, k, index=lambda row, column, H, W, k: row * (W // k * k) + column)


def _pool_height(x, k):
    return _pool(x, k, index=lambda row, column, H, W, k: row * H + column)


def _pool_columns_first(x, k):
    return _pool(x, k, index=lambda row, column, H, W, k: column * H + row)


def _pool_whole_batch(x, k):
    y, switches = _pool(x, k)
    N, C, H, W = x.shape
    first = torch.arange(N * C, device=x.device).reshape(N, C, 1, 1) * H * W
    return y, switches + first


def _pool_last(x, k):
    return _pool(x, k, last=True)


def _pool_from_zero(x, k):
    return _pool(x, k, floor=True)


def _pool_clamped(x, k):
    y, switches = _pool(x, k)
    return y.clamp(min=0), switches


def _pool_zeros(x, k):
    """Running maxima that start as zeros, and their places too."""
    H, W = x.shape[2:]
    cut = x[..., : H // k * k, : W // k * k]
    number = torch.arange(H * W, device=x.device).reshape(H, W)[: H // k * k, : W // k * k]
    y = torch.zeros_like(cut[..., ::k, ::k])
    switches = torch.zeros_like(y, dtype=torch.int64)
    for r in range(k):
        for s in range(k):
            tap = cut[..., r::k, s::k]
            better = tap > y
            y, switches = torch.where(better, tap, y), torch.where(better, number[r::k, s::k], switches)
    return y, switches


def _pool_columns_win(x, k):
    """Windows read down their columns, so that another one of the equals comes first."""
    y, switches = _pool(x.transpose(2, 3), k)
    H = x.shape[2]
    return y.transpose(2, 3), (switches % H * x.shape[3] + switches // H).transpose(2, 3)


def _pool_swapped_inside(x, k):
    cells, h, w = _windows(x, k)
    y, best = cells.max(-1)
    rows = torch.arange(h, device=x.device)[:, None] * k + best % k
    columns = torch.arange(w, device=x.device) * k + best // k
    return y, rows * x.shape[3] + columns


def _pool_not_permuted(x, k):
    N, C, H, W = x.shape
    h, w = H // k, W // k
    y, best = x[..., : h * k, : w * k].reshape(N, C, h, w, k * k).max(-1)
    rows = torch.arange(h, device=x.device)[:, None] * k + best // k
    columns = torch.arange(w, device=x.device) * k + best % k
    return y, rows * W + columns


def _pool_floats(x, k):
    y, switches = _pool(x, k)
    return y, switches.float()


def _pool_short_integers(x, k):
    y, switches = _pool(x, k)
    return y, switches.int()


def _pool_promoted(x, k):
    return _pool(x.double(), k)


def _pool_edge_overwritten(x, k):
    y, switches = _pool(x, k)
    y = y.clone()
    with torch.no_grad():
        x[..., x.shape[2] // k * k :, :] = float("-inf")
        x[..., x.shape[3] // k * k :] = float("-inf")
    return y, switches


def _pool_detached(x, k):
    return _pool(x, k, detach=True)


def _pool_swapped(x, k):
    return _pool(x, k, swap=True)


def _pool_ceiling(x, k):
    H, W = x.shape[2:]
    padded = F.pad(x, (0, -W % k, 0, -H % k), value=float("-inf"))
    return _pool(padded, k, index=lambda row, column, *_: row * W + column)


def _pool_overlapping(x, k):
    H, W = x.shape[2:]
    cells = x.unfold(2, k, 1).unfold(3, k, 1).flatten(4)
    y, best = cells.max(-1)
    rows = torch.arange(H - k + 1, device=x.device)[:, None] + best // k
    columns = torch.arange(W - k + 1, device=x.device) + best % k
    return y, rows * W + columns


def _pool_scattered(x, k):
    N, C, H, W = x.shape
    h, w = H // k, W // k
    cells = x[..., : h * k, : w * k].reshape(N, C, k, h, k, w).permute(0, 1, 3, 5, 2, 4).flatten(4)
    y, best = cells.max(-1)
    rows = torch.arange(h, device=x.device)[:, None] * k + best // k
    columns = torch.arange(w, device=x.device) * k + best % k
    return y, rows * W + columns


def _pool_loop(x, k):
    N, C, H, W = x.shape
    values, places = [], []
    for n in range(N):
        for c in range(C):
            for i in range(0, H - k + 1, k):
                for j in range(0, W - k + 1, k):
                    row, column = i, j
                    for r in range(i, i + k):
                        for s in range(j, j + k):
                            if x[n, c, r, s] > x[n, c, row, column]:
                                row, column = r, s
                    values.append(x[n, c, row, column])
                    places.append(row * W + column)
    shape = (N, C, H // k, W // k)
    return torch.stack(values).reshape(shape), torch.tensor(places, device=x.device).reshape(shape)


def _pool_unfold(x, k):
    H, W = x.shape[2:]
    number = torch.arange(H * W, device=x.device).reshape(H, W)
    cells = x.unfold(2, k, k).unfold(3, k, k).flatten(4)
    numbers = number.unfold(0, k, k).unfold(1, k, k).flatten(2).expand(cells.shape)
    y = cells.amax(-1)
    # The smallest pixel number among the equals.
    switches = numbers.masked_fill(cells != y[..., None], H * W).amin(-1)
    return cells.gather(-1, cells.argmax(-1, keepdim=True))[..., 0], switches


def _pool_taps(x, k):
    """One tap of the window after the other, kept where it is strictly greater."""
    N, C, H, W = x.shape
    x = x[..., : H // k * k, : W // k * k]
    number = torch.arange(H * W, device=x.device).reshape(H, W)[: H // k * k, : W // k * k]
    y, switches = x[..., ::k, ::k], number[::k, ::k].expand(N, C, -1, -1)
    for r in range(k):
        for s in range(k):
            tap = x[..., r::k, s::k]
            better = tap > y
            y, switches = torch.where(better, tap, y), torch.where(better, number[r::k, s::k], switches)
    return y, switches


INDEXED = ("switches", "ties", "negative", "ragged")

POOL = Exercise(
    id="max_pool_with_switches",
    topic="upsampling",
    title="The maximum, and where it stood",
    reference=reference.max_pool_with_switches,
    minutes=18,
    difficulty=3,
    properties=(
        Property("values", "y holds the maximum of every k×k window", 0.5, _pool_case(), component(0, 2)),
        Property(
            "switches",
            "switches (int64) hold row·W + column of each maximum, counted in the whole map",
            0.5,
            _pool_case(),
            component(1, 2),
        ),
        Property("ties", "among equal values the first in row order wins", 0.5, _pool_ties, component(1, 2)),
        Property("negative", "maps whose values are all negative", 0.25, _pool_case(sign=-1.0)),
        Property("ragged", "rows and columns that fill no window are dropped", 0.5, _pool_case(ragged=True)),
        Property(
            "gradients",
            "where no values are equal, the gradient of y goes to each maximum and nowhere else",
            0.5,
            _pool_case(),
            gradients(0),
            tried="the gradient of y's inner product with fixed random numbers",
        ),
        Property(
            "carries",
            "y of a float32 x is float32, and x is not modified in place",
            0.25,
            _pool_single_precision,
            _carries("x", "k"),
            examples=2,
        ),
    ),
    misconceptions=(
        Misconception(
            "counted_in_the_window",
            "Your switches count inside each window, from 0 to k²−1.",
            "Add the window's own row and column, then count in the whole map: row·W + column.",
            INDEXED,
            _pool_local,
        ),
        Misconception(
            "width_without_the_edge",
            "Your switches count with the width that is left after the ragged edge was dropped.",
            "They are places in x: row·W + column, W the width of x.",
            ("ragged",),
            _pool_cut_width,
        ),
        Misconception(
            "height_for_width",
            "Your switches are row·H + column.",
            "A row of the map is W pixels long: row·W + column.",
            INDEXED,
            _pool_height,
        ),
        Misconception(
            "columns_first",
            "Your switches are column·H + row, counted down the columns.",
            "Count along the rows, as flatten does: row·W + column.",
            INDEXED,
            _pool_columns_first,
        ),
        Misconception(
            "counted_through_the_batch",
            "Your switches go on counting from map to map, through channels and images.",
            "Each map counts from 0: row·W + column.",
            INDEXED,
            _pool_whole_batch,
        ),
        Misconception(
            "last_of_equals",
            "Among equal values you keep the last one.",
            "The first in row order wins: replace the maximum only by something strictly greater.",
            ("ties",),
            _pool_last,
        ),
        Misconception(
            "first_in_column_order",
            "Among equal values you keep the first one down the columns of the window.",
            "Read the window along its rows: after the permute, (…, k, k) has its rows before its columns.",
            ("ties",),
            _pool_columns_win,
        ),
        Misconception(
            "compared_with_zero",
            "Your maximum starts from 0, so negative windows give 0.",
            "Start from the window's first value, or from −∞.",
            ("negative",),
            _pool_from_zero,
        ),
        Misconception(
            "clamped_at_zero",
            "Your maxima are never below 0, so negative windows give 0.",
            "The maximum of a window is one of its values: start from the first of them, or from −∞.",
            ("negative",),
            _pool_clamped,
        ),
        Misconception(
            "started_from_zeros",
            "Your maxima and switches start as zeros, and in negative windows they stay 0.",
            "Start from the window's first value and its place, or from −∞.",
            ("negative",),
            _pool_zeros,
        ),
        Misconception(
            "edge_kept",
            "You pooled the ragged edge too, in windows that are not full.",
            "The result has H // k rows and W // k columns: cut the rest off first.",
            ("ragged", "carries"),
            _pool_ceiling,
        ),
        Misconception(
            "overlapping_windows",
            "Your windows overlap: they move by one pixel.",
            "They move by k, in both directions.",
            ("values", "switches", "ties", "negative", "ragged", "gradients", "carries"),
            _pool_overlapping,
        ),
        Misconception(
            "scattered_windows",
            "Your windows gather pixels that are far apart: reshape splits an axis the other way round.",
            "A row index is i·k + r, the window first: reshape to (N, C, h, k, w, k), and permute.",
            ("values", "switches", "ties", "negative", "ragged", "gradients"),
            _pool_scattered,
        ),
        Misconception(
            "not_permuted",
            "You reshaped to (N, C, h, w, k·k) at once, so a window holds k·k neighbors from one row.",
            "Reshape to (N, C, h, k, w, k) first, permute the two k's to the end, and only then flatten them.",
            ("values", "switches", "ties", "negative", "ragged", "gradients"),
            _pool_not_permuted,
        ),
        Misconception(
            "swapped_within_the_window",
            "You took b % k for the row inside the window and b // k for the column.",
            "A window's entries are numbered along its rows: row b // k, column b % k.",
            INDEXED,
            _pool_swapped_inside,
        ),
        Misconception(
            "switches_as_floats",
            "Your switches are floats.",
            "They are places: keep them int64, as argmax and torch.arange give them.",
            (*INDEXED, "carries"),
            _pool_floats,
        ),
        Misconception(
            "switches_as_int32",
            "Your switches are int32.",
            "Return int64, the type of torch's indices: scatter and gather accept no other.",
            (*INDEXED, "carries"),
            _pool_short_integers,
        ),
        Misconception(
            "always_float64",
            "y is float64 whatever x was.",
            "Take y from x itself, so that it keeps the dtype.",
            ("carries",),
            _pool_promoted,
        ),
        Misconception(
            "edge_overwritten",
            "You overwrote the ragged edge of x.",
            "Leave x as it is: take the slice x[..., :h·k, :w·k].",
            ("carries",),
            _pool_edge_overwritten,
        ),
        Misconception(
            "detached",
            "y is cut from the graph, so no gradient reaches x.",
            "The search for the maximum needs no graph, but y does: gather it from x itself.",
            ("gradients",),
            _pool_detached,
        ),
        Misconception(
            "order_of_results",
            "You returned the switches first.",
            "Return y, then the switches.",
            ("values", "switches", "ties", "negative", "ragged", "carries"),
            _pool_swapped,
        ),
    ),
    right=(
        Variant("five loops", _pool_loop),
        Variant("unfold, the smallest number among the equals", _pool_unfold),
        Variant("one tap after the other", _pool_taps),
    ),
    hints=(
        Hint(
            "I have the maxima, but not their places",
            "Number the pixels with torch.arange(H * W).reshape(H, W) and treat the numbers as you treat x.",
        ),
        Hint(
            "My windows mix rows and columns",
            "After reshape(N, C, h, k, w, k) the two axes of length k are not neighbors: permute them to the end first.",
        ),
        Hint(
            "I don't know how to start",
            "Cut x to (h·k, w·k); reshape to (N, C, h, k, w, k), permute to (N, C, h, w, k, k), flatten the last two; argmax gives b; the row is k·i + b // k, the column k·j + b % k; gather y from the windows with b.",
        ),
    ),
    forbidden=(MAX_POOL,),
)


# -- max_unpool ---------------------------------------------------------------------------------------------


def _unpool_case(*, ragged: bool = False, sign: float = 1.0) -> Any:
    def draw(d: Any) -> Case:
        k = d.choice([2, 3])
        H, W = _pool_size(d, k, ragged=ragged)
        # The switches are those of another map, so that each channel has its own.
        x = _distinct(d, d.choice([2, 1]), d.choice([2, 3]), H, W)
        switches = _pool(x, k)[1]
        return Case((sign * _distinct(d, *switches.shape), switches, (H, W)))

    return draw


def _unpool_single_precision(d: Any) -> Case:
    switches = _pool(_distinct(d, 2, 2, 4, 6), 2)[1]
    return Case((_distinct(d, *switches.shape).float(), switches, (4, 6)))


def _unpool_guessed_size(y, switches, size):
    N, C, h, w = y.shape
    k = size[0] // h
    flat = y.new_zeros(N, C, size[0] * size[1])
    flat = flat.scatter(2, switches.flatten(2), y.flatten(2))
    return flat[..., : h * k * w * k].reshape(N, C, h * k, w * k)


def _unpool_size_not_used(y, switches, size):
    k = size[0] // y.shape[2]
    return _unpool(y, switches, (k * y.shape[2], k * y.shape[3]))


def _unpool_divided(y, switches, size, divisor):
    out = y.new_zeros(*y.shape[:2], *size)
    n = torch.arange(y.shape[0], device=y.device).view(-1, 1, 1, 1)
    c = torch.arange(y.shape[1], device=y.device).view(-1, 1, 1)
    out[n, c, switches // divisor, switches % divisor] = y
    return out


def _unpool_by_height(y, switches, size):
    return _unpool_divided(y, switches, size, size[0])


def _unpool_by_cut_width(y, switches, size):
    return _unpool_divided(y, switches, size, size[1] // y.shape[3] * y.shape[3])


def _unpool_default_dtype(y, switches, size):
    return _unpool(y.float(), switches, size)


def _unpool_promoted(y, switches, size):
    return _unpool(y, switches, size).double()


def _unpool_columns(y, switches, size):
    flat = y.new_zeros(*y.shape[:2], size[0] * size[1]).scatter(2, switches.flatten(2), y.flatten(2))
    return flat.reshape(*y.shape[:2], size[1], size[0]).transpose(2, 3)


def _unpool_width_first(y, switches, size):
    return _unpool(y, switches, size).reshape(*y.shape[:2], size[1], size[0])


def _unpool_shared(y, switches, size):
    return _unpool(y, switches[:1, :1].expand_as(switches), size)


def _unpool_nails(y, switches, size):
    k = size[0] // y.shape[2], size[1] // y.shape[3]
    out = y.new_zeros(*y.shape[:2], *size)
    out[..., : y.shape[2] * k[0] : k[0], : y.shape[3] * k[1] : k[1]] = y
    return out


def _unpool_over_batch(y, switches, size):
    out = y.new_zeros(*y.shape[:2], *size).flatten()
    return out.scatter(0, switches.flatten(), y.flatten()).reshape(*y.shape[:2], *size)


def _unpool_amax(y, switches, size):
    return _unpool(y.clamp(min=0), switches, size)


def _unpool_detached(y, switches, size):
    return _unpool(y.detach(), switches, size)


def _unpool(y, switches, size):
    flat = y.new_zeros(*y.shape[:2], size[0] * size[1])
    return flat.scatter(2, switches.flatten(2), y.flatten(2)).reshape(*y.shape[:2], *size)


def _unpool_loop(y, switches, size):
    out = y.new_zeros(*y.shape[:2], *size)
    N, C, h, w = y.shape
    for n in range(N):
        for c in range(C):
            for i in range(h):
                for j in range(w):
                    row, column = divmod(int(switches[n, c, i, j]), size[1])
                    out[n, c, row, column] = y[n, c, i, j]
    return out


def _unpool_one_hot(y, switches, size):
    pixel = torch.arange(size[0] * size[1], device=y.device)
    hit = (switches.flatten(2)[..., None] == pixel).to(y.dtype)
    return torch.einsum("ncs,ncsp->ncp", y.flatten(2), hit).reshape(*y.shape[:2], *size)


def _unpool_indexed(y, switches, size):
    N, C = y.shape[:2]
    out = y.new_zeros(N, C, *size)
    n = torch.arange(N, device=y.device).view(N, 1, 1, 1)
    c = torch.arange(C, device=y.device).view(1, C, 1, 1)
    out[n, c, switches // size[1], switches % size[1]] = y
    return out


UNPOOL = Exercise(
    id="max_unpool",
    topic="upsampling",
    title="Back to where it stood",
    reference=reference.max_unpool,
    minutes=10,
    difficulty=2,
    properties=(
        Property("places", "each value at its switch, zeros elsewhere", 1.0, _unpool_case()),
        Property(
            "any_size", "sizes that are no multiple of the pooled map's", 0.75, _unpool_case(ragged=True)
        ),
        Property("negative", "negative values are put back as well", 0.5, _unpool_case(sign=-1.0)),
        Property(
            "gradients",
            "gradients flow back to y",
            0.5,
            _unpool_case(),
            gradients(0),
            tried="the gradient of the output's inner product with fixed random numbers",
        ),
        Property(
            "carries",
            "a float32 y gives a float32 result, and neither y nor switches is modified in place",
            0.25,
            _unpool_single_precision,
            _carries("y", "switches", "size"),
            examples=2,
        ),
    ),
    misconceptions=(
        Misconception(
            "size_guessed",
            "You made the result a whole number of windows large and did not use size.",
            "The ragged edge that pooling dropped has to come back: the result is (N, C, *size).",
            ("any_size",),
            _unpool_guessed_size,
        ),
        Misconception(
            "size_not_used",
            "You guessed the size as k·h × k·w, which is too small for a map whose edge was dropped.",
            "The size has to be told, since several sizes pool to the same one: the result is (N, C, *size).",
            ("any_size",),
            _unpool_size_not_used,
        ),
        Misconception(
            "divided_by_the_height",
            "You divided the switches by the map's height.",
            "A switch is row·W + column: divide by the width, W = size[1].",
            ("places", "any_size", "negative", "gradients", "carries"),
            _unpool_by_height,
        ),
        Misconception(
            "divided_by_the_cut_width",
            "You divided the switches by k·w, the width without the edge that pooling dropped.",
            "A switch counts in the whole map: divide by W = size[1].",
            ("any_size",),
            _unpool_by_cut_width,
        ),
        Misconception(
            "columns_first",
            "You read the switches down the columns: as column·H + row.",
            "A switch is row·W + column: divide by the width, W = size[1].",
            ("places", "any_size", "negative", "gradients"),
            _unpool_columns,
        ),
        Misconception(
            "width_first",
            "Your result is W rows high and H columns wide.",
            "size is (H, W), and so are the last two axes of the result.",
            ("places", "any_size", "negative", "carries"),
            _unpool_width_first,
        ),
        Misconception(
            "one_map_s_switches",
            "You used the switches of the first map for all of them.",
            "Each image and each channel has its own maxima: scatter along the last axis of (N, C, H·W).",
            ("places", "any_size", "negative", "gradients"),
            _unpool_shared,
        ),
        Misconception(
            "switches_ignored",
            "You put each value at the top left of its window: that is the bed of nails.",
            "The switch says where in the map the value stood.",
            ("places", "any_size", "negative", "gradients"),
            _unpool_nails,
        ),
        Misconception(
            "all_in_the_first_map",
            "You used the switches as places in the flattened batch, so everything lands in the first map.",
            "A switch counts inside one map: flatten H and W only, flatten(2).",
            ("places", "any_size", "negative", "gradients"),
            _unpool_over_batch,
        ),
        Misconception(
            "negative_values_lost",
            "Negative values became 0: they lost against the zeros around them.",
            "Assign the value (scatter), and don't take the maximum of it and what is there.",
            ("negative",),
            _unpool_amax,
        ),
        Misconception(
            "detached",
            "Your result is cut from the graph, so no gradient reaches y.",
            "Leave out detach, .data, .item() and no_grad.",
            ("gradients",),
            _unpool_detached,
        ),
        Misconception(
            "default_dtype",
            "Your result is float32 whatever y is.",
            "y.new_zeros(...) makes zeros of the dtype and on the device of y.",
            ("places", "any_size", "negative"),
            _unpool_default_dtype,
        ),
        Misconception(
            "always_float64",
            "Your result is float64 whatever y was.",
            "y.new_zeros(...) makes zeros of the dtype and on the device of y.",
            ("carries",),
            _unpool_promoted,
        ),
    ),
    right=(
        Variant("four loops and divmod", _unpool_loop),
        Variant("one-hot and einsum", _unpool_one_hot),
        Variant("rows and columns indexed", _unpool_indexed),
    ),
    hints=(
        Hint(
            "I don't see how a flat number becomes a pixel",
            "If you flatten the map's H and W, it is the index.",
        ),
        Hint(
            "It works for one image only",
            "The switches of an image and channel count in its own map: keep N and C as axes.",
        ),
        Hint(
            "I don't know how to start",
            "flat = y.new_zeros(N, C, H * W); flat.scatter(2, switches.flatten(2), y.flatten(2)); reshape to (N, C, H, W).",
        ),
    ),
    forbidden=(MAX_UNPOOL,),
)


# -- transposed_conv_matrix ---------------------------------------------------------------------------------


def _matrix_columns(d: Any) -> Case:
    return Case((_distinct(d, d.integer(2, 4)), d.integer(3, 5)))


def _matrix_overlap(d: Any) -> Case:
    stride = d.integer(2, 3)
    return Case((_distinct(d, stride + d.integer(1, 2)), d.integer(2, 4)), {"stride": stride})


def _matrix_gaps(d: Any) -> Case:
    k = d.choice([2, 1])
    return Case((_distinct(d, k), d.choice([2, 1, 3])), {"stride": k + d.integer(1, 2)})


def _matrix_single_precision(d: Any) -> Case:
    return Case((_distinct(d, 3).float(), 3))


def _matrix_promoted(kernel, length, stride=1):
    return _matrix(kernel, length, stride).double()


def _matrix(kernel, length, stride=1):
    k = len(kernel)
    matrix = kernel.new_zeros(stride * (length - 1) + k, length)
    for j in range(length):
        matrix[stride * j : stride * j + k, j] = kernel
    return matrix


def _matrix_transposed(kernel, length, stride=1):
    return _matrix(kernel, length, stride).T


def _matrix_flipped(kernel, length, stride=1):
    return _matrix(kernel.flip(0), length, stride)


def _matrix_stride_ignored(kernel, length, stride=1):
    return _matrix(kernel, length)


def _matrix_step_one(kernel, length, stride=1):
    small = _matrix(kernel, length)
    out = kernel.new_zeros(max(stride * (length - 1) + len(kernel), len(small)), length)
    out[: len(small)] = small
    return out


def _matrix_long(kernel, length, stride=1):
    matrix = _matrix(kernel, length, stride)
    return torch.cat([matrix, kernel.new_zeros(stride - 1, length)])


def _matrix_cut(kernel, length, stride=1):
    return _matrix(kernel, length, stride)[: stride * length]


def _matrix_default_dtype(kernel, length, stride=1):
    return _matrix(kernel, length, stride).float()


def _matrix_loops(kernel, length, stride=1):
    rows = stride * (length - 1) + len(kernel)
    matrix = torch.zeros(rows, length, dtype=kernel.dtype, device=kernel.device)
    for row in range(rows):
        for column in range(length):
            if 0 <= row - stride * column < len(kernel):
                matrix[row, column] = kernel[row - stride * column]
    return matrix


def _matrix_indexed(kernel, length, stride=1):
    tap = torch.arange(stride * (length - 1) + len(kernel), device=kernel.device)[:, None]
    tap = tap - stride * torch.arange(length, device=kernel.device)
    inside = (tap >= 0) & (tap < len(kernel))
    return torch.where(inside, kernel[tap.clamp(0, len(kernel) - 1)], 0.0)


def _matrix_padded(kernel, length, stride=1):
    columns = [F.pad(kernel, (stride * j, stride * (length - 1 - j))) for j in range(length)]
    return torch.stack(columns, dim=1)


MATRIX = Exercise(
    id="transposed_conv_matrix",
    topic="upsampling",
    title="A copy of the kernel in every column",
    reference=reference.transposed_conv_matrix,
    minutes=10,
    difficulty=2,
    properties=(
        Property("columns", "stride 1: column j holds the kernel, j rows down", 0.75, _matrix_columns),
        Property(
            "overlap",
            "larger strides: each copy begins stride rows below the one before",
            0.5,
            _matrix_overlap,
        ),
        Property(
            "gaps", "a kernel shorter than the stride leaves rows of zeros; one column", 0.5, _matrix_gaps
        ),
        Property(
            "carries",
            "a float32 kernel gives a float32 matrix, and kernel is not modified in place",
            0.25,
            _matrix_single_precision,
            _carries("kernel", "length"),
            examples=2,
        ),
    ),
    misconceptions=(
        Misconception(
            "kernel_in_the_rows",
            "You put the kernel into the rows: this is the matrix of the convolution.",
            "Transpose it. The transposed convolution has a copy of the kernel in every column.",
            ("columns", "overlap", "gaps", "carries"),
            _matrix_transposed,
        ),
        Misconception(
            "kernel_flipped",
            "Your columns hold the kernel upside down.",
            "An input of 1 lays down the kernel as it is: no flip.",
            ("columns", "overlap", "gaps"),
            _matrix_flipped,
        ),
        Misconception(
            "stride_ignored",
            "You did not use the stride.",
            "Column j begins at row stride·j, and the matrix has stride·(length − 1) + k rows.",
            ("overlap", "gaps"),
            _matrix_stride_ignored,
        ),
        Misconception(
            "one_row_per_column",
            "Your matrix has the right number of rows, but each copy begins one row below the one before.",
            "It begins stride rows below: at row stride·j.",
            ("overlap", "gaps"),
            _matrix_step_one,
        ),
        Misconception(
            "rows_after_the_last_copy",
            "Your matrix has stride·length + k − 1 rows: the last ones are empty.",
            "Nothing comes after the last copy: stride·(length − 1) + k rows.",
            ("overlap", "gaps"),
            _matrix_long,
        ),
        Misconception(
            "last_copies_cut",
            "You cut the matrix off after stride·length rows, through the last copies of the kernel.",
            "Every copy is whole: stride·(length − 1) + k rows.",
            ("columns", "overlap", "carries"),
            _matrix_cut,
        ),
        Misconception(
            "default_dtype",
            "Your matrix is float32 whatever the kernel is.",
            "kernel.new_zeros(...) makes zeros of the dtype and on the device of the kernel.",
            ("columns", "overlap", "gaps"),
            _matrix_default_dtype,
        ),
        Misconception(
            "always_float64",
            "Your matrix is float64 whatever the kernel is.",
            "kernel.new_zeros(...) makes zeros of the dtype and on the device of the kernel.",
            ("carries",),
            _matrix_promoted,
        ),
    ),
    right=(
        Variant("entry by entry", _matrix_loops),
        Variant("the tap of every entry", _matrix_indexed),
        Variant("padded columns", _matrix_padded),
    ),
    hints=(
        Hint(
            "I don't know how many rows there are",
            "The last copy begins at row stride·(length − 1) and is k rows long.",
        ),
        Hint(
            "My matrix is lying on its side",
            "Multiply it with the vector (1, 0, 0, …): the result has to be one copy of the kernel.",
        ),
        Hint(
            "I don't know how to start",
            "kernel.new_zeros(stride * (length - 1) + k, length); for each column j write the kernel into rows stride·j to stride·j + k.",
        ),
    ),
    forbidden=(CONV_TRANSPOSE,),
)


# -- conv_transpose2d ---------------------------------------------------------------------------------------


def _transposed_case(
    *,
    stride: Any = (1,),
    padding: Any = (0,),
    output_padding: Any = None,
    bias: bool = False,
    dtype: Any = None,
    channels: Any = ((2, 3), (3, 2), (1, 2), (2, 2)),
) -> Any:
    def draw(d: Any) -> Case:
        s, p = d.choice(stride), d.choice(padding)
        cin, cout = d.choice(channels)
        # Larger than the stride, so that copies overlap.
        kh, kw = s + d.integer(1, 2), s + d.choice([2, 1, 3])
        kind = {} if dtype is None else {"dtype": dtype}
        x = d.tensor(d.choice([2, 1]), cin, d.integer(2, 3), d.choice([3, 2, 4]), **kind)
        weight = d.tensor(cin, cout, kh, kw, **kind)
        args = (x, weight, d.tensor(cout, **kind)) if bias else (x, weight)
        kwargs = {} if s == 1 else {"stride": s}
        if p:
            kwargs["padding"] = p
        if output_padding is not None:
            kwargs["output_padding"] = output_padding(d, s)
        return Case(args, kwargs)

    return draw


def _beyond_padding(d: Any) -> Case:
    def call(stride: int, padding: int, output_padding: int) -> tuple[Any, ...]:
        x, weight = d.tensor(1, 2, 2, 3), d.tensor(2, 1, stride + 1, stride + 2)
        return x, weight, d.tensor(1) + 5, stride, padding, output_padding

    calls = {
        "stride 2, padding 0, output_padding 1": call(2, 0, 1),
        "stride 3, padding 1, output_padding 2": call(3, 1, 2),
    }
    return Case((), {}, calls)


def _lay(x, weight, stride, *, add=True):
    """Every value lays down its copy of the kernel."""
    N, _, H, W = x.shape
    kh, kw = weight.shape[2:]
    out = x.new_zeros(N, weight.shape[1], stride * (H - 1) + kh, stride * (W - 1) + kw)
    for i in range(H):
        for j in range(W):
            copies = torch.einsum("nc,cdrs->ndrs", x[:, :, i, j], weight)
            rows, columns = slice(stride * i, stride * i + kh), slice(stride * j, stride * j + kw)
            out = out.clone()
            out[:, :, rows, columns] = copies + (out[:, :, rows, columns] if add else 0)
    return out


def _crop(y, padding, output_padding):
    H, W = y.shape[2:]
    y = F.pad(y, (0, output_padding, 0, output_padding))
    return y[..., padding : H - padding + output_padding, padding : W - padding + output_padding]


def _with_bias(y, bias):
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def _allowed(stride, output_padding):
    if output_padding >= stride:
        raise ValueError(f"output_padding must be below the stride, {stride}, got {output_padding}")


def _transposed_overwritten(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, stride, add=False), padding, output_padding), bias)


def _transposed_taps_overwritten(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    H, W = x.shape[2:]
    kh, kw = weight.shape[2:]
    y = x.new_zeros(len(x), weight.shape[1], stride * (H - 1) + kh, stride * (W - 1) + kw)
    for r in range(kh):
        for c in range(kw):
            rows = slice(r, r + stride * (H - 1) + 1, stride)
            columns = slice(c, c + stride * (W - 1) + 1, stride)
            y[:, :, rows, columns] = torch.einsum("nihw,io->nohw", x, weight[:, :, r, c])
    return _with_bias(_crop(y, padding, output_padding), bias)


def _transposed_kernel_transposed(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight.transpose(2, 3), stride), padding, output_padding), bias)


def _transposed_minus_zero(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = F.pad(_lay(x, weight, stride), (0, output_padding, 0, output_padding))
    return _with_bias(y[..., padding:-padding, padding:-padding], bias)


def _transposed_cut_once(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = F.pad(_lay(x, weight, stride), (0, output_padding, 0, output_padding))
    return _with_bias(y[..., padding:, padding:], bias)


def _transposed_extra_ignored(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, stride), padding, 0), bias)


def _transposed_extra_without_bias(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _crop(_with_bias(_lay(x, weight, stride), bias), padding, output_padding)


def _transposed_extra_bounded(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, stride), padding, min(output_padding, padding)), bias)


def _transposed_flipped(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight.flip(2, 3), stride), padding, output_padding), bias)


def _transposed_conv_axes(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    if weight.shape[1] != x.shape[1]:
        raise RuntimeError(f"expected {weight.shape[1]} input channels, got {x.shape[1]}")
    return _with_bias(_crop(_lay(x, weight.transpose(0, 1), stride), padding, output_padding), bias)


def _transposed_padded(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(
        F.pad(
            _lay(x, weight, stride), (padding, padding + output_padding, padding, padding + output_padding)
        ),
        bias,
    )


def _transposed_padding_ignored(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, stride), 0, output_padding), bias)


def _transposed_square(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    spread = _nails(x, stride)[..., : stride * (x.shape[2] - 1) + 1, : stride * (x.shape[3] - 1) + 1]
    border = weight.shape[2] - 1 - padding
    spread = F.pad(spread, (border, border + output_padding, border, border + output_padding))
    return F.conv2d(spread, weight.transpose(0, 1).flip(2, 3), bias)


def _transposed_one_side(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = _crop(_lay(x, weight, stride), 0, output_padding)
    return _with_bias(y[..., : y.shape[2] - 2 * padding, : y.shape[3] - 2 * padding], bias)


def _transposed_extra_zeros(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = _with_bias(_crop(_lay(x, weight, stride), padding, 0), bias)
    return F.pad(y, (0, output_padding, 0, output_padding))


def _transposed_extra_top(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = F.pad(_lay(x, weight, stride), (output_padding, 0, output_padding, 0))
    return _with_bias(_crop(y, padding, 0), bias)


def _transposed_stride_ignored(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, 1), padding, output_padding), bias)


def _transposed_last_zeros(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = _lay(x, weight, stride)
    return _with_bias(_crop(F.pad(y, (0, stride - 1, 0, stride - 1)), padding, output_padding), bias)


def _transposed_no_bias(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _crop(_lay(x, weight, stride), padding, output_padding)


def _transposed_bias_each(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = _lay(x, weight, stride)
    if bias is not None:
        ones = torch.ones_like(weight[:1, :1]).expand(1, len(bias), -1, -1)
        y = y + _lay(torch.ones_like(x[:, :1]), ones * bias.view(1, -1, 1, 1), stride)
    return _crop(y, padding, output_padding)


def _transposed_accepting(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    return _with_bias(_crop(_lay(x, weight, stride), padding, output_padding), bias)


def _transposed_detached(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = _crop(_lay(x.detach(), weight.detach(), stride), padding, output_padding)
    return _with_bias(y, bias)


def _transposed_promoted(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    return _transposed_pixels(x, weight, bias, stride, padding, output_padding).double()


def _transposed_pixels(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, stride), padding, output_padding), bias)


def _transposed_taps(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """A loop over the kernel: each tap adds a strided map."""
    if output_padding >= stride:
        raise ValueError(f"output_padding must be below {stride}, got {output_padding}")
    N, _, H, W = x.shape
    _, cout, kh, kw = weight.shape
    height, width = stride * (H - 1) + kh + output_padding, stride * (W - 1) + kw + output_padding
    out = torch.zeros(N, cout, height, width, dtype=x.dtype, device=x.device)
    for r in range(kh):
        for s in range(kw):
            tap = torch.tensordot(x, weight[:, :, r, s], dims=([1], [0])).movedim(3, 1)
            out[:, :, r : r + stride * (H - 1) + 1 : stride, s : s + stride * (W - 1) + 1 : stride] += tap
    out = out[:, :, padding : height - padding, padding : width - padding]
    return out if bias is None else out + bias[:, None, None]


def _transposed_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """Columns of products, folded together."""
    if output_padding >= stride:
        raise ValueError("output_padding must be smaller than stride")
    kh, kw = weight.shape[2:]
    H, W = x.shape[2:]
    columns = weight.flatten(1).T @ x.flatten(2)
    full = stride * (H - 1) + kh, stride * (W - 1) + kw
    y = F.fold(columns, full, (kh, kw), stride=stride)
    y = F.pad(y, (-padding, output_padding - padding, -padding, output_padding - padding))
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def _transposed_zeros(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """Zero insertion, then a convolution with the flipped kernel."""
    if output_padding >= stride:
        raise ValueError("output_padding must be smaller than stride")
    kh, kw = weight.shape[2:]
    spread = _nails(x, stride)[..., : stride * (x.shape[2] - 1) + 1, : stride * (x.shape[3] - 1) + 1]
    top, left = kh - 1 - padding, kw - 1 - padding
    spread = F.pad(spread, (left, left + output_padding, top, top + output_padding))
    return F.conv2d(spread, weight.transpose(0, 1).flip(2, 3), bias)


def _transposed_refused(d: Any) -> Case:
    stride = d.integer(1, 2)
    x, weight = d.tensor(1, 2, 2, 3), d.tensor(2, 1, 3, 3)
    return Case((x, weight), {"stride": stride, "output_padding": stride + d.integer(0, 1)})


SUMS = ("stride_one", "strided", "bias", "padding", "output_padding", "beyond_padding", "gradients")
STRIDED = ("strided", "padding", "output_padding", "beyond_padding", "gradients")
PADDED = ("padding", "output_padding", "beyond_padding")

TRANSPOSED = Exercise(
    id="conv_transpose2d",
    topic="upsampling",
    title="Transposed convolution",
    reference=reference.conv_transpose2d,
    minutes=30,
    difficulty=4,
    properties=(
        Property(
            "stride_one",
            "stride 1: each value lays down a copy of the kernel, and overlapping products are summed",
            1.0,
            _transposed_case(),
        ),
        Property(
            "strided",
            "larger strides: s(H−1)+kh rows, s(W−1)+kw columns",
            1.0,
            _transposed_case(stride=(2, 3)),
        ),
        Property(
            "bias",
            "bias is added once to every pixel",
            0.25,
            # As many channels in as out, so that a mix-up of the two shows in the values.
            _transposed_case(bias=True, channels=((2, 2),)),
        ),
        Property(
            "padding",
            "padding cuts that many rows and columns off at each side",
            0.5,
            _transposed_case(stride=(2, 3), padding=(1,)),
        ),
        Property(
            "output_padding",
            "output_padding adds rows and columns at the bottom and right: less is cut off there",
            0.5,
            _transposed_case(stride=(2, 3), padding=(1,), output_padding=lambda d, s: 1),
        ),
        Property(
            "beyond_padding",
            "an output_padding larger than padding: the rows and columns that no copy reaches hold the bias alone",
            0.25,
            _beyond_padding,
            _each,
            examples=2,
            tried="conv_transpose2d(x, weight, bias, stride, padding, output_padding) for each of these",
        ),
        Property(
            "refuses",
            "an output_padding of the stride or more is refused with a ValueError",
            0.25,
            _transposed_refused,
            examples=4,
        ),
        Property(
            "gradients",
            "gradients flow to x, weight and bias",
            1.0,
            _transposed_case(stride=(2, 3), bias=True),
            gradients(0, 1, 2),
            tried="the gradient of the output's inner product with fixed random numbers",
        ),
        Property(
            "carries",
            "float32 stays float32, and no argument is modified in place",
            0.25,
            _transposed_case(stride=(1,), bias=True, dtype=torch.float32),
            _carries("x", "weight", "bias"),
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "overlap_overwritten",
            "Where copies of the kernel overlap, the last one wins.",
            "Add them up: += instead of =.",
            SUMS,
            _transposed_overwritten,
        ),
        Misconception(
            "taps_overwritten",
            "Each tap of the kernel overwrites what earlier taps wrote.",
            "Add them up: += instead of =.",
            SUMS,
            _transposed_taps_overwritten,
        ),
        Misconception(
            "kernel_flipped",
            "Your kernel is laid down rotated by 180°.",
            "An input of 1 lays down the kernel as it is. After zero insertion it is the other way: there the "
            "convolution needs the flipped kernel.",
            SUMS,
            _transposed_flipped,
        ),
        Misconception(
            "weight_as_in_conv2d",
            "You read the weight as (Cout, Cin, kh, kw), as a convolution has it.",
            "Here it is (Cin, Cout, kh, kw): axis 0 belongs to x.",
            (*SUMS, "carries"),
            _transposed_conv_axes,
        ),
        Misconception(
            "kernel_transposed",
            "You exchanged the kernel's rows and columns.",
            "An input of 1 lays down the kernel as it is: the weight's axis 2 goes down the rows, axis 3 along them.",
            (*SUMS, "carries"),
            _transposed_kernel_transposed,
        ),
        Misconception(
            "padding_added",
            "Your padding makes the result larger.",
            "It undoes the padding of a convolution: cut padding rows and columns off at each side.",
            PADDED,
            _transposed_padded,
        ),
        Misconception(
            "padding_ignored",
            "You did not use padding.",
            "Cut padding rows and columns off at each of the four sides.",
            PADDED,
            _transposed_padding_ignored,
        ),
        Misconception(
            "kernel_taken_as_square",
            "You used the kernel's height along the width too.",
            "A kernel may have kh≠kw: rows go with kh, columns with kw.",
            (*SUMS, "carries"),
            _transposed_square,
        ),
        Misconception(
            "padding_at_one_side",
            "You cut 2·padding rows and columns off at the bottom and right.",
            "Cut padding of them off at each of the four sides.",
            PADDED,
            _transposed_one_side,
        ),
        Misconception(
            "padding_at_the_top_only",
            "You cut padding rows and columns off at the top and left, and none at the bottom and right.",
            "Cut padding of them off at each of the four sides.",
            PADDED,
            _transposed_cut_once,
        ),
        Misconception(
            "nothing_left_without_padding",
            "Without padding your result is empty: y[..., p:-p] with p = 0 is y[..., 0:0].",
            "Cut to an end that you have computed: y[..., p : height − p].",
            ("stride_one", "strided", "bias", "beyond_padding", "gradients", "carries"),
            _transposed_minus_zero,
        ),
        Misconception(
            "output_padding_as_zeros",
            "You added zeros at the bottom and right, after cutting.",
            "output_padding cuts less off there: those rows hold products where copies reach, and the bias.",
            ("output_padding", "beyond_padding"),
            _transposed_extra_zeros,
        ),
        Misconception(
            "output_padding_ignored",
            "You did not use output_padding.",
            "The result has output_padding rows and columns more: make room for them at the bottom and right.",
            ("output_padding", "beyond_padding"),
            _transposed_extra_ignored,
        ),
        Misconception(
            "bias_before_output_padding",
            "Rows and columns of output_padding that no copy reaches lack the bias in your result.",
            "Make the whole result first, and add the bias at the end: it belongs to every pixel.",
            ("beyond_padding",),
            _transposed_extra_without_bias,
        ),
        Misconception(
            "no_more_than_was_cut",
            "You give back no more rows and columns than padding has cut off.",
            "An output_padding above padding is legal: what no copy reaches is 0, plus the bias.",
            ("beyond_padding",),
            _transposed_extra_bounded,
        ),
        Misconception(
            "output_padding_at_the_top",
            "You added the extra rows and columns at the top and left.",
            "They belong at the bottom and right.",
            ("output_padding", "beyond_padding"),
            _transposed_extra_top,
        ),
        Misconception(
            "stride_ignored",
            "You did not use the stride.",
            "The copy of x[i, j] begins at row stride·i and column stride·j.",
            STRIDED,
            _transposed_stride_ignored,
        ),
        Misconception(
            "zeros_after_the_last",
            "Your result is stride − 1 rows and columns too large: a bed of nails ends with zeros that no copy needs.",
            "Insert zeros between the values only: s(H−1)+1 rows before the kernel comes.",
            STRIDED,
            _transposed_last_zeros,
        ),
        Misconception(
            "bias_ignored",
            "You did not add the bias.",
            "Add bias.view(1, -1, 1, 1) at the end, if it is not None.",
            ("bias", "beyond_padding", "gradients"),
            _transposed_no_bias,
        ),
        Misconception(
            "bias_in_every_copy",
            "You added the bias to every copy of the kernel, so it piles up where they overlap.",
            "Add it once, at the end.",
            ("bias", "beyond_padding", "gradients"),
            _transposed_bias_each,
        ),
        Misconception(
            "accepts_any_output_padding",
            "You accept an output_padding of the stride or more.",
            "Raise a ValueError that names output_padding: so many rows would belong to one more input.",
            ("refuses",),
            _transposed_accepting,
        ),
        Misconception(
            "detached",
            "Your result is cut from the graph, so no gradient reaches x and weight.",
            "Leave out detach, .data, .item() and no_grad.",
            ("gradients",),
            _transposed_detached,
        ),
        Misconception(
            "always_float64",
            "Your result is float64 whatever x was.",
            "Make it with x.new_zeros(...), of the dtype and on the device of x.",
            ("carries",),
            _transposed_promoted,
        ),
    ),
    right=(
        Variant("pixel by pixel", _transposed_pixels),
        Variant("tap by tap", _transposed_taps),
        Variant("a product and F.fold", _transposed_fold),
        Variant("zero insertion and a convolution", _transposed_zeros),
    ),
    hints=(
        Hint(
            "I don't know how large the result is",
            "Without padding: the last copy begins at row s(H−1) and is kh rows long. Padding cuts 2p of them off, output_padding gives a back.",
        ),
        Hint(
            "My values are right where no copies overlap",
            "Overlapping products are summed. Loop over the kh·kw taps: each adds a whole map, stride pixels apart.",
        ),
        Hint(
            "I don't know how to start",
            'out of zeros, (N, Cout, s(H−1)+kh+a, s(W−1)+kw+a). For each tap (r, c): out[:, :, r : r+s(H−1)+1 : s, c : c+s(W−1)+1 : s] += einsum("nihw,io->nohw", x, weight[:, :, r, c]). Cut p off at each side, then add the bias.',
        ),
    ),
    forbidden=(CONV_TRANSPOSE, AUTOGRAD),
)


# -- bilinear_kernel ----------------------------------------------------------------------------------------


def _bilinear_case(channels: Any, factors: Any) -> Any:
    return lambda d: Case((d.choice(channels), d.choice(factors)))


def _described_twice(subject: Any, case: Case) -> dict[str, Any]:
    """For an odd and for an even factor."""
    channels, factor = case.args
    return {f"factor {f}": described(subject(channels, f)) for f in (factor, factor + 1)}


def _as_numbers(subject: Any, case: Case) -> Any:
    """The weights without their dtype, which is another property's business."""
    weight = subject(*case.args)
    return weight.double() if isinstance(weight, torch.Tensor) else weight


def _bilinear(channels, factor, *, k=None, center=None, slope=None, one_axis=False, mask=None):
    k = 2 * factor - factor % 2 if k is None else k
    center = (k - 1) / 2 if center is None else center
    ramp = 1 - (torch.arange(k, dtype=torch.float32) - center).abs() / (slope or factor)
    pyramid = ramp.expand(k, k) if one_axis else ramp[:, None] * ramp
    mask = torch.eye(channels) if mask is None else mask
    return mask[:, :, None, None] * pyramid


def _bilinear_even(channels, factor):
    return _bilinear(channels, factor, k=2 * factor)


def _bilinear_full(channels, factor):
    return _bilinear(channels, factor, mask=torch.ones(channels, channels))


def _bilinear_depthwise(channels, factor):
    return _bilinear(channels, factor, mask=torch.ones(channels, 1))


def _bilinear_center(channels, factor):
    return _bilinear(channels, factor, center=factor - 1)


def _bilinear_center_after(channels, factor):
    return _bilinear(channels, factor, center=(2 * factor - factor % 2) // 2)


def _bilinear_odd(channels, factor):
    return _bilinear(channels, factor, k=2 * factor - 1)


def _bilinear_rows_only(channels, factor):
    return _bilinear(channels, factor, one_axis=True).mT


def _bilinear_zero_ends(channels, factor):
    k = 2 * factor - factor % 2
    ramp = 1 - torch.linspace(-1, 1, k).abs() if k > 1 else torch.ones(1)
    return torch.eye(channels)[:, :, None, None] * torch.outer(ramp, ramp)


def _bilinear_normalized(channels, factor):
    weight = _bilinear(channels, factor)
    return weight / weight[0, 0].sum()


def _bilinear_box(channels, factor):
    k = 2 * factor - factor % 2
    return torch.eye(channels)[:, :, None, None] * torch.ones(k, k)


def _bilinear_one_axis(channels, factor):
    return _bilinear(channels, factor, one_axis=True)


def _bilinear_half_kernel(channels, factor):
    return _bilinear(channels, factor, slope=(2 * factor - factor % 2) / 2)


def _bilinear_plateau(channels, factor):
    k = 2 * factor - factor % 2
    ramp = torch.tensor([min(i + 1, k - i) / factor for i in range(k)])
    return torch.eye(channels)[:, :, None, None] * torch.outer(ramp, ramp)


def _bilinear_double(channels, factor):
    return _bilinear(channels, factor).double()


def _bilinear_loops(channels, factor):
    k = 2 * factor - factor % 2
    center = factor - 1 if k % 2 == 1 else factor - 0.5
    weight = torch.zeros(channels, channels, k, k)
    for c in range(channels):
        for i in range(k):
            for j in range(k):
                weight[c, c, i, j] = (1 - abs(i - center) / factor) * (1 - abs(j - center) / factor)
    return weight


def _bilinear_boxes(channels, factor):
    """A triangle is a box convolved with a box."""
    box = torch.ones(1, 1, factor)
    other = box if factor % 2 else torch.cat([torch.full((1, 1, 1), 0.5), torch.ones(1, 1, factor - 1),
                                              torch.full((1, 1, 1), 0.5)], 2)  # fmt: skip
    ramp = F.conv1d(box, other, padding=other.shape[2] - 1)[0, 0] / factor
    weight = torch.zeros(channels, channels, len(ramp), len(ramp))
    weight[range(channels), range(channels)] = torch.outer(ramp, ramp)
    return weight


def _bilinear_rising(channels, factor):
    """The rising half and its mirror image."""
    rising = (
        torch.arange(1, 2 * factor, 2) / (2 * factor)
        if factor % 2 == 0
        else torch.arange(1, factor + 1) / factor
    )
    ramp = torch.cat([rising, rising.flip(0)[factor % 2 :]])
    return torch.einsum("cd,i,j->cdij", torch.eye(channels), ramp, ramp)


BILINEAR = Exercise(
    id="bilinear_kernel",
    topic="upsampling",
    title="The kernel that interpolates",
    reference=reference.bilinear_kernel,
    minutes=12,
    difficulty=3,
    properties=(
        Property(
            "even",
            "even factors: k = 2·factor, a pyramid whose peak lies between the four middle pixels",
            1.0,
            _bilinear_case([1], [2, 4, 6]),
            _as_numbers,
            examples=4,
        ),
        Property(
            "odd",
            "odd factors: k = 2·factor − 1, a pyramid with 1 on its middle pixel",
            0.75,
            _bilinear_case([1], [3, 5]),
            _as_numbers,
            examples=4,
        ),
        Property(
            "diagonal",
            "(channels, channels, k, k): each channel is interpolated on its own",
            0.75,
            _bilinear_case([2, 3, 4], [2, 4]),
            _as_numbers,
            examples=4,
        ),
        Property(
            "factor_one",
            "factor 1 changes nothing: one weight of 1",
            0.25,
            _bilinear_case([1], [1]),
            _as_numbers,
            examples=2,
        ),
        Property(
            "float32",
            "the weights are float32",
            0.25,
            _bilinear_case([2, 3], [3, 2]),
            _described_twice,
            examples=3,
            tried="the kind of the kernel of a factor and of the next one",
        ),
    ),
    misconceptions=(
        Misconception(
            "even_size_for_odd_factors",
            "Your kernel has 2·factor rows for odd factors too.",
            "k = 2·factor − factor mod 2: with an odd factor the peak lies on a pixel.",
            ("odd", "factor_one", "float32"),
            _bilinear_even,
        ),
        Misconception(
            "odd_size_for_even_factors",
            "Your kernel has 2·factor − 1 rows for even factors too.",
            "k = 2·factor − factor mod 2: with an even factor the peak lies between pixels.",
            ("even", "diagonal", "float32"),
            _bilinear_odd,
        ),
        Misconception(
            "channels_mixed",
            "You filled every pair of channels, so each output channel is the sum of all input channels.",
            "Only weight[c, c] holds the pyramid; the others are 0.",
            ("diagonal",),
            _bilinear_full,
        ),
        Misconception(
            "depthwise_shape",
            "Your weights are (channels, 1, k, k), as for a grouped convolution.",
            "Return (channels, channels, k, k) with zeros off the diagonal.",
            ("diagonal", "float32"),
            _bilinear_depthwise,
        ),
        Misconception(
            "peak_off_by_half",
            "For even factors your peak stands on a pixel, half a pixel away from the middle.",
            "The middle of k pixels is (k − 1)/2, also when that is no whole number.",
            ("even", "diagonal"),
            _bilinear_center,
        ),
        Misconception(
            "peak_after_the_middle",
            "For even factors your peak stands on pixel k // 2, half a pixel behind the middle.",
            "The middle of k pixels is (k − 1)/2, also when that is no whole number.",
            ("even", "diagonal"),
            _bilinear_center_after,
        ),
        Misconception(
            "sum_of_one",
            "You divided the kernel by its sum.",
            "Every output pixel gets its weights from several copies: it is these that sum to 1, and the kernel to factor².",
            ("even", "odd", "diagonal"),
            _bilinear_normalized,
        ),
        Misconception(
            "constant",
            "Your kernel is constant.",
            "It falls off linearly from the middle: 1 − |i − center|/factor along each axis.",
            ("even", "odd", "diagonal"),
            _bilinear_box,
        ),
        Misconception(
            "one_direction",
            "Your kernel falls off along one axis only.",
            "Bilinear is linear along both: multiply the ramp of the rows with that of the columns.",
            ("even", "odd", "diagonal"),
            _bilinear_one_axis,
        ),
        Misconception(
            "rows_only",
            "Your kernel falls off from row to row only.",
            "Bilinear is linear along both axes: multiply the ramp of the rows with that of the columns.",
            ("even", "odd", "diagonal"),
            _bilinear_rows_only,
        ),
        Misconception(
            "zeros_at_the_ends",
            "Your ramp is 0 at both ends, so a row and a column at each side do nothing.",
            "Divide the distance from the middle by factor: at the ends 1 − |i − (k − 1)/2|/factor is above 0.",
            ("even", "odd", "diagonal"),
            _bilinear_zero_ends,
        ),
        Misconception(
            "slope_of_half_the_kernel",
            "Your pyramid falls off by 1 over k/2 pixels, which for odd factors is not the factor.",
            "From one input pixel to the next there are factor pixels: divide by factor.",
            ("odd",),
            _bilinear_half_kernel,
        ),
        Misconception(
            "two_peaks_of_one",
            "Your ramp counts 1, 2, … up to factor, so for even factors both middle weights are 1.",
            "Measure the distance from (k − 1)/2: for even k the middle weights are 1 − ½/factor.",
            ("even", "diagonal"),
            _bilinear_plateau,
        ),
        Misconception(
            "float64",
            "Your weights are float64.",
            "Return float32, the dtype of a new layer's weights.",
            ("float32",),
            _bilinear_double,
        ),
    ),
    right=(
        Variant("loops, the two cases of the middle", _bilinear_loops),
        Variant("boxes convolved", _bilinear_boxes),
        Variant("the rising half and its mirror image", _bilinear_rising),
    ),
    hints=(
        Hint(
            "I don't know where the peak is",
            "In the middle of k pixels numbered from 0: (k − 1)/2. For even k that lies between two pixels.",
        ),
        Hint(
            "A constant image comes out darker or brighter",
            "Add up the weights that reach one output pixel: kernel entries that are factor apart. They must sum to 1.",
        ),
        Hint(
            "I don't know how to start",
            "k = 2·factor − factor % 2; ramp = 1 − |arange(k) − (k − 1)/2| / factor; the pyramid is torch.outer(ramp, ramp); torch.eye(channels) times the pyramid puts it on the diagonal.",
        ),
    ),
    forbidden=(INTERPOLATE,),
)

EXERCISES = (STITCH, ATROUS, NEAREST, BED, POOL, UNPOOL, MATRIX, TRANSPOSED, BILINEAR)
