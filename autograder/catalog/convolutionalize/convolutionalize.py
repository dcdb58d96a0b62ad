"""The exercise convolutionalize of lecture 04: from a classifier to a map of classifications."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.convolutionalize.draws import drawn_norm, kept, mode_of
from autograder.catalog.observations import applied, filled, share_memory
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Network
from coursekit import convolutionalize as reference

Made = Callable[[Draw], tuple[nn.Sequential, tuple[int, int, int]]]


def _flattening(
    d: Draw, *, bias: bool = True, norm: bool = False, dropped: float = 0.5
) -> tuple[nn.Sequential, tuple[int, int, int]]:
    c, k, hidden = d.integer(1, 3), d.integer(2, 3), d.integer(3, 5)
    h, w = d.integer(2, 3), d.integer(2, 4)
    cnn = nn.Sequential(
        nn.Conv2d(c, k, 3, bias=bias),
        *([drawn_norm(d, k)] if norm else []),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(k * h * w, hidden, bias=bias),
        nn.ReLU(),
        nn.Dropout(dropped),
        nn.Linear(hidden, d.integer(2, 4), bias=bias),
    )
    return cnn, (c, 2 * h + 2, 2 * w + 2)


def _nested(d: Draw) -> tuple[nn.Sequential, tuple[int, int, int]]:
    cnn, size = _flattening(d)
    layers = list(cnn)
    return nn.Sequential(
        nn.Sequential(*layers[:3]), nn.Sequential(layers[3], nn.Sequential(*layers[4:]))
    ), size


def _averaging(d: Draw) -> tuple[nn.Sequential, tuple[int, int, int]]:
    c, k, h = d.integer(1, 2), d.integer(2, 3), d.integer(2, 3)
    cnn = nn.Sequential(
        nn.Conv2d(c, k, 2, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(k, d.integer(2, 3)),
    )
    # Never a square map, so that a square window shows.
    return cnn, (c, 2 * h, 2 * (h + d.integer(1, 2)))


def _without_bias(d: Draw) -> tuple[nn.Sequential, tuple[int, int, int]]:
    return _flattening(d, bias=False)


def _with_other_layers(d: Draw) -> tuple[nn.Sequential, tuple[int, int, int]]:
    """Batch norm, and a dropout that drops everything, so that its being there is no matter of chance."""
    return _flattening(d, norm=True, dropped=1.0)


def _drawn(
    make: Made,
    *,
    larger: bool,
    dtype: torch.dtype = torch.float32,
) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        cnn, (c, h, w) = make(d)
        extra = (2 * d.integer(1, 3), 2 * d.integer(0, 3)) if larger else (0, 0)
        images = d.tensor(
            d.integer(1, 2) if larger else d.integer(2, 4), c, h + extra[0], w + extra[1], dtype=dtype
        )
        cnn = filled(d, cnn).to(images.dtype)
        return Case((Network.describe(cnn), (c, h, w)), {}, {"images": images})

    return draw


def _in_some_mode(d: Draw) -> Case:
    # A batch norm, since it takes note of every image that a network sees in training mode.
    cnn, size = _flattening(d, norm=True)
    cnn = filled(d, cnn).float()
    evaluating, training = Network.describe(cnn.eval()), Network.describe(cnn.train())
    return Case((evaluating, size), {}, {"the same in training mode": training})


_applied = applied("images")


def _applied_bare(subject: Subject, case: Case) -> Any:
    fcn = subject(*case.args)
    if not callable(fcn):
        return fcn
    names = fcn.inspect("shapes")["shapes"]
    scores = fcn(case.extra["images"])
    return {"convolutionalize(…)(images)": scores, "biases": sum(n.endswith("bias") for n in names)}


def _in_either_mode(subject: Subject, case: Case) -> Any:
    """The scores in both modes, each one set here: that the mode carries over is another property's business."""
    fcn = subject(*case.args)
    if not callable(fcn):
        return fcn
    seen = {}
    for method, mode in (("eval", "in eval mode"), ("train", "in training mode")):
        fcn.do(method)
        seen[f"scores {mode}"] = fcn(case.extra["images"])
    return seen


def _apart(subject: Subject, case: Case) -> Any:
    networks = (case.args[0], case.extra["the same in training mode"])
    return [_apart_from(subject, network, case.args[1]) for network in networks]


def _apart_from(subject: Subject, network: Network, input_size: tuple[int, int, int]) -> Any:
    cnn = subject.build(network)
    before = cnn.inspect()
    fcn = subject(cnn, input_size)
    after = cnn.inspect()
    if not callable(fcn):
        return fcn
    seen = fcn.inspect()
    return {
        "weights shared with the cnn": share_memory(seen, before),
        "the cnn afterwards": kept(before, after),
        "result's mode": mode_of(seen),
        "result": "Sequential" if seen["kinds"].get("") == "Sequential" else seen["kinds"].get(""),
    }


def _dtypes(subject: Subject, case: Case) -> Any:
    seen = subject(*case.args).inspect()
    kinds = {str(p.dtype).removeprefix("torch.") for p in seen["parameters"].values()}
    return " and ".join(sorted(kinds))


CLAIMS = Exercise(
    id="convolutionalize",
    topic="convolutionalize",
    title="From a classifier to a map of classifications",
    reference=reference.convolutionalize,
    minutes=40,
    difficulty=4,
    properties=claims(
        """
        same_scores (1.25): at input_size the output is (N, L, 1, 1) and equals the CNN's scores
        tried: convolutionalize(cnn, input_size)(images)
        larger_images (1.25): a larger image gives a map, one score vector for every window
        tried: convolutionalize(cnn, input_size)(images)
        nested (0.75): Sequentials inside Sequentials
        tried: convolutionalize(cnn, input_size)(images)
        without_bias (0.5): dense layers without bias become convolutions without bias
        tried: convolutionalize(cnn, input_size)(images), and how many biases the network has
        average_head (1): AdaptiveAvgPool2d(1) becomes a fixed window average, so that maps stay dense
        tried: convolutionalize(cnn, input_size)(images)
        other_layers (0.5): batch norm keeps its running statistics, and dropout still drops in training mode
        tried: convolutionalize(cnn, input_size).eval()(images), and the same with train()
        apart (0.5): weights are copies, the CNN stays as it was (weights, batch norm's running statistics,
          mode), and the training flag carries over
        tried: the CNN before and after, and the result
        dtype (0.25): a float64 CNN becomes a float64 network
        tried: dtypes of the result's parameters
        """,
        same_scores=on(_drawn(_flattening, larger=False), _applied, examples=5),
        larger_images=on(_drawn(_flattening, larger=True), _applied, examples=5),
        nested=on(_drawn(_nested, larger=True), _applied, examples=5),
        without_bias=on(_drawn(_without_bias, larger=True), _applied_bare, examples=5),
        average_head=on(_drawn(_averaging, larger=True), _applied, examples=5),
        other_layers=on(_drawn(_with_other_layers, larger=False), _in_either_mode, examples=5),
        apart=on(_in_some_mode, _apart, examples=4, beside="same_scores"),
        dtype=on(
            _drawn(_flattening, larger=False, dtype=torch.float64), _dtypes, examples=3, beside="same_scores"
        ),
    ),
    hints=hints("""
        I don't know where input_size comes in
        Only the first dense layer after Flatten needs to know a size. Which size, and how do you find it out?

        The first dense layer doesn't fit
        A dense layer is a convolution with the window it was flattened from; those after it are 1×1.

        I don't know how to start
        Walk through the layers with a zero image of input_size in hand, of the dtype of the weights (in eval
          mode, under no_grad; put the CNN's mode back afterwards, and give the result the same mode). Flatten
          → Identity; Linear → Conv2d(C, out, (h, w)) with weight.view(out, C, h, w); AdaptiveAvgPool2d(1) →
          AvgPool2d((h, w), 1); everything else → deepcopy.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def with_probe(cnn, input_size):
    """layer by layer with a probe"""
    x = next(cnn.parameters()).new_zeros(1, *input_size)

    def walk(layers):
        nonlocal x
        twins = nn.Sequential()
        for layer in layers:
            C, h, w = x.shape[1:]
            if isinstance(layer, nn.Flatten):
                twin = nn.Identity()
            elif isinstance(layer, nn.Linear):
                twin = nn.Conv2d(C, layer.out_features, (h, w), bias=layer.bias is not None).to(x)
                with torch.no_grad():
                    twin.weight.copy_(layer.weight.reshape(-1, C, h, w))
                    if layer.bias is not None:
                        twin.bias.copy_(layer.bias)
                x = x.new_zeros(1, layer.out_features, 1, 1)
            elif isinstance(layer, nn.AdaptiveAvgPool2d):
                twin = nn.AvgPool2d((h, w), stride=1)
                x = x[..., :1, :1]
            elif isinstance(layer, nn.Sequential):
                twin = walk(layer)
            else:
                twin = copy.deepcopy(layer)
                with torch.no_grad():
                    x = twin.eval()(x)
            twins.append(twin)
        return twins

    return walk(cnn).train(cnn.training)


answers.edits("""
channels_last_order: all but average_head apart dtype
- layer.weight.reshape(-1, C, h, w)
+ layer.weight.reshape(-1, h, w, C).permute(0, 3, 1, 2)
You reshaped the dense weights as (L, h, w, C), the order of Keras.
torch flattens channels first: weight.view(L, C, h, w).

window_transposed: all but average_head apart dtype
- layer.weight.reshape(-1, C, h, w)
+ layer.weight.reshape(-1, C, w, h).transpose(2, 3)
Height and width of the window have changed places in the weights of your first dense layer.
View the weights as (L, C, h, w), with the map's (h, w) at input_size; there is nothing to transpose.

softmax_appended: all but apart dtype
- return walk(cnn)
+ return nn.Sequential(*walk(cnn), nn.Softmax(1))
Your network ends in a softmax.
Leave it out: the result gives scores, as the CNN does.

relus_lost: all but average_head apart dtype
- if isinstance(layer, nn.Flatten):
+ if isinstance(layer, nn.Flatten) or (isinstance(layer, nn.ReLU) and (h, w) == (1, 1)):
You left out the ReLUs between the dense layers.
Only Flatten, Linear and AdaptiveAvgPool2d are replaced: copy every other layer, also behind Flatten.

dropout_lost: other_layers
- if isinstance(layer, nn.Flatten):
+ if isinstance(layer, (nn.Flatten, nn.Dropout)):
You left the dropout out, so your network cannot be trained as the CNN was.
Copy it as it is: in eval mode it does nothing, and in training mode it drops.

statistics_reset: other_layers
- else:
+ elif isinstance(layer, nn.BatchNorm2d):
+     twin = nn.BatchNorm2d(C).to(x)
+     twin.load_state_dict(dict(layer.named_parameters()), strict=False)
+ else:
Your batch norm starts with new running statistics.
They belong to what the CNN has learned: deepcopy the layer, or load its whole state_dict().

biases_dropped: all but without_bias apart dtype
- bias=layer.bias is not None
+ bias=False
- if layer.bias is not None:
-     twin.bias.copy_(layer.bias)
Your convolutions do not carry the dense layers' biases.
Copy linear.bias into conv.bias as it is.

window_padded: all but average_head apart dtype
- bias=layer.bias is not None
+ bias=layer.bias is not None, padding=(h // 2, w // 2)
You padded the convolution that stands for the first dense layer.
A dense layer sees whole windows only: padding is 0.

map_averaged: all but same_scores other_layers apart dtype
- return walk(cnn)
+ return nn.Sequential(*walk(cnn), nn.AdaptiveAvgPool2d(1))
You averaged the map at the end, so every image gives one cell.
Leave the map as it is: each cell is the classification of one window.

adaptive_pool_kept: average_head
- elif isinstance(layer, nn.AdaptiveAvgPool2d):
-     twin = nn.AvgPool2d((h, w), stride=1)
-     x = x[..., :1, :1]
You kept the AdaptiveAvgPool2d, which squeezes a map of any size into one cell.
Replace it by an AvgPool2d with the window it has at input_size and stride 1.

pool_strides: average_head
- nn.AvgPool2d((h, w), stride=1)
+ nn.AvgPool2d((h, w))
Your window average jumps by its own size.
AvgPool2d's stride defaults to the kernel size: pass stride=1.

average_window_square: average_head
- nn.AvgPool2d((h, w), stride=1)
+ nn.AvgPool2d(h, stride=1)
You took the window of the average for a square.
AvgPool2d((h, w), stride=1), with the map's (h, w) at input_size.

one_by_one_everywhere: all but average_head apart dtype
- nn.Conv2d(C, layer.out_features, (h, w)
+ nn.Conv2d(layer.in_features, layer.out_features, 1
- layer.weight.reshape(-1, C, h, w)
+ layer.weight[:, :, None, None]
Your first dense layer became a 1×1 convolution, but it reads a whole window.
Its kernel is the map that was flattened: (h, w) at input_size. Only the later ones are 1×1.

flattened_at_the_end: all but apart dtype
- return walk(cnn)
+ return nn.Sequential(*walk(cnn), nn.Flatten())
You flattened the map at the end.
Leave it (N, L, h, w): the Flatten goes, and nothing takes its place.

top_level_only: nested
- elif isinstance(layer, nn.Sequential):
-     twin = walk(layer)
You looked at the top level only, so dense layers inside a nested Sequential stayed dense.
Recurse into every nn.Sequential.

average_removed: average_head
- twin = nn.AvgPool2d((h, w), stride=1)
+ twin = nn.Identity()
You removed the average, so each cell of the map sees a small window and not the whole of input_size.
Replace it by an AvgPool2d with the window it has at input_size and stride 1.

bias_required: without_bias
- , bias=layer.bias is not None
...
- if layer.bias is not None:
-     twin.bias.copy_(layer.bias)
+ twin.bias.copy_(layer.bias.detach())
You read linear.bias where it is None.
Build the convolution with bias=linear.bias is not None, and copy the bias only then.

bias_of_zeros: without_bias
- , bias=layer.bias is not None
...
- if layer.bias is not None:
+ twin.bias.zero_()
+ if layer.bias is not None:
Your convolutions have a bias of zeros where the dense layers have none: training would move it.
Build them with bias=linear.bias is not None.

weights_shared: apart
- twin.weight.copy_(layer.weight.reshape(-1, C, h, w))
+ twin.weight.data = layer.weight.data.view(-1, C, h, w)
- twin = copy.deepcopy(layer)
+ twin = layer
The two networks share their weights: training one changes the other.
Copy them: deepcopy the layers, clone or copy_ the dense weights.

mode_lost: apart
- .train(cnn.training)
+ .eval()
The result is always in eval mode.
Give it the mode of the CNN: fcn.train(cnn.training).

always_in_training_mode: all but average_head other_layers dtype
- .train(cnn.training)
+ .train()
The result is always in training mode.
Give it the mode of the CNN: fcn.train(cnn.training).

flags_forgotten: apart
- return walk(cnn).train(cnn.training)
+ fcn = walk(cnn)
+ fcn.training = cnn.training
+ return fcn
Some layers of your result are in eval mode and others in training mode, whatever the mode of the CNN.
Give all of it the mode that the CNN had when it came: fcn.train(was) reaches every layer, fcn.training = was
  only the outermost.

new_layers_in_training_mode: apart
- x = twin.eval()(x)
+ x = copy.deepcopy(layer).eval()(x)
- return walk(cnn).train(cnn.training)
+ return walk(cnn)
The layers you built are in training mode, as new layers are, whatever the mode of the CNN.
Give the result the mode of the CNN: fcn.train(cnn.training).

cnn_left_in_eval_mode: apart
- x = next(cnn.parameters())
+ cnn.eval()
+ x = next(cnn.parameters())
- x = twin.eval()(x)
+ x = layer(x)
You left the CNN in eval mode, and gave the result that mode too.
Remember cnn.training before you measure the maps, and set it again in both afterwards.

cnn_not_put_back: apart
- x = next(cnn.parameters())
+ was = cnn.training
+ cnn.eval()
+ x = next(cnn.parameters())
- x = twin.eval()(x)
+ x = layer(x)
- .train(cnn.training)
+ .train(was)
You left the CNN in eval mode.
Remember its mode before you measure the maps, and put it back afterwards.

converted_in_place: apart
- return walk(cnn).train(cnn.training)
+ for number, twin in enumerate(walk(cnn).train(cnn.training)):
+     cnn[number] = twin
+ return cnn
You put the convolutions into the CNN itself, which is no classifier any more.
Build a new nn.Sequential, out of copies.

measured_in_training_mode: apart
- x = twin.eval()(x)
+ x = layer(x)
You measured the maps with the CNN in training mode, so its batch norms took your image into their statistics.
Remember the mode, call cnn.eval(), measure, and put the mode back.

new_layers_float32: dtype
- .to(x)
+ .to(x.device)
The convolutions you built are float32 whatever the CNN is.
Build them like the dense layer: conv.to(linear.weight).

float32_probe: dtype
- next(cnn.parameters()).new_zeros(1, *input_size)
+ torch.zeros(1, *input_size, device=next(cnn.parameters()).device)
The zero image that you send through the CNN is float32 whatever the CNN is.
Take dtype and device of its weights: next(cnn.parameters()).new_zeros(1, *input_size).
""")


@answers.right
def with_hooks(cnn, input_size):
    """one flat list, sizes by hooks"""
    sizes = {}

    def measure(module, inputs, output):
        sizes[module] = inputs[0].shape[1:]

    leaves = [m for m in cnn.modules() if not isinstance(m, nn.Sequential)]
    hooks = [m.register_forward_hook(measure) for m in leaves]
    flags = {m: m.training for m in cnn.modules()}
    kind = next(cnn.parameters())
    with torch.no_grad():
        cnn.eval()(torch.zeros(1, *input_size, dtype=kind.dtype, device=kind.device))
    for hook in hooks:
        hook.remove()
    for m, flag in flags.items():
        m.training = flag
    layers, window = [], None
    for m in leaves:
        if isinstance(m, nn.Flatten):
            window = sizes[m]
            continue
        if isinstance(m, nn.Linear):
            c, h, w = window or (m.in_features, 1, 1)
            made = nn.Conv2d(c, m.out_features, (h, w), bias=m.bias is not None)
            made = made.to(m.weight.device, m.weight.dtype)
            state = {"weight": m.weight.detach().view(-1, c, h, w)}
            if m.bias is not None:
                state["bias"] = m.bias.detach()
            made.load_state_dict(state)
            window = (m.out_features, 1, 1)
        elif isinstance(m, nn.AdaptiveAvgPool2d):
            made = nn.AvgPool2d((sizes[m][1], sizes[m][2]), stride=1)
        else:
            made = copy.deepcopy(m)
        layers.append(made.train(m.training))
    fcn = nn.Sequential(*layers)
    fcn.training = cnn.training
    return fcn


EXERCISE = answers.exercise()
