"""What exercises of lecture 04 share: networks that show their mode, and what became of them."""

from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject, kind_of
from autograder.catalog.observations import changed_tensors, draw_statistics
from autograder.draw import Draw
from autograder.exercise import Case
from autograder.values import Network


def in_both_modes(subject: Subject, case: Case) -> Any:
    """What does not depend on the scores, so that a slip in them costs nothing here."""
    maps, seen = [], {}
    for mode, described in (("eval", case.args[0]), ("training", case.extra["the same in training mode"])):
        network = subject.build(described)
        before = network.inspect()
        maps.append(subject(network, *case.args[1:]))
        after = network.inspect()
        seen[f"after a call in {mode} mode"] = mode_of(after)
        seen[f"tensors changed in {mode} mode"] = ", ".join(changed_tensors(before, after)) or "none"
    evaluated, trained = maps
    alike = evaluated.shape == trained.shape and torch.allclose(evaluated.double(), trained.double())
    # A constant is the same in every mode.
    scores = evaluated.is_floating_point() and bool((evaluated != evaluated.flatten()[0]).any())
    return {"the same scores in both modes": alike and scores, **seen}


def mode_of(seen: dict[str, Any]) -> str:
    flags = set(seen["training"].values())
    if len(flags) > 1:
        return "some layers in eval mode, others in training mode"
    return "in training mode" if True in flags else "in eval mode"


def drawn_norm(d: Draw, k: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(k)
    draw_statistics(d, norm)
    return norm


def normalized_features(d: Draw, c: int, k: int) -> list[nn.Module]:
    """Features that show the mode they run in."""
    return [nn.Conv2d(c, k, 2), drawn_norm(d, k), nn.Tanh(), nn.Dropout(0.5)]


def mode_case(network: nn.Module, *args: Any) -> Case:
    # All in float32: what makes its own float32 tensors is another property's business.
    evaluating = Network.describe(network.float().eval())
    args = tuple(a.float() if isinstance(a, torch.Tensor) else a for a in args)
    return Case((evaluating, *args), {}, {"the same in training mode": Network.describe(network.train())})


def kept(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What became of a network that is only to be read."""
    if before["kinds"] != after["kinds"]:
        return "with other layers"
    if changed := changed_tensors(before, after):
        return f"changed: {', '.join(changed)}"
    if before["requires_grad"] != after["requires_grad"]:
        return "with another requires_grad"
    return "unchanged" if before["training"] == after["training"] else "in another mode"


def reached_by_gradients(subject: Subject, case: Case) -> Any:
    network = subject.build(case.args[0])
    found = subject.vjp(network, *case.args[1:], wrt=[network, 1])
    names = {"1": "images" if case.args[1].ndim == 4 else "image"}
    reached = sorted(names.get(n, n) for n, g in found["grads"].items() if g is not None)
    return {
        "answer": kind_of(found["value"]),
        "gradients that can be computed": ", ".join(reached) or "none",
    }
