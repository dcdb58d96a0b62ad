"""Neural tissue: a U-Net on slices of ISBI 2012, with the weight map's border term and without it.

python -m benchmarks.results.isbi2012
"""

import argparse
import time

from benchmarks.results import record
from benchmarks.results.unets import foreground, in_memory, train
from coursekit.data.isbi2012 import isbi2012
from coursekit.metrics import connected_components, pixel_error, rand_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    started = time.perf_counter()
    data, val = in_memory(isbi2012("train")), in_memory(isbi2012("val"))
    figures = {}
    for w0, name in ((10.0, "with the border term"), (0.0, "without")):
        net = train(data, w0, chosen.steps, chosen.seed)
        cells = [foreground(net, item["image"]) for item in val]
        pixel = [pixel_error(cell, item["labels"]) for cell, item in zip(cells, val, strict=True)]
        rand = [
            rand_error(connected_components(cell), item["instances"])
            for cell, item in zip(cells, val, strict=True)
        ]
        figures[f"pixel error, {name}"] = round(sum(pixel) / len(val), 4)
        figures[f"Rand error, {name}"] = round(sum(rand) / len(val), 3)
        print(figures, flush=True)
    # A single gap in a membrane joins two cells: the Rand error hangs on few pixels.
    spread = {name: 0.02 if name.startswith("pixel") else 0.2 for name in figures}
    command = f"python -m benchmarks.results.isbi2012 --steps {chosen.steps} --seed {chosen.seed}"
    record("isbi2012", command, time.perf_counter() - started, figures, spread)


if __name__ == "__main__":
    main()
