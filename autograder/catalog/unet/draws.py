"""What exercises of lecture 07 share: a size, and networks whose layers have any names.

Nobody is told what to call the layers of a network. Parameters of one shape therefore get the same numbers, so
that any names and any order of construction give the same function, and gradients are summed by shape.
"""

import math
import zlib
from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.observations import described, parameters_of
from autograder.exercise import Case

# Networks of other layer types add in another order.
LOOSE = (1e-6, 1e-6)
NOTHING = torch.zeros(())


def input_side(bottom: int, depth: int) -> int:
    """The input whose lowest map, after its two convolutions, has this side."""
    side = bottom + 4
    for _ in range(depth):
        side = 2 * side + 4
    return side


def _values(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers that follow from the shape: weights that keep the signal's size, biases that keep units alive."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {shape}".encode()))
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64)
    return numbers * math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.3 * numbers.abs()


def filled_network(subject: Subject, case: Case) -> Any:
    network = subject(*case.args, **case.kwargs)
    network.then("double")
    network.then("eval")
    shapes = network.inspect("shapes")["shapes"]
    values = {name: _values(case.extra["seed"], shape) for name, shape in shapes.items()}
    # Not strict: what else an answer keeps in its state shows in its output.
    network.then("load_state_dict", values, strict=False)
    return network


def applied_gradients(subject: Subject, case: Case) -> Any:
    network = filled_network(subject, case)
    grads = network.vjp(case.extra["x"], wrt=[0, network])["grads"]
    summed: dict[str, Any] = {"x": grads.pop("0")}
    for grad in grads.values():
        if grad is not None:
            name = f"parameters of shape {tuple(grad.shape)}"
            summed[name] = summed.get(name, 0) + grad
    return summed


def parameter_shapes(subject: Subject, case: Case) -> dict[str, int]:
    """How many parameters there are of each shape."""
    network = subject(*case.args, **case.kwargs)
    counts: dict[str, int] = {}
    for p in parameters_of(network, NOTHING).values():
        name = f"{'biases' if p.dim() == 1 else 'weights'} of shape {tuple(p.shape)}"
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def runs(subject: Subject, case: Case) -> str:
    return described(subject(*case.args, **case.kwargs)(case.extra["x"]))
