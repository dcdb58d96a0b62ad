import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestSamplePatches(Contract):
    exercise_id = "sample_patches"


def drawn(image, labels, size, generator, count, place=lambda corner: corner, inside=True):
    """Patches of each class as most people write it; `count` draws indices of the legal corners."""
    image = image if image.is_floating_point() else image.float()
    h, w = labels.shape
    half = size // 2
    known = labels[half : half + h - size + 1, half : half + w - size + 1] if inside else labels
    patches, targets = [], []
    for c in known.unique().tolist():
        if c == 255:
            continue
        corners = (known == c).nonzero()
        for row, column in map(place, corners[count(len(corners), generator)].tolist()):
            patches.append(image[:, row : row + size, column : column + size])
            targets.append(c)
    return patches, targets


def put_together(image, size, patches, targets):
    image = image if image.is_floating_point() else image.float()
    if not patches:
        return image.new_zeros(0, len(image), size, size), torch.zeros(0, dtype=torch.int64)
    return torch.stack(patches), torch.tensor(targets)


def with_replacement(per_class):
    return lambda many, generator: torch.randint(many, (per_class,), generator=generator)


def around(image, labels, size, per_class, generator):
    """Patches around all pixels, those at the border cut short."""

    def place(center):
        return center[0] - size // 2, center[1] - size // 2

    return drawn(image, labels, size, generator, with_replacement(per_class), place, inside=False)


def over_the_border(image, labels, size, per_class, generator):
    return put_together(image, size, *around(image, labels, size, per_class, generator))


def and_never_nothing(image, labels, size, per_class, generator):
    patches, targets = around(image, labels, size, per_class, generator)
    return torch.stack(patches), torch.tensor(targets)


def each_once_if_possible(image, labels, size, per_class, generator):
    def count(many, generator):
        rounds = [torch.randperm(many, generator=generator) for _ in range(-(-per_class // many))]
        return torch.cat(rounds)[:per_class]

    return put_together(image, size, *drawn(image, labels, size, generator, count))


def seeded(image, labels, size, per_class, generator):
    generator.manual_seed(1)
    return put_together(image, size, *drawn(image, labels, size, generator, with_replacement(per_class)))


def a_column(image, labels, size, per_class, generator):
    patches, targets = put_together(
        image, size, *drawn(image, labels, size, generator, with_replacement(per_class))
    )
    return patches, targets[:, None].float()


def lists(image, labels, size, per_class, generator):
    return put_together(image, size, *drawn(image, labels, size, generator, with_replacement(per_class)))


@pytest.mark.parametrize(
    ("answer", "lost", "names"),
    [
        (over_the_border, {"inside", "balanced"}, {"over_the_border"}),
        (and_never_nothing, {"inside", "balanced", "void"}, {"over_the_border", "void_alone_fails"}),
        (each_once_if_possible, {"spread"}, {"without_replacement_where_enough"}),
        (seeded, {"generator"}, {"generator_seeded_anew"}),
        (a_column, {"kinds"}, set()),
        (lists, set(), set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_costs_its_own_claim_and_has_its_name(answer, lost, names):
    verdict = evaluate("sample_patches", answer)
    assert {n for n, o in verdict.outcomes.items() if o is not Outcome.CORRECT} == lost
    assert {finding.name for finding in verdict.findings} == names


@pytest.mark.parametrize(("axis", "name"), [(0, "row_drawn_first"), (1, "column_drawn_first")])
def test_every_exam_shows_that_centers_of_a_crowded_line_come_too_rarely(axis, name):
    def answer(image, labels, size, per_class, generator):
        patches, targets = [], []
        h, w = labels.shape
        inner = labels[size // 2 :, size // 2 :][: h - size + 1, : w - size + 1]
        for c in {*inner.flatten().tolist()} - {255}:
            lines = {}
            for corner in (inner == c).nonzero().tolist():
                lines.setdefault(corner[axis], []).append(corner)
            for _ in range(per_class):
                line = torch.randint(len(lines), (1,), generator=generator)
                line = [*lines.values()][line]
                row, column = line[torch.randint(len(line), (1,), generator=generator)]
                patches.append(image[:, row : row + size, column : column + size])
                targets.append(c)
        patches = [patch if patch.is_floating_point() else patch.float() for patch in patches]
        return put_together(image, size, patches, targets)

    for seed in range(3):
        verdict = evaluate("sample_patches", answer, seed=seed)
        assert {n for n, o in verdict.outcomes.items() if o is not Outcome.CORRECT} == {"spread"}
        assert verdict.diagnosis == name


def test_a_draw_until_the_center_is_legal_is_right():
    def rejected(image, labels, size, per_class, generator):
        image = image if image.is_floating_point() else image.float()
        h, w = labels.shape
        half = size // 2
        patches, targets = [], []
        legal = labels[half : half + h - size + 1, half : half + w - size + 1]
        for c in legal.unique().tolist():
            while c != 255 and targets.count(c) < per_class:
                row, column = torch.rand(2, generator=generator).tolist()
                row, column = int(row * len(legal)), int(column * legal.shape[1])
                if legal[row, column] == c:
                    patches.append(image[:, row : row + size, column : column + size])
                    targets.append(c)
        return put_together(image, size, patches, targets)

    assert evaluate("sample_patches", rejected).correct


def one_short(image, labels, size, per_class, generator):
    def count(many, generator):
        return torch.randint(max(many - 1, 1), (per_class,), generator=generator)

    return put_together(image, size, *drawn(image, labels, size, generator, count))


def last_column_missing(image, labels, size, per_class, generator):
    labels = labels.clone()
    labels[:, labels.shape[1] - size + size // 2 :] = 255
    return put_together(image, size, *drawn(image, labels, size, generator, with_replacement(per_class)))


def test_the_last_center_is_not_taken_for_the_last_column():
    assert [f.name for f in evaluate("sample_patches", one_short).findings] == ["last_center_left_out"]
    assert "last_center_left_out" not in [
        f.name for f in evaluate("sample_patches", last_column_missing).findings
    ]
