"""What exercises of lecture 01 share: images, dtypes, and the layer that standardizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.observations import as_double, described, named
from autograder.draw import Draw
from autograder.exercise import Case, Forbidden

SCALERS = Forbidden("sklearn.preprocessing", ("sklearn.preprocessing.",))


def varied_images(d: Draw, n: int, c: int, h: int, w: int) -> torch.Tensor:
    """Images of different brightness, so that what is averaged over shows in every number."""
    brightness = torch.arange(n, dtype=torch.float64).view(n, 1, 1, 1)
    channels = 3.0 * torch.arange(c, dtype=torch.float64).view(1, c, 1, 1)
    return d.tensor(n, c, h, w) + brightness + channels


def bright_bytes(d: Draw) -> Case:
    shape = (d.integer(2, 5), d.integer(2, 3), d.integer(2, 4), d.integer(2, 5))
    return Case((d.integers(*shape, low=150, high=255, dtype=torch.uint8),))


def whole_numbers(d: Draw) -> Case:
    # The numbers of images and of channels differ, so that the shape tells which of the two was averaged.
    n, c = d.choice([(3, 2), (2, 3), (4, 2), (4, 3)])
    return Case((d.integers(n, c, 2, 3, low=100, high=255),))


KINDS = (torch.uint8, torch.int64, torch.float32, torch.float64)


def kinds_of_answers(subject: Subject, case: Case) -> Any:
    """Shape and dtype of the answer for each dtype of the input, and what was modified in place."""
    seen: dict[str, Any] = {}
    for dtype in KINDS:
        images = case.args[0].to(dtype)
        seen[f"for {str(dtype).removeprefix('torch.')} images"] = described(subject(images))
        seen["modified in place"] = bool(subject.changed(images)) or seen.get("modified in place", False)
    return seen


mean_and_std = named("mean", "std")


def numbers_of(index: int) -> Callable[[Subject, Case], Any]:
    """One of the two returned values, without its dtype."""

    def observe(subject: Subject, case: Case) -> Any:
        result = subject(*case.args)
        if not isinstance(result, list | tuple) or len(result) != 2:
            return result
        return as_double(result[index])

    return observe


def float_of(images: torch.Tensor) -> torch.dtype:
    return images.dtype if images.is_floating_point() else torch.float32


class StandardizerWithSeams(nn.Module):
    """The layer with a seam at each step, where the misconceptions put their mistake."""

    def __init__(self, mode="channel_standard"):
        super().__init__()
        self.mode = mode
        self.make_buffers()

    def make_buffers(self):
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def keep(self, mean, std):
        self.mean, self.std = mean, std

    def statistics(self, images):
        x = images.double()
        if self.mode == "mean_image":
            mean = x.mean(0)
            return mean, torch.ones_like(mean)
        mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)
        std = self.guarded(std) if self.mode == "channel_standard" else torch.ones_like(std)
        return mean[:, None, None], std[:, None, None]

    def guarded(self, std):
        return torch.where(std > 1e-9, std, 1.0)

    def fit(self, images):
        self.keep(*(value.to(float_of(images)) for value in self.statistics(images)))
        return self

    def refuse(self):
        if self.mean is None or self.mean.numel() == 0:
            raise RuntimeError("fit the statistics first, or load them")

    def forward(self, images):
        self.refuse()
        return (images - self.mean) / self.std

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        for name in ("mean", "std"):
            if name in self._buffers and prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class StandardizerNoneThenSet(nn.Module):
    """Buffers that are None at first, shaped (C,), spread out when they are used."""

    def __init__(self, mode="channel_standard"):
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", None)
        self.register_buffer("std", None)

    def fit(self, images):
        kind = images.dtype if images.is_floating_point() else torch.float32
        if self.mode == "mean_image":
            self.mean = images.to(kind).mean(0)
            self.std = torch.ones((), dtype=kind, device=images.device)
            return self
        rows = images.double().transpose(0, 1).flatten(1)
        self.mean = rows.mean(1).to(kind)
        low, high = rows.min(1).values, rows.max(1).values
        if self.mode == "channel_mean":
            self.std = torch.ones_like(self.mean)
        else:
            self.std = torch.where(low == high, 1.0, rows.std(1, correction=0)).to(kind)
        return self

    def forward(self, images):
        if self.mean is None:
            raise RuntimeError("no statistics yet")
        if self.mode == "mean_image":
            return images - self.mean
        moved = images.movedim(1, -1)
        return ((moved - self.mean) / self.std).movedim(-1, 1)

    def load_state_dict(self, state_dict, *args, **kwargs):
        for name in ("mean", "std"):
            setattr(self, name, state_dict[name].clone())
        return super().load_state_dict(state_dict, *args, **kwargs)


class StandardizerHook(nn.Module):
    """A flag that is a buffer too, and a hook that makes room before a load."""

    def __init__(self, mode="channel_standard"):
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.zeros(1, 1, 1, 1))
        self.register_buffer("std", torch.ones(1, 1, 1, 1))
        self.register_buffer("fitted", torch.tensor(False))
        self.register_load_state_dict_pre_hook(_make_room)

    def fit(self, images):
        axes = 0 if self.mode == "mean_image" else (0, 2, 3)
        x = images.double()
        mean = x.mean(axes, keepdim=True)
        std = torch.ones_like(mean)
        if self.mode == "channel_standard":
            spread = ((x - mean) ** 2).mean(axes, keepdim=True).sqrt()
            std = spread.masked_fill(spread < 1e-7, 1.0)
        self.mean, self.std = mean.to(float_of(images)), std.to(float_of(images))
        self.fitted.fill_(True)
        return self

    def forward(self, images):
        if not self.fitted:
            raise RuntimeError("call fit first")
        return torch.div(torch.sub(images, self.mean), self.std)


def _make_room(module, state_dict, prefix, *arguments):
    for name in ("mean", "std"):
        setattr(module, name, state_dict[prefix + name].clone())
