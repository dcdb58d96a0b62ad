import torch
from contract import Contract

from autograder.catalog import find
from autograder.exercise import Outcome
from autograder.oracle import evaluate

HOLDS = (Outcome.CORRECT, Outcome.WAITING)


def lost(verdict):
    return {name for name, outcome in verdict.outcomes.items() if outcome not in HOLDS}


def windows(cnn, image, window, stride):
    H, W = image.shape[1:]
    rows = []
    with torch.no_grad():
        for top in range(0, H - window + 1, stride):
            lefts = range(0, W - window + 1, stride)
            crops = [image[None, :, top : top + window, left : left + window] for left in lefts]
            rows.append(torch.stack([cnn(crop).squeeze(0) for crop in crops], -1))
    return torch.stack(rows, 1)


class TestSlidingWindow(Contract):
    exercise_id = "sliding_window"

    def test_each_layers_flag_is_its_own(self):
        def as_the_hint_once_said(cnn, image, window, stride):
            was = cnn.training
            cnn.eval()
            scores = windows(cnn, image, window, stride)
            cnn.train(was)
            return scores

        def not_in_finally(cnn, image, window, stride):
            flags = [(m, m.training) for m in cnn.modules()]
            scores = windows(cnn.eval(), image, window, stride)
            for m, flag in flags:
                m.training = flag
            return scores

        named = ("one_flag_for_all", "not_after_an_error")
        for answer, name in zip((as_the_hint_once_said, not_in_finally), named, strict=True):
            verdict = evaluate("sliding_window", answer)
            assert (lost(verdict), verdict.diagnosis, verdict.points) == ({"as_found"}, name, 3.75)
        assert "finally" in find("sliding_window").hints[2].help

    def test_windows_of_one_pixel_and_a_single_class_come_in_every_exam(self):
        def larger_windows_only(cnn, image, window, stride):
            assert window > 1
            return windows(cnn, image, window, stride)

        def several_classes_only(cnn, image, window, stride):
            return windows(cnn, image, window, stride).squeeze(0)

        for answer, claim in ((larger_windows_only, "scores"), (several_classes_only, "sparse")):
            for seed in range(3):
                assert claim in lost(evaluate("sliding_window", answer, seed=seed))

    def test_the_axis_of_a_single_class_squeezed_is_named_in_every_exam(self):
        def squeezed(cnn, image, window, stride):
            flags = {m: m.training for m in cnn.modules()}
            cnn.eval()
            try:
                bands = image.unfold(1, window, stride).unfold(2, window, stride).permute(1, 2, 0, 3, 4)
                with torch.no_grad():
                    rows = [torch.stack([cnn(crop[None]).squeeze() for crop in band]) for band in bands]
            finally:
                for m, flag in flags.items():
                    m.training = flag
            return torch.stack(rows).permute(2, 0, 1)

        for seed in range(3):
            verdict = evaluate("sliding_window", squeezed, seed=seed)
            assert (lost(verdict), verdict.diagnosis) == ({"sparse"}, "single_class_squeezed")
