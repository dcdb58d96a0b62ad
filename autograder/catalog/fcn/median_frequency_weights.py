"""The exercise median_frequency_weights of lecture 06: weights that balance classes."""

from __future__ import annotations

import torch

from autograder.catalog.observations import carries, numbers
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import fcn as reference


def _filled_map(d: Draw, h: int, w: int, classes: list[int]) -> torch.Tensor:
    """A map that holds each of the classes, in shares that differ."""
    places = d.integers(h, w, low=0, high=2 ** len(classes) - 1)
    chosen = sum((places >= 2**k).long() for k in range(1, len(classes)))
    labels = torch.tensor(classes)[chosen]
    labels.view(-1)[torch.randperm(h * w, generator=d.source)[: len(classes)]] = torch.tensor(classes)
    return labels


def _stack_case(d: Draw) -> Case:
    """Three classes, the last of which is missing from one of the images."""
    h, w = d.integer(4, 6), d.choice([5, 7])
    maps = [_filled_map(d, h, w, [0, 1])] + [_filled_map(d, h, w, [2, 0, 1]) for _ in range(d.integer(1, 2))]
    return Case((torch.stack(maps), 3))


def _list_case(d: Draw) -> Case:
    maps = [
        _filled_map(d, 4, d.integer(5, 6), [1, 0]),
        _filled_map(d, d.integer(6, 8), 7, [0, 2, 1]),
        _filled_map(d, 3, d.integer(4, 5), [2, 1, 0]),
    ]
    return Case((maps, 3))


def _even_case(d: Draw) -> Case:
    return Case((_filled_map(d, d.integer(5, 7), d.integer(6, 9), [0, 2, 1, 3])[None], 4))


def _absent_case(d: Draw) -> Case:
    classes = d.choice([[0, 1, 2], [3, 1, 0], [1, 3, 2]])
    return Case(([_filled_map(d, d.integer(4, 6), d.integer(5, 7), classes)], d.choice([4, 6])))


def _void_case(d: Draw) -> Case:
    """Void takes half of the image from which class 2 is missing."""
    void = d.choice([255, -1, 7])
    h, w = d.integer(5, 6), d.choice([6, 8])
    one, other = _filled_map(d, h, w, [0, 1]), _filled_map(d, h, w, [0, 2, 1])
    one[h // 2 :] = void
    one[0, :2] = torch.tensor([0, 1])
    other[-1, : d.integer(1, 2)] = void
    other[:2, 2] = 2
    other[0, :2] = torch.tensor([0, 1])
    maps = torch.stack([one, other])
    return Case((maps, 3), {} if void == 255 else {"ignore_index": void})


def _weights_kinds(d: Draw) -> Case:
    (maps, count) = _stack_case(d).args
    return Case((d.choice([maps.to(torch.uint8), list(maps), maps.int()]), count))


def _balanced(
    label_maps, num_classes, ignore_index, *, pooled=False, averaged=False, median=None, void=True, turn=False,
    absent=0.0, before=False,
):  # fmt: skip
    pixels, valid, shares, seen = torch.zeros(4, num_classes, dtype=torch.float64)
    for labels in label_maps:
        size = labels.numel() if not void else int((labels != ignore_index).sum())
        for c in range(num_classes):
            count = int(((labels == c) & (labels != ignore_index)).sum())
            if count or pooled:
                pixels[c] += count
                valid[c] += size
                shares[c] += count / size
                seen[c] += 1
    frequency = shares / seen if averaged else pixels / valid
    there = pixels > 0
    if median is None:

        def median(v):
            return v.quantile(0.5)

    middle = median(frequency.nan_to_num(0.0) if before else frequency[there])
    weights = torch.full_like(pixels, absent)
    weights[there] = frequency[there] / middle if turn else middle / frequency[there]
    return weights.float()


def _balanced_pooled(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, pooled=True)


def _balanced_averaged(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, averaged=True)


def _balanced_lower(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, median=torch.median)


def _balanced_mean(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, median=torch.mean)


def _balanced_inverse(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, median=lambda v: 1.0)


def _balanced_upside_down(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, turn=True)


def _balanced_absent_in_median(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, before=True)


def _balanced_absent_infinite(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, absent=float("inf"))


def _balanced_absent_nan(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, absent=float("nan"))


def _balanced_absent_one(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, absent=1.0)


def _balanced_all_nan(label_maps, num_classes, ignore_index=255):
    weights = _balanced(label_maps, num_classes, ignore_index)
    return weights if (weights > 0).all() else weights * float("nan")


def _balanced_void_counted(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index, void=False)


def _balanced_255(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, 255)


def _balanced_double(label_maps, num_classes, ignore_index=255):
    return _balanced(label_maps, num_classes, ignore_index).double()


def _balanced_python(label_maps, num_classes, ignore_index=255):
    """Counters and fractions, no tensor until the end."""
    from collections import Counter
    from fractions import Fraction

    counters = [Counter(labels.flatten().tolist()) for labels in label_maps]
    frequency = {}
    for c in range(num_classes):
        among = [k for k in counters if k[c] and c != ignore_index]
        if among:
            total = sum(n for k in among for label, n in k.items() if label != ignore_index)
            frequency[c] = Fraction(sum(k[c] for k in among), total)
    ordered = sorted(frequency.values())
    n = len(ordered)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if n else Fraction(0)
    weights = [float(median / frequency[c]) if c in frequency else 0.0 for c in range(num_classes)]
    return torch.tensor(weights, device=label_maps[0].device)


def _balanced_table(label_maps, num_classes, ignore_index=255):
    """A table images × classes, and numpy's median."""
    import numpy as np

    counts = torch.stack(
        [
            torch.stack([((m == c) & (m != ignore_index)).sum() for c in range(num_classes)])
            for m in label_maps
        ]
    ).double()
    sizes = torch.stack([(m != ignore_index).sum() for m in label_maps]).double()
    frequency = counts.sum(0) / ((counts > 0) * sizes[:, None]).sum(0)
    middle = float(np.nanmedian(frequency.cpu().numpy()))
    return (middle / frequency).nan_to_num(0.0).float()


EVERYWHERE = ("stack", "list", "even", "absent", "void")

EXERCISE = Exercise(
    id="median_frequency_weights",
    topic="fcn",
    title="Weights that balance classes",
    reference=reference.median_frequency_weights,
    minutes=15,
    difficulty=2,
    properties=(
        Property(
            "stack",
            "median(freq) / freq(c), freq over the images where c is present",
            0.75,
            _stack_case,
            numbers,
        ),
        Property("list", "a list of maps of different sizes: pixels are pooled", 0.75, _list_case, numbers),
        Property(
            "even", "of an even number, the median is the mean of the middle two", 0.5, _even_case, numbers
        ),
        Property(
            "absent",
            "a class that is nowhere weighs 0 and has no part in the median",
            0.5,
            _absent_case,
            numbers,
        ),
        Property(
            "void",
            "void pixels count nowhere, whatever integer labels them",
            0.25,
            _void_case,
            numbers,
            examples=12,
        ),
        Property("kinds", "maps of any integers; float32 weights", 0.25, _weights_kinds, carries, examples=6),
    ),
    misconceptions=(
        Misconception(
            "over_all_images",
            "You divided by the valid pixels of all images.",
            "For each class, count only the images in which it is present: valid pixels of the others say nothing about it.",
            ("stack", "list", "void"),
            _balanced_pooled,
        ),
        Misconception(
            "shares_averaged",
            "You averaged the shares of the images; a small image then counts as much as a large one.",
            "Sum the pixels above, sum the pixels below, then divide once.",
            ("list", "void"),
            _balanced_averaged,
        ),
        Misconception(
            "lower_median",
            "Of an even number of classes you took the lower of the middle two: torch.median does that.",
            "frequency.quantile(0.5) takes their mean.",
            ("even",),
            _balanced_lower,
        ),
        Misconception(
            "mean_for_median",
            "You divided the mean frequency, where the median belongs.",
            "The median: a single huge class would pull the mean up, and all weights with it.",
            EVERYWHERE,
            _balanced_mean,
        ),
        Misconception(
            "inverse_frequency",
            "You returned 1 / freq, without the median.",
            "Multiply by the median, so that the class in the middle weighs 1.",
            EVERYWHERE,
            _balanced_inverse,
        ),
        Misconception(
            "upside_down",
            "Common classes get the large weights.",
            "weight = median / freq, not freq / median.",
            EVERYWHERE,
            _balanced_upside_down,
        ),
        Misconception(
            "absent_in_the_median",
            "Absent classes enter the median as frequency 0.",
            "Take the median over the classes that have a pixel.",
            ("absent",),
            _balanced_absent_in_median,
        ),
        Misconception(
            "absent_is_infinite",
            "An absent class weighs infinitely much.",
            "There is nothing to weigh: set it to 0.",
            ("absent",),
            _balanced_absent_infinite,
        ),
        Misconception(
            "absent_is_nan",
            "An absent class weighs NaN: 0 pixels of 0.",
            "There is nothing to weigh: set it to 0.",
            ("absent",),
            _balanced_absent_nan,
        ),
        Misconception(
            "absent_is_one",
            "An absent class weighs 1.",
            "There is nothing to weigh: set it to 0.",
            ("absent",),
            _balanced_absent_one,
        ),
        Misconception(
            "nan_spreads",
            "One absent class turns all weights into NaN.",
            "Take the median over the classes that have a pixel, and set the others to 0.",
            ("absent",),
            _balanced_all_nan,
        ),
        Misconception(
            "void_is_always_255",
            "You compare with 255 instead of with ignore_index.",
            "valid = labels != ignore_index.",
            ("void",),
            _balanced_255,
        ),
        Misconception(
            "void_counted",
            "Void pixels count in the size of an image.",
            "Divide by the valid pixels only: labels != ignore_index.",
            ("void",),
            _balanced_void_counted,
        ),
        Misconception(
            "always_float64",
            "Your weights are float64.",
            "Count as exactly as you like, and return .float().",
            ("kinds",),
            _balanced_double,
        ),
    ),
    right=(
        Variant("counters and fractions", _balanced_python),
        Variant("a table of counts, numpy's median", _balanced_table),
    ),
    hints=(
        Hint(
            "My weights are off where a class is missing from an image",
            "Each class has its own divisor: the valid pixels of the images in which it has at least one pixel.",
        ),
        Hint(
            "I get NaN or infinity",
            "Which classes have no pixel? Work on the others alone, and write 0 for these.",
        ),
        Hint(
            "I don't know how to start",
            "pixels, valid = zeros(L), zeros(L). For each map: count = bincount of its valid pixels, pixels += count, valid += (count > 0) · number of valid pixels. frequency = pixels / valid where pixels > 0; weights = frequency.quantile(0.5) / frequency.",
        ),
    ),
)
