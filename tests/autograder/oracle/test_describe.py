"""What is said of answers that bear no name: each sentence holds where it is said, and is not said elsewhere."""

import inspect

import pytest
import torch
from entries import small
from torch.nn import functional as F

from autograder.exercise import Case, Property
from autograder.oracle import describe, evaluate

# Relation → (an answer that has it, part of what is said). The right answer is `scaled`.


def scaled(x, factor=2, shift=None):
    """x times factor, plus shift along the columns."""
    y = x * factor
    return y if shift is None else y + shift


def _border(x, factor=2, shift=None):
    y = scaled(x, factor, shift).clone()
    y[..., 0, :] = 7.25
    y[..., -1, :] = 7.25
    y[..., :, 0] = 7.25
    y[..., :, -1] = 7.25
    return y


def _first(axis):
    def answer(x, factor=2, shift=None):
        y = scaled(x, factor, shift)
        rest = torch.ones_like(y)
        rest.select(axis, 0).fill_(0)
        return y + 3.5 * rest * torch.rand(y.shape, generator=torch.Generator().manual_seed(1)).to(y)

    return answer


def _raising(kind):
    def answer(x, factor=2, shift=None):
        raise kind("x is too small")

    return answer


def _of(make):
    return lambda x, factor=2, shift=None: make(scaled(x, factor, shift))


def _only_for(condition):
    return lambda x, factor=2, shift=None: scaled(x, factor, shift) + (0 if condition(x, factor) else x.cos())


_memory = []
_heard = {}
"""What is said of each of them: so many relations keep silent about the same few answers."""


def _forgetful(x, factor=2, shift=None):
    _memory.append(1)
    return scaled(x, factor, shift) + (len(_memory) - 1) % 2


WRONG = {
    "random_result": (_forgetful, "another result at another time"),
    "valid_input_refused": (_raising(ValueError), "refuses an input that is valid"),
    "known_error": (_of(lambda y: y.long().mean()), "Whole numbers reach a mean"),
    "argument_returned": (lambda x, factor=2, shift=None: x.clone(), "x itself"),
    "all_zero": (_of(torch.zeros_like), "0 everywhere"),
    "not_a_number": (_of(lambda y: torch.where(y > 0, y, torch.nan)), "NaN"),
    "argument_ignored": (lambda x, factor=2, shift=None: scaled(x, factor), "shift = None"),
    "argument_ignored, of one value": (
        lambda x, factor=2, shift=None: scaled(x, 0 if factor == 3 else factor, shift),
        "Where your result is wrong, it is what factor = 0 gives.",
    ),
    "argument_misread": (lambda x, factor=2, shift=None: scaled(x, factor + 1, shift), "what factor + 1 gives"),
    "times_an_argument": (
        lambda x, factor=2, shift=None: scaled(x, factor, shift) * factor,
        "expected times factor",
    ),
    "times_an_argument, along an axis": (
        lambda x, factor=2, shift=None: scaled(x, factor, shift) / shift,
        "divided by shift",
    ),
    "constant_factor": (_of(lambda y: 3 * y), "Your result is 3 times what is expected"),
    "constant_factor, the sign": (_of(lambda y: -y), "the opposite sign"),
    "constant_factor, of the input": (_of(lambda y: y * y.shape[-1]), "differs from input to input"),
    "constant_offset": (_of(lambda y: y + 0.5), "plus 0.5"),
    "made_of_the_expected, abs": (_of(torch.abs), "the absolute value"),
    "made_of_the_expected, square": (_of(torch.square), "the square"),
    "made_of_the_expected, trunc": (_of(torch.trunc), "without its fractions"),
    "made_of_the_expected, relu": (_of(F.relu), "negative values set to 0"),
    "moved, flipped": (_of(lambda y: y.flip(-2)), "rows in reversed order"),
    "moved, transposed": (_of(lambda y: y.mT.contiguous()), "rows and columns in each other's place"),
    "moved, channels": (_of(lambda y: y.transpose(0, 1)), "images and channels in each other's place"),
    "moved, channels last": (
        _of(lambda y: y.permute(0, 2, 3, 1)),
        "another order: images, rows, columns, channels",
    ),
    "moved, rolled": (_of(lambda y: y.roll(1, -1)), "columns rolled by 1"),
    "moved, shifted": (_of(lambda y: F.pad(y, (0, 0, 1, 0))[..., :-1, :]), "rows moved by 1"),
    "axis_of_one": (_of(lambda y: y[None]), "an axis of size 1 is too many"),
    "cropped_or_padded, cropped": (_of(lambda y: y[..., 1:-1, 1:-1]), "in the middle"),
    "cropped_or_padded, by one": (_of(lambda y: y[..., :-1, :-1]), "stands at the top left"),
    "cropped_or_padded, padded": (_of(lambda y: F.pad(y, (0, 1, 0, 2))), "at the top left"),
    "only_the_first, image": (_first(0), "right for the first image only"),
    "only_the_first, channel": (_first(1), "right for the first channel only"),
    "only_at_the_border": (_border, "only at the border"),
    "wrong_by_one_number, offset": (_of(lambda y: torch.where(y > 0, y - 1.5, y)), "it is 1.5 too small"),
    "wrong_by_one_number, factor": (_of(lambda y: torch.where(y > 0, 3 * y, y)), "it is 3 times"),
    "in_another_order": (
        _of(lambda y: y.flatten()[torch.randperm(y.numel(), generator=torch.Generator().manual_seed(3))].view(y.shape)),
        "the right numbers in another order",
    ),
    "only_under_a_condition, square": (_only_for(lambda x, f: x.shape[-1] == x.shape[-2]), "height and width are equal"),
    "only_under_a_condition, even": (_only_for(lambda x, f: f % 2 == 0), "factor is even"),
}  # fmt: skip


def _drawn(d):
    square, side = d.flag(), d.integer(5, 8)
    x = d.tensor(d.integer(2, 3), d.integer(4, 5), side, side if square else side + d.integer(1, 3))
    return Case((x, d.integer(2, 7), d.tensor(x.shape[-1])))


def exercise(*, observe=None, says="x·factor + shift"):
    more = {} if observe is None else {"observe": observe}
    return small(scaled, Property("values", says, 1, _drawn, examples=16, **more))


def said(known, answer, seed=1):
    known(exercise())
    (result,) = evaluate("small", answer, seed=seed, devices=("cpu",)).results
    return result.described


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_holds_is_said(known, name, seed):
    answer, part = WRONG[name]
    _memory.clear()
    assert part in said(known, answer, seed)


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_hold_is_not_said(known, name):
    """Each relation stays silent on the answers that have another one."""
    relation = getattr(describe, name.partition(",")[0])
    part = WRONG[name][1]
    silent = 0
    for other, (answer, _) in WRONG.items():
        if other.partition(",")[0] == name.partition(",")[0]:
            continue
        if other not in _heard:
            _memory.clear()
            _heard[other] = said(known, answer)
        assert part not in _heard[other], other
        silent += 1
    assert silent >= 10
    assert relation in describe.RELATIONS


def test_a_right_answer_is_not_described(known):
    assert said(known, lambda x, factor=2, shift=None: factor * x + shift) == ""


def test_a_pair_and_numbers_that_are_misread(known):
    def placed(x, size, start=0, step=1):
        return x.new_zeros(size).index_put((torch.tensor(start), torch.tensor(step)), x.sum())

    def draw(d):
        return Case((d.tensor(3), (d.integer(4, 5), d.integer(6, 8)), d.integer(0, 1), d.integer(2, 3)))

    known(small(placed, Property("values", "the place", 1, draw)))
    for answer, part in [
        (
            lambda x, size, start=0, step=1: placed(x, size[::-1], start, step),
            "size with its two numbers in reverse",
        ),
        (lambda x, size, start=0, step=1: placed(x, size, step, start), "start and step change places"),
        (lambda x, size, start=0, step=1: placed(x, size, start, step - 1), "what step − 1 gives"),
    ]:
        assert part in evaluate("small", answer, seed=1, devices=("cpu",)).results[0].described


def test_what_is_stated_in_words(known):
    def watched(subject, case):
        return {"the mode afterwards": "train" if subject(*case.args).dim() == 4 else "eval", "size": 3}

    assert "“the mode afterwards” is “eval” with your answer, where “train” is right." in said_of(
        known, watched, lambda x, factor=2, shift=None: x[0]
    )
    # A count of hooks is no result, and one number is not everywhere.
    counted = said_of(
        known,
        lambda subject, case: {"hooks": subject(*case.args).dim()},
        lambda x, factor=2, shift=None: x.sum(),
    )
    assert counted == "“hooks” is 0 with your answer, where 4 is right."


def said_of(known, observe, answer):
    known(exercise(observe=observe))
    return evaluate("small", answer, seed=1, devices=("cpu",)).results[0].described


def test_a_condition_is_not_told_from_what_comes_along_with_it(known):
    def few(d):
        return Case((d.tensor(2, 4, 6, d.each([6, 5])), d.each([2, 3]), None))

    def answer(x, factor=2, shift=None):
        return scaled(x, factor, shift) + (x.cos() if x.shape[-1] == x.shape[-2] else 0)

    for examples in (6, 16):
        known(small(scaled, Property("values", "x·factor", 1, few, examples=examples)))
        heard = evaluate("small", answer, seed=1, devices=("cpu",)).results[0].described
        assert ("height and width are equal" in heard) is (examples == 16), heard


def test_a_gradient_that_is_cut_is_told_by_its_argument(known):
    def graded(subject, case):
        return subject.vjp(*case.args, wrt=[0, 2])["grads"]

    known(exercise(observe=graded, says="gradients flow to x and shift"))
    (result,) = evaluate(
        "small", lambda x, factor=2, shift=None: scaled(x, factor, shift.detach()), seed=1
    ).results
    assert result.described.startswith("No gradient reaches shift:")
    (result,) = evaluate(
        "small", lambda x, factor=2, shift=None: scaled(3 * x, factor, shift), seed=1
    ).results
    assert "gradient" not in result.described


def test_what_is_to_be_refused(known):
    def picky(x, factor):
        if factor > 3:
            raise ValueError(f"factor must be at most 3, got {factor}")
        return x * factor

    refused = Property("refused", "no factor over 3", 1, lambda d: Case((d.tensor(3), d.integer(4, 9))))
    known(small(picky, refused))
    assert (
        "accepts what is to be refused with a ValueError"
        in evaluate("small", lambda x, factor: x).results[0].described
    )

    def other(x, factor):
        raise IndexError("no")

    def chance(x, factor):
        return x * (1 / (factor % 2))

    assert "Nothing in your code checks" in evaluate("small", chance, seed=1).results[0].described

    said = evaluate("small", other).results[0].described
    assert "raises an IndexError where a ValueError is asked for" in said


def test_swapped_arguments():
    def swapped(prediction, target, num_classes, ignore_index=255):
        counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
            if t != ignore_index and p < num_classes and t < num_classes:
                counts[p, t] += 1
        return counts

    verdict = evaluate("confusion_matrix", swapped, seed=1)
    said = [r.described for r in verdict.results]
    assert verdict.diagnosis or any("prediction and target change places" in d for d in said), said


def test_every_relation_is_tried():
    tried = {name.partition(",")[0] for name in WRONG} | {
        "no_gradient",
        "nothing_refused",
        "another_error",
        "refused_by_chance",
        "arguments_swapped",
        "told_in_words",
    }
    assert tried == {relation.__name__ for relation in describe.RELATIONS}
    assert all(inspect.isfunction(relation) for relation in describe.RELATIONS)
