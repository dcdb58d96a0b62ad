import pytest
import torch
from contract import Contract
from torch.nn import functional as F

from autograder.oracle import evaluate


def sizes(skip, up):
    (H, W), (h, w) = skip.shape[2:], up.shape[2:]
    if h > H or w > W:
        raise ValueError("up is larger than skip")
    return H, W, h, w


def resized(skip, up):
    H, W, _, _ = sizes(skip, up)
    return torch.cat([skip, F.interpolate(up, (H, W), mode="bilinear", align_corners=False)], 1)


def equal_refused(skip, up):
    H, W, h, w = sizes(skip, up)
    if h == H or w == W:
        raise ValueError("up must be smaller than skip")
    return cropped(skip, up)


def cropped(skip, up):
    H, W, h, w = sizes(skip, up)
    skip = skip[..., (H - h) // 2 :, (W - w) // 2 :][..., :h, :w]
    return torch.cat((skip, up), -3)


class TestCropAndConcat(Contract):
    exercise_id = "crop_and_concat"

    @pytest.mark.parametrize(
        ("answer", "name", "points"),
        [
            (resized, "up_resized", 0),
            (equal_refused, "equal_refused", 1.75),
            (lambda skip, up: cropped(skip, up.detach()), "up_detached", 1.75),
            (lambda skip, up: cropped(skip, up).data, "graph_cut", 1.75),
            (lambda skip, up: cropped(skip, up).float(), "default_dtype", 1.75),
        ],
    )
    def test_one_mistake_costs_its_own_claims(self, answer, name, points):
        assert evaluate("crop_and_concat", cropped).correct
        verdict = evaluate("crop_and_concat", answer)
        assert (verdict.points, verdict.diagnosis) == (points, name)
