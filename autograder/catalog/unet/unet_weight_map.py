"""The exercise unet_weight_map of lecture 07: the pixels of a loss weighed, most on borders between close cells."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.unet.draws import dtype_and_changes
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import unet as reference

LOOSE = (1e-3, 1e-4)


# -- what is drawn ------------------------------------------------------------------------------------------


def _canvas(d: Draw) -> torch.Tensor:
    h = d.integer(9, 14)
    return torch.zeros(h, h + d.integer(2, 5), dtype=torch.int64)


def _blocks(d: Draw, count: int) -> torch.Tensor:
    """Rectangles of the ids from 1, side by side and apart by a column or more."""
    instances = _canvas(d)
    h, w = instances.shape
    step = w // count
    for cell in range(count):
        top, height = d.integer(0, h // 2), d.integer(1, h // 2)
        left = cell * step + d.integer(0, max(step - 3, 0))
        right = min(left + d.integer(1, 3), (cell + 1) * step - 1)
        instances[top : top + height, left : max(right, left + 1)] = cell + 1
    return instances


SETTINGS = ((4.0, 3.0), (7.5, 0.8), (6.5, 4.0))


def _settings(d: Draw, settings: Sequence[tuple[float, float]] = SETTINGS) -> dict[str, Any]:
    # None of them a default: to leave one out must show. Nor is a class weight a whole number, nor 1.
    w0, sigma = d.each(settings)
    return {"w0": w0, "sigma": sigma, "class_weights": d.choice([(1.5, 2.75), (0.5, 3.25)])}


def _two_cells(d: Draw) -> Case:
    return Case((_blocks(d, 2),), _settings(d, (*SETTINGS, (0.0, 3.0))))


def _many_cells(d: Draw) -> Case:
    return Case((_blocks(d, d.choice([3, 4])),), _settings(d))


def _odd_ids(d: Draw) -> Case:
    """Ids with gaps and beyond a byte, two cells that touch, and one id in two pieces."""
    instances = _canvas(d)
    h = len(instances)
    a, b, c = d.choice([(2, 258, 9), (259, 3, 40), (11, 267, 4)])
    top = d.integer(1, 3)
    instances[top : top + 3, 1:3] = a
    instances[top : top + 3, 3:5] = b
    instances[h - 2 :, : d.integer(2, 3)] = c
    # So near each other that they are the two nearest pieces of the pixels between them.
    instances[h - 2 :, 5 : 5 + d.integer(1, 2)] = c
    return Case((instances,), _settings(d))


def _balanced_cells(d: Draw) -> Case:
    """Two cells apart, and far to the right of both a background that no border term reaches."""
    instances = torch.zeros(d.integer(5, 8), 36, dtype=torch.int64)
    instances[: d.integer(2, 4), : d.integer(1, 2)] = 1
    instances[d.integer(1, 2) :, 9 : 9 + d.integer(1, 3)] = d.choice([2, 7])
    return Case((instances,), {"w0": d.choice([4.0, 10.0]), "sigma": 1.0})


def _one_class(d: Draw) -> Case:
    """Background alone, one cell alone, or two that leave no background."""
    instances = _canvas(d)
    # A border term on cells is another matter.
    ids, w0 = d.each([((0, 0), 10.0), ((6, 6), 3.0), ((3, 1), 0.0)])
    instances[:, :5], instances[:, 5:] = ids
    return Case((instances,), {"w0": w0})


def _lonely(d: Draw) -> Case:
    """One cell, in the middle of background, or none."""
    instances = _canvas(d)
    if d.each([True, True, False]):
        instances[2 : d.integer(3, 6), 3 : d.integer(5, 8)] = 1
    return Case((instances,), _settings(d))


def _kinds(d: Draw) -> Case:
    dtype = d.each([torch.int64, torch.uint8, torch.int32, torch.int16])
    return Case((d.layout(_blocks(d, 3).to(dtype)),), d.choice([{}, {"class_weights": (1.0, 2.5)}]))


def _where(of: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Subject, Case], Any]:
    """The weights on a part of the image, the rest 0, so that each mistake shows where it is made."""

    def observe(subject: Subject, case: Case) -> Any:
        (instances,) = case.args
        weights = subject(*case.args, **case.kwargs)
        # What scipy works with, and its dtype, are another matter.
        weights = torch.from_numpy(weights) if isinstance(weights, np.ndarray) else weights
        if not isinstance(weights, torch.Tensor) or weights.shape != instances.shape:
            return weights
        return torch.where(of(instances), weights.double(), 0.0)

    return observe


_on_background = _where(lambda instances: instances == 0)
_on_cells = _where(lambda instances: instances != 0)
_off_the_border = _where(lambda instances: (instances != 0) | (torch.arange(instances.shape[1]) > 26))
_everywhere = _where(lambda instances: torch.ones_like(instances, dtype=torch.bool))


CLAIMS = Exercise(
    id="unet_weight_map",
    topic="unet",
    title="A price on every border",
    reference=reference.unet_weight_map,
    minutes=25,
    difficulty=3,
    properties=claims(
        """
        border (1.25): between two cells, background weighs w_c + w0·exp(−(d1 + d2)² / 2σ²)
        tried: the weights of background pixels; cells are another matter
        second_nearest (0.75): with more cells, d1 and d2 are the distances to the nearest and the second
          nearest
        tried: the weights of background pixels; cells are another matter
        ids (0.75): cells are told apart by their ids: with gaps, above 255, touching, in two pieces
        tried: the weights of background pixels; cells are another matter
        on_cells (0.5): cells weigh w_c alone
        tried: the weights of cell pixels; background is another matter
        balanced (0.5): without class_weights the pixels of each class sum to half of H·W
        tried: the weights of cells, and of background that is far from all of them
        one_class (0.25): where one class is alone every weight is ½
        tried: background alone, one cell alone, and two cells with no background
        few_cells (0.5): with one cell, or none, there is no border term
        carries (0.5): a float32 tensor comes out, whatever integers go in, and those are not modified
        """,
        border=on(_two_cells, _on_background, tolerance=LOOSE, examples=6),
        second_nearest=on(_many_cells, _on_background, tolerance=LOOSE, examples=6),
        ids=on(_odd_ids, _on_background, tolerance=LOOSE, examples=6),
        on_cells=on(_many_cells, _on_cells, tolerance=LOOSE, examples=4),
        balanced=on(_balanced_cells, _off_the_border, tolerance=LOOSE, examples=4),
        one_class=on(_one_class, _everywhere, tolerance=LOOSE, examples=3),
        few_cells=on(_lonely, _everywhere, tolerance=LOOSE, examples=6),
        carries=on(_kinds, dtype_and_changes, examples=4, beside="border"),
    ),
    hints=hints("""
        How do I get the distance to a cell?
        scipy.ndimage.distance_transform_edt gives every pixel its distance to the nearest zero of an array.
          In which array are exactly one cell's pixels zero?

        My map is right for two cells and wrong for more, or for one
        Stack the distance maps and sort them at each pixel; the first two are d1 and d2. What if there are
          not two?

        I don't know how to put it together
        w = torch.where(instances == 0, w_background, w_cell); ids without 0; fewer than two: return w. d =
          the edt of instances != i for each id, stacked and sorted along the stack; border = w0·exp(−(d[0] +
          d[1])² / (2·sigma²)); add it where instances == 0; float32.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def sorting(instances, w0=10.0, sigma=5.0, class_weights=None):
    """the formula by sorting"""
    from scipy import ndimage

    cell = instances != 0
    total, n_cell = instances.numel(), int(cell.sum())
    n_background = total - n_cell
    if class_weights is None:
        w_background, w_cell = total / (2 * max(n_background, 1)), total / (2 * max(n_cell, 1))
    else:
        w_background, w_cell = class_weights
    weights = torch.where(cell, float(w_cell), float(w_background))
    ids = [i for i in instances.unique() if i != 0]
    masks = [(instances == i).cpu().numpy() for i in ids]
    if len(masks) < 2:
        return weights
    distances = [ndimage.distance_transform_edt(~mask) for mask in masks]
    d = torch.stack([torch.from_numpy(one) for one in distances]).sort(0).values
    d1, d2 = d[0], d[1]
    exponent = -((d1 + d2) ** 2) / (2 * sigma**2)
    border = (w0 * torch.exp(exponent)).to(instances.device)
    return torch.where(cell, weights, weights + border).float()


answers.edits("""
nearest_only: border second_nearest ids
- (d1 + d2) ** 2
+ d1**2
You use d1 alone: every cell gets a halo, not only the borders between two.
Add the distance to the second nearest cell: exp(−(d1 + d2)² / 2σ²).

nearest_twice: border second_nearest ids
- d1, d2 = d[0], d[1]
+ d1, d2 = d[0], d[0]
Your d1 and d2 are the same distance, to the nearest cell: every cell glows, not only the lines between two.
d2 is the distance to the second nearest cell: one distance transform a cell, and the two smallest of them.

w0_ignored: border second_nearest ids
- w0 * torch.exp(exponent)
+ 10 * torch.exp(exponent)
You did not use w0.
The border term is w0 · exp(…), with the w0 that is handed in.

sigma_ignored: border second_nearest ids
- (2 * sigma**2)
+ (2 * 5**2)
You did not use sigma.
The exponent is −(d1 + d2)² / (2 · sigma²), with the sigma that is handed in.

class_weights_ignored: all but balanced one_class carries
- if class_weights is None:
-     w_background, w_cell = total / (2 * max(n_background, 1)), total / (2 * max(n_cell, 1))
- else:
-     w_background, w_cell = class_weights
+ w_background, w_cell = total / (2 * max(n_background, 1)), total / (2 * max(n_cell, 1))
You did not use class_weights: you balanced the classes although they were handed in.
Balance only where class_weights is None; else w_c is one of (background, cell).

ids_in_a_byte: ids
- ids = [i for i in instances.unique() if i != 0]
+ instances = instances.to(torch.uint8)
+ ids = [i for i in instances.unique() if i != 0]
You squeezed the ids into a byte: cell 259 becomes cell 3.
Keep the integers as they came; there may be thousands of cells.

farthest_cell: second_nearest ids
- d1, d2 = d[0], d[1]
+ d1, d2 = d[0], d[-1]
You took the farthest cell for the second nearest.
Of all cells' distances d1 is the smallest and d2 the second smallest: sort them, or keep the two smallest.

distances_subtracted: border second_nearest ids
- (d1 + d2) ** 2
+ (d1 - d2) ** 2
You subtracted d2 from d1, so the weight is highest where two cells are equally far, however far that is.
Add them: (d1 + d2)² is small only where both are near.

not_sorted: second_nearest ids
- .sort(0).values
Your d1 and d2 are the distances to the first two cells of your list, not to the two nearest ones.
Sort the stacked distances at each pixel, along the axis of the cells, and take the first two.

sorted_along_the_columns: border second_nearest ids
- .sort(0).values
+ .sort().values
You sorted along the last axis, which is that of the columns: distances of other pixels change places.
Sort along the axis of the cells: dim=0, if you stacked them in front.

squared_apart: border second_nearest ids
- (d1 + d2) ** 2
+ d1**2 + d2**2
You squared d1 and d2 before you added them.
Add first: (d1 + d2)².

distances_multiplied: border second_nearest ids
- (d1 + d2) ** 2
+ (d1 * d2) ** 2
You multiplied d1 and d2.
Add them: (d1 + d2)².

two_forgotten: border second_nearest ids
- / (2 * sigma**2)
+ / sigma**2
The 2 in 2σ² is missing.
exp(−(d1 + d2)² / (2·sigma²)).

divided_then_multiplied: border second_nearest ids
- / (2 * sigma**2)
+ / 2 * sigma**2
You wrote / 2 * sigma**2, which divides by 2 and then multiplies by σ².
Put 2 * sigma**2 into parentheses.

sigma_not_squared: border second_nearest ids
- / (2 * sigma**2)
+ / (2 * sigma)
You divided by 2σ instead of 2σ².
Square sigma too: it is a length, like d1 + d2.

not_squared: border second_nearest ids
- (d1 + d2) ** 2
+ d1 + d2
You did not square d1 + d2.
exp(−(d1 + d2)² / (2·sigma²)).

w0_forgotten: border second_nearest ids
- w0 * torch.exp(exponent)
+ torch.exp(exponent)
Your border term is at most 1, whatever w0 says.
Multiply the exponential by w0.

class_weight_multiplied: border second_nearest ids
- weights + border
+ weights * (1 + border)
You multiplied the class weight by the border term.
Add them: w_c + w0·exp(…).

class_weight_replaced: border second_nearest ids balanced
- weights + border
+ border
Where there is a border term the background has that alone.
Add it to the class weight: w_c + w0·exp(…).

w_c_left_out: all but carries
- w_background, w_cell = total / (2 * max(n_background, 1)), total / (2 * max(n_cell, 1))
+ w_background, w_cell = 0, 0
- w_background, w_cell = class_weights
+ w_background, w_cell = 0, 0
There is no w_c in your map: it is the border term alone, and 0 on cells.
Begin with the class weight of every pixel, and add the border term on background.

w_c_is_one: all but carries
- w_background, w_cell = total / (2 * max(n_background, 1)), total / (2 * max(n_cell, 1))
+ w_background, w_cell = 1, 1
- w_background, w_cell = class_weights
+ w_background, w_cell = 1, 1
Your w_c is 1 for every pixel, whatever class_weights says.
It is one of class_weights = (background, cell), and where that is None H·W / (2 · pixels of the class).

class_weights_cut_off: all but balanced one_class carries
- w_background, w_cell = class_weights
+ w_background, w_cell = (int(w) for w in class_weights)
You put the class weights into an array of integers, which cuts them off.
zeros_like(instances) is of the dtype of instances: ask for a float dtype.

taxicab: border second_nearest ids
- ndimage.distance_transform_edt(~mask)
+ ndimage.distance_transform_cdt(~mask, metric="taxicab")
Your distances are counted in steps along rows and columns.
Euclidean ones: scipy.ndimage.distance_transform_edt.

inside_out: border second_nearest ids balanced
- ndimage.distance_transform_edt(~mask)
+ ndimage.distance_transform_edt(mask)
Your distances are measured inside the cells and are 0 on background.
distance_transform_edt gives the distance to the nearest zero: hand it the pixels that are not the cell's,
  instances != id.

to_the_center: border second_nearest ids
- distances = [ndimage.distance_transform_edt(~mask) for mask in masks]
- d = torch.stack([torch.from_numpy(one) for one in distances]).sort(0).values
+ centers = [ndimage.center_of_mass(mask) for mask in masks]
+ r, c = (torch.arange(size) for size in instances.shape)
+ d = torch.stack([((r[:, None] - y) ** 2 + (c - x) ** 2).sqrt() for y, x in centers]).sort(0).values
You measured to the cells' centers.
d1 and d2 are distances to the nearest pixel of a cell.

background_as_a_cell: border second_nearest ids few_cells
- [i for i in instances.unique() if i != 0]
+ instances.unique()
You counted background as a cell: it is always the nearest, at distance 0.
Leave id 0 out before you measure.

connected_components: ids
- ids = [i for i in instances.unique() if i != 0]
- masks = [(instances == i).cpu().numpy() for i in ids]
+ pieces, count = ndimage.label(cell.cpu().numpy())
+ masks = [pieces == i for i in range(1, count + 1)]
You looked for connected pieces, so touching cells count as one, and a cell in two pieces as two.
Go by id: instances == i for every i in instances.unique() but 0.

pieces_of_ids: ids
- masks = [(instances == i).cpu().numpy() for i in ids]
+ labels = [ndimage.label((instances == i).cpu().numpy()) for i in ids]
+ masks = [pieces == k for pieces, count in labels for k in range(1, count + 1)]
You split a cell in two pieces into two cells.
Pixels of one id are one cell, in one piece or not.

ids_without_gaps: ids
- [i for i in instances.unique() if i != 0]
+ range(1, int(instances.max()) + 1)
You went through 1 … max, also where no pixel has the id: scipy then measures to nowhere.
Go through instances.unique().

border_on_cells: on_cells
- torch.where(cell, weights, weights + border)
+ (weights + border)
You added the border term on cells too, where d1 is 0.
On cells there is w_c alone: torch.where(instances == 0, w_c + border, w_c).

class_weights_swapped: all but balanced one_class carries
- w_background, w_cell = class_weights
+ w_cell, w_background = class_weights
You took class_weights as (cell, background).
It is (background, cell): background is class 0.

doubled_balance: balanced one_class
- total / (2 * max(n_background, 1)), total / (2 * max(n_cell, 1))
+ total / max(n_background, 1), total / max(n_cell, 1)
Your class weights sum to H·W for each class.
To half of it: w_c = H·W / (2 · pixels of the class), so that the mean weight is 1.

balance_of_classes_present: one_class
- w_background, w_cell = total / (2 * max(n_background, 1)), total / (2 * max(n_cell, 1))
+ present = (n_background > 0) + (n_cell > 0)
+ w_background = total / (present * max(n_background, 1))
+ w_cell = total / (present * max(n_cell, 1))
Where one class is alone your weights are 1 and not ½, as where one divides by the number of classes present:
  scikit-learn's balance does.
The 2 stays, also where a class has no pixel: w_c = H·W / (2 · pixels of the class).

balance_reversed: balanced one_class
- w_background, w_cell = total
+ w_cell, w_background = total
You gave background the cells' weight, and the other way round.
Each class is divided by its own number of pixels: the rarer one weighs more.

frequencies_as_weights: balanced one_class
- total / (2 * max(n_background, 1)), total / (2 * max(n_cell, 1))
+ n_background / total, n_cell / total
Your class weights are the classes' frequencies, so the rarer class weighs less.
Invert them: w_c = H·W / (2 · pixels of the class).

not_balanced: balanced one_class
- total / (2 * max(n_background, 1)), total / (2 * max(n_cell, 1))
+ 1, 1
Without class_weights you used 1 for both classes.
None balances them: w_c = H·W / (2 · pixels of the class).

not_weighted: balanced one_class
- total / (2 * max(n_background, 1)), total / (2 * max(n_cell, 1))
+ 0, 0
Without class_weights there is no w_c in your map: pixels far from two cells weigh 0.
None balances the classes: w_c = H·W / (2 · pixels of the class).

empty_class_divided_by: one_class
- total / (2 * max(n_background, 1)), total / (2 * max(n_cell, 1))
+ total / (2 * n_background), total / (2 * n_cell)
Where a class has no pixel you divide by zero.
A class without pixels needs no weight: divide by max(pixels, 1).

one_cell_with_itself: few_cells
- if len(masks) < 2:
+ if not masks:
- d1, d2 = d[0], d[1]
+ d1, d2 = d[0], d[1] if len(d) > 1 else d[0]
With one cell you took its distance for d2 as well.
Fewer than two cells have no border between them: return the class weights.

one_cell_without_d2: few_cells
- if len(masks) < 2:
+ if not masks:
- d1, d2 = d[0], d[1]
+ d1, d2 = d[0], d[1] if len(d) > 1 else torch.zeros_like(d[0])
With one cell you took 0 for d2.
Fewer than two cells have no border between them: return the class weights.

one_cell_fails: one_class few_cells
- if len(masks) < 2:
-     return weights
With fewer than two cells there is no second distance, and your code stops.
Return the class weights there.

double_precision: carries
- torch.where(cell, weights, weights + border).float()
+ torch.where(cell, weights, weights + border)
Your weights are float64, as scipy's distances are.
The loss is float32: end with .float().

numpy_returned: carries
- torch.where(cell, weights, weights + border).float()
+ torch.where(cell, weights, weights + border).float().numpy()
You returned a numpy array.
Make it a tensor, torch.from_numpy(weights).float(), on the device of instances.

instances_overwritten: carries
- return torch.where(cell, weights, weights + border).float()
+ instances[cell] = 1
+ return torch.where(cell, weights, weights + border).float()
You changed the instance map that was handed in.
Make a new tensor, labels = instances != 0, and leave the argument alone.
""")


@answers.right
def looped(instances, w0=10.0, sigma=5.0, class_weights=None):
    """loops over pixels"""
    places = {}
    h, w = instances.shape
    for r, row in enumerate(instances.tolist()):
        for c, cell in enumerate(row):
            places.setdefault(cell, []).append((r, c))
    background = places.pop(0, [])
    covered = h * w - len(background)
    if class_weights is None:
        class_weights = (
            h * w / 2 / len(background) if background else 0.0,
            h * w / 2 / covered if covered else 0.0,
        )
    weights = torch.full((h, w), float(class_weights[1]))
    cells = [torch.tensor(pixels, dtype=torch.float64) for pixels in places.values()]
    for r, c in background:
        weights[r, c] = class_weights[0]
        if len(cells) >= 2:
            here = torch.tensor([r, c], dtype=torch.float64)
            near = sorted(float((pixels - here).square().sum(1).min()) ** 0.5 for pixels in cells)
            weights[r, c] += w0 * 2.718281828459045 ** (-((near[0] + near[1]) ** 2) / (2 * sigma * sigma))
    return weights.to(instances.device)


@answers.right
def at_once(instances, w0=10.0, sigma=5.0, class_weights=None):
    """torch alone, cdist and topk"""
    ids, index = instances.long().unique(return_inverse=True)
    is_cell = instances != 0
    n, total = is_cell.sum(), instances.numel()
    if class_weights is None:
        pair = torch.stack([total / 2 / (total - n).clamp(min=1), total / 2 / n.clamp(min=1)])
    else:
        pair = torch.tensor(class_weights, device=instances.device)
    weights = pair.to(torch.float32)[is_cell.long()]
    number = int((ids != 0).sum())
    if number > 1 and not is_cell.all():
        pixels = torch.cartesian_prod(*(torch.arange(s, device=instances.device) for s in instances.shape))
        from_background = ~is_cell.flatten()
        d = torch.cdist(pixels[from_background].double(), pixels.double())
        nearest = [d[:, (index == k).flatten()].amin(1) for k in range(len(ids)) if int(ids[k]) != 0]
        d1d2 = torch.stack(nearest, 1).topk(2, largest=False).values.sum(1)
        weights[~is_cell] += (w0 * torch.exp(-0.5 * (d1d2 / sigma) ** 2)).float()
    return weights


EXERCISE = answers.exercise()
