import numpy as np
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate

SIDES = ("top", "left", "bottom", "right")


def box(row, col, field_y, field_x):
    firsts = [int(np.floor(f[2] + i * f[1] - (f[0] - 1) / 2)) for i, f in ((row, field_y), (col, field_x))]
    return (*firsts, firsts[0] + field_y[0], firsts[1] + field_x[0])


class TestCellToBox(Contract):
    exercise_id = "cell_to_box"

    def test_another_container_costs_what_is_asked_of_the_container(self):
        def named(*args):
            return dict(zip(SIDES, box(*args), strict=True))

        for answer in (lambda *args: torch.tensor(box(*args)), lambda *args: np.array(box(*args)), named):
            verdict = evaluate("cell_to_box", answer)
            wrong = [name for name, outcome in verdict.outcomes.items() if outcome is not Outcome.CORRECT]
            assert (wrong, verdict.points) == (["integers"], 1.75)

    def test_the_first_row_and_column_come_in_every_exam(self):
        def from_one(row, col, field_y, field_x):
            return box(row or 1, col or 1, field_y, field_x)

        for seed in range(3):
            verdict = evaluate("cell_to_box", from_one, seed=seed)
            assert verdict.outcomes["odd_fields"] is not Outcome.CORRECT
            assert verdict.outcomes["even_fields"] is not Outcome.CORRECT

    def test_the_size_of_the_wrong_axis_costs_the_same_in_every_exam(self):
        def as_wide_as_high(*args):
            top, left, bottom, _ = box(*args)
            return top, left, bottom, left + bottom - top

        for seed in range(3):
            verdict = evaluate("cell_to_box", as_wide_as_high, seed=seed)
            assert [f.name for f in verdict.findings] == ["right_by_the_size_of_field_y"]
            assert verdict.points == 0.25

    def test_a_rounded_center_is_named_in_every_exam(self):
        def of_the_pixel(row, col, field_y, field_x):
            top, left = (round(f[2] + i * f[1]) - f[0] // 2 for i, f in ((row, field_y), (col, field_x)))
            return top, left, top + field_y[0], left + field_x[0]

        for seed in range(3):
            assert evaluate("cell_to_box", of_the_pixel, seed=seed).diagnosis == "center_rounded"
