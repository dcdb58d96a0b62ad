"""The exercise convolutionalize of lecture 04: from a classifier to a map of classifications."""

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autograder.attempt import Handle, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.convolutionalize.draws import (
    FLAGS,
    Size,
    awake,
    carried_flags,
    dense,
    expect_copies,
    flagged,
    flattening,
    kept,
    kind_of_network,
    moved_flags,
    tied_to,
)
from autograder.catalog.observations import changed_tensors, filled, share_memory
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Network
from coursekit import convolutionalize as reference

Made = Callable[[Draw], tuple[nn.Sequential, Size]]


def _nested(d: Draw) -> tuple[nn.Sequential, Size]:
    form = d.each(["twice", "named", "the head alone", "deeper"])
    cnn, size = flattening(d)
    layers = list(cnn)
    features, flatten, dense = layers[:3], layers[3], layers[4:]
    if form == "named":
        parts = {"features": nn.Sequential(*features), "classifier": nn.Sequential(flatten, *dense)}
        return nn.Sequential(OrderedDict(parts)), size
    if form == "the head alone":
        return nn.Sequential(*features, nn.Sequential(flatten, *dense)), size
    if form == "deeper":
        first = nn.Sequential(nn.Sequential(*features[:2]), features[2])
        return nn.Sequential(nn.Sequential(first, flatten), nn.Sequential(*dense)), size
    return nn.Sequential(nn.Sequential(*features), nn.Sequential(flatten, nn.Sequential(*dense))), size


def _averaging(d: Draw) -> tuple[nn.Sequential, Size]:
    # Hardly ever a square map, so that a square window shows.
    (h, w), hidden = d.each([((2, 3), ()), ((3, 2), (3,)), ((1, 4), ()), ((1, 1), (2,)), ((4, 1), (3,))])
    c, k = d.choice([1, 2]), d.choice([2, 3])
    cnn = nn.Sequential(
        nn.Conv2d(c, k, 2, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        *dense(k, hidden, d.choice([2, 3]), True, 0.5),
    )
    return cnn, (c, 2 * h, 2 * w)


def _drawn(
    make: Made,
    *,
    larger: bool,
    dtype: torch.dtype = torch.float32,
) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        cnn, (c, h, w) = make(d)
        extra = (d.integer(2, 6), d.choice([0, 4, 7])) if larger else (0, 0)
        images = d.tensor(
            d.choice([1, 2]) if larger else d.choice([2, 1, 3]), c, h + extra[0], w + extra[1], dtype=dtype
        )
        cnn = awake(filled(d, cnn).to(images.dtype), images[..., :h, :w])
        return Case((Network.describe(cnn), (c, h, w)), {}, {"images": images})

    return draw


_without_bias = functools.partial(flattening, bias=False)
# Batch norm, and a dropout that drops everything, so that its being there is no matter of chance.
_with_other_layers = functools.partial(flattening, norm=True, dropped=1.0)
_normalized = functools.partial(flattening, norm=True)


def _in_training_mode(d: Draw) -> Case:
    # A batch norm, since it takes note of every image that a network sees in training mode.
    frozen = d.each([False, True])
    case = _drawn(_normalized, larger=True)(d)
    cnn = flagged(case.args[0].build(), True)
    return Case((cnn, case.args[1]), {}, {**case.extra, "its first layer is frozen": frozen})


def _in_some_mode(d: Draw) -> Case:
    mode = d.each(FLAGS)
    cnn, size = _normalized(d)
    return Case((flagged(filled(d, cnn).float(), *mode), size))


# -- what is looked at --------------------------------------------------------------------------------------


def _scores(subject: Subject, case: Case) -> Any:
    """The scores in eval mode, set here: that the mode carries over is another property's business."""
    fcn = subject(*case.args)
    return _scores_of(fcn, case) if callable(fcn) else fcn


def _scores_of(fcn: Handle, case: Case) -> Any:
    fcn.then("eval")
    scores = fcn(case.extra["images"])
    cnn, size = case.args
    expect_copies(cnn, fcn, scores, _right(cnn, size, case.extra["images"]))
    return scores


# Networks and images are told apart by identity: of an exam, each is asked about once.
@functools.lru_cache(maxsize=256)
@torch.no_grad()
def _right(cnn: Network, input_size: Size, images: torch.Tensor) -> torch.Tensor:
    network: Any = cnn.build()
    return reference.convolutionalize(network, input_size)(images)


def _scores_bare(subject: Subject, case: Case) -> Any:
    fcn = subject(*case.args)
    if not callable(fcn):
        return fcn
    scores = _scores_of(fcn, case)
    biases = [p for n, p in fcn.inspect("parameters")["parameters"].items() if n.endswith("bias")]
    if any(bias.any() for bias in biases):
        # What was drawn at random says something else each time.
        return {"biases": "of other numbers"}
    return {"biases": "of zeros" if biases else "none", "convolutionalize(…)(images)": scores}


def _scores_in_either_mode(subject: Subject, case: Case) -> Any:
    fcn = subject(*case.args)
    if not callable(fcn):
        return fcn
    scores = _scores_of(fcn, case)
    fcn.then("train")
    return {"scores in eval mode": scores, "scores in training mode": fcn(case.extra["images"])}


def _with_a_shared_relu(subject: Subject, case: Case) -> Any:
    """The same, of a CNN whose one ReLU stands at two places, as no description can have it."""
    cnn = subject.build(case.args[0])
    cnn.then("__setitem__", 5, cnn.do("get_submodule", "1"))
    fcn = subject(cnn, case.args[1])
    return _scores_of(fcn, case) if callable(fcn) else fcn


def _apart(subject: Subject, case: Case) -> Any:
    cnn = subject.build(case.args[0])
    frozen = case.extra["its first layer is frozen"]
    if frozen:
        cnn.do("get_submodule", "0").then("requires_grad_", False)
    before = cnn.inspect()
    fcn = subject(cnn, case.args[1])
    after = cnn.inspect()
    if not callable(fcn):
        return fcn
    seen = fcn.inspect()
    counted = [int(b) for name, b in seen["buffers"].items() if name.endswith("num_batches_tracked")]
    fcn.then("train")
    tied = tied_to(fcn, case.extra["images"], cnn)
    trained = changed_tensors(after, cnn.inspect("parameters", "buffers"))
    # What shares its memory does the rest as well.
    shared = share_memory(seen, before)
    free = frozen or all(seen["requires_grad"].values())
    return {
        "weights shared with the cnn": shared,
        "the cnn afterwards": kept(before, after),
        "gradients of the result that reach the cnn": "none" if shared else tied,
        "changed in the cnn while the result trains": "nothing"
        if shared
        else ", ".join(trained) or "nothing",
        "images that the result's batch norm has taken note of": max(counted, default=0),
        # Frozen layers may come frozen or not.
        "parameters that can be trained": "all" if free else "not all",
        "result": kind_of_network(fcn, seen),
    }


def _modes(subject: Subject, case: Case) -> Any:
    cnn = subject.build(case.args[0])
    before = cnn.inspect("training", "kinds")
    fcn = subject(cnn, case.args[1])
    after = cnn.inspect("training")
    if not callable(fcn):
        return fcn
    return {
        "the cnn's training flags": moved_flags(before, after),
        "the result's training flags": carried_flags(before, fcn.inspect("training", "kinds")),
    }


def _dtypes(subject: Subject, case: Case) -> Any:
    seen = subject(*case.args).inspect("parameters")
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
        same_scores (1): at input_size the output is (N, L, 1, 1) and equals the CNN's scores
        tried: convolutionalize(cnn, input_size).eval()(images)
        larger_images (1.25): a larger image gives a map, one score vector for every window
        tried: convolutionalize(cnn, input_size).eval()(images)
        nested (0.75): Sequentials inside Sequentials
        tried: convolutionalize(cnn, input_size).eval()(images)
        without_bias (0.5): dense layers without bias become convolutions without bias
        tried: convolutionalize(cnn, input_size).eval()(images), and how many biases the network has
        average_head (1): AdaptiveAvgPool2d(1) becomes a fixed window average, so that maps stay dense
        tried: convolutionalize(cnn, input_size).eval()(images)
        other_layers (0.5): batch norm keeps its running statistics, and dropout still drops in training mode
        tried: convolutionalize(cnn, input_size).eval()(images), and the same with train()
        shared_layer (0.25): a ReLU that stands at two places of the CNN (the same object) stands at both
        tried: cnn[5] = cnn[1], then convolutionalize(cnn, input_size).eval()(images)
        apart (0.25): the result is an nn.Sequential with weights of its own, which can be trained, and the
          CNN stays as it was (weights, batch norm's running statistics, requires_grad, hooks)
        tried: the CNN before and after, and after the result has run in training mode
        modes (0.25): each layer's training flag carries over, and the CNN keeps its own, where layers
          differ too
        tried: the training flags of the CNN before and after, and of the result
        dtype (0.25): a float64 CNN becomes a float64 network
        tried: dtypes of the result's parameters
        """,
        same_scores=on(_drawn(flattening, larger=False), _scores, examples=5),
        larger_images=on(_drawn(flattening, larger=True), _scores, examples=5),
        nested=on(_drawn(_nested, larger=True), _scores, examples=5),
        without_bias=on(_drawn(_without_bias, larger=True), _scores_bare, examples=5),
        average_head=on(_drawn(_averaging, larger=True), _scores, examples=5),
        other_layers=on(_drawn(_with_other_layers, larger=False), _scores_in_either_mode, examples=5),
        shared_layer=on(_drawn(flattening, larger=True), _with_a_shared_relu, examples=2),
        apart=on(_in_training_mode, _apart, examples=4, beside="same_scores"),
        modes=on(_in_some_mode, _modes, examples=4, beside="same_scores"),
        dtype=on(
            _drawn(flattening, larger=False, dtype=torch.float64), _dtypes, examples=3, beside="same_scores"
        ),
    ),
    hints=hints("""
        I don't know where input_size comes in
        Only the first dense layer after Flatten needs to know a size. Which size, and how do you find it out?

        The first dense layer doesn't fit
        A dense layer is a convolution with the window it was flattened from; those after it are 1×1.

        I don't know how to start
        Walk through the layers with a zero image of input_size in hand, of the dtype of the weights.
          Flatten → Identity; Linear → Conv2d(C, out, (h, w)) with weight.view(out, C, h, w);
          AdaptiveAvgPool2d(1) → AvgPool2d((h, w), 1); everything else → deepcopy. Send the image through
          another copy in eval mode, under no_grad: then the CNN is never touched. Last,
          twin.train(layer.training) for each layer, and the flag of the Sequential itself.
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
            if isinstance(layer, nn.Sequential):
                twins.append(walk(layer))
                continue
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
            else:
                twin = copy.deepcopy(layer).eval()
                with torch.no_grad():
                    x = twin(x)
            twins.append(twin.train(layer.training))
        twins.training = layers.training
        return twins

    return walk(cnn)


answers.edits("""
channels_last_order: all but average_head apart modes dtype
- layer.weight.reshape(-1, C, h, w)
+ layer.weight.reshape(-1, h, w, C).permute(0, 3, 1, 2)
You reshaped the dense weights as (L, h, w, C), the order of Keras.
torch flattens channels first: weight.view(L, C, h, w).

window_transposed: all but average_head apart modes dtype
- layer.weight.reshape(-1, C, h, w)
+ layer.weight.reshape(-1, C, w, h).transpose(2, 3)
Height and width of the window have changed places in the weights of your first dense layer.
View the weights as (L, C, h, w), with the map's (h, w) at input_size; there is nothing to transpose.

softmax_appended: all but apart modes dtype
- return walk(cnn)
+ return walk(cnn).append(nn.Softmax(1))
Your network ends in a softmax.
Leave it out: the result gives scores, as the CNN does.

relus_lost: all but apart modes dtype
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

biases_dropped: all but without_bias apart modes dtype
- bias=layer.bias is not None
+ bias=False
- if layer.bias is not None:
-     twin.bias.copy_(layer.bias)
Your convolutions do not carry the dense layers' biases.
Copy linear.bias into conv.bias as it is.

window_padded: all but average_head apart modes dtype
- bias=layer.bias is not None
+ bias=layer.bias is not None, padding=(h // 2, w // 2)
You padded the convolution that stands for the first dense layer.
A dense layer sees whole windows only: padding is 0.

map_averaged: all but same_scores other_layers apart modes dtype
- return walk(cnn)
+ return walk(cnn).append(nn.AdaptiveAvgPool2d(1))
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

one_by_one_everywhere: all but average_head apart modes dtype
- nn.Conv2d(C, layer.out_features, (h, w)
+ nn.Conv2d(layer.in_features, layer.out_features, 1
- layer.weight.reshape(-1, C, h, w)
+ layer.weight[:, :, None, None]
Your first dense layer became a 1×1 convolution, but it reads a whole window.
Its kernel is the map that was flattened: (h, w) at input_size. Only the later ones are 1×1.

flattened_at_the_end: all but apart modes dtype
- return walk(cnn)
+ return walk(cnn).append(nn.Flatten())
You flattened the map at the end.
Leave it (N, L, h, w): the Flatten goes, and nothing takes its place.

top_level_only: nested
- if isinstance(layer, nn.Sequential):
-     twins.append(walk(layer))
-     continue
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
You copy a bias also where there is none: linear.bias may be None.
Build the convolution with bias=linear.bias is not None, and copy the bias only then.

bias_invented: without_bias
- , bias=layer.bias is not None
Your convolutions have a random bias where the dense layers have none.
Build them with bias=linear.bias is not None.

bias_of_zeros: without_bias
- , bias=layer.bias is not None
...
- if layer.bias is not None:
+ twin.bias.zero_()
+ if layer.bias is not None:
Your convolutions have a bias of zeros where the dense layers have none: training would move it.
Build them with bias=linear.bias is not None.

weights_not_copied: all but apart modes dtype
- with torch.no_grad():
-     twin.weight.copy_(layer.weight.reshape(-1, C, h, w))
-     if layer.bias is not None:
-         twin.bias.copy_(layer.bias)
Your new convolutions hold the random numbers that they were built with, not those of the dense layers.
Copy linear.weight, as (out, C, h, w), and linear.bias into them, under torch.no_grad().

bias_not_copied: all but without_bias apart modes dtype
- if layer.bias is not None:
-     twin.bias.copy_(layer.bias)
You copied the weights of the dense layers and left the biases at their random start.
Copy linear.bias into conv.bias as well.

copied_with_gradients: all
- with torch.no_grad():
-     twin.weight.copy_(layer.weight.reshape(-1, C, h, w))
-     if layer.bias is not None:
-         twin.bias.copy_(layer.bias)
+ twin.weight.copy_(layer.weight.reshape(-1, C, h, w))
+ if layer.bias is not None:
+     twin.bias.copy_(layer.bias)
You write into a parameter in place while torch records gradients, which it refuses.
Copy under torch.no_grad().

flatten_kept: all but apart modes dtype
- twin = nn.Identity()
+ twin = copy.deepcopy(layer)
Your network still flattens, so the convolution behind gets (N, values) where it needs a map.
Leave Flatten out, or put nn.Identity() in its place.

weights_shared: apart
- twin.weight.copy_(layer.weight.reshape(-1, C, h, w))
+ twin.weight.data = layer.weight.data.view(-1, C, h, w)
- twin = copy.deepcopy(layer).eval()
- with torch.no_grad():
-     x = twin(x)
+ twin = layer
+ with torch.no_grad():
+     x = copy.deepcopy(layer).eval()(x)
The two networks share parameters in memory: training one changes the other.
Copy them: deepcopy the layers, clone or copy_ the dense weights and biases.

tied_to_the_cnn: apart
- with torch.no_grad():
-     twin.weight.copy_(layer.weight.reshape(-1, C, h, w))
-     if layer.bias is not None:
-         twin.bias.copy_(layer.bias)
+ twin.requires_grad_(False)
+ twin.weight.copy_(layer.weight.reshape(-1, C, h, w))
+ if layer.bias is not None:
+     twin.bias.copy_(layer.bias)
Your new weights are no parameters of their own but results computed from the CNN's:
  gradients go on into the CNN.
Copy under torch.no_grad(), or from layer.weight.detach(), and leave requires_grad as it is.

frozen_copies: apart
- twin.weight.copy_(layer.weight.reshape(-1, C, h, w))
+ twin.requires_grad_(False)
+ twin.weight.copy_(layer.weight.reshape(-1, C, h, w))
You switched requires_grad off in the new convolutions, so they cannot be trained.
Leave it as it is: under torch.no_grad() parameters can be written all the same.

shared_layer_lost: shared_layer
- for layer in layers:
+ for layer in layers.children():
children() and named_children() list a layer that stands at two places only once, so the second is missing in
  yours.
Go through the Sequential itself: for layer in layers.

mode_lost: modes
- return walk(cnn)
+ return walk(cnn).eval()
The result is always in eval mode.
Give each layer the flag of the one it stands for: twin.train(layer.training).

always_in_training_mode: modes
- return walk(cnn)
+ return walk(cnn).train()
The result is always in training mode.
Give each layer the flag of the one it stands for: twin.train(layer.training).

one_flag_for_all: modes
- return walk(cnn)
+ return walk(cnn).train(cnn.training)
You gave every layer the flag of the whole CNN, so what was frozen on purpose is not any more.
Give each layer the flag of the one it stands for: twin.train(layer.training).

one_flag_for_both: modes
- x = next(cnn.parameters())
+ was = cnn.training
+ cnn.eval()
+ x = next(cnn.parameters())
- return walk(cnn)
+ fcn = walk(cnn)
+ cnn.train(was)
+ return fcn.train(was)
You gave every layer of both networks the flag of the whole CNN, so what was frozen on purpose is not any
  more.
Measure on copies, twin.eval()(x), so that the CNN keeps its flags, and give each twin its layer's:
  twin.train(layer.training).

sequential_in_training_mode: modes
- twins.training = layers.training
The layers have the right flags, and the nn.Sequential that holds them is in training mode, as a new one is.
Set it too: fcn.training = cnn.training.

flags_forgotten: modes
- twins.append(twin.train(layer.training))
+ twins.append(twin)
The layers that you copied are in eval mode, and those that you built in training mode, whatever the CNN's
  were.
Give each layer the flag of the one it stands for: twin.train(layer.training).

new_layers_in_training_mode: modes
- with torch.no_grad():
-     x = twin(x)
+ with torch.no_grad():
+     x = twin(x)
+ twin.train(layer.training)
- twins.append(twin.train(layer.training))
+ twins.append(twin)
- twins.training = layers.training
The layers you built are in training mode, as new layers are, whatever the mode of the CNN.
Give each layer the flag of the one it stands for, and the nn.Sequential that of the CNN.

cnn_left_in_eval_mode: modes
- x = next(cnn.parameters())
+ cnn.eval()
+ x = next(cnn.parameters())
You left the CNN in eval mode, and gave the result that mode too.
Measure the maps on copies, copy.deepcopy(layer).eval()(x): then the CNN keeps its flags.

cnn_not_put_back: modes
- x = next(cnn.parameters())
+ flags = {m: m.training for m in cnn.modules()}
+ cnn.eval()
+ x = next(cnn.parameters())
- twins.append(twin.train(layer.training))
+ twins.append(twin.train(flags[layer]))
- twins.training = layers.training
+ twins.training = flags[layers]
You left the CNN in eval mode.
Measure the maps on copies, copy.deepcopy(layer).eval()(x), or put every flag back afterwards.

converted_in_place: apart
- return walk(cnn)
+ for number, twin in enumerate(walk(cnn)):
+     cnn[number] = twin
+ return cnn
You put the convolutions into the CNN itself, which is no classifier any more.
Build a new nn.Sequential, out of copies.

measured_in_training_mode: apart
- x = twin(x)
+ x = layer(x)
You measured the maps with the CNN in training mode, so its batch norms took your image into their statistics.
Measure on copies in eval mode: copy.deepcopy(layer).eval()(x).

copies_measured_in_training_mode: apart
- twin = copy.deepcopy(layer).eval()
+ twin = copy.deepcopy(layer)
You measured the maps with the new network in training mode, so its batch norms took your zero image into
  their statistics.
Measure in eval mode: twin.eval()(x), and give the layer its flag afterwards.

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

    modules = [m for _, m in cnn.named_modules(remove_duplicate=False)]
    leaves = [m for m in modules if not isinstance(m, nn.Sequential)]
    hooks = [m.register_forward_hook(measure) for m in leaves]
    flags = {m: m.training for m in modules}
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


answers.edits("""
hooks_left: apart
- for hook in hooks:
-     hook.remove()
Your hooks are still on the layers of the CNN, and called whenever it runs.
Keep what register_forward_hook returns, and call remove() on it after the measuring.
""")


def linear_to_conv(linear, in_channels, kernel_size=(1, 1)):
    raise NotImplementedError


@answers.wrong("all")
def helper_not_written(cnn, input_size):
    """A function that yours calls for dense layers is not written yet: it ends in a NotImplementedError.

    Write linear_to_conv first and run its cell; then run this check again.
    """
    x, layers = next(cnn.parameters()).new_zeros(1, *input_size), []
    for layer in cnn:
        C, h, w = x.shape[1:]
        if isinstance(layer, nn.Flatten):
            continue
        if isinstance(layer, nn.Linear):
            twin = linear_to_conv(layer, C, (h, w))
        elif isinstance(layer, nn.Sequential):
            twin = helper_not_written(layer, (C, h, w))
        else:
            twin = copy.deepcopy(layer)
        layers.append(twin)
        x = twin(x)
    return nn.Sequential(*layers)


EXERCISE = answers.exercise()
