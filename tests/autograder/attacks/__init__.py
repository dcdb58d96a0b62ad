"""The attack catalogue: submissions that really do what they say, to be graded in one class with honest students."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nbformat import NotebookNode

Edit = Callable[[NotebookNode], NotebookNode]

DOUBLE = "def double(x):\n    return x + x"
TRIPLE = "def triple(x):\n    return x + x + x"
NORMALIZE = """\
def batchnorm_forward(x, gamma, beta, eps=1e-5):
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [-1] + [1] * (x.ndim - 2)
    centered = x - x.mean(axes, keepdim=True)
    scale = (centered.square().mean(axes, keepdim=True) + eps).rsqrt()
    return centered * scale * gamma.view(shape) + beta.view(shape)"""
"""Right answers."""

DID = "did:"
"""What a cell of an attack prints before what it has done."""


@dataclass(frozen=True)
class Attack:
    """One hostile submission.

    Attributes:
        id: its student.
        row: the row of the catalogue that it belongs to.
        did: what its own cells must have put out when it was graded, as regular expressions: it really ran.
        first: a cell of its own before all exercises.
        double, triple, normalize: its answers; the stub where it is "".
        last: a cell of its own at the end.
        edit: what it does to its notebook besides.
        files: that lie beside its notebook, by name; a path within the course for a link that leads there.
        earns: the points for double, triple and batchnorm_forward.
        flagged: the exercises that a person must be asked about.
        said: what its author or a person must be told, as regular expressions.
        earlier: hands in a right notebook first, which is graded.
    """

    id: str
    row: str
    did: tuple[str, ...] = ()
    first: str = ""
    double: str = ""
    triple: str = ""
    normalize: str = ""
    last: str = ""
    edit: Edit = lambda notebook: notebook
    files: Mapping[str, str | Path] = field(default_factory=dict)
    earns: tuple[float, float, float] = (0, 0, 0)
    flagged: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    earlier: bool = False
