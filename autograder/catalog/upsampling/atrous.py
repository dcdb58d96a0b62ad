"""The exercise atrous of lecture 05: holes instead of strides."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autograder.attempt import Handle, Odd, Raised, Subject, kind_of
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import draw_statistics, share_memory
from autograder.catalog.upsampling.draws import (
    PARTS,
    SINGLE,
    filled_layers,
    normalizing_net,
    pair,
    pooling_net,
    reach,
    refusals,
    striding_net,
    times,
    traces,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Network
from coursekit import upsampling as reference


def _case(make: Callable[[Draw], nn.Sequential]) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        net = make(d)
        (rows, columns), _ = reach(net)
        h, w = rows + d.integer(1, 4), columns + d.integer(2, 6)
        size = (h, d.each([w, max(w, 3 * h)]))
        channels = net[0].get_parameter("weight").shape[1]
        return Case((Network.describe(net),), {}, {"image": d.tensor(d.choice([1, 2]), channels, *size)})

    return draw


def _dilated_net(d: Draw) -> nn.Sequential:
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
    return filled_layers(d, *layers, nn.Conv2d(2, 2, 2))


def _two_ways_net(d: Draw) -> nn.Sequential:
    """One pool makes the rows coarse, the other the columns; each is of size 1 where the other was before."""
    down, across = d.each([(2, 3), (3, 2)])
    layers = (nn.Conv2d(1, 2, (2, 3)), nn.MaxPool2d((down, 1)), nn.Conv2d(2, 2, (2, 1)), nn.Tanh())
    return filled_layers(d, *layers, nn.MaxPool2d((1, across)), nn.Conv2d(2, 2, (2, 3)))


def _padded_net(d: Draw) -> nn.Sequential:
    """With a kernel of such sides that no other rule gives the padding that is right here."""
    k = d.choice([2, 3])
    ways: list[tuple[Any, Any]] = [(1, 2), ((2, 1), (1, 2)), (2, 2), ((1, 2), (2, 3))]
    padding, dilation = d.each(ways)
    layers = (
        nn.Conv2d(1, k, 3, padding=1),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(k, 2, (3, 2), padding=padding, dilation=dilation),
    )
    return filled_layers(d, *layers)


def _grouped_net(d: Draw) -> nn.Sequential:
    layers = (nn.Conv2d(2, 4, 2, bias=False), nn.BatchNorm2d(4, eps=0.05), nn.Tanh(), nn.MaxPool2d(2))
    net = filled_layers(d, *layers, nn.Conv2d(4, 2, 2, groups=2))
    draw_statistics(d, net)
    return net


def _dense_map(subject: Subject, case: Case) -> Any:
    """In evaluation mode and in float64: in which mode the new network comes is left open, and its dtype is
    another property's business."""
    dense = _network(subject(*case.args))
    dense.then("eval")
    dense.then("double")
    if lost := _not_copied(case.args[0].build(), dense.inspect("parameters", "buffers")):
        raise Odd(f"the new network has other numbers than net in {' and '.join(lost)}: copy them")
    return dense(case.extra["image"])


def _network(answer: Any) -> Handle:
    if not isinstance(answer, Handle):
        got = "None" if answer is None else f"a value of the kind {kind_of(answer)}"
        raise Odd(f"the new network is to be returned, not {got}")
    return answer


def _not_copied(net: nn.Module, seen: dict[str, Any]) -> list[str]:
    """Which tensors of net are nowhere in a network."""
    every = [*seen["parameters"].values(), *seen["buffers"].values()]
    own = [*net.named_parameters(), *net.named_buffers()]
    lost = [name for name, tensor in own if not any(_alike(tensor, other) for other in every)]
    return list(dict.fromkeys(_place(net, name) for name in lost))


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.double(), other.double(), *SINGLE)


def _place(net: nn.Module, name: str) -> str:
    path, _, tensor = name.rpartition(".")
    if not isinstance(net.get_submodule(path), nn.BatchNorm2d):
        return f"the {'weights' if tensor == 'weight' else 'biases'} of convolutions"
    return f"the {'weights' if tensor in ('weight', 'bias') else 'statistics'} of batch norm"


def _mixed(d: Draw) -> Case:
    net = normalizing_net(d)
    whole, norm = d.each([(True, False), (False, True), (True, True)])
    net.train(whole)[1].train(norm)
    return Case((Network.describe(net),))


def _beside(subject: Subject, case: Case) -> Any:
    net = subject.build(case.args[0])
    before = net.inspect(*PARTS, "storages")
    dense = _network(subject(net))
    after = net.inspect(*PARTS)
    seen = dense.inspect("parameters", "storages")
    dtypes = {str(p.dtype).removeprefix("torch.") for p in seen["parameters"].values()}
    try:
        dense.do("__len__")
        kind = "a Sequential"
    except Raised:
        kind = dense.ref.kind
    return {
        "net afterwards": traces(before, after),
        "weights shared with net": share_memory(seen, before),
        "dtype of the new weights": ", ".join(sorted(dtypes)),
        "result": kind,
    }


def _pools(d: Draw) -> Case:
    pools = {
        "an average pool": nn.AvgPool2d(2),
        "an adaptive average pool": nn.AdaptiveAvgPool2d(3),
        "a padded max pool": nn.MaxPool2d(3, 2, padding=1),
        "a max pool padded along the rows alone": nn.MaxPool2d(3, 2, padding=(0, 1)),
        "a max pool of padding (0, 0)": nn.MaxPool2d(3, 2, padding=(0, 0)),
    }
    nets = {
        label: filled_layers(d, nn.Conv2d(1, 2, 2), pool, nn.Conv2d(2, 1, 2)) for label, pool in pools.items()
    }
    nets["a padded convolution"] = filled_layers(d, nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2))
    return Case((), {}, {label: (Network.describe(net),) for label, net in nets.items()})


CLAIMS = Exercise(
    id="atrous",
    topic="upsampling",
    title="Holes instead of strides",
    reference=reference.atrous,
    minutes=22,
    difficulty=4,
    properties=claims(
        """
        pool (1): a max pool moves by one pixel, and the convolution behind it looks at every second cell
        tried: atrous(net)(image)
        strided_convolution (0.5): a convolution with a stride becomes dense in the same way, also where the
          stride is larger than the kernel
        tried: atrous(net)(image)
        deep (0.75): dilations multiply: after strides of 2 and 3, on max pools (whose stride may differ from
          their size), and where a layer is dilated already
        tried: atrous(net)(image)
        two_ways (0.25): sizes and strides that are pairs, with other numbers for rows than for columns
        tried: atrous(net)(image)
        padded (0.5): a padded convolution has its padding multiplied by the strides removed before it, and
          not by a dilation that it had already
        tried: atrous(net)(image)
        batch_norm (0.25): batch norm comes along with its weights, its running statistics and its eps;
          convolutions may have groups, or no bias
        tried: atrous(net).eval()(image)
        refuses (0.25): average pools (adaptive ones too) and padded pools are refused with a ValueError, and
          no other network
        tried: atrous(net) for each of these
        apart (0.5): the network given stays as it was, each layer's mode too; the new one is an nn.Sequential
          with weights of its own, in the same dtype
        tried: the network before and after, and the result
        """,
        pool=on(_case(pooling_net), _dense_map, tolerance=SINGLE, examples=6),
        strided_convolution=on(_case(striding_net), _dense_map, tolerance=SINGLE, examples=6),
        deep=on(_case(_dilated_net), _dense_map, tolerance=SINGLE, examples=4),
        two_ways=on(_case(_two_ways_net), _dense_map, tolerance=SINGLE, examples=4),
        padded=on(_case(_padded_net), _dense_map, tolerance=SINGLE, examples=4),
        batch_norm=on(_case(_grouped_net), _dense_map, tolerance=SINGLE, examples=4),
        refuses=on(_pools, refusals, examples=2, beside="pool"),
        apart=on(_mixed, _beside, examples=3, beside="pool"),
    ),
    hints=hints("""
        I don't see what a dilation is for
        Without the stride, the map is s times as dense: what used to be the next cell is now s cells away.

        It works with one pool and not with two
        Keep a running product of the strides removed so far. A layer is dilated by the product before its own
          stride joins it.

        I don't know how to start
        removed = 1, for rows and for columns. For each layer, deepcopy it. For a convolution or max pool:
          stride 1, dilation times removed (a convolution's padding too), then removed times the old stride.
          Refuse AvgPool2d, AdaptiveAvgPool2d and padded pools; copy the rest.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def layer_by_layer(net):
    """a copy of every layer, changed"""
    removed, layers = (1, 1), []
    for layer in net:
        padded = isinstance(layer, nn.MaxPool2d) and pair(layer.padding) != (0, 0)
        if isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d) or padded:
            raise ValueError(f"net must have max pools without padding only, got {layer}")
        twin = copy.deepcopy(layer)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            stride = pair(layer.stride)
            hole = removed
            removed = times(removed, stride)
            twin.stride = (1, 1)
            twin.dilation = times(hole, pair(layer.dilation))
        if isinstance(layer, nn.Conv2d):
            twin.padding = times(hole, layer.padding)
        layers.append(twin)
    return nn.Sequential(*layers)


answers.edits("""
strides_only: all but refuses apart
- twin.dilation = times(hole, pair(layer.dilation))
...
- if isinstance(layer, nn.Conv2d):
-     twin.padding = times(hole, layer.padding)
You set the strides to 1 and dilated nothing: every later layer now looks at the wrong cells.
Behind a removed stride s, the cells that belonged together are s apart: dilation s.

strides_kept: all but refuses apart
- twin.stride = (1, 1)
- twin.dilation = times(hole, pair(layer.dilation))
...
- if isinstance(layer, nn.Conv2d):
-     twin.padding = times(hole, layer.padding)
Your new network still steps as net does.
Set every stride to 1, and dilate the layers behind it by the stride that it had.

own_stride: all but refuses apart
- hole = removed
- removed = times(removed, stride)
+ removed = times(removed, stride)
+ hole = removed
You dilated the layer whose stride you removed.
Its own window stays as it is: only the layers behind it are dilated.

same_padding: all but refuses apart
- twin.padding = times(hole, layer.padding)
+ twin.padding = tuple(hole * (size - 1) // 2 for hole, size in zip(twin.dilation, layer.kernel_size))
You gave every convolution the padding that keeps the size of a map, also those that had none.
Padding is multiplied like the dilation, by the strides removed before: 0 stays 0.

same_padding_by_name: all but refuses apart
- twin.padding = times(hole, layer.padding)
+ twin.padding = "same"
You gave every convolution padding="same", also those that had none.
Padding is multiplied like the dilation, by the strides removed before: 0 stays 0.

padding_of_the_dilation: all but refuses apart
- twin.padding = times(hole, layer.padding)
+ twin.padding = twin.dilation
You set each convolution's padding to its dilation, also where there was none.
Padding is multiplied like the dilation, by the strides removed before: 0 stays 0.

convolutions_only: deep
- hole = removed
+ hole = removed if isinstance(layer, nn.Conv2d) else (1, 1)
You dilated the convolutions and not the max pools.
A max pool behind a removed stride looks further apart as well: nn.MaxPool2d has a dilation.

stride_before_only: deep two_ways
- removed = times(removed, stride)
+ removed = stride
You dilated each layer by the stride of the convolution or pool just before it.
The strides multiply: keep a running product of all that were removed before.

last_stride_only: deep
- removed = times(removed, stride)
+ removed = tuple(now if now > 1 else before for before, now in zip(removed, stride))
You dilated by the last stride removed.
The strides multiply: behind two of 2, dilation 4.

strides_added: deep
- removed, layers = (1, 1), []
+ removed, layers = (0, 0), []
- hole = removed
- removed = times(removed, stride)
+ hole = tuple(max(before, 1) for before in removed)
+ removed = tuple(before + (now if now > 1 else 0) for before, now in zip(removed, stride))
You added the strides up. With two of 2 it comes to the same, but not with 2 and 3.
The strides multiply: behind a stride of 2 and one of 3, cells that belonged together are 6 apart.

kernel_size_for_stride: deep
- stride = pair(layer.stride)
+ stride = pair(layer.stride if isinstance(layer, nn.Conv2d) else layer.kernel_size)
You took the size of a max pool for its stride.
nn.MaxPool2d(3, 2) has windows of 3 that move by 2: multiply by its stride.

rows_stride_for_both: two_ways
- stride = pair(layer.stride)
+ stride = (pair(layer.stride)[0], pair(layer.stride)[0])
You took the stride of the rows for the columns too.
A stride may be a pair: keep a product for the rows and one for the columns.

convolutions_keep_stride: strided_convolution
- removed = times(removed, stride)
- twin.stride = (1, 1)
+ if isinstance(layer, nn.MaxPool2d):
+     removed = times(removed, stride)
+     twin.stride = (1, 1)
Your convolutions keep their strides.
Every stride becomes 1, a convolution's too, and the layers behind it are dilated by it.

own_dilation_lost: deep padded
- times(hole, pair(layer.dilation))
+ hole
You overwrote the dilation that a layer had already.
Multiply it by the strides removed before.

pools_removed: pool deep two_ways padded batch_norm
- layers.append(twin)
+ if not isinstance(layer, nn.MaxPool2d):
+     layers.append(twin)
You removed the max pools.
Keep them, with stride 1: the maximum over a window is part of what the network computes.

padding_kept: padded
- if isinstance(layer, nn.Conv2d):
-     twin.padding = times(hole, layer.padding)
You kept the padding of dilated convolutions as it was.
Their cells are further apart, and so is the border: multiply the padding as well.

padding_times_own_dilation: padded
- times(hole, layer.padding)
+ times(twin.dilation, layer.padding)
You multiplied the padding by the layer's new dilation, and so by the one it had already.
Multiply the padding by the strides removed before: its own dilation was in it from the start.

fresh_batch_norm: batch_norm
- layers.append(twin)
+ if isinstance(layer, nn.BatchNorm2d):
+     twin = nn.BatchNorm2d(layer.num_features).to(layer.weight)
+ layers.append(twin)
Batch norm in your new network has neither the weights nor the running statistics of net's.
Copy the layer, with copy.deepcopy: its buffers belong to what the network has learned.

statistics_lost: batch_norm
- layers.append(twin)
+ if isinstance(layer, nn.BatchNorm2d):
+     twin.reset_running_stats()
+ layers.append(twin)
Batch norm in your new network has the weights of net's, and not its running statistics.
Buffers are no parameters: copy the layer with copy.deepcopy, or its state_dict().

eps_lost: batch_norm
- layers.append(twin)
+ if isinstance(layer, nn.BatchNorm2d):
+     twin.eps = 1e-5
+ layers.append(twin)
Batch norm in your new network has the tensors of net's, and eps = 1e-5 instead of its own.
eps is in no state_dict(): copy the layer with copy.deepcopy, or pass eps on.

accepts_any_pool: refuses
- if isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d) or padded:
-     raise ValueError(f"net must have max pools without padding only, got {layer}")
You accept average pools and padded pools.
Raise a ValueError: a padded border has no place between the pixels, and AvgPool2d has no dilation.

accepts_average_pools: refuses
- isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d) or padded
+ padded
You accept average pools.
Raise a ValueError: nn.AvgPool2d has no dilation, so its window cannot be spread.

accepts_adaptive_pools: refuses
- isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d) or padded
+ isinstance(layer, nn.AvgPool2d) or padded
You accept adaptive average pools.
Raise a ValueError for nn.AdaptiveAvgPool2d too: it is a class of its own.

accepts_padded_pools: refuses
- isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d) or padded
+ isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d)
You accept padded max pools.
Raise a ValueError: the border of a padded pool would lie between the pixels.

refuses_a_pair_of_zeros: refuses
- pair(layer.padding) != (0, 0)
+ layer.padding != 0
You refuse a max pool whose padding is the pair (0, 0).
It has no padding: padding may be a number or a pair.

refused_by_assert: refuses
- if isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d) or padded:
-     raise ValueError(f"net must have max pools without padding only, got {layer}")
+ assert not isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d) and not padded
You refuse pools with an AssertionError.
Raise a ValueError: that is what callers can expect of a wrong argument, and python -O drops every assert.

changed_in_place: apart
- twin = copy.deepcopy(layer)
+ twin = layer
You changed the network that was given.
Change copies of its layers: copy.deepcopy.

left_in_eval_mode: apart
- removed, layers = (1, 1), []
+ net.eval()
+ removed, layers = (1, 1), []
You put the network that was given into eval mode.
Leave its mode as it was: nothing here has to run it.

weights_shared: apart
- copy.deepcopy(layer)
+ copy.copy(layer)
The two networks share their weights: training one changes the other.
copy.copy(layer) and an assigned .weight or .data are the same tensors; copy.deepcopy(layer) copies them.
""")


@answers.right
def copied_whole(net):
    """the whole network copied, then changed"""
    dense, down, across = copy.deepcopy(net), 1, 1
    for layer in dense:
        if isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            raise ValueError(f"net must not average, got {layer}")
        if isinstance(layer, nn.MaxPool2d) and layer.padding not in (0, (0, 0)):
            raise ValueError(f"net must not have padded pools, got {layer}")
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            rows, columns = pair(layer.stride)
            dilation = pair(layer.dilation)
            layer.stride, layer.dilation = 1, (down * dilation[0], across * dilation[1])
            if isinstance(layer, nn.Conv2d):
                layer.padding = (down * layer.padding[0], across * layer.padding[1])
            down, across = down * rows, across * columns
    return dense


@answers.right
def rebuilt(net):
    """every layer built anew"""
    made, holes = [], (1, 1)
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            new = nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, stride=1,
                padding=times(layer.padding, holes), dilation=times(layer.dilation, holes),
                groups=layer.groups, bias=layer.bias is not None,
            )  # fmt: skip
            new = new.to(layer.weight)
            new.load_state_dict(layer.state_dict())
            holes = times(holes, layer.stride)
        elif type(layer) is nn.MaxPool2d and pair(layer.padding) == (0, 0):
            new = nn.MaxPool2d(layer.kernel_size, stride=1, dilation=times(holes, pair(layer.dilation)))
            holes = times(holes, pair(layer.stride))
        elif "Pool" in type(layer).__name__:
            raise ValueError(f"net has a pool that cannot be made dense: {layer}")
        else:
            new = copy.deepcopy(layer)
        made.append(new)
    return nn.Sequential(*made)


answers.edits("""
weights_not_copied: all but refuses apart
- new.load_state_dict(layer.state_dict())
The convolutions of your new network don't have the weights of net's: a new nn.Conv2d starts from random ones.
Copy them, by new.load_state_dict(layer.state_dict()), or begin with copy.deepcopy(layer).

biases_not_copied: all but refuses apart
- new.load_state_dict(layer.state_dict())
+ with torch.no_grad():
+     new.weight.copy_(layer.weight)
The convolutions of your new network don't have the biases of net's.
Copy them too: new.load_state_dict(layer.state_dict()) takes all that a layer has, as copy.deepcopy does.

float32_layers: apart
- new = new.to(layer.weight)
Your new layers are float32 where net is float64.
copy.deepcopy(layer) keeps it; a layer built anew goes .to(layer.weight), which takes dtype and device along.
""")


EXERCISE = answers.exercise()
