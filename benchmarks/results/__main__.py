"""Make docs/results.md, and the picture of the first filters in it, out of what the commands wrote down."""

import json
from pathlib import Path

from torchvision.utils import save_image

from benchmarks.results import HERE
from coursekit.models import pretrained
from coursekit.visualization import filter_grid

PAGE = HERE.parents[1] / "docs" / "results.md"
HEAD = """# Results on real data

Each row came out of the command beside it, with `COURSEKIT_DATA` set to a folder that holds the data sets (see
`coursekit/data`). Figures of another machine, another number of cores or another version of torch lie within the spread
that is given. On two cores each takes less than twenty minutes, but `pretrain`: that one is meant for a GPU.

| command | figure | value | ± | minutes | on |
|---|---|---|---|---|---|
"""
TAIL = """
The first layer of this course's own classifier, 7×7 filters, each stretched from black to white on its own: edges in several
directions and blobs of color.

![A grid of 32 small filters: oriented edges, in gray and in color, and blobs of color.](images/filters.png)
"""


def rows(result: dict) -> str:
    """The lines of one command, whose first one carries what is common to them."""
    lines = []
    for index, (name, value) in enumerate(result["figures"].items()):
        first = index == 0
        command = f"`{result['command']}`" if first else ""
        minutes, where = (f"{result['minutes']:g}", result["on"]) if first else ("", "")
        spread = result["spread"][name] if isinstance(result["spread"], dict) else result["spread"]
        lines.append(f"| {command} | {name} | {value:.3f} | {spread or ''} | {minutes} | {where} |\n")
    return "".join(lines)


def page(results: list[dict]) -> str:
    """The whole page."""
    return HEAD + "".join(rows(result) for result in results) + TAIL


def filters() -> None:
    """A picture of the first layer of this course's own network."""
    weight = pretrained("cifar10").get_submodule("conv1").get_parameter("weight").detach()
    picture = filter_grid(weight, columns=16).repeat_interleave(12, 1).repeat_interleave(12, 2)
    (PAGE.parent / "images").mkdir(parents=True, exist_ok=True)
    save_image(picture, PAGE.parent / "images" / "filters.png")


def main() -> None:
    filters()
    files = sorted(Path(HERE).glob("*.json"))
    PAGE.write_text(page([json.loads(file.read_text()) for file in files]))


if __name__ == "__main__":
    main()
