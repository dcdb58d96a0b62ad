import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


def pictured(weight, columns=8, padding=1, scaled=None):
    if weight.shape[1] not in (1, 3):
        raise ValueError(f"weight must have 1 or 3 channels, got {weight.shape[1]}")
    weight = weight.detach()
    low, high = weight.amin((1, 2, 3), keepdim=True), weight.amax((1, 2, 3), keepdim=True)
    tiles = torch.where(high > low, (weight - low) / (high - low), 0.5)
    if scaled is not None:
        tiles = scaled(weight, low, high)
    K, _, h, w = weight.shape
    rows = -(-K // columns)
    picture = weight.new_ones(3, rows * (h + padding) + padding, columns * (w + padding) + padding)
    for k in range(K):
        y, x = padding + k // columns * (h + padding), padding + k % columns * (w + padding)
        picture[:, y : y + h, x : x + w] = tiles[k]
    return picture


def lost(verdict):
    return {name for name, outcome in verdict.outcomes.items() if outcome is not Outcome.CORRECT}


class TestFilterGrid(Contract):
    exercise_id = "filter_grid"

    def test_the_defaults_are_tried(self, exam):
        def filter_grid(weight, columns=4, padding=1):
            return pictured(weight, columns, padding)

        assert lost(evaluate("filter_grid", filter_grid, exam=exam)) == {"missing"}

    def test_lines_of_no_width_between_several_rows_are_tried(self, exam):
        def filter_grid(weight, columns=8, padding=1):
            return pictured(weight, columns, padding or (len(weight) > columns))

        assert "layout" in lost(evaluate("filter_grid", filter_grid, exam=exam))

    def test_a_number_added_to_the_range_is_named(self, exam):
        def filter_grid(weight, columns=8, padding=1):
            return pictured(weight, columns, padding, lambda w, low, high: (w - low) / (high - low + 1e-5))

        verdict = evaluate("filter_grid", filter_grid, exam=exam)
        assert lost(verdict) == {"constant"}
        assert verdict.diagnosis == "number_in_the_divisor"
