"""What exercises of lecture 04 share: networks that show their mode, and what became of them."""

import contextlib
from typing import Any

import torch
from torch import nn

from autograder.attempt import Handle, Odd, Raised, Subject, kind_of
from autograder.catalog.observations import as_double, changed_tensors, draw_statistics
from autograder.draw import Draw
from autograder.exercise import Case
from autograder.values import Network

EVALUATED = "the same in eval mode"
RAISING = "one that raises an error"
FLAGS: list[tuple[bool, tuple[type[nn.Module], ...]]] = [
    (True, (nn.BatchNorm2d,)),
    (False, (nn.Dropout,)),
    (False, ()),
    (True, ()),
]
"""The mode of a network, and which layers are in the other one: a batch norm whose statistics are frozen
while the rest is trained, a dropout that goes on drawing while the rest is evaluated."""


def flagged(network: nn.Module, mode: bool, others: tuple[type[nn.Module], ...] = ()) -> Network:
    """The network as data, in a mode, some layers in the other."""
    network.train(mode)
    for module in network.modules():
        if isinstance(module, others):
            module.training = not mode
    return Network.describe(network)


def drawn_norm(d: Draw, k: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(k)
    draw_statistics(d, norm)
    return norm


def normalized_features(d: Draw, c: int, k: int) -> list[nn.Module]:
    """Features that show the mode they run in."""
    return [nn.Conv2d(c, k, 2), drawn_norm(d, k), nn.Tanh(), nn.Dropout(0.5)]


def running_case(d: Draw, network: nn.Module, *args: Any) -> Case:
    """A network in training mode, or one whose outermost flag says nothing of its layers."""
    # All in float32: what makes its own float32 tensors is another property's business.
    network = network.float()
    inside = (nn.BatchNorm2d, nn.Dropout)
    given = flagged(network, *d.each([(True, ()), (False, inside)]))
    return Case((given, *_single(args)), {}, {EVALUATED: flagged(network, False)})


def as_in_eval_mode(subject: Subject, case: Case) -> Any:
    """What does not depend on the scores, so that a slip in them costs nothing here."""
    evaluated = subject(case.extra[EVALUATED], *case.args[1:])
    network = subject.build(case.args[0])
    before = network.inspect("parameters", "buffers")
    scores = subject(network, *case.args[1:])
    after = network.inspect("parameters", "buffers")
    if not isinstance(evaluated, torch.Tensor) or not isinstance(scores, torch.Tensor):
        return scores
    alike = evaluated.shape == scores.shape and torch.allclose(as_double(evaluated), as_double(scores))
    return {
        "the same result as of a network in eval mode": alike,
        "tensors of the network that changed": ", ".join(changed_tensors(before, after)) or "none",
    }


def found_case(d: Draw, network: nn.Module, raising: nn.Module, *args: Any) -> Case:
    """A network in some mode, and one in the same that raises an error when it runs."""
    mode = d.each(FLAGS)
    given, broken = flagged(network.float(), *mode), flagged(raising.float(), *mode)
    return Case((given, *_single(args)), {}, {RAISING: broken})


def left_as_found(subject: Subject, case: Case) -> Any:
    """The network and the images after a call, and the flags of a network that raised its error."""
    network = _partly_frozen(subject, case.args[0])
    before = network.inspect("training", "kinds", "requires_grad", "hooks")
    found, changed = subject.with_changes(network, *case.args[1:])
    after = network.inspect("training", "kinds", "requires_grad", "hooks", "grads")
    broken = subject.build(case.extra[RAISING])
    whole = broken.inspect("training", "kinds")
    try:
        subject(broken, *case.args[1:])
    except Raised as raised:
        # A stub, or a mistake of the learner's own, leaves everything as it was, too.
        if raised.kinds[0] != "RuntimeError":
            raise
    if not isinstance(found, torch.Tensor):
        return found
    return {
        "its training flags": moved_flags(before, after),
        "training flags after an error of the network": moved_flags(whole, broken.inspect("training")),
        "its requires_grad": _same(before, after, "requires_grad"),
        "its hooks": _same(before, after, "hooks"),
        "gradients in its parameters": "some" if has_gradients(after) else "none",
        "the pixels": "changed" if "1" in changed else "as they were",
    }


def _partly_frozen(subject: Subject, described: Network) -> Handle:
    network = subject.build(described)
    network.do("get_submodule", "0").then("requires_grad_", False)
    return network


def has_gradients(seen: dict[str, Any]) -> bool:
    """Whether a backward pass has left some in the parameters of a network that was looked at."""
    return any(grad is not None for grad in seen["grads"].values())


def _same(before: dict[str, Any], after: dict[str, Any], part: str) -> str:
    return "as they were" if before[part] == after[part] else "changed"


def moved_flags(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Which training flags of a network differ between two looks at it."""
    flags = after["training"]
    moved = [path for path, flag in flags.items() if before["training"].get(path) is not flag]
    if not moved:
        return "as they were"
    if len(set(flags.values())) == 1:
        return f"all in {_mode(flags[''])} mode"
    return ", ".join(f"{before['kinds'].get(path) or 'it'} in {_mode(flags[path])} mode" for path in moved)


def _mode(flag: bool) -> str:
    return "training" if flag else "eval"


def kept(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What became of a network that is only to be read; its training flags are another matter."""
    if before["kinds"] != after["kinds"]:
        return "with other layers"
    if changed := changed_tensors(before, after):
        return f"changed: {', '.join(changed)}"
    if before["requires_grad"] != after["requires_grad"]:
        return "with another requires_grad"
    if has_gradients(after):
        return "with gradients in its parameters"
    return "unchanged" if before["hooks"] == after["hooks"] else "with hooks on its layers"


def tied_to(made: Handle, x: torch.Tensor, given: Handle) -> str:
    """Whether the gradients of what was made of a module reach that module's parameters."""
    # Whether it runs at all is another property's business.
    with contextlib.suppress(Raised):
        grads = made.vjp(x, wrt=[given])["grads"] or {}
        return "none" if all(grad is None for grad in grads.values()) else "some"
    return "none"


def reached_by_gradients(subject: Subject, case: Case) -> Any:
    network = subject.build(case.args[0])
    found = subject.vjp(network, *case.args[1:], wrt=[network, 1])
    names = {"1": "images" if case.args[1].ndim == 4 else "image"}
    reached = sorted(names.get(n, n) for n, g in found["grads"].items() if g is not None)
    return {
        "answer": kind_of(found["value"]),
        "gradients that can be computed": ", ".join(reached) or "none",
    }


def _single(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.float() if isinstance(a, torch.Tensor) else a for a in args)


# -- classifiers, and what became of them -------------------------------------------------------------------

Size = tuple[int, int, int]

# The map that is flattened, the hidden dense layers, the classes: one dense layer and three, square ones that
# a transposed weight would fit, a map of one cell, and one of an image three times as wide as high.
HEADS: list[tuple[tuple[int, int], tuple[int, ...], int]] = [
    ((2, 3), (4,), 3),
    ((3, 2), (3, 3), 3),
    ((1, 5), (), 3),
    ((1, 1), (4,), 2),
    ((2, 2), (2,), 4),
]


def dense(inputs: int, hidden: tuple[int, ...], outputs: int, bias: bool, dropped: float) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(inputs, size, bias=bias), nn.ReLU(), nn.Dropout(dropped)]
        inputs = size
    return [*layers, nn.Linear(inputs, outputs, bias=bias)]


def flattening(
    d: Draw, *, bias: bool = True, norm: bool = False, dropped: float = 0.5
) -> tuple[nn.Sequential, Size]:
    (h, w), hidden, outputs = d.each(HEADS)
    c, k = d.choice([2, 1, 3]), d.choice([2, 3])
    cnn = nn.Sequential(
        nn.Conv2d(c, k, 3, bias=bias),
        *([drawn_norm(d, k)] if norm else []),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *dense(k * h * w, hidden, outputs, bias, dropped),
    )
    # A row or column that the pool drops belongs to no cell.
    return cnn, (c, 2 * h + 2 + d.choice([0, 1]), 2 * w + 2 + d.choice([0, 1]))


@torch.no_grad()
def awake(cnn: nn.Sequential, images: torch.Tensor) -> nn.Sequential:
    """Of each dense layer, one output is positive for the first image and the next is negative: ReLUs that
    let nothing pass, or everything, would hide mistakes."""
    x = images
    for layer in [m for m in cnn.modules() if not isinstance(m, nn.Sequential)]:
        if isinstance(layer, nn.Linear):
            for output, sign in ((0, 1), (1, -1)):
                if layer(x)[0, output] * sign < 0:
                    for parameter in layer.parameters():
                        parameter[output].neg_()
        x = layer(x)
    return cnn


def kind_of_network(made: Handle, seen: dict[str, Any]) -> str:
    """Its class; what can be walked through as an nn.Sequential, one of the learner's own too, is one."""
    kind = seen["kinds"].get("", "")
    try:
        made.do("__len__")
    except Raised:
        return kind
    return "Sequential"


def expect_copies(network: Network, made: Handle, says: Any, right: torch.Tensor) -> None:
    """Where what a network says is not right, the numbers that it was made from may have been left behind:
    then no score tells more, least of all one that is drawn afresh each time. Raises :class:`Odd`."""
    if not isinstance(says, torch.Tensor) or says.shape != right.shape:
        return
    if torch.allclose(says.double(), right.double(), 1e-3, 1e-4):
        return
    if lost := _not_copied(network, made):
        raise Odd(
            f"the numbers of {', '.join(lost)} are nowhere in your result: what stands in their place holds "
            "others"
        )


def _not_copied(network: Network, made: Handle) -> list[str]:
    """Weights and biases of a network that are not in another, in any order, though there is something of
    their size."""
    left = list(made.inspect("parameters")["parameters"].values())
    lost = {}
    for name, tensor in network.tensors.items():
        if name.endswith(("weight", "bias")):
            at = next((n for n, other in enumerate(left) if _same_numbers(tensor, other)), None)
            if at is None:
                lost[name] = tensor
            else:
                del left[at]
    return [name for name, tensor in lost.items() if any(_same_size(tensor, other) for other in left)]


def _same_size(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.numel() == other.numel() and (one.ndim > 1) == (other.ndim > 1)


def _same_numbers(one: torch.Tensor, other: torch.Tensor) -> bool:
    sorted_one, sorted_other = (t.double().flatten().sort()[0] for t in (one, other))
    return _same_size(one, other) and torch.allclose(sorted_one, sorted_other, 1e-4, 1e-6)


def carried_flags(before: dict[str, Any], seen: dict[str, Any]) -> str:
    """Which layers of the result have another training flag than those whose place they take."""
    own, made = _layers(before), _layers(seen)
    if len(own) != len(made):
        # Which layer stands for which is certain of those alone whose flag changes what they do.
        own, made = ([one for one in those if one[0] in ("BatchNorm2d", "Dropout")] for those in (own, made))
    pairs = [((before["kinds"][""], before["training"][""]), (seen["kinds"][""], seen["training"][""]))]
    pairs += zip(own, made, strict=False)
    off = [
        f"{kind} in {'training' if flag else 'eval'} mode" for (_, was), (kind, flag) in pairs if was != flag
    ]
    if not off:
        return "those of the cnn"
    modes = {flag for _, (_, flag) in pairs}
    return f"all in {'training' if True in modes else 'eval'} mode" if len(modes) == 1 else ", ".join(off)


def _layers(seen: dict[str, Any]) -> list[tuple[str, bool]]:
    """Kind and training flag of each layer that does something."""
    paths = [path for path in seen["kinds"] if path]
    inner = [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]
    kinds = [(seen["kinds"][path], seen["training"][path]) for path in inner]
    return [one for one in kinds if one[0] not in ("Flatten", "Identity")]
