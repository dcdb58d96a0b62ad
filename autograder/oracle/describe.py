"""What can be seen of a wrong answer that bears no name, and proven: a sentence that is true on every recorded input.

Each relation is a small function of all that was recorded of one claim. It returns its sentence only where it holds on
every input that failed, and where it could have failed: one number is a multiple of any other.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from autograder.attempt import Raised, Trouble
from autograder.exercise import Case, Outcome
from autograder.oracle.compare import compare, with_article
from autograder.oracle.errors import meaning
from autograder.oracle.observe import refused
from autograder.oracle.recorded import FEW, Pair, Recorded, arguments, differing, equal, leaves, numbers, same

Relation = Callable[[Recorded], str]
AXES = {-1: "columns", -2: "rows", -3: "channels", -4: "images"}
LUCK = 0.1
"""How many conditions may be expected to tell right from wrong inputs by accident, where one is said to."""
STATED = (str, bool, int, type(None))


def describe(recorded: Recorded) -> str:
    """A sentence about a claim that does not hold, or "" where nothing can be said for certain."""
    relations = RELATIONS if recorded.compared else BESIDE_NUMBERS
    return next(filter(None, (relation(recorded) for relation in relations)), "") if recorded.failed else ""


# -- what failed beside numbers -----------------------------------------------------------------------------


def random_result(seen: Recorded) -> str:
    if any(look.mismatch is not None and look.mismatch.outcome is Outcome.UNSTABLE for look in seen.failed):
        return "The same input gives another result at another time: something is drawn, or kept from call to call."
    return ""


def valid_input_refused(seen: Recorded) -> str:
    if all(isinstance(look.got, Raised) and refused(look.got) for look in seen.failed) and not any(
        isinstance(look.expected, Trouble) for look in seen.failed
    ):
        return f"Your code refuses an input that is valid: {seen.failed[0].got}."
    return ""


def nothing_refused(seen: Recorded) -> str:
    if all(isinstance(look.expected, Raised) and not isinstance(look.got, Trouble) for look in seen.failed):
        return f"Your code accepts what is to be refused with a {seen.failed[0].expected.kinds[0]}."
    return ""


def another_error(seen: Recorded) -> str:
    if all(
        isinstance(look.expected, Raised)
        and isinstance(look.got, Raised)
        and look.expected.kinds[0] not in look.got.kinds
        for look in seen.failed
    ):
        wanted, came = seen.failed[0].expected.kinds[0], seen.failed[0].got.kinds[0]
        return f"Your code raises {with_article(came)} where {with_article(wanted)} is asked for."
    return ""


def refused_by_chance(seen: Recorded) -> str:
    goes_through = [not isinstance(look.got, Trouble) for look in seen.failed]
    if all(isinstance(look.expected, Raised) for look in seen.failed) and 0 < sum(goes_through) < len(
        goes_through
    ):
        return (
            f"Nothing in your code checks what is to be refused with a {seen.failed[0].expected.kinds[0]}: some of it "
            "goes through, some fails later on."
        )
    return ""


def known_error(seen: Recorded) -> str:
    """What an error means that came everywhere, in place of all that is missing."""
    met: set[str] = set()
    for look in seen.failed:
        own = [
            g
            for _, e, g in leaves(look.expected, look.got)
            if isinstance(g, Raised) and not isinstance(e, Trouble)
        ]
        met |= {meaning(str(error)) for error in own} or {""}
    return next(iter(met)) if len(met) == 1 else ""


def no_gradient(seen: Recorded) -> str:
    if not seen.differentiated:
        return ""
    cut = [
        {path for path, e, g in leaves(look.expected, look.got) if isinstance(e, torch.Tensor) and g is None}
        for look in seen.failed
    ]
    always = set.intersection(*cut)
    if not always:
        return ""
    named = ", ".join(sorted({_argument(path, seen.signature) for path in always}))
    return f"No gradient reaches {named}: the graph is cut on the way there."


def not_a_number(seen: Recorded) -> str:
    if seen.alike and all(
        bool((pair.got.isnan() & ~pair.expected.isnan())[pair.off].all()) for pair in seen.alike
    ):
        return (
            "Where your result is wrong it is NaN: something is divided by 0, or infinite before it cancels."
        )
    return ""


# -- arguments ----------------------------------------------------------------------------------------------


def argument_ignored(seen: Recorded) -> str:
    """What came is what the reference gives with one argument at another value."""
    for name, parameter in seen.signature.parameters.items():
        values = [parameter.default] if parameter.default is not inspect.Parameter.empty else []
        for value in [*values, None, 0, 1]:
            if _is_with(seen, partial(_changed, name=name, value=value)):
                others = [
                    arguments(look.case, seen.signature).get(name, parameter.default) for look in seen.passed
                ]
                if all(equal(other, value) for other in others):
                    return f"Your result is what {name} = {value!r} gives: {name} changes nothing."
                return f"Where your result is wrong, it is what {name} = {value!r} gives."
    return ""


def argument_misread(seen: Recorded) -> str:
    """What came is what the reference gives with a number one more or less, or a pair the other way round."""
    misreadings: dict[str, Callable[[Any], Any]] = {
        "{} + 1": lambda now: now + 1 if type(now) is int else None,
        "{} − 1": lambda now: now - 1 if type(now) is int else None,
        "{} with its two numbers in reverse order": lambda now: now[::-1] if _is_pair(now) else None,
    }
    for name in seen.signature.parameters:
        for words, misread in misreadings.items():
            if _is_with(seen, partial(_misread, name=name, misread=misread)):
                return f"Where your result is wrong, it is what {words.format(name)} gives."
    return ""


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and value[0] != value[1]


def _misread(given: Mapping[str, Any], name: str, misread: Callable[[Any], Any]) -> Mapping[str, Any] | None:
    other = misread(given[name]) if name in given else None
    return None if other is None else {**given, name: other}


def arguments_swapped(seen: Recorded) -> str:
    for one, other in itertools.combinations(seen.signature.parameters, 2):
        if _is_with(seen, partial(_exchanged, one=one, other=other)):
            return f"Your result is what comes when {one} and {other} change places."
    return ""


def times_an_argument(seen: Recorded) -> str:
    """What is expected multiplied or divided by an argument, number by number or channel by channel."""
    for name in seen.signature.parameters:
        for how, word in ((torch.mul, "times"), (torch.div, "divided by")):
            if _is_combined(seen, name, how):
                return f"Your result is what is expected {word} {name}."
    return ""


def _is_combined(
    seen: Recorded, name: str, how: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> bool:
    values: set[float] = set()
    for look in seen.failed:
        argument = numbers(arguments(look.case, seen.signature).get(name))
        pairs = list(differing(look.expected, look.got, seen.tolerance))
        if argument is None or not argument.numel() or argument.dim() > 1 or not pairs:
            return False
        values |= set(argument.flatten().tolist())
        for pair in pairs:
            if (
                pair is None
                or not pair.alike
                or not any(
                    pair.is_now(how(pair.expected, factor)) for factor in _laid_along(argument, pair.expected)
                )
            ):
                return False
    # One and the same number is a constant factor.
    return len(values) >= FEW


def _laid_along(argument: torch.Tensor, e: torch.Tensor) -> list[torch.Tensor]:
    """A number, or a vector along the channels, the last axis, or the first."""
    if argument.dim() == 0:
        return [argument]
    places = [axis for axis in dict.fromkeys((1, e.dim() - 1, 0)) if 0 <= axis < e.dim()]
    shapes = [[-1 if axis == place else 1 for axis in range(e.dim())] for place in places]
    return [argument.view(s) for s, p in zip(shapes, places, strict=True) if e.shape[p] == len(argument)]


def argument_returned(seen: Recorded) -> str:
    for name in seen.signature.parameters:
        given = [arguments(look.case, seen.signature).get(name) for look in seen.failed]
        if all(
            isinstance(x, torch.Tensor) and isinstance(look.got, torch.Tensor) and same(look.got, x)
            for x, look in zip(given, seen.failed, strict=True)
        ):
            return f"Your result is {name} itself."
    return ""


# -- numbers ------------------------------------------------------------------------------------------------


def all_zero(seen: Recorded) -> str:
    if seen.alike and all(
        pair.expected.numel() > 1 and not pair.got.any() and pair.expected.any() for pair in seen.alike
    ):
        return "Your result is 0 everywhere."
    return ""


def constant_factor(seen: Recorded) -> str:
    factors = []
    for pair in seen.alike:
        if not pair.telling or not pair.expected.isfinite().all():
            return ""
        top = int(pair.expected.abs().argmax())
        factor = float(pair.got.flatten()[top] / pair.expected.flatten()[top])
        if not factor or not pair.is_now(pair.expected * factor):
            return ""
        factors.append(factor)
    if not factors:
        return ""
    if np.allclose(factors, factors[0], rtol=1e-4):
        if abs(factors[0] + 1) < 1e-4:
            return "Your result has the opposite sign."
        return f"Your result is {factors[0]:.4g} times what is expected, on every input."
    some = ", ".join(f"{f:.4g}" for f in factors[:3])
    return f"Your result is what is expected times a number that differs from input to input: {some}."


def constant_offset(seen: Recorded) -> str:
    offsets = []
    for pair in seen.alike:
        if not pair.telling:
            return ""
        offset = float((pair.got - pair.expected).flatten()[0])
        if not pair.is_now(pair.expected + offset):
            return ""
        offsets.append(offset)
    if offsets and np.allclose(offsets, offsets[0], rtol=1e-4):
        return f"Your result is what is expected plus {offsets[0]:.4g}, on every input."
    return ""


_MADE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "the absolute value of what is expected": torch.abs,
    "the square of what is expected": torch.square,
    "the square root of what is expected": torch.sqrt,
    "one divided by what is expected": torch.reciprocal,
    "the exponential of what is expected": torch.exp,
    "the logarithm of what is expected": torch.log,
    "one less what is expected": lambda e: 1 - e,
    "what is expected without its fractions": torch.trunc,
    "what is expected rounded to whole numbers": torch.round,
    "what is expected with its negative values set to 0": lambda e: e.clamp(min=0),
    "what is expected cut to 0 … 1": lambda e: e.clamp(0, 1),
}


def made_of_the_expected(seen: Recorded) -> str:
    return next((f"Your result is {what}." for what, make in _MADE.items() if _all_are(seen.alike, make)), "")


def moved(seen: Recorded) -> str:
    """Flipped, transposed, its axes in another order, rolled or shifted along some axis."""
    for axis, name in AXES.items():
        if _all_are(seen.alike, partial(_flipped, axis=axis)):
            return f"Your result is the expected one with its {name} in reversed order."
    for one, other in itertools.combinations(AXES, 2):
        if _all_are(seen.pairs, partial(_transposed, one=one, other=other)):
            return (
                f"Your result is the expected one with {AXES[other]} and {AXES[one]} in each other's place."
            )
    for axes in [axes for n in (3, 4) for axes in itertools.permutations(range(-n, 0))]:
        if _all_are(seen.pairs, partial(_permuted, axes=axes)):
            named = ", ".join(AXES[axis] for axis in axes)
            return f"Your result is the expected one with its axes in another order: {named}."
    for axis, name in AXES.items():
        for step in (1, -1):
            if _all_are(seen.alike, partial(_rolled, axis=axis, step=step)):
                return f"Your result is the expected one with its {name} rolled by {step}."
            if seen.alike and all(_shifted(pair, axis, step) for pair in seen.alike):
                return f"Your result is the expected one with its {name} moved by {step}."
    return ""


def in_another_order(seen: Recorded) -> str:
    if (
        seen.pairs
        and all(pair.telling and pair.got.numel() == pair.expected.numel() for pair in seen.pairs)
        and all(same(pair.got.flatten().sort()[0], pair.expected.flatten().sort()[0]) for pair in seen.pairs)
    ):
        return "Your result holds the right numbers in another order."
    return ""


# -- shapes -------------------------------------------------------------------------------------------------


def axis_of_one(seen: Recorded) -> str:
    if _all_are(seen.pairs, torch.squeeze, squeezed=True) and not any(pair.alike for pair in seen.pairs):
        more = all(pair.got.dim() > pair.expected.dim() for pair in seen.pairs)
        fewer = all(pair.got.dim() < pair.expected.dim() for pair in seen.pairs)
        if more or fewer:
            return f"The numbers are right, and an axis of size 1 is {'too many' if more else 'missing'}."
    return ""


def cropped_or_padded(seen: Recorded) -> str:
    for larger in (False, True):
        each = [_windows(p.got, p.expected) if larger else _windows(p.expected, p.got) for p in seen.pairs]
        always = set.intersection(*each) if each else set()
        # What is one pixel smaller stands in the middle and at the top left alike.
        if found := next(
            (
                place
                for place in ("at the top left", "at the bottom right", "in the middle")
                if place in always
            ),
            "",
        ):
            if larger:
                return f"Your result is larger than it must be; what is expected stands {found} of it."
            return f"Your result is smaller than it must be: it is what stands {found} of what is expected."
    return ""


# -- where it is wrong --------------------------------------------------------------------------------------


def only_the_first(seen: Recorded) -> str:
    for axis, name in ((-4, "image"), (-3, "channel")):
        if seen.alike and all(
            pair.expected.dim() >= -axis
            and pair.expected.shape[axis] > 1
            and not pair.off.select(axis, 0).any()
            and all(pair.off.select(axis, i).any() for i in range(1, pair.expected.shape[axis]))
            for pair in seen.alike
        ):
            return f"Your result is right for the first {name} only."
    return ""


def only_at_the_border(seen: Recorded) -> str:
    for width in (1, 2, 3):
        if seen.alike and all(_inside_is_right(pair, width) for pair in seen.alike):
            edge = (
                "the outermost rows and columns" if width == 1 else f"the {width} outermost rows and columns"
            )
            return f"Your result is wrong only at the border: in {edge}."
    return ""


def wrong_by_one_number(seen: Recorded) -> str:
    """Where it is wrong, it is wrong by one and the same offset, or factor."""
    if not seen.alike or not all(pair.expected[pair.off].isfinite().all() for pair in seen.alike):
        return ""
    expected = torch.cat([pair.expected[pair.off] for pair in seen.alike])
    got = torch.cat([pair.got[pair.off] for pair in seen.alike])
    if len(expected.unique()) < FEW or not got.isfinite().all():
        return ""
    offset, factor = float((got - expected)[0]), float((got / expected)[0])
    if torch.allclose(got - expected, torch.full_like(got, offset), 1e-4, 1e-6):
        way = "large" if offset > 0 else "small"
        return f"Where your result is wrong, it is {abs(offset):.4g} too {way}."
    if factor and torch.allclose(got, expected * factor, 1e-4, 1e-6):
        return f"Where your result is wrong, it is {factor:.4g} times what is expected."
    return ""


def told_in_words(seen: Recorded) -> str:
    """What an observation says in a word or a whole number, where that is the same on every input."""
    found = [
        [
            (path, e, g)
            for path, e, g in leaves(look.expected, look.got)
            if path and isinstance(e, STATED) and isinstance(g, STATED) and e != g
        ]
        for look in seen.failed
    ]
    always = [one for one in found[0] if all(one in other for other in found)]
    if not always:
        return ""
    path, e, g = always[0]
    shown, right = (f"“{v}”" if isinstance(v, str) else v for v in (g, e))
    return f"“{path}” is {shown} with your answer, where {right} is right."


def _main(case: Case) -> torch.Tensor | None:
    values = [*case.args, *case.kwargs.values(), *case.extra.values()]
    return next((v for v in values if isinstance(v, torch.Tensor) and v.numel()), None)


def _of_main(test: Callable[[torch.Tensor], Any]) -> Callable[[Case, inspect.Signature], bool]:
    def holds(case: Case, signature: inspect.Signature) -> bool:
        x = _main(case)
        return x is not None and bool(test(x))

    return holds


_CONDITIONS: dict[str, Callable[[Case, inspect.Signature], bool]] = {
    "height and width are equal": _of_main(lambda x: x.dim() > 1 and x.shape[-1] == x.shape[-2]),
    "there is one image": _of_main(lambda x: x.dim() > 1 and x.shape[0] == 1),
    "there is one channel": _of_main(lambda x: x.dim() == 4 and x.shape[1] == 1),
    "the input holds whole numbers": _of_main(lambda x: not x.is_floating_point()),
    "the input is float32": _of_main(lambda x: x.dtype == torch.float32),
    "no value is negative": _of_main(lambda x: not (x < 0).any()),
    "every value is negative": _of_main(lambda x: (x < 0).all()),
    "every value is the same": _of_main(lambda x: len(x.unique()) == 1),
    "values occur twice": _of_main(lambda x: len(x.unique()) < x.numel()),
    "a pixel is void (255)": _of_main(lambda x: not x.is_floating_point() and (x == 255).any()),
    "the input lies in memory in the order of its axes": _of_main(lambda x: x.is_contiguous()),
}


def only_under_a_condition(seen: Recorded) -> str:
    """That it failed on exactly those inputs where something holds: said only where both kinds were tried often."""
    looks, fails = [*seen.failed, *seen.passed], len(seen.failed)
    found: dict[str, tuple[bool, ...]] = {}
    for what, holds in {**_CONDITIONS, **_of_numbers(seen.signature)}.items():
        true = tuple(holds(look.case, seen.signature) for look in looks)
        if len(set(true)) == 2:
            found[what] = true
    by_accident = len(set(found.values())) / math.comb(len(looks), fails)
    if len(seen.passed) < 2 or fails < 2 or by_accident >= LUCK:
        return ""
    wrong = (True,) * fails + (False,) * len(seen.passed)
    said = [f"wrong exactly where {what}" for what, true in found.items() if true == wrong]
    said += [
        f"right exactly where {what}" for what, true in found.items() if true == tuple(not t for t in wrong)
    ]
    # Two conditions that come together on these inputs cannot be told apart.
    return f"Your result is {said[0]}, on the {len(looks)} inputs tried." if len(said) == 1 else ""


def _of_numbers(signature: inspect.Signature) -> dict[str, Callable[[Case, inspect.Signature], bool]]:
    tests: dict[str, Callable[[int], bool]] = {
        "1": lambda v: v == 1,
        "0": lambda v: v == 0,
        "even": lambda v: v % 2 == 0,
    }
    return {
        f"{name} is {what}": partial(_number_is, name=name, test=test)
        for name in signature.parameters
        for what, test in tests.items()
    }


def _number_is(case: Case, signature: inspect.Signature, name: str, test: Callable[[int], bool]) -> bool:
    value = arguments(case, signature).get(name)
    return isinstance(value, int) and not isinstance(value, bool) and test(value)


BESIDE_NUMBERS: tuple[Relation, ...] = (
    random_result,
    valid_input_refused,
    nothing_refused,
    another_error,
    refused_by_chance,
    known_error,
)
RELATIONS: tuple[Relation, ...] = (
    *BESIDE_NUMBERS,
    no_gradient,
    argument_returned,
    all_zero,
    not_a_number,
    argument_ignored,
    arguments_swapped,
    argument_misread,
    times_an_argument,
    constant_factor,
    constant_offset,
    made_of_the_expected,
    moved,
    axis_of_one,
    cropped_or_padded,
    only_the_first,
    only_at_the_border,
    wrong_by_one_number,
    in_another_order,
    only_under_a_condition,
    told_in_words,
)
"""In the order in which they are tried: what explains every number comes before what says where it is wrong."""


# -- helpers ------------------------------------------------------------------------------------------------


def _all_are(
    pairs: Sequence[Pair], make: Callable[[torch.Tensor], torch.Tensor | None], *, squeezed: bool = False
) -> bool:
    """Whether what came is, for every pair, what is made of the expected; and some pair could tell."""
    if not any(pair.telling for pair in pairs):
        return False
    for pair in pairs:
        made = make(pair.expected)
        if made is None or not (replace(pair, got=pair.got.squeeze()) if squeezed else pair).is_now(made):
            return False
    return True


def _flipped(e: torch.Tensor, axis: int) -> torch.Tensor | None:
    return e.flip(axis) if e.dim() >= -axis else None


def _transposed(e: torch.Tensor, one: int, other: int) -> torch.Tensor | None:
    return e.transpose(one, other) if e.dim() >= max(-one, -other) else None


def _permuted(e: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor | None:
    return e.permute(axes) if e.dim() == len(axes) else None


def _rolled(e: torch.Tensor, axis: int, step: int) -> torch.Tensor | None:
    return e.roll(step, axis) if e.dim() >= -axis and e.shape[axis] >= FEW else None


def _shifted(pair: Pair, axis: int, step: int) -> bool:
    e = pair.expected
    if e.dim() < -axis or e.shape[axis] < FEW or not pair.telling:
        return False
    size = e.shape[axis] - abs(step)
    return torch.allclose(
        pair.got.narrow(axis, max(step, 0), size), e.narrow(axis, max(-step, 0), size), *pair.tolerance
    )


def _windows(large: torch.Tensor, small: torch.Tensor) -> set[str]:
    """The places of the larger tensor at which the smaller one stands, along rows and columns."""
    if large.dim() != small.dim() or small.dim() < 2 or large.shape[:-2] != small.shape[:-2]:
        return set()
    if large.shape == small.shape or any(a < b for a, b in zip(large.shape, small.shape, strict=True)):
        return set()
    if len(small.unique()) < FEW:
        return set()
    more = [a - b for a, b in zip(large.shape[-2:], small.shape[-2:], strict=True)]
    places = {"at the top left": [0, 0], "at the bottom right": more, "in the middle": [m // 2 for m in more]}
    h, w = small.shape[-2:]
    return {
        name
        for name, (top, left) in places.items()
        if torch.allclose(large[..., top : top + h, left : left + w], small, 1e-5, 1e-7)
    }


def _inside_is_right(pair: Pair, width: int) -> bool:
    if pair.off.dim() < 2 or min(pair.off.shape[-2:]) < 2 * width + 2:
        return False
    return not pair.off[..., width:-width, width:-width].any()


def _is_with(seen: Recorded, change: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]) -> bool:
    """Whether, on every input that failed, what came is what the reference shows after a change to its arguments."""
    for look in seen.failed:
        if isinstance(look.got, Trouble) or isinstance(look.expected, Trouble):
            return False
        given = arguments(look.case, seen.signature)
        other = change(given)
        if other is None:
            return False
        bound = inspect.BoundArguments(seen.signature, dict(other))  # type: ignore[arg-type]
        shown = seen.ask(Case(bound.args, bound.kwargs, look.case.extra))
        if isinstance(shown, Trouble) or not _agree(shown, look.got, seen.tolerance):
            return False
    return True


def _agree(one: Any, other: Any, tolerance: tuple[float, float] | None) -> bool:
    try:
        return compare(one, other, tolerance) is None
    except TypeError:
        return False


def _changed(given: Mapping[str, Any], name: str, value: Any) -> Mapping[str, Any] | None:
    now = given.get(name)
    if name not in given or (isinstance(now, type(value)) and equal(now, value)):
        return None
    if isinstance(now, torch.Tensor) and isinstance(value, int):
        return None
    return {**given, name: value}


def _exchanged(given: Mapping[str, Any], one: str, other: str) -> Mapping[str, Any] | None:
    a, b = given.get(one), given.get(other)
    if type(a) is int and type(b) is int and a != b:
        return {**given, one: b, other: a}
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return None
    if a.shape != b.shape or a.dtype != b.dtype or torch.equal(a, b):
        return None
    return {**given, one: b, other: a}


def _argument(path: str, signature: inspect.Signature) -> str:
    """A gradient's place as the argument's name: observations name positional arguments by their number."""
    rest = path.rpartition(".")[2]
    names = list(signature.parameters)
    return names[int(rest)] if rest.isdecimal() and int(rest) < len(names) else rest
