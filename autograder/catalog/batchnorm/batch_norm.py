"""The exercise BatchNorm of lecture 02: the layer, in training and in inference."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autograder.attempt import Handle, Odd, Raised, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.batchnorm.draws import (
    CLOSE,
    LOOSE,
    NAMES,
    STATISTICS,
    Places,
    affine,
    attribute,
    load,
    places_in,
    spread,
    tracked,
)
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import BATCH_NORM, GROUP_NORM, INSTANCE_NORM, LAYER_NORM
from autograder.catalog.observations import as_double, changed_tensors, described
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Named
from coursekit import batchnorm as reference

ROWS, MAPS = (3, 2), (2, 3, 2, 3)
ONE_IMAGE, TWO_VALUES, WIDE = (1, 2, 2, 3), (1, 3, 1, 2), (2, 2, 2, 6)
Kind = tuple[tuple[int, ...], dict[str, Any]]
"""The shape of a batch, and what the layer is made with."""


def _state(d: Draw, c: int, seen: int) -> dict[str, torch.Tensor]:
    weight, bias = affine(d, c)
    return {
        "weight": weight,
        "bias": bias,
        "running_mean": d.tensor(c),
        "running_var": d.positive(c),
        "num_batches_tracked": torch.tensor(seen),
    }


def _case(
    d: Draw, shape: Sequence[int], config: Mapping[str, Any], batches: int = 2, seen: int | None = None
) -> Case:
    """A layer of that state, and batches: the first of that shape, the others of other sizes, and never of as
    many images as channels: whether these are told apart is the business of others."""
    n, c, *size = shape
    more = [m for m in (n + 1, n + 2) if m != c]
    others = [(d.choice(more), c, *size) for _ in range(batches - 1)]
    xs = [spread(d, *own) for own in [tuple(shape), *others]]
    state = _state(d, c, d.integer(1, 3) if seen is None else seen)
    return Case((c,), config, {"state": state, "batches": xs})


def _training(d: Draw) -> Case:
    kinds: list[Kind] = [
        (ROWS, {}),
        (ONE_IMAGE, {}),
        (MAPS, {"eps": 0.5}),
        ((4, 1), {"momentum": 0.0}),
        (TWO_VALUES, {}),
        ((2, 1, 3, 2), {"momentum": 1.0}),
        (WIDE, {"eps": 0.0}),
        ((2, 4), {"momentum": None}),
    ]
    return _case(d, *d.each(kinds))


def _tracking(d: Draw) -> Case:
    momentum = d.each([0.1, 0.0, 0.4, 1.0])
    return _case(d, d.each([ROWS, MAPS]), {"momentum": momentum})


def _averaging(d: Draw) -> Case:
    """A new layer, and one that has gone on from a state."""
    seen = d.each([0, 2])
    return _case(d, d.each([ROWS, MAPS]), {"momentum": None}, batches=3, seen=seen)


def _inference(d: Draw) -> Case:
    """Batches, and one value per channel, which training refuses and inference does not."""
    kinds: list[Kind] = [
        (ROWS, {}),
        (MAPS, {"eps": 0.1}),
        (ONE_IMAGE, {"eps": 0.0}),
        ((3, 1), {"eps": 10.0, "momentum": None}),
    ]
    shape, config = d.each(kinds)
    case = _case(d, shape, config, batches=1)
    if "eps" not in config:
        # So small that 1e-5 shows beside it.
        case.extra["state"]["running_var"] *= 1e-3
    single = d.tensor(1, shape[1], *[1] * (len(shape) - 2))
    return Case(case.args, case.kwargs, {**case.extra, "batches": [*case.extra["batches"], single]})


def _new(d: Draw) -> Case:
    return _case(d, d.each([ROWS, MAPS]), {})


def _differentiated(d: Draw) -> Case:
    kinds: list[Kind] = [
        (ROWS, {}),
        (MAPS, {}),
        (WIDE, {"momentum": None}),
        ((5, 1), {"momentum": 0.0}),
    ]
    shape, config = d.each(kinds)
    # The default of eps is the business of others.
    return _case(d, shape, {"eps": 1e-5, **config}, batches=1)


def _both_dtypes(d: Draw) -> Case:
    shape, dtype = d.each([(MAPS, torch.float32), (ROWS, torch.float64)])
    case = _case(d, shape, {}, batches=1)
    return Case(case.args, {}, {"batches": [x.to(dtype) for x in case.extra["batches"]]})


def _one_value(d: Draw) -> Case:
    c, rank = d.each([2, 1]), d.each([0, 2])
    return Case((c,), {}, {"batches": [d.tensor(1, c, *[1] * rank).float()]})


def _made(subject: Subject, case: Case) -> tuple[Handle, Places]:
    """A new layer in float64, and where each of NAMES lies in it."""
    layer = subject(*case.args, **case.kwargs)
    layer.then("double")
    return layer, places_in(layer)


def _loaded(subject: Subject, case: Case) -> tuple[Handle, Places]:
    layer, places = _made(subject, case)
    load(layer, places, case.extra["state"])
    return layer, places


def _trains(subject: Subject, case: Case) -> Any:
    layer, _ = _loaded(subject, case)
    return [as_double(layer(x)) for x in case.extra["batches"]]


def _tracks(subject: Subject, case: Case) -> Any:
    layer, places = _made(subject, case)
    # A layer that has seen nothing stays as it was made.
    if int(case.extra["state"]["num_batches_tracked"]):
        load(layer, places, case.extra["state"])
    after = []
    for x in case.extra["batches"]:
        layer(x)
        after.append(tracked(layer, places))
    return after


def _evaluates(subject: Subject, case: Case) -> Any:
    layer, places = _loaded(subject, case)
    layer.then("eval")
    before = layer.inspect("parameters", "buffers")
    plain = [name for name, place in places.items() if not place.registered]
    others = [attribute(layer, name) for name in plain]
    x, single = case.extra["batches"]
    outputs = [as_double(layer(x))]
    try:
        outputs.append(as_double(layer(single)))
    except Raised as raised:
        # Apart from what cannot be evaluated at all.
        raise Odd(f"in eval mode, one value per channel raises a {raised.kinds[0]}") from None
    changed = changed_tensors(before, layer.inspect("parameters", "buffers"))
    for name, old in zip(plain, others, strict=True):
        if not torch.equal(torch.as_tensor(old), torch.as_tensor(attribute(layer, name))):
            changed.append(name)
    return {"outputs": outputs, "changed": ", ".join(sorted(changed)) or "nothing"}


def _holds(subject: Subject, case: Case) -> Any:
    layer = subject(*case.args, **case.kwargs)
    fresh = layer.inspect("parameters", "buffers", "state")
    for x in case.extra["batches"]:
        layer(x.float())
    after = layer.inspect("buffers")["buffers"]
    _two_rounds(subject, layer, case.extra["batches"][0].float())
    # What keeps a graph cannot be copied, attributes included.
    subject.build(Named("copier"))(layer)
    # What else a layer holds is nobody's business.
    return {
        "parameters": {n: as_double(t) for n, t in fresh["parameters"].items() if n in NAMES},
        "buffers": {n: as_double(t) for n, t in fresh["buffers"].items() if n in STATISTICS},
        "in the state dict": [name for name in NAMES if name in fresh["state"]],
        "num_batches_tracked": [_count(fresh["buffers"]), _count(after)],
    }


def _count(buffers: Mapping[str, torch.Tensor]) -> float | None:
    count = buffers.get("num_batches_tracked")
    return float(count) if count is not None and count.numel() == 1 else None


def _two_rounds(subject: Subject, layer: Handle, x: torch.Tensor) -> None:
    """Gradients through the layer behind itself, in training and then in inference. Where its buffers have
    kept the graph of the first round, its first application is in it, and cannot be gone through again."""
    twice = subject.build(Named("twice", {"inner": layer.ref, "last": layer.ref}))
    twice.then("train")
    try:
        twice.vjp(x, wrt=[0, twice])
        twice.then("eval")
        twice(x)
    except Raised:
        # What does not run at all is the business of other properties.
        return
    twice.vjp(x, wrt=[0, twice])


def _refuses(subject: Subject, case: Case) -> Any:
    layer = subject(*case.args, **case.kwargs)
    return layer(*case.extra["batches"])


def _layer_gradients(subject: Subject, case: Case) -> Any:
    layer, places = _loaded(subject, case)
    (x,) = case.extra["batches"]

    def of_all(mode: str) -> dict[str, Any]:
        grads = layer.vjp(x, wrt=[0, layer])["grads"]
        learned = {
            name: grads.get(places[name].own) if name in places else None for name in ("weight", "bias")
        }
        flat = {name: g.reshape(-1) if isinstance(g, torch.Tensor) else g for name, g in learned.items()}
        return {f"{name} in {mode} mode": g for name, g in {"x": grads["0"], **flat}.items()}

    training = of_all("training")
    # The training call has moved the running statistics; their update has a property of its own.
    load(layer, places, case.extra["state"])
    layer.then("eval")
    return {**training, **of_all("eval")}


def _carries(subject: Subject, case: Case) -> Any:
    layer = subject(*case.args, **case.kwargs)
    (x,) = case.extra["batches"]
    if x.dtype == torch.float64:
        layer.then("double")
    layer.then("train")
    answer, changed = layer.with_changes(x)
    seen = {"in training mode": described(answer), "x changed in place": bool(changed)}
    layer.then("eval")
    try:
        answer, changed = layer.with_changes(x)
    except Raised:
        # What does not run in that mode is another property's business.
        return {**seen, "in eval mode": described(x)}
    return {
        **seen,
        "in eval mode": described(answer),
        "x changed in place": bool(changed) or seen["x changed in place"],
    }


CLAIMS = Exercise(
    id="BatchNorm",
    topic="batchnorm",
    title="The layer, in training and in inference",
    reference=reference.BatchNorm,
    minutes=30,
    difficulty=3,
    properties=claims(
        """
        training_output (1): in training mode the batch is normalized by its own statistics, one image too
        tried: double(), load_state_dict, then training calls
        running_statistics (1): running ← (1−momentum)·running + momentum·batch, with the unbiased variance;
          momentum from 0 to 1
        tried: double(), load_state_dict, then training calls; the buffers after each
        eval_mode (1): in eval mode the running statistics are used, also for one value per channel, and
          nothing changes
        tried: double(), load_state_dict, eval(), then calls
        state (0.75): weight and bias are parameters; running_mean, running_var, num_batches_tracked are
          buffers, outside of any graph, and copy.deepcopy copies the layer
        tried: a new layer looked at, then two training calls; then the gradient through
          layer(layer(layer(x))), in training mode and once more in eval mode; copy.deepcopy(layer)
        cumulative (0.5): momentum=None averages over all batches that num_batches_tracked counts
        tried: double(), load_state_dict where batches were seen before, three training calls; the buffers
          after each
        refuses_one_value (0.5): training on one value per channel is refused with a ValueError
        tried: one training call on a single value per channel
        gradients (1): gradients reach x, weight and bias in both modes
        tried: double(), load_state_dict, the gradient in training mode, then in eval mode
        carries (0.25): float32 stays float32 and float64 float64, and x is not modified in place
        tried: a call in training mode, then one in eval mode
        """,
        training_output=on(_training, _trains, tolerance=LOOSE),
        running_statistics=on(_tracking, _tracks, tolerance=CLOSE),
        eval_mode=on(_inference, _evaluates, tolerance=CLOSE),
        state=on(_new, _holds, examples=3, tolerance=CLOSE),
        cumulative=on(_averaging, _tracks, examples=4, tolerance=CLOSE),
        refuses_one_value=on(_one_value, _refuses, examples=4, beside="training_output"),
        gradients=on(_differentiated, _layer_gradients, tolerance=LOOSE),
        carries=on(_both_dtypes, _carries, examples=2, beside="training_output"),
    ),
    hints=hints("""
        Eval mode is wrong
        Which two tensors stand in for the batch's mean and variance, and who writes them?

        The running variance is off by a few percent
        It follows the unbiased variance, the output uses the biased one.

        I don't know how to start
        register_buffer for running_mean (zeros), running_var (ones), num_batches_tracked (0). Training:
          count, m = momentum, or 1/count where it is None (0 is not None), update both under no_grad with
          var·n/(n−1), normalize by the batch. Eval: normalize by the buffers.
        """),
    forbidden=(BATCH_NORM, INSTANCE_NORM, GROUP_NORM, LAYER_NORM),
)

answers = Answers(CLAIMS)


@answers.right
class Written(nn.Module):
    """written out, tracking in a method of its own"""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x):
        axes, shape = (0, *range(2, x.dim())), (1, -1, *[1] * (x.dim() - 2))
        n = x.numel() // x.shape[1]
        if self.training:
            if n == 1:
                raise ValueError(f"x must have more than one value per channel, got {tuple(x.shape)}")
            mean, var = x.mean(axes), x.var(axes, unbiased=False)
            self.track(mean, var, n)
        else:
            mean, var = self.running_mean, self.running_var
        x_hat = (x - mean.view(shape)) / (var.view(shape) + self.eps).sqrt()
        return self.weight.view(shape) * x_hat + self.bias.view(shape)

    @torch.no_grad()
    def track(self, mean, var, n):
        self.num_batches_tracked += 1
        m = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.copy_((1 - m) * self.running_mean + m * mean)
        self.running_var.copy_((1 - m) * self.running_var + m * var * n / (n - 1))


answers.edits("""
biased_running_variance: running_statistics cumulative
- m * var * n / (n - 1)
+ m * var
Your running variance follows the biased variance of each batch.
It estimates the data set's: multiply by n/(n−1) before averaging; the normalization keeps the biased one.

momentum_reversed: running_statistics
- is None else self.momentum
+ is None else 1 - self.momentum
Your momentum weighs the old value: running ← momentum·running + (1−momentum)·batch.
Here momentum is the weight of the new batch: running ← (1−momentum)·running + momentum·batch.

eval_uses_the_batch: eval_mode gradients
- mean, var = self.running_mean, self.running_var
+ mean, var = x.mean(axes), x.var(axes, unbiased=False)
In eval mode you still normalize by the batch's statistics.
Look at self.training: in eval mode use running_mean and running_var.

eps_ignored: training_output eval_mode
- (var.view(shape) + self.eps).sqrt()
+ var.view(shape).sqrt()
You did not use eps.
Add it to the variance before the root, in both modes; it keeps a constant channel from dividing by zero.

eps_fixed: training_output eval_mode
- (var.view(shape) + self.eps).sqrt()
+ (var.view(shape) + 1e-5).sqrt()
You add 1e-5, whatever eps the layer was made with.
Keep eps in __init__ (self.eps = eps) and add self.eps.

eps_outside_root: training_output eval_mode
- (var.view(shape) + self.eps).sqrt()
+ (var.view(shape).sqrt() + self.eps)
You added eps to the standard deviation, after the root.
It belongs to the variance: divide by sqrt(var + eps).

not_affine: training_output eval_mode gradients
- return self.weight.view(shape) * x_hat + self.bias.view(shape)
+ return x_hat
You returned the normalized values without weight and bias.
Scale and shift at the end: weight * x_hat + bias, one number per channel.

eval_updates: eval_mode
- mean, var = self.running_mean, self.running_var
+ mean, var = self.running_mean.clone(), self.running_var.clone()
+ self.track(x.mean(axes), x.var(axes, unbiased=False), n)
Your running statistics move in eval mode.
Update them only while self.training is true.

eval_counts: eval_mode
- if self.training:
+ self.num_batches_tracked += 1
+ if self.training:
- self.num_batches_tracked += 1
num_batches_tracked goes up in eval mode, too.
In eval mode nothing changes: count only while self.training is true.

refuses_in_eval: eval_mode
- if self.training:
-     if n == 1:
-         raise ValueError(f"x must have more than one value per channel, got {tuple(x.shape)}")
+ if n == 1:
+     raise ValueError(f"x must have more than one value per channel, got {tuple(x.shape)}")
+ if self.training:
You refuse one value per channel in eval mode, too.
The running statistics can normalize any input: refuse only while self.training is true.

refuses_one_image: training_output
- if n == 1:
+ if len(x) == 1:
You refuse to train on one image.
An image has H·W values per channel; refuse only where a channel has one value, x.numel() / C = 1.

normalizes_by_unbiased: training_output gradients
- mean, var = x.mean(axes), x.var(axes, unbiased=False)
+ mean, var = x.mean(axes), x.var(axes)
- m * var * n / (n - 1)
+ m * var
You normalize the batch by the unbiased variance.
Two variances: biased (÷n) to normalize, unbiased (÷(n−1)) to track.

plain_attributes: state
- self.register_buffer("running_mean", torch.zeros(num_features))
- self.register_buffer("running_var", torch.ones(num_features))
- self.register_buffer("num_batches_tracked", torch.tensor(0))
+ self.running_mean = torch.zeros(num_features)
+ self.running_var = torch.ones(num_features)
+ self.num_batches_tracked = torch.tensor(0)
Your running statistics are plain attributes, so they are not saved, loaded or moved with the layer.
Use self.register_buffer("running_mean", ...), likewise for the other two.

plain_weights: state gradients
- self.weight = nn.Parameter(torch.ones(num_features))
- self.bias = nn.Parameter(torch.zeros(num_features))
+ self.weight = torch.ones(num_features, requires_grad=True)
+ self.bias = torch.zeros(num_features, requires_grad=True)
Your weight and bias are plain tensors, so no optimizer finds them and no state dict saves them.
Wrap them: self.weight = nn.Parameter(torch.ones(num_features)), likewise for the bias.

statistics_as_parameters: state
- self.register_buffer("running_mean", torch.zeros(num_features))
- self.register_buffer("running_var", torch.ones(num_features))
+ self.running_mean = nn.Parameter(torch.zeros(num_features), requires_grad=False)
+ self.running_var = nn.Parameter(torch.ones(num_features), requires_grad=False)
Your running statistics are parameters.
They are tracked and not learned: self.register_buffer("running_mean", ...), likewise for the variance.

kept_for_later: state
- x_hat = (x
+ self.x_hat = x_hat = (x
You keep tensors that belong to a graph as attributes, so the layer cannot be copied after a training call.
Keep what you compute in local names; what must stay is kept as tensor.detach().

statistics_in_the_graph: state
- @torch.no_grad()
Your running statistics keep the graph of the batches they were made of, so it grows with each batch, the
  layer cannot be copied, and a second backward pass runs into the first one's graph.
Update them under torch.no_grad(), or from mean.detach() and var.detach().

zero_momentum_as_none: running_statistics
- m = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
+ m = self.momentum or 1 / float(self.num_batches_tracked)
With momentum=0 you average over all batches, as with momentum=None: `momentum or …` takes 0 for nothing.
Ask for None: 1 / count if self.momentum is None else self.momentum. With 0 the statistics stay as they are.

counts_images: running_statistics cumulative
- self.track(mean, var, n)
+ self.track(mean, var, len(x))
Your unbiased variance takes the number of images for n.
n is the number of values that the variance was taken over, x.numel() / C.

momentum_none_as_default: cumulative
- 1 / float(self.num_batches_tracked) if self.momentum is None
+ 0.1 if self.momentum is None
With momentum=None you still use 0.1.
None asks for the plain average of all batches: weigh the k-th batch by 1/k.

accepts_one_value: refuses_one_value
- if n == 1:
-     raise ValueError(f"x must have more than one value per channel, got {tuple(x.shape)}")
...
- n / (n - 1)
+ n / max(n - 1, 1)
You train on one value per channel: its variance is 0 and the output is just the bias.
Raise a ValueError when x.numel() / C is 1 in training mode.

trains_on_running_statistics: training_output gradients
- self.track(mean, var, n)
+ self.track(mean, var, n)
+ mean, var = self.running_mean, self.running_var
In training mode you normalize by the running statistics.
Normalize by the batch and only track the running statistics; gradients must pass through the batch's.

counts_afterwards: cumulative
- self.num_batches_tracked += 1
...
- 1 / float(self.num_batches_tracked) if
+ 1 / self.num_batches_tracked if
- self.running_var.copy_((1 - m) * self.running_var + m * var * n / (n - 1))
+ self.running_var.copy_((1 - m) * self.running_var + m * var * n / (n - 1))
+ self.num_batches_tracked += 1
With momentum=None you take 1/num_batches_tracked before this batch is counted.
Add 1 first: batch k has the weight 1/k.

weighs_one_more: cumulative
- 1 / float(self.num_batches_tracked) if
+ 1 / (float(self.num_batches_tracked) + 1) if
With momentum=None batch k has the weight 1/(k + 1) with you, so the initial 0 and 1 count as a batch, too.
Weigh by 1/k, where k counts this batch already: the first one replaces what the buffers began with.

axis_found_by_length: training_output gradients
- axes, shape = (0, *range(2, x.dim())), (1, -1, *[1] * (x.dim() - 2))
+ channels = x.shape.index(len(self.weight))
+ axes = [axis for axis in range(x.dim()) if axis != channels]
+ shape = [-1 if axis == channels else 1 for axis in range(x.dim())]
You took the first axis whose length is num_features for the channels: with N = C that is the batch axis.
The channels are axis 1, however long the others are: reduce over axis 0 and all from 2 on.

counts_by_itself: cumulative
- m = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
+ self.seen = getattr(self, "seen", 0) + 1
+ m = 1 / self.seen if self.momentum is None else self.momentum
With momentum=None you weigh by a counter of your own, which starts over when a state dict is loaded.
Weigh by 1/num_batches_tracked: that count is saved and loaded with the layer.

never_counts: state cumulative
- self.num_batches_tracked += 1
...
- 1 / float(self.num_batches_tracked) if self.momentum is None
+ 0.1 if self.momentum is None
num_batches_tracked stays 0.
Add 1 in every training call, before it is used for the cumulative average.

running_standard_deviation: running_statistics cumulative
- m * var * n / (n - 1)
+ m * (var * n / (n - 1)).sqrt()
Your running_var averages standard deviations.
Average the variances; the root is taken when the layer normalizes.

float32_returned: carries
- return self.weight.view(shape) * x_hat + self.bias.view(shape)
+ return (self.weight.view(shape) * x_hat + self.bias.view(shape)).float()
Your result is float32, also where layer and input are float64.
Compute in the dtype of x; what you make yourself takes it from there, as x.new_zeros(…) does.

float64_returned: carries
- return self.weight.view(shape) * x_hat + self.bias.view(shape)
+ return (self.weight.view(shape) * x_hat + self.bias.view(shape)).double()
Your result is float64, also where layer and input are float32.
Compute in the dtype of x, or convert back at the end: `.to(x.dtype)`.

in_place: gradients carries
- x_hat = (x - mean.view(shape)) / (var.view(shape) + self.eps).sqrt()
- return self.weight.view(shape) * x_hat + self.bias.view(shape)
+ x -= mean.view(shape)
+ x /= (var.view(shape) + self.eps).sqrt()
+ return self.weight.view(shape) * x + self.bias.view(shape)
You modified x in place (-=, /= or a method that ends in _).
Write x - mean into a new name: the caller's tensor and the graph need the old one.

detached_statistics: gradients
- mean, var = x.mean(axes), x.var(axes, unbiased=False)
+ mean, var = x.mean(axes).detach(), x.var(axes, unbiased=False).detach()
The batch statistics are cut from the graph, so their share of the gradient is lost.
Detach only what is tracked; the mean and variance that normalize belong to the graph.
""")


@answers.right
class Lerp(nn.Module):
    """lerp, var_mean, buffers replaced"""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        for name, value in [("running_mean", torch.zeros), ("running_var", torch.ones)]:
            self.register_buffer(name, value(num_features))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        last, mean, var = x.movedim(1, -1), self.running_mean, self.running_var
        if self.training:
            rows = last.reshape(-1, last.shape[-1])
            if len(rows) < 2:
                raise ValueError(f"x must have more than one value per channel, got shape {tuple(x.shape)}")
            var, mean = torch.var_mean(rows, 0, correction=0)
            self.num_batches_tracked = self.num_batches_tracked + 1
            m = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked.item()
            self.running_mean = torch.lerp(self.running_mean, mean.detach(), m)
            self.running_var = torch.lerp(self.running_var, rows.detach().var(0), m)
        return (self.weight * (last - mean) * torch.rsqrt(var + self.eps) + self.bias).movedim(-1, 1)


@answers.right
class ByChannel(nn.Module):
    """a channel at a time"""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x):
        if self.training:
            if x[:, 0].numel() == 1:
                raise ValueError(f"one value per channel has no variance, got x of {tuple(x.shape)}")
            self.num_batches_tracked.add_(1)
        channels = []
        for c in range(x.shape[1]):
            v = x[:, c]
            mean, var = self.running_mean[c], self.running_var[c]
            if self.training:
                mean = v.sum() / v.numel()
                square = ((v - mean) ** 2).sum()
                var = square / v.numel()
                with torch.no_grad():
                    m = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
                    self.running_mean[c] += m * (mean - self.running_mean[c])
                    self.running_var[c] += m * (square / (v.numel() - 1) - self.running_var[c])
            channels.append(self.weight[c] * (v - mean) / (var + self.eps) ** 0.5 + self.bias[c])
        return torch.stack(channels, dim=1)


EXERCISE = answers.exercise()
