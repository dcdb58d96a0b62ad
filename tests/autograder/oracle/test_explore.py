"""The cases of an exam: drawn so that luck has little part in them, and smaller ones where one fails."""

import pytest
import torch

from autograder.exercise import Case
from autograder.oracle.explore import drawn, shrink


def values(draw, seed=1, examples=8):
    return [d.case.args for d in drawn(lambda d: Case(draw(d)), seed, examples)]


def test_the_first_case_is_the_simplest():
    for seed in range(5):
        first = values(lambda d: (d.integer(3, 50), d.choice("abc"), d.flag(), d.each("xyz")), seed)[0]
        assert first == (3, "a", False, "x")


@pytest.mark.parametrize("options", [1, 2, 3, 5, 8])
def test_of_few_values_each_comes(options):
    for seed in range(20):
        found = values(lambda d: (d.integer(1, options), d.integer(1, options)), seed)
        assert {a for a, _ in found} == {b for _, b in found} == set(range(1, options + 1))


def test_many_values_lie_evenly_from_end_to_end():
    for seed in range(20):
        found = sorted(a for (a,) in values(lambda d: (d.integer(0, 69),), seed))
        assert found[0] == 0
        assert found[-1] == 69
        assert all(any(low <= v < low + 10 for v in found[1:]) for low in range(0, 60, 10))


def test_options_that_take_turns_come_in_every_combination():
    found = values(lambda d: (d.each("ab"), d.each("xy"), d.each([0, 1])))
    assert len(set(found)) == 8
    assert found[0] == ("a", "x", 0)


def test_two_places_are_drawn_apart():
    pairs = {tuple(values(lambda d: (d.flag(), d.flag()), seed)) for seed in range(20)}
    assert len(pairs) > 10


def test_a_seed_draws_the_same_and_another_one_something_else():
    def tensors(seed):
        return [x for (x,) in values(lambda d: (d.tensor(3, 2),), seed)]

    assert all(torch.equal(a, b) for a, b in zip(tensors(3), tensors(3), strict=True))
    assert not any(torch.equal(a, b) for a in tensors(3) for b in tensors(4))
    one = tensors(3)
    assert not any(torch.equal(a, b) for i, a in enumerate(one) for b in one[:i])


@pytest.mark.parametrize(
    ("fails", "smallest"),
    [
        (lambda n, m, c: n >= 5, (5, 1, "a")),
        (lambda n, m, c: n * m > 20, (20, 2, "a")),
        (lambda n, m, c: c != "a" and m > 3, (1, 4, "b")),
        (lambda n, m, c: True, (1, 1, "a")),
    ],
)  # fmt: skip
def test_a_failing_case_is_made_simpler_choice_by_choice(fails, smallest):
    def draw(d):
        return Case((d.integer(1, 30), d.integer(1, 30), d.choice("abc")))

    for seed in range(10):
        for found in drawn(draw, seed, 8):
            if not fails(*found.case.args):
                continue
            left = shrink(draw, seed, found, lambda case: fails(*case.args)).case.args
            assert fails(*left)
            n, m, c = left
            # Nothing is left that one step could make simpler.
            for simpler in ((n - 1, m, c), (n, m - 1, c), (n, m, "abc"[max("abc".index(c) - 1, 0)])):
                assert simpler == left or min(simpler[:2]) < 1 or not fails(*simpler)
            assert sum(left[:2]) <= sum(found.case.args[:2])
    assert fails(*smallest)


def test_choices_that_are_gone_with_another_are_no_trouble():
    def draw(d):
        return Case(tuple(d.integer(0, 9) for _ in range(d.integer(1, 6))))

    for found in drawn(draw, 3, 8):
        if sum(found.case.args) >= 7:
            left = shrink(draw, 3, found, lambda case: sum(case.args) >= 7).case.args
            assert sum(left) == 7 or len(left) == 1
