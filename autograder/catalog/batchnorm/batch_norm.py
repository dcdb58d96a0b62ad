"""The exercise BatchNorm of lecture 02: the layer, in training and in inference."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from autograder.attempt import Handle, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.batchnorm.draws import LOOSE, spread
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import BATCH_NORM, GROUP_NORM, INSTANCE_NORM, LAYER_NORM
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import batchnorm as reference


def _layer_state(d: Draw, c: int) -> dict[str, torch.Tensor]:
    return {
        "weight": d.positive(c),
        "bias": d.tensor(c),
        "running_mean": d.tensor(c),
        "running_var": d.positive(c),
        "num_batches_tracked": torch.tensor(d.integer(0, 3)),
    }


def _layer_case(batches: int, **config: Sequence[Any]) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        c = d.integer(2, 4)
        shape = d.choice([lambda: (), lambda: (d.integer(1, 3), d.integer(1, 4))])()
        chosen = {
            name: options[0] if len(options) == 1 else d.choice(options) for name, options in config.items()
        }
        xs = [spread(d, d.integer(2, 5), c, *shape) for _ in range(batches)]
        return Case((c,), chosen, {"state": _layer_state(d, c), "batches": xs})

    return draw


def _loaded(subject: Subject, case: Case) -> Handle:
    layer = subject(*case.args, **case.kwargs)
    layer.then("double")
    # Not strict: a missing buffer is the business of the property about the state dict.
    layer.then("load_state_dict", case.extra["state"], strict=False)
    return layer


def _buffers(layer: Handle) -> dict[str, Any]:
    seen = layer.inspect("parameters", "buffers")
    known = {**seen["parameters"], **seen["buffers"]}
    return {name: known.get(name) for name in ("running_mean", "running_var")}


def _trains(subject: Subject, case: Case) -> Any:
    layer = _loaded(subject, case)
    return [layer(x) for x in case.extra["batches"]]


def _tracks(subject: Subject, case: Case) -> Any:
    layer = _loaded(subject, case)
    after = []
    for x in case.extra["batches"]:
        layer(x)
        after.append(_buffers(layer))
    return after


def _accumulates(subject: Subject, case: Case) -> Any:
    layer = subject(*case.args, **case.kwargs)
    layer.then("double")
    after = []
    for x in case.extra["batches"]:
        layer(x)
        after.append(_buffers(layer))
    return after


def _evaluates(subject: Subject, case: Case) -> Any:
    layer = _loaded(subject, case)
    layer.then("eval")
    before = _buffers(layer)
    outputs = [layer(x) for x in case.extra["batches"]]
    after = _buffers(layer)
    return {"outputs": outputs, "buffers changed": not _same(before, after)}


def _same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return all(
        isinstance(after[k], torch.Tensor) and isinstance(v, torch.Tensor) and torch.equal(v, after[k])
        for k, v in before.items()
        if v is not None
    )


def _holds(subject: Subject, case: Case) -> Any:
    layer = subject(*case.args, **case.kwargs)
    fresh = layer.inspect("parameters", "buffers", "state")
    for x in case.extra["batches"]:
        layer(x.float())
    after = layer.inspect("buffers")
    return {
        "parameters": {n: fresh["parameters"][n] for n in sorted(fresh["parameters"])},
        "buffers": {n: fresh["buffers"][n] for n in sorted(fresh["buffers"])},
        "keys of the state dict": sorted(fresh["state"]),
        "num_batches_tracked afterwards": after["buffers"].get("num_batches_tracked"),
    }


def _refuses(subject: Subject, case: Case) -> Any:
    layer = subject(*case.args, **case.kwargs)
    return layer(*case.extra["batches"])


def _one_value(d: Draw) -> Case:
    c = d.integer(1, 4)
    x = d.tensor(1, c, *d.choice([(), (1, 1)]), dtype=torch.float32)
    return Case((c,), {}, {"batches": [x]})


def _layer_gradients(subject: Subject, case: Case) -> Any:
    layer = _loaded(subject, case)
    (x,) = case.extra["batches"]
    training = layer.vjp(x, wrt=[0, layer])["grads"]
    # The training call has moved the running statistics; their update has a property of its own.
    layer.then("load_state_dict", case.extra["state"], strict=False)
    layer.then("eval")
    return {"training": training, "eval": layer.vjp(x, wrt=[0, layer])["grads"]}


CLAIMS = Exercise(
    id="BatchNorm",
    topic="batchnorm",
    title="The layer, in training and in inference",
    reference=reference.BatchNorm,
    minutes=30,
    difficulty=3,
    properties=claims(
        """
        training_output (1): in training mode the batch is normalized by its own statistics
        tried: double(), load_state_dict, then training calls
        running_statistics (1.25): running ← (1−momentum)·running + momentum·batch, with the unbiased variance
        tried: double(), load_state_dict, then training calls; the buffers after each
        eval_mode (1): in eval mode the running statistics are used and nothing changes
        tried: double(), load_state_dict, eval(), then calls
        state (0.75): weight and bias are parameters; running_mean, running_var, num_batches_tracked are
          buffers
        tried: a new layer looked at, then two training calls
        cumulative (0.5): momentum=None averages over all batches seen
        tried: double(), three training calls; the buffers after each
        refuses_one_value (0.5): training on one value per channel is refused with a ValueError
        tried: one training call on a single value per channel
        gradients (1): gradients reach x, weight and bias in both modes
        tried: double(), load_state_dict, the gradient in training mode, then in eval mode
        """,
        training_output=on(_layer_case(2), _trains, tolerance=LOOSE),
        running_statistics=on(_layer_case(2, momentum=[0.1, 0.25, 0.4]), _tracks),
        eval_mode=on(_layer_case(2, eps=[1e-5, 0.1]), _evaluates),
        state=on(_layer_case(2), _holds, examples=3),
        cumulative=on(_layer_case(3, momentum=[None]), _accumulates, examples=4),
        refuses_one_value=on(_one_value, _refuses, examples=4, beside="training_output"),
        gradients=on(_layer_case(1), _layer_gradients, tolerance=LOOSE),
    ),
    hints=hints("""
        Eval mode is wrong
        Which two tensors stand in for the batch's mean and variance, and who writes them?

        The running variance is off by a few percent
        It follows the unbiased variance, the output uses the biased one.

        I don't know how to start
        register_buffer for running_mean (zeros), running_var (ones), num_batches_tracked (0). Training:
          count, m = momentum or 1/count, update both under no_grad with var·n/(n−1), normalize by the batch.
          Eval: normalize by the buffers.
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
The running variance estimates the data set's: multiply by n/(n−1) before averaging; the normalization itself
  keeps the biased one.

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

eval_updates: eval_mode
- mean, var = self.running_mean, self.running_var
+ mean, var = self.running_mean.clone(), self.running_var.clone()
+ self.track(x.mean(axes), x.var(axes, unbiased=False), n)
Your running statistics move in eval mode.
Update them only while self.training is true.

normalizes_by_unbiased: training_output gradients
- mean, var = x.mean(axes), x.var(axes, unbiased=False)
+ mean, var = x.mean(axes), x.var(axes)
- m * var * n / (n - 1)
+ m * var
You normalize the batch by the unbiased variance.
Two variances: biased (÷n) to normalize, unbiased (÷(n−1)) to track.

plain_attributes: all but training_output refuses_one_value
- self.register_buffer("running_mean", torch.zeros(num_features))
- self.register_buffer("running_var", torch.ones(num_features))
- self.register_buffer("num_batches_tracked", torch.tensor(0))
+ self.running_mean = torch.zeros(num_features, dtype=torch.float64)
+ self.running_var = torch.ones(num_features, dtype=torch.float64)
+ self.num_batches_tracked = torch.tensor(0)
Your running statistics are plain attributes, so they are not saved, loaded or moved with the layer.
Use self.register_buffer("running_mean", ...), likewise for the other two.

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
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        for name, value in [("running_mean", torch.zeros), ("running_var", torch.ones)]:
            self.register_buffer(name, value(num_features))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        last = x.movedim(1, -1)
        mean, var = self.running_mean, self.running_var
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
                    m = self.momentum or 1 / self.num_batches_tracked.item()
                    self.running_mean[c] += m * (mean - self.running_mean[c])
                    self.running_var[c] += m * (square / (v.numel() - 1) - self.running_var[c])
            channels.append(self.weight[c] * (v - mean) / (var + self.eps) ** 0.5 + self.bias[c])
        return torch.stack(channels, dim=1)


EXERCISE = answers.exercise()
