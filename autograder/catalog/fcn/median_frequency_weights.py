"""The exercise median_frequency_weights of lecture 06: weights that balance classes."""

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import described, numbers
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import fcn as reference


def _filled_map(d: Draw, h: int, w: int, classes: list[int]) -> torch.Tensor:
    """A map that holds each of the classes, in shares that differ."""
    places = d.integers(h, w, low=0, high=2 ** len(classes) - 1)
    chosen = sum((places >= 2**k).long() for k in range(1, len(classes)))
    labels = torch.tensor(classes)[chosen]
    labels.view(-1)[torch.randperm(h * w, generator=d.source)[: len(classes)]] = torch.tensor(classes)
    return labels


def _stack_case(d: Draw) -> Case:
    """Three classes, the last of which is missing from one of the images, or from none."""
    h, w = d.integer(4, 6), d.choice([5, 7])
    maps = [_filled_map(d, h, w, d.each([[0, 1], [0, 1, 2]]))] + [
        _filled_map(d, h, w, [2, 0, 1]) for _ in range(d.integer(1, 2))
    ]
    return Case((torch.stack(maps), 3))


def _list_case(d: Draw) -> Case:
    maps = [
        _filled_map(d, 4, d.integer(5, 6), [1, 0]),
        _filled_map(d, d.integer(6, 8), 7, [0, 2, 1]),
        _filled_map(d, 3, d.integer(9, 10), [2, 1, 0]),
    ]
    return Case((maps, 3))


def _even_case(d: Draw) -> Case:
    return Case((_filled_map(d, d.integer(5, 7), d.integer(6, 9), [0, 2, 1, 3])[None], 4))


def _absent_case(*present: list[int]) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        classes = d.each(present)
        h, w, count = d.integer(4, 6), d.integer(5, 7), d.choice([5, 6])
        labels = _filled_map(d, h, w, classes) if classes else torch.full((h, w), 255)
        return Case(([labels], count), {}, {"present": sorted(classes)})

    return draw


def _void_case(d: Draw) -> Case:
    """Void takes half of the image from which class 2 is missing, and all of another one."""
    void = d.each([255, -1, 7])
    h, w = d.integer(5, 6), d.choice([6, 8])
    one, other = _filled_map(d, h, w, [0, 1]), _filled_map(d, h, w, [0, 2, 1])
    one[h // 2 :] = void
    one[0, :2] = torch.tensor([0, 1])
    other[-1, : d.integer(1, 2)] = void
    other[:2, 2] = 2
    other[0, :2] = torch.tensor([0, 1])
    maps = torch.stack([one, other, torch.full_like(one, void)])
    return Case((maps, 3), {} if void == 255 else {"ignore_index": void})


def _weights_kinds(d: Draw) -> Case:
    maps, count = _stack_case(d).args
    return Case((d.each([maps.to(torch.uint8), list(maps), maps.int()]), count))


def _of(present: bool) -> Callable[[Subject, Case], Any]:
    """The weights of the classes that are there, or of the others."""

    def observe(subject: Subject, case: Case) -> Any:
        weights, count = numbers(subject, case), case.args[1]
        which = [c for c in range(count) if (c in case.extra["present"]) == present]
        of_all = isinstance(weights, torch.Tensor) and weights.shape == (count,)
        return {f"weights of classes {which}": weights[which] if of_all else weights}

    return observe


def _kind(subject: Subject, case: Case) -> dict[str, Any]:
    """Dtype and changes; the shape is another property's business."""
    weights, changed = subject.with_changes(*case.args, **case.kwargs)
    dtype = str(weights.dtype) if isinstance(weights, torch.Tensor) else described(weights)
    return {"weights": dtype, "arguments changed in place": [int(c) for c in changed]}


CLAIMS = Exercise(
    id="median_frequency_weights",
    topic="fcn",
    title="Weights that balance classes",
    reference=reference.median_frequency_weights,
    minutes=15,
    difficulty=2,
    properties=claims(
        """
        stack (0.75): median(freq) / freq(c), freq over the images where c is present
        list (0.75): a list of maps of different sizes: pixels are pooled
        even (0.5): of an even number, the median is the mean of the middle two
        absent (0.25): a class that is nowhere weighs 0, also where no class is anywhere
        present (0.25): and has no part in the median of the others
        void (0.25): void pixels count nowhere, whatever integer labels them
        kinds (0.25): maps of any integers; float32 weights; nothing is modified in place
        """,
        stack=on(_stack_case, numbers),
        list=on(_list_case, numbers),
        even=on(_even_case, numbers),
        absent=on(_absent_case([0, 1, 2], [3, 1], []), _of(present=False), examples=6, beside="stack"),
        present=on(_absent_case([0, 1, 2], [3, 1, 0], [1, 3]), _of(present=True), examples=6),
        void=on(_void_case, numbers, examples=12),
        kinds=on(_weights_kinds, _kind, examples=6, beside="stack"),
    ),
    hints=hints("""
        My weights are off where a class is missing from an image
        Each class has its own divisor: the valid pixels of the images in which it has at least one pixel.

        I get NaN or infinity
        Which classes have no pixel? Work on the others alone, and write 0 for these.

        I don't know how to start
        pixels, valid = zeros(L), zeros(L). For each map: count = bincount of its valid pixels, pixels +=
          count, valid += (count > 0) · number of valid pixels. frequency = pixels / valid where pixels > 0;
          weights = frequency.quantile(0.5) / frequency.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def pooled(label_maps, num_classes, ignore_index=255):
    """pixels above and below, class by class"""
    above, below = torch.zeros(2, num_classes, dtype=torch.float64, device=label_maps[0].device)
    for labels in label_maps:
        labels = labels[labels != ignore_index]
        for c in range(num_classes):
            count = int((labels == c).sum())
            if count:
                above[c] += count
                below[c] += labels.numel()
    there = above > 0
    weights = torch.zeros_like(above)
    if there.any():
        frequency = above[there] / below[there]
        weights[there] = frequency.quantile(0.5) / frequency
    return weights.float()


answers.edits("""
over_all_images: stack list void
- if count:
-     above[c] += count
-     below[c] += labels.numel()
+ above[c] += count
+ below[c] += labels.numel()
You divided by the valid pixels of all images.
For each class, count only the images in which it is present: valid pixels of the others say nothing about it.

shares_averaged: list void
- above[c] += count
- below[c] += labels.numel()
+ above[c] += count / labels.numel()
+ below[c] += 1
You averaged the shares of the images; a small image then counts as much as a large one.
Sum the pixels above, sum the pixels below, then divide once.

lower_median: even present
- frequency.quantile(0.5)
+ frequency.median()
Of an even number of classes you took the lower of the middle two: torch.median does that.
frequency.quantile(0.5) takes their mean.

mean_for_median: all but absent kinds
- frequency.quantile(0.5)
+ frequency.mean()
You divided the mean frequency, where the median belongs.
The median: a single huge class would pull the mean up, and all weights with it.

inverse_frequency: all but absent kinds
- frequency.quantile(0.5) / frequency
+ 1 / frequency
You returned 1 / freq, without the median.
Multiply by the median, so that the class in the middle weighs 1.

upside_down: all but absent kinds
- frequency.quantile(0.5) / frequency
+ frequency / frequency.quantile(0.5)
Common classes get the large weights.
weight = median / freq, not freq / median.

absent_in_the_median: present
- frequency.quantile(0.5)
+ (above / below.clamp(min=1)).quantile(0.5)
Absent classes enter the median as frequency 0.
Take the median over the classes that have a pixel.

absent_in_a_lower_median: even present
- frequency.quantile(0.5)
+ (above / below.clamp(min=1)).median()
Absent classes enter your median as frequency 0, and of an even number you took the lower of the middle two.
Take the median over the classes that have a pixel: frequency[there].quantile(0.5).

absent_is_infinite: absent
- torch.zeros_like(above)
+ torch.full_like(above, torch.inf)
An absent class weighs infinitely much.
There is nothing to weigh: set it to 0.

absent_is_nan: absent
- torch.zeros_like(above)
+ torch.full_like(above, torch.nan)
An absent class weighs NaN: 0 pixels of 0.
There is nothing to weigh: set it to 0.

absent_is_one: absent
- torch.zeros_like(above)
+ torch.ones_like(above)
An absent class weighs 1.
There is nothing to weigh: set it to 0.

nothing_there_fails: absent
- if there.any():
-     frequency = above[there] / below[there]
-     weights[there] = frequency.quantile(0.5) / frequency
+ frequency = above[there] / below[there]
+ weights[there] = frequency.quantile(0.5) / frequency
Your function breaks down where no class has a pixel: there is no median of nothing.
Return zeros then: every class is absent.

nan_spreads: absent present
- frequency = above[there] / below[there]
- weights[there] = frequency.quantile(0.5) / frequency
+ frequency = above / below
+ weights = frequency.quantile(0.5) / frequency
One absent class turns all weights into NaN.
Take the median over the classes that have a pixel, and set the others to 0.

void_is_always_255: void
- labels != ignore_index
+ labels != 255
You compare with 255 instead of with ignore_index.
valid = labels != ignore_index.

void_counted: void
- labels = labels[labels != ignore_index]
Void pixels count in the size of an image.
Divide by the valid pixels only: labels != ignore_index.

always_float64: kinds
- weights.float()
+ weights
Your weights are float64.
Count as exactly as you like, and return .float().
""")


@answers.right
def binned(label_maps, num_classes, ignore_index=255):
    """counted with bincount"""
    pixels = torch.zeros(num_classes, dtype=torch.float64, device=label_maps[0].device)
    valid = torch.zeros_like(pixels)
    for labels in label_maps:
        known = labels[labels != ignore_index].long()
        count = known.bincount(minlength=num_classes)
        pixels = pixels + count
        valid = valid + (count > 0) * len(known)
    there = pixels > 0
    weights = torch.zeros_like(pixels)
    if there.any():
        frequency = pixels[there] / valid[there]
        weights[there] = frequency.quantile(0.5) / frequency
    return weights.to(torch.float32)


answers.edits("""
stack_as_one_map: stack void
- for labels in label_maps:
+ for labels in [label_maps] if isinstance(label_maps, torch.Tensor) else label_maps:
You took one tensor (N, H, W) for one large map: each class is divided by the valid pixels of all its images,
  also of those without the class.
Go through it image by image, as through a list: for labels in label_maps serves both.

void_not_left_out: absent void
- labels[labels != ignore_index].long()
+ labels.flatten().long()
You did not leave void out: 255 is counted as if it were a class, and there are too many counts.
Take the valid pixels first: labels[labels != ignore_index].

list_of_one_size: list
- for labels in label_maps:
+ for labels in torch.stack(list(label_maps)):
You put the maps of a list into one tensor, and their sizes may differ.
Go through them one by one: the sums of pixels are all that is needed.
""")


@answers.right
def by_counter(label_maps, num_classes, ignore_index=255):
    """counters and fractions"""
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


@answers.right
def tabled(label_maps, num_classes, ignore_index=255):
    """a table of counts, numpy's median"""
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


EXERCISE = answers.exercise()
