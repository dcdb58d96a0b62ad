"""Measure every claim about speed and memory, each with its peer in the same run."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from autograder.sandbox.machine import trouble
from benchmarks import library, machine
from benchmarks.checks import checks
from benchmarks.kernels import kernels
from benchmarks.measure import KEPT, Row, apart, as_json, listed


def main() -> int:
    """Print a line for each claim, and whether other programs were at work beside it; 1 if one does not hold."""
    every = {b.__name__: b for b in (*library.EVERYWHERE, checks, kernels, *library.WITH_GPU)}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(every)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to a file")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(every):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")

    print(f"{machine.cores()} cores; one takes {machine.calibration():.3f} s for the calibration")
    rows: list[Row] = []
    taken = machine.taken_by_others()
    for name, benchmark in every.items():
        if chosen.names and name not in chosen.names:
            continue
        if benchmark in library.WITH_GPU and not torch.cuda.is_available():
            print(f"{name:22} needs a GPU: not measured")
            continue
        if benchmark is kernels and (missing := trouble()):
            print(f"{name:22} not measured: {missing}")
            continue
        measured = apart(listed, benchmark, KEPT if benchmark in library.OPERATIONS else {})
        before, taken = taken, machine.taken_by_others()
        for row in measured:
            rows.append(replace(row, taken=max(before, taken)))
            print(_line(rows[-1]), flush=True)
    if chosen.json:
        chosen.json.write_text(as_json(rows))
    return 0 if all(row.met for row in rows) else 1


def _line(row: Row) -> str:
    met = "met" if row.met else "NOT MET"
    figures = f"{row.ours:10.4g} against {row.peer:10.4g} {row.unit}"
    busy = f"   busy: others took {row.taken:.0%} of a core" if row.taken > machine.BUSY else ""
    return f"{row.name:22} {figures:34} {row.ratio:7.2f}   goal {row.goal:7} {met}{busy}"


if __name__ == "__main__":
    sys.exit(main())
