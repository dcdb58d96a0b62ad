"""The exercise elastic_deformation of lecture 07: an image and its labels bent by one smooth field.

Two right answers need not draw the same random numbers, so nothing is compared with the reference. The image
that is deformed carries its own row and column coordinates as channels: reading them off the result gives the
displacement of every pixel, and all claims are judged on that.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from scipy import ndimage
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import described, named, wrong
from autograder.catalog.unet.draws import (
    REACH,
    changed_at_rest,
    coordinate_image,
    cubic_axis,
    displacement,
    fitted,
    fitted_lattice,
    inner_pixels,
    lattice_axis,
    mirrored_places,
    of_kind,
    own_places,
    read_places,
    spread_of_any_field,
    straightened,
    way_of_reading,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Mismatch, Outcome
from coursekit import unet as reference

SIGMA = 1.0
# Not 1, which would hide a square; three times of it, on a side three times as long, must not reach the border.
SPREAD = 0.6
WIDE, TALL, SQUARISH = (33, 99), (99, 33), (39, 44)


def _bent(d: Draw) -> Case:
    grid, size = d.each([(4, SQUARISH), (5, WIDE), (3, TALL), (2, WIDE)])
    return Case((*coordinate_image(d, size),), {"grid": grid, "sigma": SIGMA, "generator": d.generator()})


def _still(d: Draw) -> Case:
    """The generator is left out once: then nothing that is drawn can matter."""
    size, grid, left_out = d.each([(SQUARISH, 3, False), (WIDE, 2, True), (TALL, 4, False)])
    generator = {} if left_out else {"generator": d.generator()}
    return Case((*coordinate_image(d, size),), {"grid": grid, "sigma": 0.0, **generator})


def _many(d: Draw) -> Case:
    generators = [d.generator() for _ in range(40)]
    size = d.each([(25, 75), (75, 25)])
    return Case((*coordinate_image(d, size),), {"grid": 3, "sigma": SPREAD}, {"generators": generators})


def _small(d: Draw) -> Case:
    image, labels = coordinate_image(d, (d.integer(9, 14), d.integer(20, 24)))
    # Numbers of instances may be large, and images may have one channel.
    others = {
        "numbers": (image.float(), labels + 100_003),
        "pixels": (d.integers(1, *labels.shape, high=255, dtype=torch.uint8), labels.to(torch.int32)),
    }
    settings = {"grid": 3, "sigma": SIGMA, "generator": d.generator()}
    return Case((d.choice([image.float(), image]), labels.to(torch.uint8)), settings, others)


_deform = named("image", "labels")


def _deform_often(subject: Subject, case: Case) -> Any:
    """The image after each of many generators, and once more after the first."""
    generators = case.extra["generators"]
    images = []
    for generator in [*generators, generators[0]]:
        result = subject(*case.args, **case.kwargs, generator=generator)
        if not isinstance(result, list | tuple) or len(result) != 2:
            return result
        images.append(result[0])
    return images


def _kinds(subject: Subject, case: Case) -> Any:
    seen = {}
    for given in (case.args, *case.extra.values()):
        (image, labels), changed = subject.with_changes(*given, **case.kwargs)
        allowed = set(given[1].unique().tolist())
        known = set(labels.unique().tolist()) <= allowed if isinstance(labels, torch.Tensor) else None
        seen[f"{described(given[0])}, {described(given[1])}"] = {
            "image": described(image),
            "labels": described(labels),
            "only labels that were there": known,
            "modified in place": bool(changed),
        }
    return seen


def _still_there(got: Any) -> Mismatch | None:
    """Where nothing is displaced, nothing can be seen of how it would be read."""
    if float(displacement(got["image"]).abs().max()) > 1e-3 * SIGMA:
        return None
    return wrong("the image comes back as it was", "still", "image")


def _judge_identity(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := of_kind(case, got):
        return mismatch
    image, labels = case.args
    # A field in float32 moves coordinates by some 10⁻⁶ of the image's side.
    if not torch.allclose(got["image"], image, atol=1e-3):
        return changed_at_rest(got["image"])
    if not torch.equal(got["labels"].long(), labels.long()):
        return wrong("with sigma=0 the labels change", "identity", "labels")
    return None


CORNERS = "are those of a lattice whose corners do not lie on the image's (align_corners=False)"
# How far a read coordinate may lie from its place, in the mean where it is a whole pixel: an image read otherwise
# than bilinearly is a claim of its own.
READ = {"bilinear": 1e-4, "bicubic": 5e-3, "nearest": 0.36, "otherwise": 1e-4}


def _judge_field(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := of_kind(case, got) or _still_there(got):
        return mismatch
    image, grid, reading = got["image"], case.kwargs["grid"], way_of_reading(case, got)
    near, whole = READ[reading], reading == "nearest"
    if reading == "bicubic":
        image = straightened(read_places(image))
    _, remainder = fitted_lattice(image, grid, whole)
    if remainder < near:
        return None
    for other in range(2, 7):
        if fitted_lattice(image, other, whole)[1] < near:
            message = f"a lattice of {grid}×{grid} points was asked for, yours has {other}×{other}"
            return wrong(message, f"field:grid {other}")
    field = displacement(image)
    kernels: tuple[tuple[str, Callable[[int, int], torch.Tensor], str], ...] = (
        ("bilinear", partial(lattice_axis, mode="bilinear"), "are bilinear between the lattice points"),
        ("corners", partial(lattice_axis, aligned=False), CORNERS),
        ("corners", partial(lattice_axis, aligned=False, antialias=True), CORNERS),
        ("kernel", cubic_axis, "are cubic, but by another kernel than F.interpolate's"),
        ("corners", partial(cubic_axis, aligned=False), CORNERS),
    )
    for name, axis, why in kernels:
        along_rows, along_columns = (axis(grid, size) for size in field.shape[1:])
        if fitted(field, along_rows, along_columns, whole)[1] < near:
            return wrong(f"the displacements {why}", f"field:{name}")
    field = field[:, REACH:-REACH, REACH:-REACH]
    size = field.square().mean()
    if float((field.diff().abs() < 1e-5).double().mean()) > 0.5:
        return wrong("the displacements are the same in whole blocks of pixels", "field:blocks")
    if min((field[:, 1:] * field[:, :-1]).mean(), (field[..., 1:] * field[..., :-1]).mean()) < 0.3 * size:
        return wrong("the displacements jump from pixel to pixel", "field:noise")
    # Noise that was smoothed over no more than a few pixels bends as much as it rises.
    rough = float(field.diff(n=2).square().mean() / field.diff().square().mean()) > 0.6
    # Of the whole field: a single displacement can be small by chance, and the mirror keeps all of them in the image.
    if float(size) > 9 * SIGMA**2 and not rough:
        return wrong(f"displacements of up to {field.abs().max():.0f} px at sigma={SIGMA:g}", "field:huge")
    return wrong(
        f"the displacements are smooth, but no bicubic field of a {grid}×{grid} lattice: up to {remainder:.2g} px off",
        "field:smooth",
    )


def _judge_border(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := of_kind(case, got) or _still_there(got):
        return mismatch
    (h, w), grid = case.args[1].shape, case.kwargs["grid"]
    lattice, remainder = fitted_lattice(got["image"], grid)
    if remainder >= READ["bilinear"]:
        return _judge_border_of_any_field(case, got)
    places = own_places(h, w) + lattice_axis(grid, h) @ lattice @ lattice_axis(grid, w).T
    seen = read_places(got["image"])
    # Just outside, bilinear reading mixes the two sides of the mirror: exact only from one pixel on.
    last = torch.tensor([h - 1, w - 1])[:, None, None]
    off_the_edges = torch.cat([places.abs(), (places - last).abs()]).amin(0) > 1
    clear = off_the_edges & ((places < 0) | (places > last)).any(0)
    if not clear.any():
        return None
    if float((seen - mirrored_places(places, (h, w))).abs().amax(0)[clear].max()) < 1e-2:
        return _judge_border_labels(case, got, clear)
    clamped = torch.stack([places[0].clamp(0, h - 1), places[1].clamp(0, w - 1)])
    if float((seen - clamped).abs().amax(0)[clear].max()) < 1e-2:
        return wrong("beyond the border the edge pixel is repeated", "border:clamped")
    outer = mirrored_places(places + 0.5, (h + 1, w + 1)) - 0.5
    twice = torch.stack([outer[0].clamp(0, h - 1), outer[1].clamp(0, w - 1)])
    if float((seen - twice).abs().amax(0)[clear].max()) < 1e-2:
        return wrong("the mirror stands beside the edge pixel, which is there twice", "border:edge twice")
    if float(seen.abs().amax(0)[clear].max()) < 1e-2:
        return wrong("beyond the border the image is black", "border:zeros")
    return wrong("beyond the border the image is not mirrored at its edge pixel", "border")


def _judge_border_of_any_field(case: Case, got: Any) -> Mismatch | None:
    """Another field than the one asked for is a claim of its own. Where it leads beyond the border is not
    known, but a mirror at the edge pixel hardly ever shows the very edge, nor black, nor the other side of
    the image."""
    seen, (h, w) = read_places(got["image"]), case.args[1].shape
    rest, last = own_places(h, w), torch.tensor([h - 1, w - 1])[:, None, None]
    ring = ~inner_pixels(h, w)
    away = (rest > REACH).any(0)
    if bool(((seen.abs().amax(0) < 1e-6) & ring & away).any()):
        return wrong("beyond the border the image is black", "border:zeros")
    at_the_edge = ((seen.abs() < 1e-6) & (rest > 0.5)) | (((seen - last).abs() < 1e-6) & (rest < last - 0.5))
    # A few are there by chance.
    if way_of_reading(case, got) != "nearest" and int(at_the_edge.sum()) > 5:
        return wrong("beyond the border the edge pixel is read", "border:edges")
    near = float(displacement(got["image"])[:, inner_pixels(h, w)].square().mean().sqrt()) < 3 * SIGMA
    if near and bool(((seen - rest).abs() > (last + 1) / 2)[:, ring].any()):
        return wrong("beyond the border the image begins again at its other side", "border:wrapped")
    return _judge_border_labels(case, got, ring)


def _judge_border_labels(case: Case, got: Any, clear: torch.Tensor) -> Mismatch | None:
    """Labels beyond the border; not where they are wrong inside already."""
    if _judge_labels(case, None, got) is not None:
        return None
    labels, places = case.args[1].long(), read_places(got["image"])
    # By as much as a cubic kernel bends coordinates at the mirror.
    near = 0.2 if way_of_reading(case, got) == "bicubic" else 2e-2
    clear = clear & ((places.frac().abs() - 0.5).abs().amin(0) > near)
    y, x = (places[k].round().long().clamp(0, n - 1) for k, n in enumerate(labels.shape))
    if bool((got["labels"].long() != labels[y, x])[clear].any()):
        return wrong(
            "beyond the border the image is mirrored and the labels are not", "border:labels", "labels"
        )
    return None


def _judge_image(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := of_kind(case, got) or _still_there(got):
        return mismatch
    reading = way_of_reading(case, got)
    if reading == "bilinear":
        return None
    if reading == "nearest":
        return wrong("the image is read at whole pixels", "image:nearest")
    return wrong("the image is not read bilinearly between its pixels", f"image:{reading}")


def _judge_labels(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := of_kind(case, got) or _still_there(got):
        return mismatch
    _, labels = case.args
    h, w = labels.shape
    inside = inner_pixels(h, w)
    new = set(got["labels"].unique().tolist()) - set(labels.unique().tolist())
    if new:
        return wrong(f"labels appear that were not there: {sorted(new)[:4]}", "labels:new", "labels")
    places = read_places(got["image"])
    # At the middle between two pixels either label is the nearest.
    clear = inside & ((places.frac().abs() - 0.5).abs().amin(0) > 1e-3)
    if not clear.any():
        return None
    y, x = (places[k].round().long().clamp(0, n - 1) for k, n in enumerate((h, w)))
    wrong_share = float((got["labels"].long() != labels.long()[y, x])[clear].double().mean())
    if wrong_share == 0:
        return None
    if torch.equal(got["labels"].long()[inside], labels.long()[inside]):
        return wrong("the labels are not deformed", "labels:still", "labels")
    floored = labels.long()[tuple(places[k].floor().long().clamp(0, n - 1) for k, n in enumerate((h, w)))]
    if torch.equal(got["labels"].long()[clear], floored[clear]):
        return wrong("the labels are read at the pixel above and to the left", "labels:floor", "labels")
    message = f"{wrong_share:.0%} of the labels do not belong to the place their pixel was read from"
    return wrong(message, "labels:other field", "labels")


def _judge_spread(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if not isinstance(got, list) or not all(isinstance(i, torch.Tensor) and i.dim() == 3 for i in got):
        return Mismatch(Outcome.WRONG_KIND, "expected a pair of tensors (image, labels)", code="kind")
    *images, again = got
    if not torch.equal(images[0], again):
        return wrong("the same generator gives another deformation", "spread:not repeatable")
    if torch.equal(images[0], images[1]):
        return wrong("another generator gives the same deformation", "spread:constant")
    size = case.kwargs["sigma"]
    fits = [fitted_lattice(image, 3) for image in images]
    if max(remainder for _, remainder in fits) > 1e-3:
        return spread_of_any_field(images, size)
    # (40, 2, 9), each point of which is one draw.
    drawn = torch.stack([lattice.flatten(1) for lattice, _ in fits])
    std, (rows, columns) = float(drawn.std()), (drawn.transpose(0, 1).flatten(1).std(1) / size).tolist()
    if max(rows, columns) < 0.05:
        return wrong("the displacements are the same in every place and every time", "spread:constant")
    if min(rows, columns) < 0.05:
        moved, still = ("columns", "rows") if rows < columns else ("rows", "columns")
        return wrong(f"{moved} are displaced and {still} are not", f"spread:{moved} only")
    by_point = drawn.transpose(0, 2).flatten(1).std(1)
    if float(by_point.min()) < 0.4 * float(by_point.max()):
        return wrong("some points of the lattice are hardly displaced", "spread:points at rest")
    if min(float(drawn.unflatten(2, (3, 3)).std(axis).mean()) for axis in (2, 3)) < 0.5 * std:
        return wrong("points of one lattice are displaced alike", "spread:points alike")
    if abs(float(torch.corrcoef(drawn.transpose(0, 1).flatten(1))[0, 1])) > 0.8:
        return wrong("rows and columns are displaced alike", "spread:alike")
    if float((drawn / drawn.std((0, 2), keepdim=True)).pow(4).mean()) < 2.05:
        return wrong(f"displacements are spread evenly, up to {drawn.abs().max():.2g} px", "spread:uniform")
    # Of 360 normal numbers: outside less than once in 10⁶ right answers.
    if not all(0.8 < one < 1.22 for one in (rows, columns)):
        return _judge_unequal(case, size, rows, columns)
    mean = float(drawn.transpose(0, 1).flatten(1).mean(1).abs().max())
    # Of 720: as above.
    if 0.87 < std / size < 1.14 and mean < 0.3 * size:
        return None
    message = f"displacements at sigma={size:g} have mean {mean:.2g} and spread {std:.2g} px"
    return wrong(message, "spread:size")


def _judge_unequal(case: Case, size: float, rows: float, columns: float) -> Mismatch:
    """What became of displacements whose spread is not sigma, in units of it."""
    says = (
        f"at sigma={size:g} rows are displaced by {rows * size:.2g} px and columns by {columns * size:.2g} px"
    )
    ratio = (case.args[1].shape[0] - 1) / (case.args[1].shape[1] - 1)
    known = {
        "half": (0.5, 0.5),
        "square": (size, size),
        "twice": (2.0, 2.0),
        "root": (size**-0.5, size**-0.5),
        "rows by the width": (ratio, 1.0),
        "columns by the height": (1.0, 1 / ratio),
        "sides swapped": (ratio, 1 / ratio),
    }
    for code, wanted in known.items():
        if all(abs(one / other - 1) < 0.2 for one, other in zip((rows, columns), wanted, strict=True)):
            return wrong(says, f"spread:{code}")
    return wrong(says, "spread:size")


CLAIMS = Exercise(
    id="elastic_deformation",
    topic="unet",
    title="One smooth field bends image and labels",
    reference=reference.elastic_deformation,
    minutes=30,
    difficulty=4,
    properties=claims(
        """
        identity (0.25): sigma=0 changes nothing
        field (1): displacements are bicubic between lattice points, as F.interpolate's are, the lattice's
          corners on the image's
        tried: an image that carries its own coordinates is deformed, and the field read off the result
        spread (0.75): displacements are N(0, sigma²) pixels, each lattice point's and each axis' drawn apart,
          repeatable under the generator
        tried: 40 generators, and the first once more, for an image three times as wide as high, or as high as
          wide
        border (0.5): beyond the border image and labels are mirrored, the edge pixel not repeated
        image (0.5): the image is read bilinearly
        labels (0.75): labels follow the same field, by nearest neighbor
        kinds (0.25): shapes and dtypes are kept, but integer images become float32; no new label appears;
          nothing in place
        tried: a float image with labels in bytes and with large ones, and a uint8 image of one channel
        """,
        identity=on(_still, _deform, judge=_judge_identity, examples=3, beside="image"),
        field=on(_bent, _deform, judge=_judge_field, examples=4),
        spread=on(_many, _deform_often, judge=_judge_spread, examples=2),
        border=on(_bent, _deform, judge=_judge_border, examples=6),
        image=on(_bent, _deform, judge=_judge_image, examples=4),
        labels=on(_bent, _deform, judge=_judge_labels, examples=4),
        kinds=on(_small, _kinds, examples=4, beside="image"),
    ),
    hints=hints("""
        I don't know how to move pixels
        Where is pixel (r, c) of the result read from? Build that place for every pixel, then read twice.

        My field is not smooth enough, or not in place
        F.interpolate turns a (1, 2, grid, grid) lattice into a (1, 2, H, W) field: which mode, and
          align_corners?

        I don't know how to put it together
        field = F.interpolate(sigma·torch.randn(1, 2, grid, grid, generator=generator), (H, W),
          mode='bicubic', align_corners=True); coordinates = pixel + field, scaled to [−1, 1] as (x, y);
          F.grid_sample with padding_mode='reflection', align_corners=True: bilinear for the image, nearest
          for the labels[None, None] as floats. It wants image and coordinates of one floating dtype; give
          both results their old one.
        """),
)

answers = Answers(CLAIMS)


def drawn_places(h, w, grid, sigma, generator):
    lattice = sigma * torch.randn(1, 2, grid, grid, generator=generator)
    dy, dx = F.interpolate(lattice.double(), size=(h, w), mode="bicubic", align_corners=True)[0]
    return torch.arange(h)[:, None] + dy, torch.arange(w) + dx


def read_at(y, x, pixels, mode):
    h, w = y.shape
    where = torch.stack([2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1], dim=-1).to(pixels)
    return F.grid_sample(pixels[None], where[None], mode=mode, padding_mode="reflection", align_corners=True)[
        0
    ]


@answers.right
def sampled(image, labels, grid=3, sigma=10.0, generator=None):
    """grid_sample"""
    h, w = labels.shape
    pixels = image if image.is_floating_point() else image.float()
    y, x = drawn_places(h, w, grid, sigma, generator)
    bent = read_at(y, x, pixels, "bilinear")
    moved = read_at(y, x, labels[None].to(pixels), "nearest")[0]
    return bent, moved.round().to(labels.dtype)


answers.edits("""
two_fields: labels
- bent = read_at(y, x, pixels, "bilinear")
+ bent = read_at(y, x, pixels, "bilinear")
+ y, x = drawn_places(h, w, grid, sigma, generator)
You read the labels at other places than the image, as if by a second field: they no longer lie on it.
Draw the displacements once and read image and labels at the same places.

labels_interpolated: labels kinds
- read_at(y, x, labels[None].to(pixels), "nearest")
+ read_at(y, x, labels[None].to(pixels), "bilinear")
You interpolated the labels, so between class 0 and class 2 there is suddenly class 1.
Labels are names, not numbers: read them with mode='nearest'.

labels_not_deformed: labels
- moved = read_at(y, x, labels[None].to(pixels), "nearest")[0]
- return bent, moved.round().to(labels.dtype)
+ return bent, labels.clone()
You deformed the image and left the labels where they were.
Read the labels at the same displaced places.

labels_cut_off: labels
- read_at(y, x, labels[None].to(pixels), "nearest")
+ read_at(y.floor(), x.floor(), labels[None].to(pixels), "nearest")
You cut the coordinates off to whole numbers, so labels come from above and to the left.
Round to the nearest pixel.

labels_not_mirrored: border
- read_at(y, x, labels[None].to(pixels), "nearest")
+ read_at(y.clamp(0, h - 1), x.clamp(0, w - 1), labels[None].to(pixels), "nearest")
Beyond the border you mirror the image, and the labels you do not.
Read both with padding_mode='reflection', align_corners=True.

points_alike: spread
- torch.randn(1, 2, grid, grid, generator=generator)
+ torch.randn(1, 2, 1, 1, generator=generator).expand(1, 2, grid, grid)
Points of your lattice share their displacement: you drew fewer than grid × grid of them.
Draw (2, grid, grid) numbers: a row and a column displacement for each lattice point.

nothing_displaced: field spread border image labels
- y, x = drawn_places(h, w, grid, sigma, generator)
+ y, x = drawn_places(h, w, grid, 0, generator)
The image comes back as it was: nothing is displaced.
Read each pixel at its own place plus its displacement.

sigma_ignored: identity field spread
- lattice = sigma * torch.randn
+ lattice = 10 * torch.randn
You did not use sigma: the displacements are as large whatever it is.
Multiply the normal numbers by the argument: sigma * torch.randn(...).

grid_ignored: field
- torch.randn(1, 2, grid, grid, generator=generator)
+ torch.randn(1, 2, 3, 3, generator=generator)
Your lattice has 3×3 points whatever grid is.
Draw (2, grid, grid) numbers.

pixels_in_bytes: kinds
- return bent, moved
+ return bent.to(image.dtype), moved
You gave an integer image back in integers: what bilinear reading finds between two of them is cut off.
Integer images become float32, floating ones keep their dtype.

always_double: kinds
- return bent, moved
+ return bent.double(), moved
Your image is float64 whatever came in.
Compute in what you like, and give the image its dtype back; integer images become float32.

in_place: kinds
- return bent, moved.round().to(labels.dtype)
+ if image.is_floating_point():
+     bent = image.copy_(bent)
+ return bent, labels.copy_(moved)
You wrote into the image and the labels that you were handed.
Return new tensors: the caller needs the originals for the next deformation.

black_border: border kinds
- padding_mode="reflection"
+ padding_mode="zeros"
Beyond the border your image is black.
Mirror it: padding_mode='reflection' with align_corners=True.

border_repeated: border
- padding_mode="reflection"
+ padding_mode="border"
Beyond the border you repeat the edge pixel.
Mirror the image there: padding_mode='reflection' with align_corners=True.

edge_twice: border
- [2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1]
+ [(2 * x + 1) / w - 1, (2 * y + 1) / h - 1]
- padding_mode="reflection", align_corners=True
+ padding_mode="reflection", align_corners=False
Your mirror stands beside the edge pixel, so it is there twice.
Mirror at the edge pixel's center: padding_mode='reflection' with align_corners=True; in scipy, mode='mirror'.

bilinear_field: field
- mode="bicubic"
+ mode="bilinear"
Your displacements are bilinear between the lattice points, with kinks.
Interpolate the lattice with mode='bicubic'.

nearest_field: field
- mode="bicubic", align_corners=True
+ mode="nearest"
Your displacements are the same in whole blocks: the lattice was enlarged by nearest neighbor.
Interpolate it with mode='bicubic', align_corners=True.

corners_not_aligned: field
- mode="bicubic", align_corners=True
+ mode="bicubic", align_corners=False
Your lattice's corners lie inside the image.
F.interpolate(..., align_corners=True) puts them on the corner pixels.

rows_as_x: identity field spread
- [2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1]
+ [2 * y / (h - 1) - 1, 2 * x / (w - 1) - 1]
You gave grid_sample (row, column).
grid_sample wants (x, y): the column first, then the row.

reading_not_aligned: identity field border
- padding_mode="reflection", align_corners=True
+ padding_mode="reflection", align_corners=False
You scaled coordinates so that −1 and 1 are the corner pixels, and grid_sample takes them for the image's
  outer edges.
Pass align_corners=True to grid_sample.

scaled_by_size: identity field
- [2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1]
+ [2 * x / w - 1, 2 * y / h - 1]
You divided coordinates by the size: the last pixel then lies before 1.
With align_corners=True the last pixel, size − 1, is at 1: 2·x/(W − 1) − 1, and likewise for rows.

image_bicubic: image
- read_at(y, x, pixels, "bilinear")
+ read_at(y, x, pixels, "bicubic")
You read the image with bicubic interpolation.
Bicubic is the field between its lattice points; the image is read with mode='bilinear'.

image_by_nearest: image
- read_at(y, x, pixels, "bilinear")
+ read_at(y, x, pixels, "nearest")
You read the image by nearest neighbor.
Labels are read by nearest neighbor, the image bilinearly.

noise_per_pixel: field
- lattice = sigma * torch.randn(1, 2, grid, grid, generator=generator)
- dy, dx = F.interpolate(lattice.double(), size=(h, w), mode="bicubic", align_corners=True)[0]
+ dy, dx = sigma * torch.randn(2, h, w, generator=generator)
You drew a displacement for every pixel: that is noise, not a smooth field.
Draw on a grid×grid lattice and interpolate to the pixels.

other_cubic: field
- dy, dx = F.interpolate(lattice.double(), size=(h, w), mode="bicubic", align_corners=True)[0]
+ zoom = (1, h / grid, w / grid)
+ dy, dx = torch.from_numpy(ndimage.zoom(lattice[0].double().numpy(), zoom, order=3))
Your displacements are cubic between the lattice points, but by another kernel than F.interpolate's (scipy's
  splines are).
Interpolate the lattice with F.interpolate(..., mode='bicubic', align_corners=True).

smoothed_noise: field
- lattice = sigma * torch.randn(1, 2, grid, grid, generator=generator)
- dy, dx = F.interpolate(lattice.double(), size=(h, w), mode="bicubic", align_corners=True)[0]
+ noise = torch.randn(2, h, w, generator=generator, dtype=torch.float64).numpy()
+ smooth = torch.from_numpy(ndimage.gaussian_filter(noise, (0, h / grid / 2, w / grid / 2)))
+ dy, dx = sigma * smooth / smooth.std()
Your displacements are smooth, but no lattice of grid × grid points explains them: so it is with noise that is
  drawn for every pixel and then smoothed, after Simard.
Draw grid×grid points for each axis, and interpolate between them: F.interpolate(..., mode='bicubic',
  align_corners=True).

smoothed_by_sigma: identity field spread
- lattice = sigma * torch.randn(1, 2, grid, grid, generator=generator)
- dy, dx = F.interpolate(lattice.double(), size=(h, w), mode="bicubic", align_corners=True)[0]
+ noise = 2 * torch.rand(2, h, w, generator=generator, dtype=torch.float64).numpy() - 1
+ dy, dx = 34 * torch.from_numpy(ndimage.gaussian_filter(noise, (0, sigma, sigma)))
You smoothed noise, after Simard, and sigma is not the spread of the displacements that come of it.
Draw grid×grid points with standard deviation sigma for each axis, and interpolate between them.

sigma_in_half_images: field spread
- return torch.arange(h)[:, None] + dy, torch.arange(w) + dx
+ return torch.arange(h)[:, None] + dy * (h - 1) / 2, torch.arange(w) + dx * (w - 1) / 2
You took sigma in grid_sample's units, where 2 is the whole image.
sigma is in pixels: convert at the end, 2·pixels/(size − 1).

uniform_displacements: spread
- torch.randn(1, 2, grid, grid, generator=generator)
+ (2 * torch.rand(1, 2, grid, grid, generator=generator) - 1)
Your displacements are uniform: each as likely as the other, and none beyond a limit.
Draw normal numbers with standard deviation sigma: sigma * torch.randn(...).

sigma_squared: spread
- lattice = sigma * torch.randn
+ lattice = sigma**2 * torch.randn
You multiplied by sigma², the variance.
The standard deviation is sigma: sigma * torch.randn(...).

forgotten_two: spread
- return torch.arange(h)[:, None] + dy, torch.arange(w) + dx
+ return torch.arange(h)[:, None] + dy / 2, torch.arange(w) + dx / 2
Your displacements are half as large as they should be: from −1 to 1 it is 2, not 1.
A pixel is 2/(size − 1) in grid_sample's units.

columns_only: spread
- return torch.arange(h)[:, None] + dy, torch.arange(w) + dx
+ return torch.arange(h)[:, None] + 0 * dy, torch.arange(w) + dx
You displaced columns only: every pixel is read from its own row.
Two displacements for each lattice point, one along the rows and one along the columns.

rows_only: spread
- return torch.arange(h)[:, None] + dy, torch.arange(w) + dx
+ return torch.arange(h)[:, None] + dy, torch.arange(w) + 0 * dx
You displaced rows only: every pixel is read from its own column.
Two displacements for each lattice point, one along the rows and one along the columns.

rows_by_the_width: spread
- return torch.arange(h)[:, None] + dy, torch.arange(w) + dx
+ return torch.arange(h)[:, None] + dy * (h - 1) / (w - 1), torch.arange(w) + dx
Your rows are displaced by height / width of what they should be: a pixel is 2/(W − 1) for both axes.
A pixel is 2/(H − 1) along the rows and 2/(W − 1) along the columns.

columns_by_the_height: spread
- return torch.arange(h)[:, None] + dy, torch.arange(w) + dx
+ return torch.arange(h)[:, None] + dy, torch.arange(w) + dx * (w - 1) / (h - 1)
Your columns are displaced by width / height of what they should be: a pixel is 2/(H − 1) for both axes.
A pixel is 2/(H − 1) along the rows and 2/(W − 1) along the columns.

sides_swapped: spread
- return torch.arange(h)[:, None] + dy, torch.arange(w) + dx
+ return torch.arange(h)[:, None] + dy * (h - 1) / (w - 1), torch.arange(w) + dx * (w - 1) / (h - 1)
You scaled displacements along the rows by the width, and along the columns by the height.
A pixel is 2/(H − 1) along the rows and 2/(W − 1) along the columns.

edges_at_rest: spread
- lattice = sigma * torch.randn(1, 2, grid, grid, generator=generator)
+ lattice = sigma * torch.randn(1, 2, grid, grid, generator=generator)
+ if grid > 2:
+     lattice[..., [0, -1], :] = lattice[..., [0, -1]] = 0
Some points of your lattice stay where they are, so that part of the image is never bent.
Every point is displaced, those on the border too: what is read beyond it is mirrored.

axes_alike: spread
- torch.randn(1, 2, grid, grid, generator=generator)
+ torch.randn(1, 1, grid, grid, generator=generator).expand(1, 2, grid, grid)
You displaced rows and columns by the same numbers, so everything moves along the diagonal.
Draw two lattices, one for each axis.

generator_ignored: spread
- torch.randn(1, 2, grid, grid, generator=generator)
+ torch.randn(1, 2, grid, grid)
You drew without the generator.
torch.randn(..., generator=generator).
""")


@answers.right
def by_scipy(image, labels, grid=3, sigma=10.0, generator=None):
    """scipy's map_coordinates"""
    import numpy as np

    h, w = labels.shape
    kind = image.dtype if image.is_floating_point() else torch.float32
    shifts = []
    for _ in range(2):
        lattice = torch.randn(grid, grid, generator=generator, dtype=torch.float64) * sigma
        fine = F.interpolate(lattice[None, None], size=(h, w), mode="bicubic", align_corners=True)
        shifts.append(fine[0, 0].numpy())
    places = np.indices((h, w)) + np.stack(shifts)
    pixels = image.cpu().to(torch.float64).numpy()
    bent = np.stack([ndimage.map_coordinates(c, places, order=1, mode="mirror") for c in pixels])
    moved = ndimage.map_coordinates(labels.cpu().numpy(), places, order=0, mode="mirror")
    return torch.from_numpy(bent).to(image.device, kind), torch.from_numpy(moved).to(labels)


EXERCISE = answers.exercise()
