"""The exercise split_then_standardize of lecture 01: split first, then fit on the training part alone."""

import math  # noqa: F401 (for an edit)
from typing import Any

import torch
from torch import nn

from autograder.attempt import Handle, Raised, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import described
from autograder.catalog.preprocessing.draws import KINDS, SCALERS, varied_images
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import preprocessing as reference


def _given(d: Draw, n: int) -> torch.Tensor:
    """Images that can be told apart, of different brightness and contrast, and few numbers."""
    c, (h, w) = d.integer(1, min(3, max(1, 17 // n))), d.choice([(2, 4), (1, 9), (3, 3)])
    contrast = 1.0 + 0.5 * torch.arange(n, dtype=torch.float64).view(n, 1, 1, 1)
    return d.layout(varied_images(d, n, c, h, w) * contrast)


def _to_split(d: Draw) -> Case:
    n, fraction = d.each([(8, 0.25), (6, 0.5), (5, 0.6), (12, 0.25)])
    return Case((_given(d, n), fraction, d.generator()))


def _to_round(d: Draw) -> Case:
    up, down, fraction = d.each([(7, 5, 0.25), (9, 11, 0.3), (12, 13, 0.4)])
    images, others = d.tensor(up, 1, 2, 3), d.tensor(down, 1, 2, 3)
    return Case((images, fraction, d.generator()), {}, {"another set of images": others})


def _to_keep_whole(d: Draw) -> Case:
    n, fraction = d.each([(3, 0), (1, 0.0), (4, 0.0), (5, 0)])
    return Case((_given(d, n), fraction, d.generator()))


def _to_shuffle(d: Draw) -> Case:
    others = [d.generator() for _ in range(3)]
    return Case((_given(d, 12), 0.5, d.generator()), {}, {"other generators": others})


def _whole_to_split(d: Draw) -> Case:
    images = d.integers(4, d.integer(1, 3), 2, 3, low=0, high=255)
    return Case((images, 0.5, d.generator()))


def _is_split(result: Any) -> bool:
    if not isinstance(result, list | tuple) or len(result) != 3:
        return False
    return all(isinstance(part, torch.Tensor) and part.dim() == 4 for part in result[:2])


def _found(images: torch.Tensor, part: torch.Tensor) -> list[int]:
    """Which image each of a part is, −1 for none: what standardizing leaves of it is compared."""

    def pattern(x: torch.Tensor) -> torch.Tensor:
        x = x.double().flatten(2)
        x = x - x.mean(2, keepdim=True)
        return (x / x.norm(dim=2, keepdim=True)).flatten(1) / x.shape[1] ** 0.5

    if len(part) == 0 or part.shape[1:] != images.shape[1:]:
        return [-1] * len(part)
    likeness = pattern(part) @ pattern(images).T
    return [int(row.argmax()) if row.max() > 0.999 else -1 for row in likeness]


def _whose(images: torch.Tensor, result: Any) -> tuple[list[int], list[int]]:
    """Which images the two parts are."""
    train, val = (_found(images, part) for part in result[:2])
    if -1 in [*train, *val] and callable(result[2]):
        # A mean image, for one, changes what is compared: then by what the standardizer makes of each image.
        made = result[2](images)
        if isinstance(made, torch.Tensor) and made.shape == images.shape:
            train, val = (_equal_to(made, part) for part in result[:2])
    return train, val


def _equal_to(images: torch.Tensor, part: torch.Tensor) -> list[int]:
    if len(part) == 0 or part.shape[1:] != images.shape[1:]:
        return [-1] * len(part)
    apart = torch.cdist(part.double().flatten(1), images.double().flatten(1))
    return [int(row.argmin()) if row.min() < 1e-3 else -1 for row in apart]


def _source_of(
    images: torch.Tensor, which: list[int], part: torch.Tensor, train: list[int], val: list[int]
) -> str:
    """In words, by which statistics a part has been standardized."""
    if -1 in [*which, *train, *val]:
        return "something else"
    x, part = images.double()[which], part.double()
    sets = {"the training images": train, "all images": [*train, *val], "the validation images": val}
    for name, members in sets.items():
        if members:
            some = images.double()[members]
            mean = some.mean((0, 2, 3)).view(1, -1, 1, 1)
            std = some.std((0, 2, 3), correction=0).view(1, -1, 1, 1)
            if torch.allclose(part, (x - mean) / std, rtol=1e-3, atol=1e-3):
                return name
            if torch.allclose(part, x - mean, rtol=1e-3, atol=1e-3):
                return f"{name}, by the mean alone"
            if torch.allclose(part, x - some.mean(0), rtol=1e-3, atol=1e-3):
                return f"the mean image of {name}"
            larger = some.transpose(0, 1).flatten(1).std(1).view(1, -1, 1, 1)
            if torch.allclose(part, (x - mean) / larger, rtol=1e-3, atol=1e-3):
                return f"{name}, by the std that divides by N − 1"
    own = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), correction=0, keepdim=True)
    if torch.allclose(part, own, rtol=1e-3, atol=1e-3):
        return "each image by its own"
    return "nothing: these are raw pixels" if torch.allclose(part, x) else "something else"


def _sizes(subject: Subject, case: Case) -> Any:
    images, fraction, generator = case.args
    seen: dict[str, Any] = {}
    for given in (images, case.extra["another set of images"]):
        result = subject(given, fraction, generator)
        if not _is_split(result):
            return result
        seen[f"{len(given)} images, val_fraction {fraction}"] = {
            "train": len(result[0]),
            "validation": len(result[1]),
        }
    return seen


def _parts(subject: Subject, case: Case) -> Any:
    result = subject(*case.args)
    if not _is_split(result):
        return result
    train, val = _whose(case.args[0], result)
    together = sorted(train + val)
    return {
        "all of them images that were given": -1 not in together,
        "an image twice": len(set(together)) < len(together),
        "an image left out": bool(set(range(len(case.args[0]))) - set(together)),
    }


def _sources(subject: Subject, case: Case) -> Any:
    result = subject(*case.args)
    if not _is_split(result):
        return result
    images = case.args[0]
    train, val = _whose(images, result)
    seen = {
        "train, standardized by": _source_of(images, train, result[0], train, val),
        "validation, standardized by": _source_of(images, val, result[1], train, val),
    }
    # Whether the third is a module is another claim's business.
    seen["the standardizer has"] = seen["train, standardized by"]
    if callable(result[2]):
        everything = list(range(len(images)))
        seen["the standardizer has"] = _source_of(images, everything, result[2](images), train, val)
    return seen


def _unseen(subject: Subject, case: Case) -> Any:
    images, fraction, generator = case.args
    before = subject(images, fraction, generator)
    if not _is_split(before):
        return before
    val = [i for i in _whose(images, before)[1] if i >= 0]
    changed = images.clone()
    changed[val] = 3 * changed[val] + 50
    after = subject(changed, fraction, generator)
    if not _is_split(after):
        return after
    splits = (before, after)
    outputs = [split[2](images) if callable(split[2]) else images for split in splits]
    parts = [split[0] for split in splits]
    return {
        f"changed with them: {name}": one.shape != other.shape or not torch.allclose(one, other, rtol=1e-4)
        for name, (one, other) in {"the standardizer": outputs, "the training images": parts}.items()
    }


def _shuffles(subject: Subject, case: Case) -> Any:
    images, fraction, generator = case.args
    drawn: list[frozenset[Any]] = []
    again = subject.build(generator)
    for source in (generator, generator, *case.extra["other generators"], again, again, again):
        result = subject(images, fraction, source)
        if not _is_split(result):
            return result
        val = _whose(images, result)[1]
        # Images that cannot be told are the same where their numbers are.
        drawn.append(frozenset(result[1].flatten().tolist() if -1 in val else val))
    drawn, used = drawn[:-3], drawn[-3:]
    k = len(drawn[0])
    ends = (frozenset(range(k)), frozenset(range(len(images) - k, len(images))))
    return {
        "the same generator gives the same split": drawn[0] == drawn[1],
        "other generators give other splits": len(set(drawn[1:])) > 1,
        "one generator used three times gives one split": len(set(used)) == 1,
        "validation is always the first or the last images": all(d in ends for d in drawn),
    }


def _keeps_all(subject: Subject, case: Case) -> Any:
    result = subject(*case.args)
    if not _is_split(result):
        return result
    return {"train": described(result[0]), "validation": described(result[1])}


def _split_manners(subject: Subject, case: Case) -> Any:
    images, *rest = case.args
    seen: dict[str, Any] = {}
    for dtype in KINDS:
        given = images.to(dtype)
        result, changed = subject.with_changes(given, *rest)
        if not _is_split(result):
            return result
        # How many they are is the business of other properties.
        each = [described(part.new_empty(part.shape[1:])) for part in result[:2]]
        seen[f"each of {str(dtype).removeprefix('torch.')} images"] = each
        seen["modified in place"] = bool(changed) or seen.get("modified in place", False)
        seen["the third is a module"] = _is_module(result[2])
    return seen


def _is_module(value: Any) -> bool:
    try:
        return isinstance(value, Handle) and bool(value.inspect())
    except Raised:
        return False


CLAIMS = Exercise(
    id="split_then_standardize",
    topic="preprocessing",
    title="Split first",
    reference=reference.split_then_standardize,
    minutes=15,
    difficulty=2,
    properties=claims(
        """
        sizes (0.5): round(N · val_fraction) images for validation, the others for training
        tried: two splits, and the number of images in each part
        parts (0.5): every image is in one of the two parts, once
        tried: each image of the result looked up among the images given
        statistics (0.75): both parts are standardized by the mean and std of the training part alone
        tried: both parts, and standardizer(images), compared with what the parts' own pixels give
        unseen (0.5): changing the pixels of validation images changes nothing in the statistics
        tried: the same split again, after the validation images were made brighter
        shuffled (0.25): the images are shuffled, by the generator that is handed in
        tried: the same images split with the same and with other generators, and with one used three times
        no_validation (0.25): val_fraction = 0 leaves all images for training, and validation is (0, C, H, W)
        kinds (0.25): two tensors and a module; floats keep their dtype, integers give float32; nothing in
          place
        tried: the call for uint8, int64, float32 and float64 images
        """,
        sizes=on(_to_round, _sizes, examples=6),
        parts=on(_to_split, _parts),
        statistics=on(_to_split, _sources),
        unseen=on(_to_split, _unseen),
        shuffled=on(_to_shuffle, _shuffles, examples=4),
        no_validation=on(_to_keep_whole, _keeps_all, examples=4, beside="parts"),
        kinds=on(_whole_to_split, _split_manners, examples=4, beside="parts"),
    ),
    hints=hints("""
        My validation images get into the statistics
        Go through your lines from the top: at which one do the two parts go separate ways, and where is fit?

        It breaks when nothing is left for validation
        What is order[:-0]? And how many images does order[:0] pick?

        I don't know how to start
        order = torch.randperm(N, generator=generator); num_val = round(N * val_fraction); val, train =
          images[order[:num_val]], images[order[num_val:]]; standardizer = Standardizer().fit(train); return
          standardizer(train), standardizer(val), standardizer.
        """),
    forbidden=(SCALERS,),
)

answers = Answers(CLAIMS)


class Standardizer(nn.Module):
    def __init__(self, mode="channel_standard"):
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def fit(self, images):
        dtype = images.dtype if images.is_floating_point() else torch.float32
        x = images.double()
        axes = 0 if self.mode == "mean_image" else (0, 2, 3)
        mean = x.mean(axes, keepdim=True)
        std = x.std(axes, correction=0, keepdim=True)
        std = torch.where(std > 1e-9, std, 1)
        if self.mode != "channel_standard":
            std = torch.ones_like(mean)
        self.mean, self.std = mean.to(dtype), std.to(dtype)
        return self

    def forward(self, images):
        return (images - self.mean) / self.std


@answers.right
def first_part(images, val_fraction, generator):
    """validation images first"""
    num_val = round(len(images) * val_fraction)
    order = torch.randperm(len(images), generator=generator)
    val, train = images[order[:num_val]], images[order[num_val:]]
    standardizer = Standardizer().fit(train)
    return standardizer(train), standardizer(val), standardizer


answers.edits("""
fitted_on_everything: statistics unseen
- .fit(train)
+ .fit(images)
Your statistics were measured on all images, validation included.
Split first, then fit on the training part alone.

fitted_on_validation: statistics unseen
- .fit(train)
+ .fit(val)
Your statistics were measured on the validation images.
Fit on the training part: validation only judges.

share_of_training: sizes no_validation
- num_val = round(len(images) * val_fraction)
+ num_val = len(images) - round(len(images) * val_fraction)
You took val_fraction for the share of the training images.
It is the share of the validation images: round(N · val_fraction) of them.

each_part_by_its_own: statistics
- standardizer(val)
+ Standardizer().fit(val)(val)
You standardized the validation images by their own statistics.
The model is fitted to one mean and one std, those of training: apply the same ones to both parts.

fitted_again: statistics unseen
- standardizer(val)
+ standardizer.fit(val)(val)
You fitted the standardizer a second time, on the validation images.
fit once, on train; then only call it.

validation_left_raw: statistics kinds
- standardizer(val)
+ val
You standardized the training images only.
The model expects standardized images wherever it is used: standardizer(val) as well.

divided_by_one_less: statistics
- x.std(axes, correction=0, keepdim=True)
+ x.std(axes, keepdim=True)
Your standardizer divides by the std that divides by N − 1.
Its std is the population's, as in channel_statistics: std(..., correction=0).

mean_image_subtracted: statistics
- Standardizer()
+ Standardizer("mean_image")
You subtracted the mean image.
The mode here is "channel_standard": a mean and a std for each channel.

mean_only: statistics
- Standardizer()
+ Standardizer("channel_mean")
You subtracted the mean and did not divide by the std.
The mode here is "channel_standard".

parts_swapped: all but parts shuffled kinds
- standardizer(train), standardizer(val)
+ standardizer(val), standardizer(train)
You returned the validation part first.
The order is train, validation, standardizer.

rounded_down: sizes
- round(len(images) * val_fraction)
+ int(len(images) * val_fraction)
You rounded the number of validation images down.
round(len(images) * val_fraction), not int(...) or //.

rounded_up: sizes
- round(len(images) * val_fraction)
+ math.ceil(len(images) * val_fraction)
You rounded the number of validation images up.
round(len(images) * val_fraction).

each_by_chance: sizes
- num_val = round(len(images) * val_fraction)
- order = torch.randperm(len(images), generator=generator)
- val, train = images[order[:num_val]], images[order[num_val:]]
+ draws = torch.rand(len(images), generator=generator)
+ chosen = draws < val_fraction
+ chosen[draws.argmax()] = False
+ val, train = images[chosen], images[~chosen]
You drew for each image by itself, so that the number in validation is left to chance.
Shuffle the numbers of the images, torch.randperm(N, generator=generator), and cut at round(N · val_fraction).

not_shuffled: shuffled
- torch.randperm(len(images), generator=generator)
+ torch.arange(len(images))
Your validation images are always the first ones or the last.
Data sets are often sorted by class: take torch.randperm(N, generator=generator) first.

generator_ignored: shuffled
- torch.randperm(len(images), generator=generator)
+ torch.randperm(len(images))
Your split does not depend on the generator that is handed in.
Take the order from it, torch.randperm(N, generator=generator), and seed nothing yourself.

seed_taken_from_the_generator: shuffled
- torch.randperm(len(images), generator=generator)
+ torch.randperm(len(images), generator=torch.Generator().manual_seed(generator.initial_seed()))
Your split follows from the seed of the generator, however much was drawn from it before.
Draw from the generator itself, torch.randperm(N, generator=generator): used again, it gives another split.

at_least_one: no_validation
- round(len(images) * val_fraction)
+ max(1, round(len(images) * val_fraction))
You put an image into validation where none is asked for.
val_fraction = 0 leaves all images for training: round(len(images) * val_fraction) is 0 there.

minus_zero: no_validation
- val, train = images[order[:num_val]], images[order[num_val:]]
+ train, val = images[order[:-num_val]], images[order[-num_val:]]
Your slice ends at −0: for no validation images, order[:-0] is empty.
Cut at a positive place: order[:num_val] and order[num_val:].

two_draws: parts unseen
- order = torch.randperm(len(images), generator=generator)
- val, train = images[order[:num_val]], images[order[num_val:]]
+ val = images[torch.randperm(len(images), generator=generator)[:num_val]]
+ train = images[torch.randperm(len(images), generator=generator)[num_val:]]
Your two parts do not come from one permutation: an image can be in both, or in none.
Draw one order, torch.randperm(N, generator=generator), and cut it in two.

shuffled_in_place: kinds
- val, train = images[order[:num_val]], images[order[num_val:]]
+ images[:] = images[order]
+ val, train = images[:num_val], images[num_val:]
You changed the caller's images in place.
images[order] is a new tensor: give it a new name, and write nothing into the one you were handed.

numbers_returned: kinds
- standardizer(val), standardizer
+ standardizer(val), (standardizer.mean, standardizer.std)
You returned the statistics, not the standardizer.
The third of the results is the fitted Standardizer, ready for images that come later.
""")


@answers.right
def last_part(images, val_fraction, generator):
    """training images first, as a list of numbers"""
    keep = len(images) - round(len(images) * val_fraction)
    order = torch.randperm(len(images), generator=generator).tolist()
    train, val = images[order[:keep]], images[order[keep:]]
    layer = Standardizer().fit(train)
    return layer(train), layer(val), layer


@answers.right
def by_mask(images, val_fraction, generator):
    """a random mask"""
    draws = torch.rand(len(images), generator=generator)
    chosen = torch.zeros(len(images), dtype=torch.bool)
    chosen[draws.argsort()[: round(len(images) * val_fraction)]] = True
    standardizer = Standardizer()
    standardizer.fit(images[~chosen.to(images.device)])
    train, val = (standardizer(images[mask.to(images.device)]) for mask in (~chosen, chosen))
    return train, val, standardizer


EXERCISE = answers.exercise()
