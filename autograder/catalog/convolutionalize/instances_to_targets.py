"""The exercise instances_to_targets of lecture 04: one map, five problems."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from autograder.attempt import Odd, Subject, kind_of
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import as_double
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import convolutionalize as reference


def _instances(d: Draw, ids: list[int], classes: dict[int, int]) -> Case:
    """A map of boxes, one below the other in another order than their ids, some with a second part. One of
    several is a single pixel."""
    h, w = 2 * max(len(ids), 1) + d.integer(0, 2), d.choice([5, 4, 7, 3 * 2 * max(len(ids), 1)])
    instances = torch.zeros(h, w, dtype=torch.int64)
    for band, number in enumerate(ids):
        left, top = d.integer(0, w - 3), 2 * band
        pixel = band == 1
        rows, columns = (1, 1) if pixel else (d.choice([2, 1]), d.choice([2, 3, 1]))
        instances[top : top + rows, left : left + columns] = number
        free = (instances[: max(0, top - 1)] == 0).nonzero().tolist()
        if len(free) > 0 and not pixel and d.choice([True, False]):
            row, column = d.choice(free)
            instances[row, column] = number
    return Case((instances.to(d.choice([torch.int64, torch.uint8, torch.int32])), classes))


# Ids are neither dense nor in order; ascending, descending, by class, in the order of `classes` and in that
# of the map they stand differently. A class may have the number of another id, two objects may share a class,
# and `classes` may know more ids than the map has. The last is as large as a map of bytes can hold.
OBJECTS: list[tuple[list[int], dict[int, int]]] = [
    ([4, 1, 3], {3: 2, 1: 3, 4: 2, 2: 6}),
    ([7, 2, 4], {4: 2, 2: 7, 7: 2}),
    ([3], {9: 4, 3: 1}),
    ([5, 3, 255], {5: 3, 8: 6, 255: 1, 3: 3}),
]


def _objects_case(d: Draw) -> Case:
    return _instances(d, *d.each(OBJECTS))


def _transposed_case(d: Draw) -> Case:
    case = _objects_case(d)
    return Case((d.layout(case.args[0]), case.args[1]))


def _small_integers_case(d: Draw) -> Case:
    """A map of fewer bits than the answer has to have."""
    kind = d.each([torch.uint8, torch.int32])
    case = _objects_case(d)
    return Case((case.args[0].to(kind), case.args[1]))


def _nothing_case(d: Draw) -> Case:
    return _instances(d, [], d.choice([{3: 1}, {}]))


def _full_case(d: Draw) -> Case:
    h, w = d.integer(2, 4), d.integer(5, 7)
    number = d.choice([3, 4])
    return Case((torch.full((h, w), number), {number: 2, 9: 1}))


def _as_plain(found: Any) -> Any:
    """Numbers whatever their dtype, which is another property's business."""
    if isinstance(found, torch.Tensor):
        return as_double(found)
    if isinstance(found, set) and any(isinstance(label, torch.Tensor) for label in found):
        return "a set of tensors"
    return found


def _target(wanted: str) -> Callable[[Subject, Case], Any]:
    """One entry of the answer, so that each can earn its own points."""

    def observe(subject: Subject, case: Case) -> Any:
        targets = subject(*case.args)
        if not isinstance(targets, dict):
            return targets
        return {wanted: _as_plain(targets[wanted])} if wanted in targets else {}

    return observe


PARTS = ("labels", "semantic", "boxes", "masks")


def _nothing_seen(subject: Subject, case: Case) -> Any:
    """Sizes alone: a slip in what the entries say is judged by other maps, and costs nothing here."""
    found = _complete(subject(*case.args))
    if not isinstance(found, dict):
        return found
    semantic, here = found["semantic"], case.args[0].shape
    labeled = isinstance(semantic, torch.Tensor) and semantic.shape == here and bool(semantic.any())
    return {
        "labels": _many(found["labels"]),
        "a class in semantic": labeled,
        **{f"shape of {name}": _shape(found[name]) for name in ("boxes", "masks")},
    }


def _objects_seen(subject: Subject, case: Case) -> Any:
    """How many objects there are, however they are told."""
    found = _complete(subject(*case.args))
    if not isinstance(found, dict):
        return found
    semantic, boxes, masks = (found[name] for name in ("semantic", "boxes", "masks"))
    pixels = case.args[0].numel()
    return {
        "labels": _many(found["labels"]),
        "a class in semantic": isinstance(semantic, torch.Tensor) and bool(semantic.any()),
        "boxes": _many(boxes),
        "masks": masks.numel() // pixels if isinstance(masks, torch.Tensor) else _many(masks),
    }


def _complete(found: Any) -> Any:
    if isinstance(found, dict) and (missing := [name for name in PARTS if name not in found]):
        raise Odd(f"the dict has no {missing[0]!r}")
    if not isinstance(found, dict):
        return found
    # That numbers must be in a tensor is what the entries' own properties say.
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in found.items()}


def _many(found: Any) -> Any:
    if isinstance(found, torch.Tensor):
        return len(found) if found.ndim else found
    return len(found) if isinstance(found, set | frozenset | list | tuple) else found


def _shape(found: Any) -> Any:
    return list(found.shape) if isinstance(found, torch.Tensor) else kind_of(found)


def _numbers(subject: Subject, case: Case) -> Any:
    found = _complete(subject(*case.args))
    if not isinstance(found, dict):
        return found
    return {name: _dtype(found[name]) for name in ("semantic", "boxes", "masks")}


def _dtype(found: Any) -> str:
    # That it must be one tensor is another property's business.
    found = found[0] if isinstance(found, list | tuple) and found else found
    return str(found.dtype).removeprefix("torch.") if isinstance(found, torch.Tensor) else kind_of(found)


def _unchanged(subject: Subject, case: Case) -> Any:
    instances, given = case.args
    classes = subject.build(given)
    targets, changed = subject.with_changes(instances, classes)
    if not isinstance(_complete(targets), dict):
        return targets
    return {
        "instances": "changed" if "0" in changed else "as they were",
        "classes": "as they were" if classes.do("copy") == given else "changed",
    }


CLAIMS = Exercise(
    id="instances_to_targets",
    topic="convolutionalize",
    title="One map, five problems",
    reference=reference.instances_to_targets,
    minutes=15,
    difficulty=2,
    properties=claims(
        """
        labels (0.5): "labels": the set of the classes in the map; classes may know ids that the map has not
        semantic (0.5): "semantic": the class of every pixel, (H, W), 0 for background
        boxes (0.5): "boxes": (M, 5), a row x, y, w, h, label for each object, in ascending order of the ids
        masks (0.5): "masks": (M, H, W), the pixels of each object, in the same order
        dtype (0.25): "semantic" and "boxes" are int64, whatever integers the map holds, and "masks" bool
        tried: the dtypes of the three
        nothing (0.25): a map without objects: an empty set, and boxes (0, 5) and masks (0, H, W)
        tried: how many labels there are, and the shapes of boxes and masks
        no_background (0.25): a map that one object fills to the last pixel has that object
        tried: how many labels, boxes and masks there are
        unchanged (0.25): neither instances nor classes is modified in place
        tried: both afterwards
        """,
        labels=on(_objects_case, _target("labels"), examples=6),
        semantic=on(_objects_case, _target("semantic"), examples=6),
        boxes=on(_objects_case, _target("boxes"), examples=8),
        masks=on(_transposed_case, _target("masks"), examples=6),
        dtype=on(_small_integers_case, _numbers, examples=4, beside="masks"),
        nothing=on(_nothing_case, _nothing_seen, examples=4, beside="masks"),
        no_background=on(_full_case, _objects_seen, examples=3),
        unchanged=on(_objects_case, _unchanged, examples=4, beside="masks"),
    ),
    hints=hints("""
        I don't know where to begin
        All four follow from the masks. A mask is where the map holds one id: instances == id.

        My boxes are off by one, or x and y are swapped
        torch.where(mask) gives rows first, y and then x. And from pixel 2 to pixel 4 there are three pixels.

        I don't know how to start
        ids = [int(i) for i in instances.unique() if i != 0]. Begin with zeros: semantic (H, W) and boxes
          (len(ids), 5), both int64, masks (len(ids), H, W) bool. For each m, id: masks[m] = instances == id;
          semantic[masks[m]] = classes[id]; y, x = torch.where(masks[m]); fill boxes[m].
        """),
)

answers = Answers(CLAIMS)


@answers.right
def object_by_object(instances, classes):
    """object by object"""
    ids = [int(i) for i in instances.unique() if i != 0]
    semantic = torch.zeros_like(instances, dtype=torch.int64)
    for number in ids:
        semantic[instances == number] = classes[number]
    labels = {classes[i] for i in ids}
    boxes = instances.new_zeros(len(ids), 5, dtype=torch.int64)
    masks = instances.new_zeros(len(ids), *instances.shape, dtype=torch.bool)
    for m, number in enumerate(ids):
        mask = instances == number
        label = classes[number]
        y, x = torch.where(mask)
        left, top, right, bottom = x.min(), y.min(), x.max(), y.max()
        w, h = right - left + 1, bottom - top + 1
        boxes[m] = torch.tensor([left, top, w, h, label])
        masks[m] = mask
    return {"labels": labels, "semantic": semantic, "boxes": boxes, "masks": masks}


answers.edits("""
extent_without_the_last_pixel: boxes
- w, h = right - left + 1, bottom - top + 1
+ w, h = right - left, bottom - top
Your boxes lack a column and a row: max − min counts the steps, not the pixels.
w = max − min + 1, and h likewise.

rows_before_columns: boxes
- [left, top, w, h, label]
+ [top, left, h, w, label]
Your boxes are (y, x, h, w, label).
Boxes have x first: x, y, w, h, label.

width_and_height_swapped: boxes
- [left, top, w, h, label]
+ [left, top, h, w, label]
Your boxes have height and width swapped.
x, y, w, h, label: the width is the extent along the columns.

corners: boxes
- w, h = right - left + 1, bottom - top + 1
+ w, h = right, bottom
Your boxes hold the bottom right pixel where width and height belong.
w = max − min + 1, and h likewise.

half_open_corners: boxes
- w, h = right - left + 1, bottom - top + 1
+ w, h = right + 1, bottom + 1
Your boxes hold right and bottom, exclusive, where width and height belong.
w = max − min + 1, and h likewise.

centers: boxes
- [left, top, w, h, label]
+ [(left + right) // 2, (top + bottom) // 2, w, h, label]
Your boxes begin with the center of the object.
x and y are its leftmost column and topmost row.

label_first: boxes
- [left, top, w, h, label]
+ [label, left, top, w, h]
Your boxes begin with the label.
It stands last: x, y, w, h, label.

ids_in_the_boxes: boxes
- [left, top, w, h, label]
+ [left, top, w, h, number]
Your boxes end with the object's id.
They end with its class: classes[id].

boxes_without_label: boxes nothing
- len(ids), 5
+ len(ids), 4
- [left, top, w, h, label]
+ [left, top, w, h]
Your boxes have no label.
Detection says where and what: append classes[id] as the fifth number.

one_object_per_class: boxes masks
- labels = {classes[i] for i in ids}
+ labels = {classes[i] for i in ids}
+ ids = sorted(labels)
- mask = instances == number
- label = classes[number]
+ mask = semantic == number
+ label = number
You merged the objects of a class into one: that is all a semantic map knows.
Make a box and a mask for every id.

one_object_per_part: boxes masks
- boxes = instances.new_zeros(
+ from scipy import ndimage
+ parts = []
+ for number in ids:
+     numbered, count = ndimage.label((instances == number).numpy())
+     parts += [(number, torch.from_numpy(numbered == part)) for part in range(1, count + 1)]
+ ids = [number for number, mask in parts]
+ boxes = instances.new_zeros(
- mask = instances == number
+ mask = parts[m][1]
You made an object of every connected part.
An object that something else hides in the middle has two parts and one id: go by the ids.

ids_as_semantic: semantic
- semantic[instances == number] = classes[number]
+ semantic[instances == number] = number
Your semantic map holds the ids.
A semantic map does not tell objects apart: write classes[id].

foreground_only: semantic
- semantic[instances == number] = classes[number]
+ semantic[instances == number] = 1
Your semantic map says 1 for every object.
Write the class of each: classes[id].

relabeled_twice: semantic
- semantic = torch.zeros_like(instances, dtype=torch.int64)
+ semantic = instances.long().clone()
- semantic[instances == number]
+ semantic[semantic == number]
You relabel the map that you search in: a class that looks like a later id is relabeled again.
Search in instances, and write into a map of zeros.

relabeled_in_turn: semantic
- semantic = torch.zeros_like(instances, dtype=torch.int64)
- for number in ids:
-     semantic[instances == number] = classes[number]
+ semantic = instances.long().clone()
+ for number in classes:
+     semantic[semantic == number] = classes[number]
You go through classes and relabel the map that you search in: a class that looks like a later id is relabeled
  again.
Search in instances, and write into a map of zeros.

channel_per_class: semantic
- return
+ semantic = torch.stack([semantic == k for k in range(1 + max(classes.values(), default=0))]).long()
+ return
Your semantic map has a channel for each class.
It is (H, W): one class number for every pixel.

ids_as_labels: labels
- labels = {classes[i] for i in ids}
+ labels = set(ids)
Your labels are the ids of the objects.
Classification asks for their classes: {classes[id] for each id in the map}.

background_as_label: labels nothing
- labels = {classes[i] for i in ids}
+ labels = set(semantic.unique().tolist())
Your labels hold 0, the background.
Leave it out: it is no class of an object.

all_classes: labels nothing no_background
- labels = {classes[i] for i in ids}
+ labels = set(classes.values())
Your labels are all the classes that could be there.
Take the classes of the ids that are in the map.

labels_as_list: labels
- labels = {classes[i] for i in ids}
+ labels = [classes[i] for i in ids]
Your labels are a list.
Return a set: classification does not count objects.

labels_as_tensors: labels
- labels = {classes[i] for i in ids}
+ labels = set(semantic[semantic > 0].unique())
Your labels are tensors, and two tensors with the same number are two entries of a set.
Make them integers, with int(…) or tolist().

masks_as_numbers: dtype
- dtype=torch.bool
+ dtype=torch.int64
Your masks are numbers.
Masks are bool: instances == id as it is.

masks_as_list: masks nothing
- masks = instances.new_zeros(len(ids), *instances.shape, dtype=torch.bool)
+ masks = [instances == number for number in ids]
- masks[m] = mask
Your masks are a list.
Stack them into one tensor, (M, H, W), also where there are none.

masks_last: masks nothing
- len(ids), *instances.shape
+ *instances.shape, len(ids)
- masks[m] = mask
+ masks[..., m] = mask
Your masks are stacked along the last axis.
One map after the other: (M, H, W), torch.stack along axis 0.

order_of_the_dict: boxes masks
- ids = [int(i) for i in instances.unique() if i != 0]
+ ids = [i for i in classes if (instances == i).any()]
Your objects stand in the order in which the dictionary `classes` lists them.
Ascending ids: instances.unique() gives them sorted.

order_of_the_rows: boxes masks
- ids = [int(i) for i in instances.unique() if i != 0]
+ ids = list(dict.fromkeys(instances[instances > 0].tolist()))
Your objects stand in the order in which the rows meet them.
Ascending ids: instances.unique() gives them sorted.

descending_ids: boxes masks
- ids = [int(i) for i in instances.unique() if i != 0]
+ ids = [int(i) for i in instances.unique() if i != 0][::-1]
Your objects stand in descending order of their ids.
Ascending ids: instances.unique() gives them sorted.

sorted_by_class: boxes masks
- ids = [int(i) for i in instances.unique() if i != 0]
+ ids = sorted([int(i) for i in instances.unique() if i != 0], key=classes.get)
Your objects are sorted by their class.
Ascending ids: instances.unique() gives them sorted.

background_as_object: labels boxes masks nothing
- ids = [int(i) for i in instances.unique() if i != 0]
+ classes = {0: 0, **classes}
+ ids = [int(i) for i in instances.unique()]
You counted the background as an object.
Leave id 0 out.

class_of_the_background: all but no_background
- ids = [int(i) for i in instances.unique() if i != 0]
+ ids = [int(i) for i in instances.unique()]
You asked for the class of id 0, which is background and has none.
Leave id 0 out.

first_id_skipped: no_background
- ids = [int(i) for i in instances.unique() if i != 0]
+ ids = instances.unique().tolist()[1:]
You took the first id for the background, also where no pixel is background.
Leave out the id 0, not the first one: ids[ids != 0].

tensors_as_keys: all but nothing
- ids = [int(i) for i in instances.unique() if i != 0]
+ ids = [i for i in instances.unique() if i != 0]
You looked up classes with a tensor, which is another key than the number in it.
Make the ids integers: int(i), or instances.unique().tolist().

every_id_of_the_dict: all
- ids = [int(i) for i in instances.unique() if i != 0]
+ ids = sorted(classes)
You went through all ids of classes, also those that the map has not.
Go through the ids of the map: instances.unique(), without 0.

every_number_up_to_the_largest: all but nothing
- ids = [int(i) for i in instances.unique() if i != 0]
+ ids = list(range(1, int(instances.max()) + 1))
+ classes = {i: classes.get(i, 0) for i in ids}
You took every number up to the largest id for an object.
Ids may have gaps: go through instances.unique(), without 0.

nothing_to_stack: nothing
- masks = instances.new_zeros(len(ids), *instances.shape, dtype=torch.bool)
+ masks = torch.stack([instances == number for number in ids])
- masks[m] = mask
A map without objects leaves nothing to stack, and torch.stack refuses that.
Compare all at once, instances == ids[:, None, None], or begin with torch.zeros(len(ids), H, W,
  dtype=torch.bool).

shapes_lost: nothing
- return
+ if not ids:
+     boxes = masks = torch.tensor([])
+ return
Without objects, your boxes and masks lose their shapes.
Begin with torch.zeros(len(ids), 5, dtype=torch.int64) and torch.zeros(len(ids), H, W, dtype=torch.bool): with
  no ids their shapes remain.

columns_counted: boxes
- w, h = right - left + 1, bottom - top + 1
+ w, h = len(x.unique()), len(y.unique())
You counted the columns and rows that hold a pixel of the object, and between two parts of it there are
  others.
The box reaches from the first to the last: w = max − min + 1, and h likewise.

classes_extended: unchanged
- semantic = torch.zeros_like
+ classes[0] = 0
+ semantic = torch.zeros_like
You wrote into the dictionary `classes`.
Make one of your own, {0: 0, **classes}, or leave the background out.

changed_in_place: unchanged
- return
+ instances[:] = semantic
+ return
You wrote into instances.
Write into a map of your own: torch.zeros(instances.shape, dtype=torch.int64).

semantic_like_the_map: dtype
- torch.zeros_like(instances, dtype=torch.int64)
+ torch.zeros_like(instances)
Your semantic map has the dtype of instances, where a class above 255 may find no room.
Make it int64, whatever instances is: torch.zeros(instances.shape, dtype=torch.int64).

boxes_as_floats: dtype
- instances.new_zeros(len(ids), 5, dtype=torch.int64)
+ torch.zeros(len(ids), 5)
Your boxes are floats.
Make them int64: torch.zeros(len(ids), 5, dtype=torch.int64).

all_floats: dtype
- torch.zeros_like(instances, dtype=torch.int64)
+ torch.zeros(instances.shape)
- instances.new_zeros(len(ids), 5, dtype=torch.int64)
+ torch.zeros(len(ids), 5)
Your semantic map and your boxes are floats, as torch.zeros makes them.
Pass the dtype: torch.zeros(…, dtype=torch.int64).
""")


@answers.right
def by_table(instances, classes):
    """a table of classes, boxes from projections"""
    index = instances.long()
    ids = index.unique()
    ids = ids[ids > 0]
    table = index.new_zeros(int(index.max()) + 1)
    for i in ids.tolist():
        table[i] = classes[i]
    masks = index[None] == ids[:, None, None]
    boxes = index.new_zeros(len(ids), 5)
    for axis, pixels in ((0, masks.any(1)), (1, masks.any(2))):
        positions = torch.arange(pixels.shape[1], device=index.device)
        first = torch.where(pixels, positions, pixels.shape[1]).amin(1)
        boxes[:, axis] = first
        boxes[:, axis + 2] = torch.where(pixels, positions, -1).amax(1) - first + 1
    boxes[:, 4] = table[ids]
    return {"labels": set(table[ids].tolist()), "semantic": table[index], "boxes": boxes, "masks": masks}


@answers.right
def pixel_by_pixel(instances, classes):
    """pixel by pixel"""
    h, w = instances.shape
    semantic = torch.zeros(h, w, dtype=torch.int64, device=instances.device)
    extents = {}
    for y in range(h):
        for x in range(w):
            number = instances[y, x].item()
            if number:
                semantic[y, x] = classes[number]
                left, top, right, bottom = extents.get(number, (x, y, x, y))
                extents[number] = min(left, x), min(top, y), max(right, x), max(bottom, y)
    ids = sorted(extents)
    rows = [
        (left, top, right - left + 1, bottom - top + 1, classes[i])
        for i in ids
        for left, top, right, bottom in [extents[i]]
    ]
    masks = torch.zeros(len(ids), h, w, dtype=torch.bool, device=instances.device)
    for m, i in enumerate(ids):
        masks[m] = instances == i
    boxes = torch.tensor(rows, dtype=torch.int64, device=instances.device).reshape(len(ids), 5)
    return {"masks": masks, "boxes": boxes, "labels": {classes[i] for i in ids}, "semantic": semantic}


EXERCISE = answers.exercise()
