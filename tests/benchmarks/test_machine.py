import subprocess
import sys

from benchmarks import machine


def test_a_core_takes_time_for_the_calibration():
    assert 0 < machine.calibration() < 60


def test_other_programs_are_noticed():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(machine.cores())]
    try:
        taken = max(machine.taken_by_others() for _ in range(3))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert machine.BUSY < taken < 1
