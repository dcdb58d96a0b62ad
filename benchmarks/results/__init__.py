"""What the networks of this course reach on real data: a command for each row of docs/results.md.

Each command writes what it measured to a file beside this one; `python -m benchmarks.results` makes the page.
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent


def record(
    name: str,
    command: str,
    seconds: float,
    figures: Mapping[str, float],
    spread: float | Mapping[str, float] = 0.0,
) -> None:
    """Print what a command measured, and keep it for the page of results.

    Args:
        name: of the result, and of its file.
        command: what makes it again.
        seconds: how long it took.
        figures: what came out, by name; shares from 0 to 1.
        spread: how far a figure may lie away when the command is run again, on another machine or number of
            cores for example; one number, or one for each figure.
    """
    import torch

    cores = torch.get_num_threads()
    device = f"{cores} core{'s' * (cores > 1)}"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    row = {
        "name": name,
        "command": command,
        "minutes": round(seconds / 60, 1),
        "on": device,
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
        "spread": dict(spread) if isinstance(spread, Mapping) else spread,
        "figures": dict(figures),
    }
    (HERE / f"{name}.json").write_text(json.dumps(row, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(row, indent=2, ensure_ascii=False))
