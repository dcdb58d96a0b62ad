"""The exercise atrous of lecture 05: holes instead of strides."""

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from autograder.attempt import Raised, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import applied, changed_tensors, share_memory
from autograder.catalog.upsampling.draws import (
    filled_layers,
    normalizing_net,
    pair,
    pooling_net,
    reach,
    striding_net,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Network
from coursekit import upsampling as reference


def _case(make: Callable[[Draw], nn.Sequential], *, training: bool = False) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        net = make(d).train(training)
        field, _ = reach(net)
        size = (field + d.integer(1, 4), field + d.integer(2, 6))
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


def _padded_net(d: Draw) -> nn.Sequential:
    k = d.choice([2, 3])
    layers = (
        nn.Conv2d(1, k, 3, padding=1),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(k, 2, 3, padding=d.choice([1, 2]), dilation=2),
    )
    return filled_layers(d, *layers)


def _made_dense_in_eval_mode(subject: Subject, case: Case) -> Any:
    """In which mode the twin comes is left open."""
    dense = subject(*case.args)
    if not callable(dense):
        return dense
    dense.then("eval")
    return dense(case.extra["image"])


def _beside(subject: Subject, case: Case) -> Any:
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


def _not_to_be_dilated(d: Draw) -> Case:
    pools = (nn.AvgPool2d(2), nn.MaxPool2d(3, 2, padding=1))
    nets = [
        Network.describe(filled_layers(d, nn.Conv2d(1, 2, 2), pool, nn.Conv2d(2, 1, 2))) for pool in pools
    ]
    return Case((), {}, {"an average pool": (nets[0],), "a padded max pool": (nets[1],)})


def _refusals(subject: Subject, case: Case) -> dict[str, str]:
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
        strided_convolution (0.75): a convolution with a stride becomes dense in the same way
        tried: atrous(net)(image)
        deep (0.75): dilations multiply: after strides of 2 and 3, on max pools (whose stride may differ from
          their size), and where a layer is dilated already
        tried: atrous(net)(image)
        padded (0.5): a padded convolution has its padding multiplied by the strides removed before it, and
          not by a dilation that it had already
        tried: atrous(net)(image)
        batch_norm (0.25): batch norm comes along with its weights and its running statistics
        tried: atrous(net).eval()(image)
        refuses (0.25): average pools and padded pools are refused with a ValueError
        tried: atrous(net) for two networks
        apart (0.5): the network given stays as it was, its mode too, and shares no weight with the new one
        tried: the network before and after, and the result
        """,
        pool=on(_case(pooling_net), applied("image"), examples=6),
        strided_convolution=on(_case(striding_net), applied("image"), examples=6),
        deep=on(_case(_dilated_net), applied("image"), examples=4),
        padded=on(_case(_padded_net), applied("image"), examples=4),
        batch_norm=on(_case(normalizing_net), _made_dense_in_eval_mode, examples=4),
        refuses=on(_not_to_be_dilated, _refusals, examples=2, beside="pool"),
        apart=on(_case(pooling_net, training=True), _beside, examples=4, beside="pool"),
    ),
    hints=hints("""
        I don't see what a dilation is for
        Without the stride, the map is s times as dense: what used to be the next cell is now s cells away.

        It works with one pool and not with two
        Keep a running product of the strides removed so far. A layer is dilated by the product before its own
          stride joins it.

        I don't know how to start
        removed = 1. For each layer, deepcopy it. For a convolution or max pool: stride 1, dilation times
          removed (a convolution's padding too), then removed times the old stride. Refuse AvgPool2d and
          padded pools; copy the rest.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def layer_by_layer(net):
    """a copy of every layer, changed"""
    removed, layers = 1, []
    for layer in net:
        padded = isinstance(layer, nn.MaxPool2d) and pair(layer.padding) != (0, 0)
        if isinstance(layer, nn.AvgPool2d) or padded:
            raise ValueError(f"net must have max pools without padding only, got {layer}")
        twin = copy.deepcopy(layer)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            stride = pair(layer.stride)[0]
            hole = removed
            removed *= stride
            twin.stride = (1, 1)
            twin.dilation = tuple(hole * v for v in pair(layer.dilation))
        if isinstance(layer, nn.Conv2d):
            twin.padding = tuple(hole * v for v in layer.padding)
        layers.append(twin)
    return nn.Sequential(*layers)


answers.edits("""
strides_only: all but refuses apart
- twin.dilation = tuple(hole * v for v in pair(layer.dilation))
...
- if isinstance(layer, nn.Conv2d):
-     twin.padding = tuple(hole * v for v in layer.padding)
You set the strides to 1 and dilated nothing: every later layer now looks at the wrong cells.
Behind a removed stride s, the cells that belonged together are s apart: dilation s.

own_stride: all but refuses apart
- hole = removed
- removed *= stride
+ removed *= stride
+ hole = removed
You dilated the layer whose stride you removed.
Its own window stays as it is: only the layers behind it are dilated.

convolutions_only: deep
- hole = removed
+ hole = removed if isinstance(layer, nn.Conv2d) else 1
You dilated the convolutions and not the max pools.
A max pool behind a removed stride looks further apart as well: nn.MaxPool2d has a dilation.

last_stride_only: deep
- removed *= stride
+ if stride > 1:
+     removed = stride
You dilated by the last stride removed.
The strides multiply: behind two of 2, dilation 4.

strides_added: deep
- removed, layers = 1, []
+ removed, layers = 0, []
- hole = removed
- removed *= stride
+ hole = max(removed, 1)
+ if stride > 1:
+     removed += stride
You added the strides up. With two of 2 it comes to the same, but not with 2 and 3.
The strides multiply: behind a stride of 2 and one of 3, cells that belonged together are 6 apart.

kernel_size_for_stride: deep
- stride = pair(layer.stride)[0]
+ stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else layer.kernel_size
You took the size of a max pool for its stride.
nn.MaxPool2d(3, 2) has windows of 3 that move by 2: multiply by its stride.

convolutions_keep_stride: strided_convolution
- removed *= stride
- twin.stride = (1, 1)
+ if isinstance(layer, nn.MaxPool2d):
+     removed *= stride
+     twin.stride = (1, 1)
You removed the strides of the max pools, and the convolutions kept theirs.
Every stride becomes 1, a convolution's too, and the layers behind it are dilated by it.

own_dilation_lost: deep padded
- tuple(hole * v for v in pair(layer.dilation))
+ (hole, hole)
You overwrote the dilation that a layer had already.
Multiply it by the strides removed before.

pools_removed: pool deep padded batch_norm
- layers.append(twin)
+ if not isinstance(layer, nn.MaxPool2d):
+     layers.append(twin)
You removed the max pools.
Keep them, with stride 1: the maximum over a window is part of what the network computes.

padding_kept: padded
- if isinstance(layer, nn.Conv2d):
-     twin.padding = tuple(hole * v for v in layer.padding)
You kept the padding of dilated convolutions as it was.
Their cells are further apart, and so is the border: multiply the padding as well.

padding_times_own_dilation: padded
- tuple(hole * v for v in layer.padding)
+ tuple(twin.dilation[0] * v for v in layer.padding)
You multiplied the padding by the layer's new dilation, and so by the one it had already.
Multiply the padding by the strides removed before: its own dilation was in it from the start.

fresh_batch_norm: batch_norm
- layers.append(twin)
+ if isinstance(layer, nn.BatchNorm2d):
+     twin = nn.BatchNorm2d(layer.num_features).to(layer.weight)
+ layers.append(twin)
You made a new batch norm: its weights and running statistics are lost.
Copy the layer, with copy.deepcopy: its buffers belong to what the network has learned.

accepts_any_pool: refuses
- if isinstance(layer, nn.AvgPool2d) or padded:
-     raise ValueError(f"net must have max pools without padding only, got {layer}")
You accept average pools and padded pools.
Raise a ValueError: a padded border has no place between the pixels, and AvgPool2d has no dilation.

accepts_average_pools: refuses
- if isinstance(layer, nn.AvgPool2d) or padded:
+ if padded:
You accept average pools.
Raise a ValueError: nn.AvgPool2d has no dilation, so its window cannot be spread.

accepts_padded_pools: refuses
- if isinstance(layer, nn.AvgPool2d) or padded:
+ if isinstance(layer, nn.AvgPool2d):
You accept padded max pools.
Raise a ValueError: the border of a padded pool would lie between the pixels.

changed_in_place: apart
- twin = copy.deepcopy(layer)
+ twin = layer
You changed the network that was given.
Change copies of its layers: copy.deepcopy.

left_in_eval_mode: apart
- removed, layers = 1, []
+ net.eval()
+ removed, layers = 1, []
You put the network that was given into eval mode.
Leave its mode as it was: nothing here has to run it.

weights_shared: apart
- copy.deepcopy(layer)
+ copy.copy(layer)
The two networks share their weights: training one changes the other.
copy.copy copies the layer and not its weights; take copy.deepcopy.
""")


@answers.right
def copied_whole(net):
    """the whole network copied, then changed"""
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
            layer.stride, layer.dilation = 1, jump * pair(layer.dilation)[0]
            jump *= step
    return dense


@answers.right
def rebuilt(net):
    """every layer built anew"""
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
        elif type(layer) is nn.MaxPool2d and pair(layer.padding) == (0, 0):
            new = nn.MaxPool2d(layer.kernel_size, stride=1, dilation=holes * pair(layer.dilation)[0])
            holes *= pair(layer.stride)[0]
        elif "Pool" in type(layer).__name__:
            raise ValueError(f"net has a pool that cannot be made dense: {layer}")
        else:
            new = copy.deepcopy(layer)
        made.append(new)
    return nn.Sequential(*made)


EXERCISE = answers.exercise()
