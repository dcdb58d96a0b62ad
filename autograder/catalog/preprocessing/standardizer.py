"""The exercise Standardizer of lecture 01: statistics that travel with the model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autograder.attempt import Handle, Raised, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import as_double, described
from autograder.catalog.preprocessing.draws import KINDS, SCALERS, varied_images, whole_numbers
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Forbidden
from coursekit import preprocessing as reference

_MODES = ("mean_image", "channel_mean", "channel_standard")
# Where a width is the number of channels, statistics of the wrong shape raise nothing.
_SHAPES = ((2, 2, 3, 4), (1, 3, 2, 3), (2, 1, 2, 6), (3, 2, 4, 2))
_FAINT = 5e-6


def _to_fit(d: Draw, least: int = 2, shapes: Sequence[tuple[int, int, int, int]] = _SHAPES) -> Case:
    n, c, h, w = d.each(shapes)
    images = d.layout(varied_images(d, max(n, least), c, h, w)) * d.positive(c, 1, 1, low=1.5, high=4.0)
    images[:, -1] *= 0.02  # stds on both sides of 1
    others = d.tensor(d.integer(1, 2), c, h, w, shift=5.0)
    larger = d.tensor(1, c, h + 2, w if w == c else w + 1)
    return Case((), {}, {"images": images, "others": others, "larger": larger})


def _to_use(d: Draw) -> Case:
    case = _to_fit(d, least=1)
    mode = d.each(["channel_standard", "mean_image", "channel_mean"])
    return Case((), {}, {"mode": mode, **case.extra})


def _fit(layer: Handle, images: torch.Tensor) -> Any:
    return _with_fit(layer, "fit", images)


def _with_fit(layer: Handle, method: str, *args: Any) -> Any:
    """What a method gives; a class without `fit` is one that is not written yet."""
    try:
        return layer.do(method, *args)
    except Raised as error:
        if error.kinds[0] == "AttributeError" and "no attribute 'fit'" in error.message:
            raise Raised(("NotImplementedError",)) from error
        raise


def _fitted(subject: Subject, mode: str, images: torch.Tensor) -> Handle:
    layer = subject(mode=mode)
    _fit(layer, images)
    return layer


def _forward(layer: Handle, images: torch.Tensor) -> Any:
    """What forward gives without its dtype, or the error: other images are worth seeing too."""
    try:
        return as_double(layer(images))
    except Raised as error:
        if error.kinds[0] == "NotImplementedError":
            raise
        return error


def _standardizes(subject: Subject, case: Case) -> Any:
    mode, images, others, larger = (case.extra[name] for name in ("mode", "images", "others", "larger"))
    layer = _fitted(subject, mode, images)
    seen = {"other images": _forward(layer, others)}
    if mode != "mean_image":
        seen["larger images"] = _forward(layer, larger)
    again = _fitted(subject, mode, larger)
    _fit(again, images)
    again.then("eval")
    seen["fitted a second time, in eval mode"] = _forward(again, others)
    if mode == "channel_standard":
        default = subject()
        _fit(default, images)
        seen["no mode given"] = _forward(default, others)
    return seen


def _to_fit_flat(d: Draw) -> Case:
    case = _to_fit(d, shapes=((2, 3, 2, 3), (2, 4, 3, 2), (2, 1, 2, 6), (3, 2, 4, 2)))
    images, others = case.extra["images"].contiguous(), case.extra["others"]
    # Exact in binary, so that a std of 0 is 0 however it is computed.
    images[:, 0] = d.each([0.5, 0.0, 2.0, -0.25])
    # Around 0, where float32 is as exact as elsewhere: its std is small, and no error of rounding.
    for faint in (images[:, 1:2], others[:, 1:2]):
        faint.copy_(d.tensor(*faint.shape, scale=_FAINT))
    return Case((), {}, {"images": images, "others": others})


def _standardizes_flat(subject: Subject, case: Case) -> Any:
    images, others = case.extra["images"], case.extra["others"]
    result = _fitted(subject, "channel_standard", images)(others)
    if not isinstance(result, torch.Tensor) or result.shape != others.shape:
        return result
    constant = _divided_by((others[:, 0] - images[0, 0, 0, 0]) / result[:, 0].double())
    # What is added to every std, or is the least of them, is told by the constant channel, however little.
    faint = result[:, 1:2].double() if constant == "divided by 1" else "not looked at"
    return {
        "the constant channel": constant,
        "the faint channel": faint,
        "the other channels": result[:, 2:].double(),
    }


def _divided_by(divisor: torch.Tensor) -> str:
    """In words, since there are many numbers near 0 that somebody may have added."""
    if torch.allclose(divisor, torch.ones_like(divisor), rtol=1e-3):
        return "divided by 1"
    if not divisor.any():
        return "divided by 0"
    return "divided by a number near 0" if divisor.abs().max() < 1e-2 else "something else"


def _one_number(values: Any) -> Any:
    """A statistic flat, and as one number where it is the same everywhere: its shape is free."""
    if not isinstance(values, torch.Tensor) or values.numel() == 0:
        return values
    flat = values.double().flatten()
    return flat[:1] if bool((flat == flat[0]).all()) else flat


def _keeps(subject: Subject, case: Case) -> Any:
    seen: dict[str, dict[str, Any]] = {}
    for mode in _MODES:
        layer = _fitted(subject, mode, case.extra["images"])
        layer.do("double")
        found = layer.inspect("buffers", "state", "parameters")
        own = {name: found["buffers"][name] for name in ("mean", "std") if name in found["buffers"]}
        seen[mode] = {
            "buffers": {name: _one_number(values) for name, values in own.items()},
            "in the state dict": [name for name in ("mean", "std") if name in found["state"]],
            "parameters": [name for name in ("mean", "std") if name in found["parameters"]],
        }
        if not own:
            seen[mode]["buffers of other names"] = bool(found["buffers"])
        # Another number than 1 is all one.
        if mode != "channel_standard" and isinstance(own.get("std"), torch.Tensor):
            ones = bool((own["std"] == 1).all())
            seen[mode]["buffers"]["std"] = "1" if ones else "not 1"
    return seen


def _loads(subject: Subject, case: Case) -> Any:
    seen: dict[str, Any] = {}
    for mode in _MODES:
        state = _fitted(subject, mode, case.extra["images"]).do("state_dict")
        fresh = subject(mode=mode)
        # dtype and device of the images
        fresh.do("to", case.extra["others"])
        try:
            fresh.do("load_state_dict", state)
        except Raised as error:
            seen[mode] = {"load_state_dict": error, "forward": error}
        else:
            seen[mode] = {"load_state_dict": "done", "forward": _forward(fresh, case.extra["others"])}
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


def _to_carry(d: Draw) -> Case:
    return Case(whole_numbers(d).args, {}, {"mode": d.each(_MODES[::-1])})


def _standardizer_manners(subject: Subject, case: Case) -> Any:
    seen: dict[str, Any] = {}
    answers, changed = [], {"fit": False, "forward": False}
    for dtype in KINDS:
        images = case.args[0].to(dtype)
        layer = subject(mode=case.extra["mode"])
        fit = _with_fit(layer, "__getattribute__", "fit")
        back, by_fit = fit.with_changes(images)
        answer, by_forward = layer.with_changes(images)
        changed = {"fit": changed["fit"] or bool(by_fit), "forward": changed["forward"] or bool(by_forward)}
        seen["fit returns the Standardizer itself"] = isinstance(back, Handle) and back.ref == layer.ref
        seen[f"for {str(dtype).removeprefix('torch.')} images"] = described(answer)
        answers.append(as_double(answer))
    seen["images modified in place by"] = [name for name, yes in changed.items() if yes]
    seen["the same numbers for each dtype"] = all(_near(answer, answers[-1]) for answer in answers)
    return seen


def _near(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor) or one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=1e-3, atol=1e-2, equal_nan=True)


CLAIMS = Exercise(
    id="Standardizer",
    topic="preprocessing",
    title="Statistics that travel with the model",
    reference=reference.Standardizer,
    minutes=20,
    difficulty=3,
    properties=claims(
        """
        modes (1.25): forward subtracts and divides by what fit has measured, in each of the three modes
        tried: fit(images), then forward on other images, in the channel modes on larger ones too; again where
          fit(larger) came before
        constant_channel (0.5): a channel that was constant in fit is divided by 1, and every other by its std
        tried: fit on images whose first channel never changes and whose second is faint, then forward on
          others
        buffers (0.75): mean and std are buffers, in the state dict; std is 1 where the mode does not divide
        tried: fit, double(), then buffers, parameters and state dict looked at (any shape will do)
        loadable (0.75): an unfitted Standardizer loads the state of a fitted one, and then standardizes
        tried: fit one; state_dict() loaded into another of the same mode; forward of that one
        refuses_unfitted (0.5): forward before fit or a load is refused with a RuntimeError
        tried: forward of a Standardizer that was never fitted, in both modes of a module
        kinds (0.25): fit returns self; floats keep their dtype, integers give float32 and the same numbers;
          nothing in place
        tried: fit(images) and forward(images) for uint8, int64, float32 and float64
        """,
        modes=on(_to_use, _standardizes, tolerance=(1e-3, 1e-4), examples=12),
        constant_channel=on(_to_fit_flat, _standardizes_flat, tolerance=(1e-3, 1e-4)),
        buffers=on(_to_fit, _keeps, tolerance=(1e-3, 1e-4), examples=4),
        loadable=on(_to_fit, _loads, tolerance=(1e-3, 1e-4), examples=4),
        refuses_unfitted=on(_to_refuse, _unfitted, examples=4, beside="modes"),
        kinds=on(_to_carry, _standardizer_manners, examples=4, beside="modes"),
    ),
    hints=hints("""
        My statistics are not saved
        What does register_buffer do that an assignment in __init__ does not?

        Loading into a new one fails
        Register both names in __init__, empty. Then tell fitted from unfitted by the buffers alone, for no
          load sets any other attribute.

        I don't know how to start
        fit: mean, std = channel_statistics(images); self.mean = mean[:, None, None]; self.std =
          torch.where(std == 0, 1, std)[:, None, None] (ones in the other modes); return self. forward: if
          self.mean.numel() == 0, raise RuntimeError; else (images - self.mean) / self.std.
        """),
    forbidden=(
        SCALERS,
        Forbidden(
            "torchvision's Normalize",
            ("torchvision.transforms.", "torchvision.transforms.functional.normalize"),
        ),
    ),
)

answers = Answers(CLAIMS)


@answers.right
class Plain(nn.Module):
    """empty buffers, as large as what is loaded"""

    def __init__(self, mode="channel_standard"):
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def fit(self, images):
        dtype = images.dtype if images.is_floating_point() else torch.float32
        axes = 0 if self.mode == "mean_image" else (0, 2, 3)
        x = images.double()
        mean = x.mean(axes, keepdim=True)
        std = x.std(axes, correction=0, keepdim=True)
        std = torch.where(std > 1e-9, std, 1)
        if self.mode != "channel_standard":
            std = torch.ones_like(mean)
        self.mean, self.std = mean.to(dtype), std.to(dtype)
        return self

    def forward(self, images):
        if self.mean.numel() == 0:
            raise RuntimeError("fit the statistics first, or load them")
        return (images - self.mean) / self.std

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        for name in ("mean", "std"):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


answers.edits("""
statistics_of_the_batch: modes constant_channel loadable
- return (images - self.mean) / self.std
+ self.fit(images)
+ return (images - self.mean) / self.std
Your forward measures the images it is given.
It uses what fit has measured: an image's result must not depend on its neighbors.

plain_attributes: buffers loadable
- self.register_buffer("mean", torch.empty(0))
- self.register_buffer("std", torch.empty(0))
+ self.mean = torch.empty(0)
+ self.std = torch.empty(0)
Your mean and std are plain attributes, so they are neither saved nor moved with the model.
Register them in __init__: self.register_buffer('mean', torch.empty(0)).

other_names: buffers
- self.register_buffer("mean", torch.empty(0))
- self.register_buffer("std", torch.empty(0))
+ self.register_buffer("center", torch.empty(0))
+ self.register_buffer("spread", torch.empty(0))
- self.mean, self.std = mean.to(dtype), std.to(dtype)
+ self.center, self.spread = mean.to(dtype), std.to(dtype)
- if self.mean.numel() == 0:
+ if self.center.numel() == 0:
- return (images - self.mean) / self.std
+ return (images - self.center) / self.spread
- for name in ("mean", "std"):
+ for name in ("center", "spread"):
You have buffers, but none of the names mean and std.
Whoever reads or loads a state dict goes by these names: register both under them.

not_one: buffers
- if self.mode != "channel_standard":
-     std = torch.ones_like(mean)
...
- return (images - self.mean) / self.std
+ return (images - self.mean) / (self.std if self.mode == "channel_standard" else 1)
Your buffer std is not 1 in the modes that do not divide.
Put ones into it there: then forward does the same in every mode.

not_persistent: buffers loadable
- self.register_buffer("mean", torch.empty(0))
- self.register_buffer("std", torch.empty(0))
+ self.register_buffer("mean", torch.empty(0), persistent=False)
+ self.register_buffer("std", torch.empty(0), persistent=False)
Your buffers are registered with persistent=False, which keeps them out of the state dict.
Leave persistent as it is: statistics have to travel with the weights.

divided_by_one_less: all but refuses_unfitted kinds
- x.std(axes, correction=0, keepdim=True)
+ x.std(axes, keepdim=True)
Your std divides by the number of pixels minus one.
These are population statistics, as in channel_statistics: std(..., correction=0).

parameters: buffers
- self.register_buffer("mean", torch.empty(0))
- self.register_buffer("std", torch.empty(0))
+ self.mean = nn.Parameter(torch.empty(0), requires_grad=False)
+ self.std = nn.Parameter(torch.empty(0), requires_grad=False)
- self.mean, self.std = mean.to(dtype), std.to(dtype)
+ self.mean.data, self.std.data = mean.to(dtype), std.to(dtype)
- setattr(self, name, torch.empty_like(state_dict[prefix + name]))
+ getattr(self, name).data = torch.empty_like(state_dict[prefix + name])
Your mean and std are parameters, which an optimizer is handed along with the weights.
Measured numbers are buffers: self.register_buffer(...).

flag_not_in_the_state: loadable
- self.mode = mode
+ self.mode = mode
+ self.fitted = False
- return self
+ self.fitted = True
+ return self
- if self.mean.numel() == 0:
+ if not self.fitted:
Whether it is fitted stands in an attribute that a load does not set.
Ask the buffers themselves: an unfitted one has an empty mean.

registered_in_fit: loadable
- self.register_buffer("mean", torch.empty(0))
- self.register_buffer("std", torch.empty(0))
...
- self.mean, self.std = mean.to(dtype), std.to(dtype)
+ self.register_buffer("mean", mean.to(dtype))
+ self.register_buffer("std", std.to(dtype))
- if self.mean.numel() == 0:
+ if not hasattr(self, "mean"):
Before fit, your buffers are not there, or not empty: a new Standardizer cannot take what it is to load.
Register both in __init__ as torch.empty(0), and assign to self.mean and self.std in fit.

mode_ignored: modes buffers loadable
- self.mode = mode
+ self.mode = "channel_standard"
You do the same in every mode.
'mean_image' and 'channel_mean' only subtract; 'mean_image' subtracts a whole image.

divides_in_every_mode: modes buffers loadable
- if self.mode != "channel_standard":
-     std = torch.ones_like(mean)
You divide by the std in every mode.
Only 'channel_standard' divides; the other two keep a std of 1.

variance: all but refuses_unfitted kinds
- x.std(axes, correction=0, keepdim=True)
+ x.var(axes, correction=0, keepdim=True)
You divide by the variance.
Divide by its root.

divides_by_zero: constant_channel
- std = torch.where(std > 1e-9, std, 1)
A constant channel has a std of 0, and you divide by it.
Put 1 where the std is 0: torch.where(std == 0, 1, std).

eps_added: constant_channel
- std = torch.where(std > 1e-9, std, 1)
+ std = std + 1e-5
You divide a constant channel by a number near 0, which multiplies it by thousands or more.
Leave every other std as it is, and put 1 where it is 0: no eps is added, and nothing is clamped.

small_std_as_zero: constant_channel
- std > 1e-9
+ std > 1e-3
You divide by 1 where the std is small, although the channel was not constant.
Put 1 where the std is 0 and nowhere else: a faint channel is divided by its own std.

not_refused: refuses_unfitted
- raise RuntimeError("fit the statistics first, or load them")
+ return images
An unfitted Standardizer hands the images back as they came.
Raise a RuntimeError: raw pixels in a model trained on standardized ones are a silent bug.

fails_on_none: refuses_unfitted
- self.register_buffer("mean", torch.empty(0))
- self.register_buffer("std", torch.empty(0))
+ self.register_buffer("mean", None)
+ self.register_buffer("std", None)
- if self.mean.numel() == 0:
-     raise RuntimeError("fit the statistics first, or load them")
An unfitted Standardizer raises a TypeError.
Look first whether there are statistics, and raise a RuntimeError that says what to do.

fit_returns_nothing: kinds
- return self
Your fit does not return the Standardizer itself.
End it with return self, so that Standardizer().fit(images) is a Standardizer.

in_place: kinds
- return (images - self.mean) / self.std
+ images = images.to(self.mean.dtype)
+ images -= self.mean
+ images /= self.std
+ return images
Your forward modifies the images in place.
Write (images - self.mean) / self.std, without -= and /=.

in_place_in_fit: kinds
- return self
+ x -= mean
+ return self
Your fit modifies the images in place.
double() of a float64 tensor is that tensor: write x - mean, which makes a new one, and not x -= mean.

fitted_only_once: modes
- axes = 0 if self.mode == "mean_image" else (0, 2, 3)
+ if self.mean.numel() > 0:
+     return self
+ axes = 0 if self.mode == "mean_image" else (0, 2, 3)
A second fit changes nothing: your statistics are those of the first.
fit measures the images that it is given, whatever has been measured before.

integers_not_converted: kinds
- x = images.double()
+ x = images
You asked for the mean of integers, which torch does not take.
Convert them first: images.double(), and the statistics back at the end.

integers_subtracted: kinds
- (images - self.mean)
+ (images - self.mean.to(images.dtype))
For uint8 or int64 images you get other numbers than for the same images as floats.
Convert before you compute: nothing is below 0 in a byte, and a mean has a fraction.

always_single: kinds
- return (images - self.mean) / self.std
+ return ((images - self.mean) / self.std).float()
Your answer is float32 even for float64 images.
Only integers become float32; floats keep their own dtype.

always_double: kinds
- mean.to(dtype), std.to(dtype)
+ mean, std
Your answer is float64 whatever the images are.
Return the statistics in the dtype of the images (float32 for integers): a float64 buffer lifts all that
  meets it.

broadcast_on_the_last_axis: all but buffers refuses_unfitted
- mean = x.mean(axes, keepdim=True)
- std = x.std(axes, correction=0, keepdim=True)
+ mean = x.mean(axes)
+ std = x.std(axes, correction=0)
Your statistics of shape (C,) meet the width of the images instead of their channels.
Give them the shape (C, 1, 1): mean[:, None, None].
""")


@answers.right
class NoneThenSet(nn.Module):
    """None at first, channels moved last"""

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


def make_room(module, state_dict, prefix, *arguments):
    for name in ("mean", "std"):
        setattr(module, name, state_dict[prefix + name].clone())


@answers.right
class Flagged(nn.Module):
    """a flag among the buffers, and a hook"""

    def __init__(self, mode="channel_standard"):
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.zeros(1, 1, 1, 1))
        self.register_buffer("std", torch.ones(1, 1, 1, 1))
        self.register_buffer("fitted", torch.tensor(False))
        self.register_load_state_dict_pre_hook(make_room)

    def fit(self, images):
        axes = 0 if self.mode == "mean_image" else (0, 2, 3)
        x = images.double()
        mean = x.mean(axes, keepdim=True)
        std = torch.ones_like(mean)
        if self.mode == "channel_standard":
            spread = ((x - mean) ** 2).mean(axes, keepdim=True).sqrt()
            std = spread.masked_fill(spread < 1e-7, 1.0)
        kind = images.dtype if images.is_floating_point() else torch.float32
        self.mean, self.std = mean.to(kind), std.to(kind)
        self.fitted.fill_(True)
        return self

    def forward(self, images):
        if not self.fitted:
            raise RuntimeError("call fit first")
        return torch.div(torch.sub(images, self.mean), self.std)


EXERCISE = answers.exercise()
