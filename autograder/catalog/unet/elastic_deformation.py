"""The exercise elastic_deformation of lecture 07: an image and its labels bent by one smooth field.

Two right answers need not draw the same random numbers, so nothing is compared with the reference. The image
that is deformed carries its own row and column coordinates as channels: reading them off the result gives the
displacement of every pixel, and all claims are judged on that.
"""

from typing import Any

import torch
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import named, wrong
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Mismatch, Outcome
from coursekit import unet as reference

SIGMA = 1.0
# Neither 1, which would hide a square, nor so large that the border is reached.
SPREAD = 1.5
# Displacements above this are rarer than one in 10⁸ on the lattice; bicubic interpolation overshoots a little.
REACH = 8


def _scene(d: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose channels are row, column and random numbers, and random blocks of labels, framed by another."""
    h, w = d.integer(37, 44), d.integer(37, 47)
    labels = d.integers(-(-h // 3), -(-w // 3), low=0, high=3).repeat_interleave(3, 0).repeat_interleave(3, 1)
    labels = F.pad(labels[1 : h - 1, 1 : w - 1], (1, 1, 1, 1), value=4)
    return torch.cat([_pixels(h, w), d.tensor(1, h, w)]), labels * 50


def _bent(d: Draw) -> Case:
    return Case((*_scene(d),), {"grid": d.integer(4, 5), "sigma": SIGMA, "generator": d.generator()})


def _still(d: Draw) -> Case:
    return Case((*_scene(d),), {"grid": d.integer(2, 4), "sigma": 0.0, "generator": d.generator()})


def _many(d: Draw) -> Case:
    generators = [d.generator() for _ in range(40)]
    return Case((*_scene(d),), {"grid": 3, "sigma": SPREAD}, {"generators": generators})


def _small(d: Draw) -> Case:
    image, labels = _scene(d)
    # Numbers of instances may be large.
    kinds = {"bytes": labels.to(torch.uint8), "numbers": labels + 100_003}
    return Case((image.float(),), {"grid": 3, "sigma": SIGMA, "generator": d.generator()}, kinds)


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
    for given in case.extra.values():
        (image, labels), changed = subject.with_changes(*case.args, given, **case.kwargs)
        allowed = set(given.unique().tolist())
        known = set(labels.unique().tolist()) <= allowed if isinstance(labels, torch.Tensor) else None
        seen[f"{given.dtype} labels".removeprefix("torch.")] = {
            "image": [str(image.dtype), list(image.shape)],
            "labels": [str(labels.dtype), list(labels.shape)],
            "only labels that were there": known,
            "modified in place": bool(changed),
        }
    return seen


# -- reading the field off the result -----------------------------------------------------------------------


def _basis(grid: int, h: int, w: int, mode: str = "bicubic", aligned: bool = True) -> torch.Tensor:
    """(H·W, grid²): what one unit of displacement at each lattice point moves each pixel."""
    points = torch.eye(grid * grid, dtype=torch.float64).reshape(1, grid * grid, grid, grid)
    return F.interpolate(points, size=(h, w), mode=mode, align_corners=aligned)[0].flatten(1).T


def _inner(h: int, w: int) -> torch.Tensor:
    """Pixels so far inside that no displacement reaches the border."""
    inside = torch.zeros(h, w, dtype=torch.bool)
    inside[REACH:-REACH, REACH:-REACH] = True
    return inside


def _pixels(h: int, w: int) -> torch.Tensor:
    """(2, H, W): row and column of every pixel."""
    return torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).double()


def _places(image: torch.Tensor) -> torch.Tensor:
    """(2, H, W): the row and column each pixel of the result was read from."""
    return image[:2].double()


def _displacement(image: torch.Tensor) -> torch.Tensor:
    return _places(image) - _pixels(*image.shape[1:])


def _fitted(image: torch.Tensor, grid: int) -> tuple[torch.Tensor, float]:
    """The lattice (2, grid²) that explains the inner displacements best, and the largest remainder in px."""
    h, w = image.shape[1:]
    inside = _inner(h, w).flatten()
    basis = _basis(grid, h, w)
    shifts = _displacement(image).flatten(1).T
    lattice = torch.linalg.lstsq(basis[inside], shifts[inside], driver="gelsd").solution
    remainder = float((basis[inside] @ lattice - shifts[inside]).abs().max())
    return lattice.T, remainder


def _of_kind(case: Case, got: Any) -> Mismatch | None:
    image, labels = case.args
    pair = isinstance(got, dict) and all(isinstance(got[n], torch.Tensor) for n in ("image", "labels"))
    if not pair or not bool(torch.isfinite(got["image"].double()).all()):
        return Mismatch(Outcome.WRONG_KIND, "expected a pair of finite tensors (image, labels)", code="kind")
    for name, one, other in (("image", image, got["image"]), ("labels", labels, got["labels"])):
        if one.shape != other.shape:
            message = f"expected shape {tuple(one.shape)}, got {tuple(other.shape)}"
            return Mismatch(Outcome.WRONG_KIND, message, name, code="shape")
    return None


def _changed_at_rest(image: torch.Tensor) -> Mismatch:
    h, w = image.shape[1:]
    seen, rest = _places(image), _places(image) - _displacement(image)
    across = torch.stack([rest[1] * (h - 1) / (w - 1), rest[0] * (w - 1) / (h - 1)])
    if torch.allclose(seen, across, atol=1e-3):
        return wrong("with sigma=0 rows and columns change places", "identity:swapped", "image")
    stretched = torch.stack([rest[0] * h / (h - 1), rest[1] * w / (w - 1)]) - 0.5
    if torch.allclose(seen[:, 1:-1, 1:-1], stretched[:, 1:-1, 1:-1], atol=1e-3):
        return wrong("with sigma=0 the image is stretched by a pixel", "identity:unaligned", "image")
    change = float((seen - rest).abs().max())
    message = f"with sigma=0 the image changes: pixels are read up to {change:.2g} px away"
    return wrong(message, f"identity {change:.2g}", "image")


def _judge_identity(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := _of_kind(case, got):
        return mismatch
    image, labels = case.args
    # A field in float32 moves coordinates by some 10⁻⁶ of the image's side.
    if not torch.allclose(got["image"], image, atol=1e-3):
        return _changed_at_rest(got["image"])
    if not torch.equal(got["labels"].long(), labels.long()):
        return wrong("with sigma=0 the labels change", "identity", "labels")
    return None


def _judge_field(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := _of_kind(case, got):
        return mismatch
    grid = case.kwargs["grid"]
    _, remainder = _fitted(got["image"], grid)
    if remainder < 1e-4:
        return None
    for other in range(2, 7):
        if _fitted(got["image"], other)[1] < 1e-4:
            message = f"a lattice of {grid}×{grid} points was asked for, yours has {other}×{other}"
            return wrong(message, f"field:grid {other}")
    h, w = case.args[1].shape
    inside = _inner(h, w).flatten()
    shifts = _displacement(got["image"]).flatten(1).T[inside]
    for name, mode, aligned, why in (
        ("bilinear", "bilinear", True, "the displacements are bilinear between the lattice points"),
        (
            "corners",
            "bicubic",
            False,
            "the lattice's corners do not lie on the image's (align_corners=False)",
        ),
    ):
        basis = _basis(grid, h, w, mode, aligned)[inside]
        lattice = torch.linalg.lstsq(basis, shifts, driver="gelsd").solution
        if float((basis @ lattice - shifts).abs().max()) < 1e-4:
            return wrong(why, f"field:{name}")
    # Of the whole field: a single displacement can be small by chance, and the mirror keeps all of them in the image.
    if float(shifts.square().mean().sqrt()) > 3 * SIGMA:
        return wrong(
            f"displacements of up to {float(shifts.abs().max()):.0f} px at sigma={SIGMA:g}", "field:huge"
        )
    if float((shifts - shifts.round()).abs().max()) < 1e-6:
        return wrong("every pixel is read at a whole coordinate", "field:whole")
    message = (
        f"the displacements are no bicubic field of a {grid}×{grid} lattice: up to {remainder:.2g} px off"
    )
    return wrong(message, f"field {remainder:.2g}")


def _folded(places: torch.Tensor, sizes: tuple[int, int]) -> torch.Tensor:
    folded = []
    for place, size in zip(places, sizes, strict=True):
        period = 2 * (size - 1)
        folded.append(((place % period + period) % period - (size - 1)).abs().neg() + (size - 1))
    return torch.stack(folded)


def _judge_border(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := _of_kind(case, got):
        return mismatch
    h, w = case.args[1].shape
    grid = case.kwargs["grid"]
    if mismatch := _judge_field(case, expected, got):
        message = "the field is not the one asked for, so the border cannot be judged"
        return wrong(message, f"border after {mismatch.code}")
    lattice, _ = _fitted(got["image"], grid)
    shifts = (_basis(grid, h, w) @ lattice.T).T.reshape(2, h, w)
    places = _pixels(h, w) + shifts
    seen = _places(got["image"])
    # Just outside, bilinear reading mixes the two sides of the mirror: exact only from one pixel on.
    last = torch.tensor([h - 1, w - 1])[:, None, None]
    off_the_edges = torch.cat([places.abs(), (places - last).abs()]).amin(0) > 1
    clear = off_the_edges & ((places < 0) | (places > last)).any(0)
    if not clear.any():
        return None
    if float((seen - _folded(places, (h, w))).abs().amax(0)[clear].max()) < 1e-2:
        return _judge_border_labels(case, got, clear)
    clamped = torch.stack([places[0].clamp(0, h - 1), places[1].clamp(0, w - 1)])
    if float((seen - clamped).abs().amax(0)[clear].max()) < 1e-2:
        return wrong("beyond the border the edge pixel is repeated", "border:clamped")
    outer = _folded(places + 0.5, (h + 1, w + 1)) - 0.5
    twice = torch.stack([outer[0].clamp(0, h - 1), outer[1].clamp(0, w - 1)])
    if float((seen - twice).abs().amax(0)[clear].max()) < 1e-2:
        return wrong("the mirror stands beside the edge pixel, which is there twice", "border:edge twice")
    if float(seen.abs().amax(0)[clear].max()) < 1e-2:
        return wrong("beyond the border the image is black", "border:zeros")
    return wrong("beyond the border the image is not mirrored at its edge pixel", "border")


def _judge_border_labels(case: Case, got: Any, clear: torch.Tensor) -> Mismatch | None:
    """Labels beyond the border; not where they are wrong inside already."""
    if _judge_labels(case, None, got) is not None:
        return None
    labels, places = case.args[1].long(), _places(got["image"])
    clear = clear & ((places.frac().abs() - 0.5).abs().amin(0) > 2e-2)
    y, x = (places[k].round().long().clamp(0, n - 1) for k, n in enumerate(labels.shape))
    if bool((got["labels"].long() != labels[y, x])[clear].any()):
        return wrong(
            "beyond the border the image is mirrored and the labels are not", "border:labels", "labels"
        )
    return None


def _judge_image(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := _of_kind(case, got):
        return mismatch
    image, _ = case.args
    h, w = image.shape[1:]
    inside = _inner(h, w)
    y, x = _places(got["image"])[:, inside]
    if float(torch.stack([y, x]).frac().abs().max()) < 1e-6:
        return wrong("the image is read at whole pixels", "image:nearest")
    top, left = y.floor().long().clamp(0, h - 2), x.floor().long().clamp(0, w - 2)
    down, right = y - top, x - left
    v = image[2]
    upper = v[top, left] * (1 - right) + v[top, left + 1] * right
    lower = v[top + 1, left] * (1 - right) + v[top + 1, left + 1] * right
    off = float((got["image"][2].double()[inside] - (upper * (1 - down) + lower * down)).abs().max())
    if off < 1e-4:
        return None
    return wrong(f"the image is not read bilinearly between its pixels: up to {off:.2g} off", "image")


def _judge_labels(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if mismatch := _of_kind(case, got):
        return mismatch
    _, labels = case.args
    h, w = labels.shape
    inside = _inner(h, w)
    new = set(got["labels"].unique().tolist()) - set(labels.unique().tolist())
    if new:
        return wrong(f"labels appear that were not there: {sorted(new)[:4]}", "labels:new", "labels")
    places = _places(got["image"])
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
    fits = [_fitted(image, 3) for image in images]
    # (40, 2, 9) lattices, each point of which is one draw; of another field only the middle can be told.
    drawn = torch.stack([lattice for lattice, _ in fits])
    told = max(remainder for _, remainder in fits) < 1e-3
    drawn = drawn if told else drawn[:, :, 4:5]
    size, std, mean = case.kwargs["sigma"], float(drawn.std()), float(drawn.mean())
    # Of 720 or 80 normal numbers: outside once in 10⁶ right answers.
    low, high, shift, flat = (0.87, 1.14, 0.3, 2.05) if told else (0.5, 1.62, 0.75, 0.0)
    if std < 0.05 * size:
        return wrong("the displacements are the same in every place and every time", "spread:constant")
    lattices = drawn.unflatten(2, (3, 3)) if told else None
    if lattices is not None and min(float(lattices.std(axis).mean()) for axis in (2, 3)) < 0.5 * std:
        return wrong("points of one lattice are displaced alike", "spread:points alike")
    if float(((drawn - mean) / std).pow(4).mean()) < flat:
        most = float(drawn.abs().max())
        return wrong(f"displacements are spread evenly, up to {most:.2g} px", "spread:uniform")
    correlation = float(torch.corrcoef(drawn.transpose(0, 1).flatten(1))[0, 1])
    if abs(correlation) > 0.8:
        return wrong("rows and columns are displaced alike", "spread:alike")
    if low < std / size < high and abs(mean) < shift * size:
        return None
    known = {"half": 0.5, "square": size, "twice": 2.0, "root": size**-0.5}
    code = next((name for name, factor in known.items() if abs(std / size / factor - 1) < 0.14), "size")
    message = f"displacements at sigma={size:g} have mean {mean:.2g} and spread {std:.2g} px"
    return wrong(message, f"spread:{code}")


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
        field (1): displacements are bicubic between lattice points, the lattice's corners on the image's
        tried: an image that carries its own coordinates is deformed, and the field read off the result
        spread (0.75): displacements are N(0, sigma²) pixels, each lattice point's and each axis' drawn apart,
          repeatable under the generator
        tried: 40 generators, and the first once more
        border (0.5): beyond the border image and labels are mirrored, the edge pixel not repeated
        image (0.5): the image is read bilinearly
        labels (0.75): labels follow the same field, by nearest neighbor
        kinds (0.25): shapes and dtypes are kept, no new label appears; nothing in place
        """,
        identity=on(_still, _deform, judge=_judge_identity, examples=3, beside="field"),
        field=on(_bent, _deform, judge=_judge_field, examples=4),
        spread=on(_many, _deform_often, judge=_judge_spread, examples=2),
        border=on(_bent, _deform, judge=_judge_border, examples=6),
        image=on(_bent, _deform, judge=_judge_image, examples=4),
        labels=on(_bent, _deform, judge=_judge_labels, examples=4),
        kinds=on(_small, _kinds, examples=4, beside="field"),
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

sigma_ignored: all but image labels kinds
- lattice = sigma * torch.randn
+ lattice = 10 * torch.randn
You did not use sigma: the displacements are as large as for 10 pixels whatever it is.
Multiply the normal numbers by the argument: sigma * torch.randn(...).

grid_ignored: field border
- torch.randn(1, 2, grid, grid, generator=generator)
+ torch.randn(1, 2, 3, 3, generator=generator)
Your lattice has 3×3 points whatever grid is.
Draw (2, grid, grid) numbers.

in_place: kinds
- return bent, moved.round().to(labels.dtype)
+ return image.copy_(bent), labels.copy_(moved)
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

bilinear_field: field border
- mode="bicubic"
+ mode="bilinear"
Your displacements are bilinear between the lattice points, with kinks.
Interpolate the lattice with mode='bicubic'.

corners_not_aligned: field border
- mode="bicubic", align_corners=True
+ mode="bicubic", align_corners=False
Your lattice's corners lie inside the image.
F.interpolate(..., align_corners=True) puts them on the corner pixels.

rows_as_x: identity field border
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

scaled_by_size: identity field border
- [2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1]
+ [2 * x / w - 1, 2 * y / h - 1]
You divided coordinates by the size: the last pixel then lies before 1.
With align_corners=True the last pixel, size − 1, is at 1: 2·x/(W − 1) − 1, and likewise for rows.

image_bicubic: field border image
- read_at(y, x, pixels, "bilinear")
+ read_at(y, x, pixels, "bicubic")
You read the image with bicubic interpolation.
Bicubic is the field between its lattice points; the image is read with mode='bilinear'.

image_by_nearest: field border image
- read_at(y, x, pixels, "bilinear")
+ read_at(y, x, pixels, "nearest")
You read the image by nearest neighbor.
Labels are read by nearest neighbor, the image bilinearly.

noise_per_pixel: field spread border
- lattice = sigma * torch.randn(1, 2, grid, grid, generator=generator)
- dy, dx = F.interpolate(lattice.double(), size=(h, w), mode="bicubic", align_corners=True)[0]
+ dy, dx = sigma * torch.randn(2, h, w, generator=generator)
You drew a displacement for every pixel: that is noise, not a smooth field.
Draw on a grid×grid lattice and interpolate to the pixels.

sigma_in_half_images: field spread border
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
    from scipy import ndimage

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
