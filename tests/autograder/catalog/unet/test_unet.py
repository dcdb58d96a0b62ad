import itertools

import pytest
import torch
from contract import Contract
from torch import nn
from torch.nn import functional as F

from autograder.exercise import Outcome
from autograder.oracle import evaluate


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.ReLU(), nn.Conv2d(outputs, outputs, 3), nn.ReLU())


class Net(nn.Module):
    """With names that nobody has asked for, and a place for each mistake."""

    pooled_levels = 0
    hidden: tuple[str, ...] = ()

    def __init__(self, in_channels, num_classes, base=64, depth=4):
        super().__init__()
        sizes = [in_channels] + [base * 2**level for level in range(depth + 1)]
        for name, layers in {
            "encoder": [block(a, b) for a, b in itertools.pairwise(sizes)],
            "rises": [nn.ConvTranspose2d(2 * c, c, 2, 2) for c in sizes[1:-1]],
            "decoder": [block(2 * c, c) for c in sizes[1:-1]],
        }.items():
            setattr(self, name, layers if name in self.hidden else nn.ModuleList(layers))
        self.out = nn.Conv2d(base, num_classes, 1)
        self.register_buffer("unused", torch.zeros(3), persistent=False)

    def kept(self):
        return []

    def meet(self, skip, up):
        top, left = ((a - b) // 2 for a, b in zip(skip.shape[2:], up.shape[2:], strict=True))
        if min(top, left) < 0:
            raise ValueError("up is too large")
        return torch.cat([skip[:, :, top : top + up.shape[2], left : left + up.shape[3]], up], 1)

    def forward(self, x):
        kept, levels = self.kept(), len(self.rises)
        for level in range(levels):
            x = self.encoder[level](x)
            kept.append(x)
            if level < levels - self.pooled_levels:
                x = F.max_pool2d(x, 2)
        x = self.encoder[-1](x)
        for level in reversed(range(levels)):
            x = self.decoder[level](self.meet(kept[level], self.rises[level](x)))
        return self.out(x)


class LastPoolMissing(Net):
    pooled_levels = 1


class Padded(Net):
    def meet(self, skip, up):
        dy, dx = (a - b for a, b in zip(skip.shape[2:], up.shape[2:], strict=True))
        return torch.cat([skip, F.pad(up, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])], 1)


class RisesInAList(Net):
    hidden = ("rises",)


class TwoInLists(Net):
    hidden = ("encoder", "decoder")


class Remembers(Net):
    def kept(self):
        self.skips = getattr(self, "skips", [])
        return self.skips


class TestUNet(Contract):
    exercise_id = "UNet"

    @pytest.mark.parametrize(
        ("answer", "name", "points"),
        [
            (LastPoolMissing, "last_pooling_missing", 1.0),
            (Padded, "up_padded", 1.0),
            (RisesInAList, "upsamplings_in_a_list", 1.0),
            (TwoInLists, "plain_lists", 1.0),
            (Remembers, "skips_kept_for_good", 5.0),
        ],
    )
    def test_mistakes_have_their_own_names(self, answer, name, points):
        verdict = evaluate("UNet", type("UNet", (answer,), {}))
        assert (verdict.points, verdict.diagnosis) == (points, name)

    def test_names_and_buffers_that_nobody_asked_for_cost_nothing(self):
        assert evaluate("UNet", type("UNet", (Net,), {})).correct

    def test_an_error_of_another_cause_does_not_get_a_name_that_rests_on_errors(self):
        def meet(self, skip, up):
            raise ValueError("these do not fit")

        verdict = evaluate("UNet", type("UNet", (Net,), {"meet": meet}))
        assert verdict.diagnosis is None
        assert verdict.outcomes["sizes"] is Outcome.RAISED
