import torch
from contract import Contract

from autograder.catalog import find
from autograder.exercise import Outcome
from autograder.oracle import evaluate

HOLDS = (Outcome.CORRECT, Outcome.WAITING)


def lost(verdict):
    return {name for name, outcome in verdict.outcomes.items() if outcome not in HOLDS}


def plain(fcn, images):
    with torch.no_grad():
        return torch.softmax(fcn(images), dim=-3)


class TestClassHeatmaps(Contract):
    exercise_id = "class_heatmaps"

    def test_each_layers_flag_is_its_own(self):
        def as_the_hint_once_said(fcn, images):
            was = fcn.training
            fcn.eval()
            maps = plain(fcn, images)
            fcn.train(was)
            return maps

        def in_finally(fcn, images):
            was = fcn.training
            try:
                return plain(fcn.eval(), images)
            finally:
                fcn.train(was)

        def not_in_finally(fcn, images):
            flags = [(m, m.training) for m in fcn.modules()]
            maps = plain(fcn.eval(), images)
            for m, flag in flags:
                m.train(flag)
            return maps

        named = ("one_flag_for_all", "one_flag_for_all_after_errors_too", "not_after_an_error")
        for answer, name in zip((as_the_hint_once_said, in_finally, not_in_finally), named, strict=True):
            verdict = evaluate("class_heatmaps", answer)
            assert (lost(verdict), verdict.diagnosis, verdict.points) == ({"as_found"}, name, 1.75)
        assert "finally" in find("class_heatmaps").hints[2].help

    def test_flags_put_back_in_any_way_are_right(self):
        def by_train(fcn, images):
            flags = [(m, m.training) for m in fcn.modules()]
            try:
                return plain(fcn.eval(), images)
            finally:
                for m, flag in flags:
                    m.train(flag)

        assert evaluate("class_heatmaps", by_train).correct

    def test_the_outermost_flag_says_nothing_of_the_layers(self):
        def where_it_seems_to_train(fcn, images):
            flags = [(m, m.training) for m in fcn.modules()]
            try:
                if fcn.training:
                    fcn.eval()
                return plain(fcn, images)
            finally:
                for m, flag in flags:
                    m.training = flag

        assert lost(evaluate("class_heatmaps", where_it_seems_to_train)) == {"mode"}

    def test_a_wrong_dtype_and_touched_images_cost_their_own_claim(self):
        def restored(fcn, images, after=lambda maps: maps):
            flags = [(m, m.training) for m in fcn.modules()]
            try:
                return after(plain(fcn.eval(), images))
            finally:
                for m, flag in flags:
                    m.training = flag

        verdict = evaluate("class_heatmaps", lambda fcn, images: restored(fcn, images, torch.Tensor.float))
        assert (lost(verdict), verdict.points) == ({"dtype"}, 1.75)

        def centered(fcn, images):
            maps = restored(fcn, images)
            images.sub_(1)
            return maps

        assert "as_found" in lost(evaluate("class_heatmaps", centered))
