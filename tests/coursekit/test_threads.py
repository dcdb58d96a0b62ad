import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coursekit import threads

ROOT = Path(__file__).parents[2]
WITHOUT = {name: value for name, value in os.environ.items() if name not in threads.VARIABLES}
# In place of torch: says what torch would have read, and ends the process before anything heavy is loaded.
AS_TORCH_LOADS = f"""
import json, os, sys
class Torch:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            print(json.dumps({{v: os.environ[v] for v in {threads.VARIABLES} if v in os.environ}}))
            sys.stdout.flush()
            os._exit(0)
sys.meta_path.insert(0, Torch)
"""


def seen_by_torch(program, **own):
    done = subprocess.run(
        [sys.executable, "-c", AS_TORCH_LOADS + program], env=WITHOUT | own, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "program",
    [
        "import coursekit.unet",
        "from autograder import check",
        "import autograder, torch",
        "import autograder.cli, torch",
        "import autograder.plugins.judge, torch",
        "import runpy; runpy.run_module('benchmarks', run_name='__main__')",
        "import tests.conftest, torch",
    ],
)
def test_the_policy_is_set_before_torch_is_loaded(program):
    assert seen_by_torch(program) == threads.POLICY


@pytest.mark.parametrize("lecture", sorted(ROOT.glob("lectures/*/*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_imports_coursekit_before_torch(lecture):
    cells = json.loads(lecture.read_text("utf-8"))["cells"]
    code = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert seen_by_torch(code) == threads.POLICY


@pytest.mark.parametrize("own", [{name: "1"} for name in threads.WAITING], ids=str)
def test_a_setting_of_ones_own_is_left_alone(own):
    assert seen_by_torch("import coursekit, torch", **own) == own


def test_how_many_threads_there_are_is_another_question():
    number = {"OMP_NUM_THREADS": "1"}
    assert seen_by_torch("import coursekit, torch", **number) == threads.POLICY | number


def test_importing_the_package_alone_costs_next_to_nothing():
    program = "import sys, coursekit; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.skipif(sys.platform != "linux", reason="each OpenMP library says its settings in its own words")
def test_the_library_that_torch_loads_reads_it():
    program = [sys.executable, "-c", "import coursekit, torch"]
    environment = WITHOUT | {"OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert "GOMP_SPINCOUNT = '0'" in done.stderr
