import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestShiftAndStitch(Contract):
    exercise_id = "shift_and_stitch"


def stitched(net, image, factor, *, zeros=torch.Tensor.new_zeros):
    """Of a network in evaluation mode."""
    with torch.no_grad():
        maps = {(r, c): net(image[..., r:, c:]) for r in range(factor) for c in range(factor)}
    rows, columns = (sum(maps[at].shape[axis] for at in maps if at[3 - axis] == 0) for axis in (2, 3))
    out = zeros(maps[0, 0], (*maps[0, 0].shape[:2], rows, columns))
    for (r, c), cells in maps.items():
        out[..., r::factor, c::factor] = cells
    return out


def moded(before, after):
    """An answer that calls `before(net)`, stitches, and calls `after(net, what before returned)`."""

    def shift_and_stitch(net, image, factor):
        found = before(net)
        out = stitched(net, image, factor)
        after(net, found)
        return out

    return shift_and_stitch


def flags(net):
    return [(module, module.training) for module in net.modules()]


def put_back(net, found):
    for module, training in found:
        module.training = training


def all_in_eval(net):
    found = flags(net)
    net.eval()
    return found


def test_each_layer_put_back_is_right():
    assert evaluate("shift_and_stitch", moded(all_in_eval, put_back)).correct


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (lambda net: (net.training, net.eval())[0], lambda net, was: net.train(was), "one_mode_for_all"),
        (lambda net: net.eval(), lambda net, _: None, "left_in_eval_mode"),
        (lambda net: net.eval(), lambda net, _: net.train(), "always_back_to_training"),
        (flags, put_back, "eval_forgotten"),
        (lambda net: (flags(net), net.training and net.eval())[0], put_back, "eval_only_if_net_trains"),
    ],
    ids=["one flag for all", "left in eval", "always training", "no eval", "eval where net trains"],
)
def test_what_becomes_of_the_modes_is_named_at_the_price_of_its_claim(before, after, name):
    verdict = evaluate("shift_and_stitch", moded(before, after))
    assert (verdict.diagnosis, verdict.points) == (name, 3.25)
    assert verdict.outcomes["mode"] is Outcome.WRONG_VALUES


def test_parameters_left_frozen_are_traces():
    verdict = evaluate(
        "shift_and_stitch", moded(lambda net: all_in_eval(net.requires_grad_(False)), put_back)
    )
    assert verdict.outcomes["mode"] is Outcome.WRONG_VALUES
    assert "other requires_grad" in next(r for r in verdict.results if r.name == "mode").message


def test_maps_stacked_as_if_all_had_one_size_are_told():
    def answer(net, image, factor):
        found = all_in_eval(net)
        with torch.no_grad():
            maps = torch.stack([net(image[..., r:, c:]) for r in range(factor) for c in range(factor)])
        put_back(net, found)
        N, L, h, w = maps.shape[1:]
        grid = maps.reshape(factor, factor, N, L, h, w).permute(2, 3, 4, 0, 5, 1)
        return grid.reshape(N, L, h * factor, w * factor)

    verdict = evaluate("shift_and_stitch", answer)
    assert (verdict.points, verdict.diagnosis) == (3, "equal_sizes_assumed")


def test_wrong_places_cost_no_mode_and_no_dtype():
    def answer(net, image, factor):
        found = all_in_eval(net)
        with torch.no_grad():
            rows = [torch.cat([net(image[..., r:, c:]) for c in range(factor)], 3) for r in range(factor)]
        put_back(net, found)
        return torch.cat(rows, 2)

    verdict = evaluate("shift_and_stitch", answer)
    assert [(f.name, f.claims) for f in verdict.findings] == [
        ("side_by_side", ("stitched", "larger_factors", "ragged"))
    ]


def test_a_result_of_the_default_dtype_costs_its_own_claim():
    def answer(net, image, factor):
        found = all_in_eval(net)
        out = stitched(net, image, factor, zeros=lambda like, shape: torch.zeros(shape))
        put_back(net, found)
        return out

    verdict = evaluate("shift_and_stitch", answer)
    assert (verdict.diagnosis, verdict.points) == ("default_dtype", 3.75)


def test_a_factor_of_one_is_tried():
    def answer(net, image, factor):
        if factor < 2:
            raise ValueError(f"factor must be 2 at least, got {factor}")
        return moded(all_in_eval, put_back)(net, image, factor)

    assert evaluate("shift_and_stitch", answer).outcomes["larger_factors"] is Outcome.RAISED
