"""What the exercises that train share: one network a check, judged on images made after it exists."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from autograder.agent.watch import global_numbers
from autograder.attempt import Handle, Subject, Trouble
from autograder.exercise import Case, Mismatch, Outcome, Reading

MEMORY = "AUTOGRADER_GATE_MEMORY"
"""Names the folder where the gate keeps what its answers trained; nothing is kept where it is not set."""

Train = Callable[[Dataset, torch.Generator], nn.Module]


def remembered(train: Train) -> Train:
    """The same training, done once for the same data set and seed while the gate runs.

    One that moves a global generator is done anew each time: data set and seed do not say what comes of it.
    """

    @functools.wraps(train)
    def trained(dataset: Dataset, generator: torch.Generator) -> nn.Module:
        folder = os.environ.get(MEMORY)
        if not folder:
            return train(dataset, generator)
        data = {k: v for k, v in sorted(vars(dataset).items()) if isinstance(v, int | float | str)}
        key = f"{train.__module__}.{train.__qualname__} {type(dataset).__name__} {data} {generator.initial_seed()}"
        kept = Path(folder) / f"{hashlib.sha256(key.encode()).hexdigest()}.pt"
        if not kept.exists():
            before = global_numbers()
            network = train(dataset, generator)
            if global_numbers() != before:
                return network
            partial = kept.with_suffix(f".{os.getpid()}")
            torch.save((network, generator.get_state()), partial)
            partial.replace(kept)
        # Written above by this program, and a network is more than its tensors.
        network, state = torch.load(kept, weights_only=False)
        generator.set_state(state)
        return network

    return trained


class Around(nn.Module):
    """A trained network with something before or behind it: what a mistake would have made of the training."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net


class OnBytes(Around):
    """A network that was trained on pixels from 0 to 255."""

    def forward(self, x):
        return self.net(x / 255)


def trained_network(subject: Subject, case: Case) -> dict[str, Any] | None:
    """Let the answer train: the network, its training flags, whether the generator was drawn from and what was not.

    None where what came back is no network.
    """
    dataset, generator = case.args
    source = subject.build(generator)
    before = source.do("get_state")
    network = subject(dataset, source)
    if not isinstance(network, Handle):
        return None
    found = network.inspect("training")
    drawn = not torch.equal(before, source.do("get_state"))
    # How it was left is one claim; what it has learned is another.
    network.then("eval")
    return {
        "network": network,
        "training": any(found["training"].values()),
        "drawn": drawn,
        "by chance": _by_chance(subject, case) if drawn and subject.drew_by_chance else "",
    }


def _by_chance(subject: Subject, case: Case) -> str:
    """What differs at the first step of two trainings with the same generator and other global random numbers."""
    try:
        one, other = (subject.first_step(*case.args, seed=seed) for seed in (1, 2))
    except Trouble:
        return ""
    if isinstance(one, dict) and isinstance(other, dict):
        for what in ("weights", "gradients"):
            if one[what].shape != other[what].shape or not torch.allclose(one[what], other[what], 1e-3):
                return what
    return ""


def attempted(network: Handle, images: torch.Tensor) -> Any:
    """The network's answer, or the trouble in its place."""
    try:
        return network(images)
    except Trouble as trouble:
        return str(trouble)


def readings(
    measure: str, levels: dict[str, tuple[float, float]], symptom: Callable[[dict[str, Any]], str]
) -> tuple[Reading, ...]:
    """Claims that give points as a score grows, and two about how the network was made and left, which count beside the
    lowest of them.

    They read one observation: a dict with `score`, `usable` (None, or the name of a misconception and what is
    wrong) and `drawn`; where there is no score, `says` tells why.

    Args:
        measure: what the score is called, for instance "mean IoU".
        levels: name of the claim → (score that it asks for, points), lowest first.
        symptom: name of the misconception that an observation shows, or "".
    """
    lowest = min(levels, key=lambda name: levels[name][0])

    def short_of(seen: dict[str, Any], score: float) -> Mismatch | None:
        if seen.get("score", 0.0) >= score:
            return None
        # Rounded down, as points are: what falls short of 0.35 is not called 0.35.
        reached = f"{measure} {math.floor(seen['score'] * 100) / 100:.2f}" if "score" in seen else ""
        message = seen.get("says") or f"{reached} on images made after the training"
        got = reached or str(seen.get("kind", ""))
        return Mismatch(
            Outcome.WRONG_VALUES if "score" in seen else Outcome.WRONG_KIND,
            message,
            expected=f"{measure} of at least {score:g}",
            got=got,
            code=symptom(seen),
        )

    def reaches(score: float) -> Callable[[Case, Any], Mismatch | None]:
        return lambda case, seen: short_of(seen, score)

    def usable(case: Case, seen: Any) -> Mismatch | None:
        if not seen.get("usable"):
            return None
        code, message = seen["usable"]
        return Mismatch(Outcome.WRONG_VALUES, message, code=code)

    def repeatable(case: Case, seen: Any) -> Mismatch | None:
        if "score" not in seen:
            return None
        if not seen.get("drawn"):
            message = "the generator is where it was before the training: nothing was drawn from it"
            return Mismatch(Outcome.WRONG_VALUES, message, code="generator_ignored")
        if what := seen.get("by chance"):
            message = (
                f"two trainings with the same generator have other {what} at their first step: torch's, numpy's or "
                "Python's own random numbers decide them"
            )
            return Mismatch(Outcome.WRONG_VALUES, message, code=f"{what}_by_chance")
        return None

    tried = "the network trained once, then asked about images that were generated afterwards"
    grown = tuple(
        Reading(name, f"{measure} of at least {score:g} on new images", points, reaches(score), tried=tried)
        for name, (score, points) in levels.items()
    )
    return (
        *grown,
        Reading(
            "usable",
            "and the network comes in evaluation mode and takes images of other sizes",
            0.5,
            usable,
            lowest,
            tried=tried,
        ),
        Reading(
            "repeatable",
            "and what is left to chance is drawn from the generator",
            0.5,
            repeatable,
            lowest,
            tried=tried,
        ),
    )
