import contextlib

import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


def rms(g, past):
    size = g.square().mean().sqrt()
    return g / size if size > 0 else g


def adam(g, past):
    gs = [*past, g]
    mean = sum(0.9 ** (len(gs) - 1 - i) * 0.1 * one for i, one in enumerate(gs)) / (1 - 0.9 ** len(gs))
    square = sum(0.999 ** (len(gs) - 1 - i) * 0.001 * one**2 for i, one in enumerate(gs))
    return mean / ((square / (1 - 0.999 ** len(gs))).sqrt() + 1e-8)


def both(l2, size, tv, variation):
    return l2 * size + tv * variation


def climbing(
    step=rms, penalty=both, dtype=None, converted=True, guarded=True, needs_generator=False, backward=False
):
    """An answer that is right but for what it is given."""

    def maximize_activation(
        model, layer, channel, position=None, shape=(1, 3, 64, 64), steps=64, step_size=1.0, l2=0.0, tv=0.0,
        generator=None,
    ):  # fmt: skip
        like = next(model.parameters())
        device = generator.device if needs_generator else "cpu"
        x = (0.1 * torch.randn(shape, generator=generator, device=device)).to(dtype or like.dtype)
        kept, past = [], []
        hook = model.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o.clone()))
        modes = [(m, m.training) for m in model.modules()]

        def put_back():
            hook.remove()
            for module, mode in modes:
                module.training = mode

        model.eval()
        with contextlib.ExitStack() as stack:
            if guarded:
                stack.callback(put_back)
            for _ in range(steps):
                x = x.detach().requires_grad_()
                model(x.to(like.dtype) if converted else x)
                unit = kept.pop()[:, channel]
                unit = unit if position is None else unit[:, position[0], position[1]]
                variation = sum(x.diff(dim=i).abs().sum() for i in (2, 3)) / x.numel()
                objective = unit.mean() - penalty(l2, x.square().mean(), tv, variation)
                if backward:
                    objective.backward()
                    g = x.grad
                else:
                    (g,) = torch.autograd.grad(objective, x)
                x = x.detach() + step_size * step(g, past)
                past.append(g)
        put_back()
        return x

    return maximize_activation


def lost(verdict):
    return {name for name, outcome in verdict.outcomes.items() if outcome is not Outcome.CORRECT}


class TestMaximizeActivation(Contract):
    exercise_id = "maximize_activation"

    def test_what_the_others_are_variations_of_is_right(self, exam):
        assert evaluate("maximize_activation", climbing(), exam=exam).correct

    @pytest.mark.parametrize(
        ("step", "name"),
        [
            (lambda g, past: g / g.std().clamp(min=1e-30), "standard_deviation"),
            (lambda g, past: g.sign(), "signs_alone"),
            (lambda g, past: -rms(g, past), "descends"),
            (lambda g, past: g / g.norm().clamp(min=1e-30), "whole_norm"),
            (adam, "adam"),
        ],
    )
    def test_a_step_of_another_length_costs_one_claim_and_is_named(self, exam, step, name):
        verdict = evaluate("maximize_activation", climbing(step), exam=exam)
        assert lost(verdict) == {"ascent"}
        assert verdict.points == 4.25
        assert verdict.diagnosis == name

    def test_a_number_added_to_the_root_mean_square_is_seen_where_the_gradient_is_small(self, exam):
        def step(g, past):
            return g / (g.square().mean().sqrt() + 1e-5)

        verdict = evaluate("maximize_activation", climbing(step), exam=exam)
        assert lost(verdict) == {"zero_gradient"}
        assert verdict.diagnosis == "small_number_added"

    def test_adam_and_gradients_left_behind_are_two_names(self, exam):
        verdict = evaluate("maximize_activation", climbing(adam, backward=True), exam=exam)
        assert {finding.name for finding in verdict.findings} == {"adam", "grads_left"}
        assert verdict.unexplained == ()

    def test_float32_costs_the_claim_about_the_dtype_alone(self, exam):
        assert lost(evaluate("maximize_activation", climbing(dtype=torch.float32), exam=exam)) == {"kinds"}

    def test_an_image_that_a_float64_model_cannot_take_costs_that_claim_alone(self, exam):
        verdict = evaluate("maximize_activation", climbing(dtype=torch.float32, converted=False), exam=exam)
        assert lost(verdict) == {"kinds"}
        assert verdict.diagnosis == "never_converted"

    def test_what_is_left_where_the_model_raises_is_seen(self, exam):
        verdict = evaluate("maximize_activation", climbing(guarded=False), exam=exam)
        assert lost(verdict) == {"after_error"}
        assert verdict.diagnosis == "left_at_an_error"

    def test_no_generator_is_legal(self, exam):
        verdict = evaluate("maximize_activation", climbing(needs_generator=True), exam=exam)
        assert lost(verdict) == {"kinds"}
        assert verdict.diagnosis == "generator_needed"

    def test_penalties_that_exclude_each_other_are_seen(self, exam):
        def one_of_them(l2, size, tv, variation):
            return l2 * size if l2 else tv * variation

        assert lost(evaluate("maximize_activation", climbing(penalty=one_of_them), exam=exam)) == {"together"}
