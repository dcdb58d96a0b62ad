import pytest
import torch
from contract import Contract

from autograder.oracle import evaluate


def floats(images):
    return images if images.is_floating_point() else images.float()


class TestMeanImage(Contract):
    exercise_id = "mean_image"

    @pytest.mark.parametrize(
        ("name", "claims", "answer"),
        [
            ("added_in_place", ("kinds",), lambda images: floats(images).div_(len(images)).sum(0)),
            ("divided_by_255", ("average", "bytes"), lambda images: (floats(images) / 255).mean(0)),
            ("bytes_divided_by_255", ("bytes",), lambda images: floats(images).mean(0) / scale(images)),
        ],
    )
    def test_public_mistakes_have_names(self, name, claims, answer):
        (finding,) = evaluate("mean_image", answer).findings
        assert (finding.name, finding.claims) == (name, claims)


def scale(images):
    return 255 if images.dtype in (torch.uint8, torch.int64) else 1
