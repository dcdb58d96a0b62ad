"""What a learner's cell has put out, without what would run, or steer a terminal, where it is read."""

from __future__ import annotations

import re

from nbformat import NotebookNode

ALLOWED = ("text/plain", "image/png", "image/jpeg")
_STEERING = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
"""What begins a control sequence, but for colors, and characters that are one by themselves."""


def harmless(output: NotebookNode) -> NotebookNode | None:
    """An output without the formats that run code where the feedback is read."""
    for name in ("text", "evalue"):
        if name in output:
            output[name] = _STEERING.sub("", str(output[name]))
    if "traceback" in output:
        output.traceback = [_STEERING.sub("", str(line)) for line in output.traceback]
    if "data" in output:
        output.data = NotebookNode({k: v for k, v in output.data.items() if k in ALLOWED})
        if "text/plain" in output.data:
            output.data["text/plain"] = _STEERING.sub("", str(output.data["text/plain"]))
        output.metadata = NotebookNode()
        return output if output.data else None
    return output
