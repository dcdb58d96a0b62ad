"""The exercise Standardizer of lecture 01: statistics that travel with the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autograder.attempt import Handle, Raised, Subject
from autograder.catalog.observations import described
from autograder.catalog.preprocessing.draws import (
    KINDS,
    SCALERS,
    StandardizerHook,
    StandardizerNoneThenSet,
    StandardizerWithSeams,
    float_of,
    varied_images,
    whole_numbers,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Forbidden, Hint, Misconception, Property, Variant
from coursekit import preprocessing as reference

_MODES = ("mean_image", "channel_mean", "channel_standard")


class _StandardizerOwnBatch(StandardizerWithSeams):
    def forward(self, images):
        self.refuse()
        mean, std = self.statistics(images)
        return ((images - mean) / std).to(float_of(images))


class _StandardizerPlain(StandardizerWithSeams):
    def make_buffers(self):
        self.mean = self.std = torch.empty(0)


class _StandardizerNotPersistent(StandardizerWithSeams):
    def make_buffers(self):
        for name in ("mean", "std"):
            self.register_buffer(name, torch.empty(0), persistent=False)


class _StandardizerByOneLess(StandardizerWithSeams):
    def statistics(self, images):
        mean, std = super().statistics(images)
        if self.mode != "channel_standard":
            return mean, std
        count = images.numel() // images.shape[1]
        return mean, torch.where(std == 1, std, std * (count / (count - 1)) ** 0.5)


class _StandardizerParameters(StandardizerWithSeams):
    def make_buffers(self):
        self.mean = nn.Parameter(torch.empty(0), requires_grad=False)
        self.std = nn.Parameter(torch.empty(0), requires_grad=False)

    def keep(self, mean, std):
        self.mean, self.std = (nn.Parameter(value, requires_grad=False) for value in (mean, std))

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        if prefix + "mean" in state_dict:
            self.keep(*(torch.empty_like(state_dict[prefix + name]) for name in ("mean", "std")))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class _StandardizerFlag(StandardizerWithSeams):
    def __init__(self, mode="channel_standard"):
        super().__init__(mode)
        self.fitted = False

    def fit(self, images):
        self.fitted = True
        return super().fit(images)

    def refuse(self):
        if not self.fitted:
            raise RuntimeError("not fitted")


class _StandardizerRegistersInFit(StandardizerWithSeams):
    def make_buffers(self):
        pass

    def keep(self, mean, std):
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def refuse(self):
        if "mean" not in self._buffers:
            raise RuntimeError("not fitted")


class _StandardizerNoGuard(StandardizerWithSeams):
    def guarded(self, std):
        return std


class _StandardizerAddsEps(StandardizerWithSeams):
    def guarded(self, std):
        return std + 1e-5


class _StandardizerOneMode(StandardizerWithSeams):
    def __init__(self, mode="channel_standard"):
        super().__init__("channel_standard")


class _StandardizerAlwaysDivides(StandardizerWithSeams):
    def statistics(self, images):
        x = images.double()
        axes = 0 if self.mode == "mean_image" else (0, 2, 3)
        keep = {"keepdim": True} if self.mode != "mean_image" else {}
        mean, std = x.mean(axes, **keep), x.std(axes, correction=0, **keep)
        return (v[0] if v.dim() == 4 else v for v in (mean, self.guarded(std)))


class _StandardizerVariance(StandardizerWithSeams):
    def guarded(self, std):
        return torch.where(std > 1e-9, std**2, 1.0)


class _StandardizerNeverRefuses(StandardizerWithSeams):
    def forward(self, images):
        if self.mean.numel() == 0:
            return images
        return super().forward(images)


class _StandardizerNone(StandardizerWithSeams):
    def make_buffers(self):
        self.register_buffer("mean", None)
        self.register_buffer("std", None)

    def refuse(self):
        pass


class _StandardizerFitReturnsNothing(StandardizerWithSeams):
    def fit(self, images):
        super().fit(images)


class _StandardizerInPlace(StandardizerWithSeams):
    def forward(self, images):
        self.refuse()
        if images.is_floating_point():
            images -= self.mean
            images /= self.std
            return images
        return super().forward(images)


class _StandardizerLastAxis(StandardizerWithSeams):
    def keep(self, mean, std):
        flat = self.mode != "mean_image"
        super().keep(*(v.flatten() if flat else v for v in (mean, std)))


def _to_fit(d: Draw) -> Case:
    n, c, h, w = d.integer(2, 4), d.integer(2, 3), d.integer(2, 4), d.integer(4, 5)
    images = d.layout(varied_images(d, n, c, h, w)) * d.positive(c, 1, 1, low=1.5, high=4.0)
    images[:, -1] *= 0.02  # stds on both sides of 1
    others = d.tensor(d.integer(1, 3), c, h, w, shift=5.0)
    larger = d.tensor(1, c, h + 1, w + 2)
    return Case((), {}, {"images": images, "others": others, "larger": larger})


def _fit(layer: Handle, images: torch.Tensor) -> Any:
    """What fit returns; a class without it is one that is not written yet."""
    try:
        return layer.do("fit", images)
    except Raised as error:
        if error.kinds[0] == "AttributeError" and "no attribute 'fit'" in error.message:
            raise Raised(("NotImplementedError",)) from error
        raise


def _fitted(subject: Subject, mode: str, images: torch.Tensor) -> Handle:
    layer = subject(mode=mode)
    _fit(layer, images)
    return layer


def _standardizes(subject: Subject, case: Case) -> Any:
    seen = {}
    for mode in _MODES:
        layer = _fitted(subject, mode, case.extra["images"])
        seen[mode] = layer(case.extra["others"])
        if mode != "mean_image":
            seen[f"{mode}, larger images"] = layer(case.extra["larger"])
    default = subject()
    _fit(default, case.extra["others"])
    _fit(default, case.extra["images"])
    default.do("eval")
    return {**seen, "no mode given, fitted a second time, in eval mode": default(case.extra["others"])}


def _to_fit_flat(d: Draw) -> Case:
    case = _to_fit(d)
    images = case.extra["images"].contiguous()
    images[:, 0] = d.choice(
        [0.5, 0.25, 2.0]
    )  # exact in binary, so that a std of 0 is 0 however it is computed
    return Case((), {}, {"images": images, "others": case.extra["others"]})


def _standardizes_flat(subject: Subject, case: Case) -> Any:
    return _fitted(subject, "channel_standard", case.extra["images"])(case.extra["others"])


def _one_number(values: Any) -> Any:
    """A statistic flat, and as one number where it is the same everywhere: its shape is free."""
    if not isinstance(values, torch.Tensor) or values.numel() == 0:
        return values
    flat = values.double().flatten()
    return flat[:1] if bool((flat == flat[0]).all()) else flat


def _keeps(subject: Subject, case: Case) -> Any:
    seen = {}
    for mode in _MODES:
        layer = _fitted(subject, mode, case.extra["images"])
        layer.do("double")
        found = layer.inspect()
        seen[mode] = {
            "buffers": {name: _one_number(found["buffers"].get(name)) for name in ("mean", "std")},
            "in the state dict": [name for name in ("mean", "std") if name in found["state"]],
            "parameters": len(found["parameters"]),
        }
    return seen


def _loads(subject: Subject, case: Case) -> Any:
    seen = {}
    for mode in _MODES:
        state = _fitted(subject, mode, case.extra["images"]).do("state_dict")
        fresh = subject(mode=mode)
        # dtype and device of the images
        fresh.do("to", case.extra["others"])
        try:
            fresh.do("load_state_dict", state)
        except Raised as error:
            seen[mode] = f"load_state_dict raised a {error.kinds[0]}"
            continue
        try:
            seen[mode] = fresh(case.extra["others"])
        except Raised as error:
            if error.kinds[0] == "NotImplementedError":
                raise
            seen[mode] = f"forward raised a {error.kinds[0]} after the load"
    return seen


def _unfitted(subject: Subject, case: Case) -> Any:
    layer = subject(mode=case.extra["mode"])
    layer.do("eval")
    try:
        answer = layer(case.extra["images"])
    except Raised:
        layer.do("train")
        answer = layer(case.extra["images"])
    return answer


def _to_refuse(d: Draw) -> Case:
    return Case((), {}, {"mode": d.choice(_MODES[::-1]), "images": d.tensor(2, 3, 2, 4)})


def _standardizer_manners(subject: Subject, case: Case) -> Any:
    seen = {}
    for dtype in KINDS:
        images = case.args[0].to(dtype)
        layer = subject()
        back = _fit(layer, images)
        name = str(dtype).removeprefix("torch.")
        seen["fit returns the Standardizer itself"] = isinstance(back, Handle) and back.ref == layer.ref
        seen[f"for {name} images"] = described(layer(images))
        changed = bool(layer.changed(images))
        seen["images modified in place"] = changed or seen.get("images modified in place", False)
    return seen


EXERCISE = Exercise(
    id="Standardizer",
    topic="preprocessing",
    title="Statistics that travel with the model",
    reference=reference.Standardizer,
    minutes=20,
    difficulty=3,
    properties=(
        Property(
            "modes",
            "forward subtracts and divides by what fit has measured, in each of the three modes",
            1.25,
            _to_fit,
            _standardizes,
            tolerance=(1e-3, 1e-4),
            tried="fit(images), then forward on other images, in the channel modes on larger ones, and after a second fit",
        ),
        Property(
            "constant_channel",
            "a channel that was constant in fit is divided by 1",
            0.5,
            _to_fit_flat,
            _standardizes_flat,
            tolerance=(1e-3, 1e-4),
            tried="fit on images whose first channel never changes, then forward on others",
        ),
        Property(
            "buffers",
            "mean and std are buffers, in the state dict; std is 1 where the mode does not divide",
            0.75,
            _to_fit,
            _keeps,
            tolerance=(1e-3, 1e-4),
            examples=4,
            tried="fit, double(), then buffers, parameters and state dict looked at (any shape will do)",
        ),
        Property(
            "loadable",
            "an unfitted Standardizer loads the state of a fitted one, and then standardizes",
            0.75,
            _to_fit,
            _loads,
            tolerance=(1e-3, 1e-4),
            examples=4,
            tried="fit one; state_dict() loaded into another of the same mode; forward of that one",
        ),
        Property(
            "refuses_unfitted",
            "forward before fit or a load is refused with a RuntimeError",
            0.5,
            _to_refuse,
            _unfitted,
            examples=4,
            tried="forward of a Standardizer that was never fitted, in both modes of a module",
        ),
        Property(
            "kinds",
            "fit returns self; floats keep their dtype, integers give float32; nothing in place",
            0.25,
            whole_numbers,
            _standardizer_manners,
            examples=4,
            tried="fit(images) and forward(images) for uint8, int64, float32 and float64",
        ),
    ),
    misconceptions=(
        Misconception(
            "statistics_of_the_batch",
            "Your forward measures the images it is given.",
            "It uses what fit has measured: an image's result must not depend on its neighbors.",
            ("modes", "constant_channel", "loadable"),
            _StandardizerOwnBatch,
        ),
        Misconception(
            "plain_attributes",
            "Your mean and std are plain attributes, so they are neither saved nor moved with the model.",
            "Register them in __init__: self.register_buffer('mean', torch.empty(0)).",
            ("buffers", "loadable"),
            _StandardizerPlain,
        ),
        Misconception(
            "not_persistent",
            "Your buffers are registered with persistent=False, which keeps them out of the state dict.",
            "Leave persistent as it is: statistics have to travel with the weights.",
            ("buffers", "loadable"),
            _StandardizerNotPersistent,
        ),
        Misconception(
            "divided_by_one_less",
            "Your std divides by the number of pixels minus one.",
            "These are population statistics, as in channel_statistics: std(..., correction=0).",
            ("modes", "constant_channel", "buffers", "loadable"),
            _StandardizerByOneLess,
        ),
        Misconception(
            "parameters",
            "Your mean and std are parameters, which an optimizer is handed along with the weights.",
            "Measured numbers are buffers: self.register_buffer(...).",
            ("buffers",),
            _StandardizerParameters,
        ),
        Misconception(
            "flag_not_in_the_state",
            "Whether it is fitted stands in an attribute that a load does not set.",
            "Ask the buffers themselves: an unfitted one has an empty mean.",
            ("loadable",),
            _StandardizerFlag,
        ),
        Misconception(
            "registered_in_fit",
            "Before fit, your buffers are not there, or not empty: a new Standardizer cannot take what it is to load.",
            "Register both in __init__ as torch.empty(0), and assign to self.mean and self.std in fit.",
            ("loadable",),
            _StandardizerRegistersInFit,
        ),
        Misconception(
            "mode_ignored",
            "You do the same in every mode.",
            "'mean_image' and 'channel_mean' only subtract; 'mean_image' subtracts a whole image.",
            ("modes", "buffers", "loadable"),
            _StandardizerOneMode,
        ),
        Misconception(
            "divides_in_every_mode",
            "You divide by the std in every mode.",
            "Only 'channel_standard' divides; the other two keep a std of 1.",
            ("modes", "buffers", "loadable"),
            _StandardizerAlwaysDivides,
        ),
        Misconception(
            "variance",
            "You divide by the variance.",
            "Divide by its root.",
            ("modes", "constant_channel", "buffers", "loadable"),
            _StandardizerVariance,
        ),
        Misconception(
            "divides_by_zero",
            "A constant channel has a std of 0, and you divide by it.",
            "Put 1 where the std is 0: torch.where(std == 0, 1, std).",
            ("constant_channel",),
            _StandardizerNoGuard,
        ),
        Misconception(
            "eps_added",
            "You added 0.00001 to the std: a channel that was constant in training is then multiplied by 100,000.",
            "Leave every other std as it is, and put 1 where it is 0.",
            ("constant_channel",),
            _StandardizerAddsEps,
        ),
        Misconception(
            "not_refused",
            "An unfitted Standardizer hands the images back as they came.",
            "Raise a RuntimeError: raw pixels in a model trained on standardized ones are a silent bug.",
            ("refuses_unfitted",),
            _StandardizerNeverRefuses,
        ),
        Misconception(
            "fails_on_none",
            "An unfitted Standardizer fails by accident, with a TypeError.",
            "Look first whether there are statistics, and raise a RuntimeError that says what to do.",
            ("refuses_unfitted",),
            _StandardizerNone,
        ),
        Misconception(
            "fit_returns_nothing",
            "Your fit does not return the Standardizer itself.",
            "End it with return self, so that Standardizer().fit(images) is a Standardizer.",
            ("kinds",),
            _StandardizerFitReturnsNothing,
        ),
        Misconception(
            "in_place",
            "Your forward modifies the images in place.",
            "Write (images - self.mean) / self.std, without -= and /=.",
            ("kinds",),
            _StandardizerInPlace,
        ),
        Misconception(
            "broadcast_on_the_last_axis",
            "Your statistics of shape (C,) meet the width of the images instead of their channels.",
            "Give them the shape (C, 1, 1): mean[:, None, None].",
            ("modes", "constant_channel", "loadable", "kinds"),
            _StandardizerLastAxis,
        ),
    ),
    right=(
        Variant("None at first, channels moved last", StandardizerNoneThenSet),
        Variant("a flag among the buffers, and a hook", StandardizerHook),
    ),
    hints=(
        Hint(
            "My statistics are not saved",
            "What does register_buffer do that an assignment in __init__ does not?",
        ),
        Hint(
            "Loading into a new one fails",
            "Register both names in __init__, empty. Then tell fitted from unfitted by the buffers alone, for no load sets any other attribute.",
        ),
        Hint(
            "I don't know how to start",
            "fit: mean, std = channel_statistics(images); self.mean = mean[:, None, None]; self.std = torch.where(std == 0, 1, std)[:, None, None] (ones in the other modes); return self. forward: if self.mean.numel() == 0, raise RuntimeError; else (images - self.mean) / self.std.",
        ),
    ),
    forbidden=(
        SCALERS,
        Forbidden(
            "torchvision's Normalize",
            ("torchvision.transforms.", "torchvision.transforms.functional.normalize"),
        ),
    ),
)
