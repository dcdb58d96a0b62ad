"""Make docs/results.md out of what the commands wrote down."""

import json
from pathlib import Path

from benchmarks.results import HERE

PAGE = HERE.parents[1] / "docs" / "results.md"
HEAD = """# Results on real data

Each row came out of the command beside it, with `COURSEKIT_DATA` set to a folder that holds the data sets (see
`coursekit/data`). Figures of another machine or another version of torch lie within the spread that is given.

| command | figure | value | ± | minutes | on |
|---|---|---|---|---|---|
"""


def rows(result: dict) -> str:
    """The lines of one command, whose first one carries what is common to them."""
    lines = []
    for index, (name, value) in enumerate(result["figures"].items()):
        first = index == 0
        command = f"`{result['command']}`" if first else ""
        minutes, where = (f"{result['minutes']:g}", result["on"]) if first else ("", "")
        spread = f"{result['spread']:g}" if result["spread"] else ""
        lines.append(f"| {command} | {name} | {value:.3f} | {spread} | {minutes} | {where} |\n")
    return "".join(lines)


def page(results: list[dict]) -> str:
    """The whole page."""
    return HEAD + "".join(rows(result) for result in results)


def main() -> None:
    files = sorted(Path(HERE).glob("*.json"))
    PAGE.write_text(page([json.loads(file.read_text()) for file in files]))


if __name__ == "__main__":
    main()
