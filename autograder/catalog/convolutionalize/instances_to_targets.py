"""The exercise instances_to_targets of lecture 04: one map, five problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autograder.attempt import Subject, kind_of
from autograder.catalog.observations import as_double
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import convolutionalize as reference


def _instances(d: Draw, ids: list[int], classes: dict[int, int]) -> Case:
    """A map of boxes, one below the other in another order than their ids, some with a second part."""
    h, w = 2 * max(len(ids), 1) + d.integer(0, 2), d.integer(4, 7)
    instances = torch.zeros(h, w, dtype=torch.int64)
    for band, number in enumerate(ids):
        left, top = d.integer(0, w - 3), 2 * band
        instances[top : top + d.choice([2, 1]), left : left + d.choice([2, 3, 1])] = number
        free = (instances[: max(0, top - 1)] == 0).nonzero().tolist()
        if len(free) > 0 and d.choice([True, False]):
            row, column = d.choice(free)
            instances[row, column] = number
    return Case((instances.to(d.choice([torch.int64, torch.uint8, torch.int32])), classes))


# Ids are neither dense nor in order; ascending, descending, by class, in the order of `classes` and in that of the map
# they stand differently. A class may have the number of another id, two objects may share a class, and
# `classes` may know more ids than the map has.
OBJECTS: list[tuple[list[int], dict[int, int]]] = [
    ([4, 1, 3], {3: 2, 1: 3, 4: 2, 2: 6}),
    ([7, 2, 4], {4: 2, 2: 7, 7: 2}),
    ([3], {9: 4, 3: 1}),
    ([5, 3, 9], {5: 3, 8: 6, 9: 1, 3: 3}),
]


def _objects_case(d: Draw) -> Case:
    return _instances(d, *d.choice(OBJECTS))


def _small_integers_case(d: Draw) -> Case:
    """A map of fewer bits than the answer has to have."""
    case = _objects_case(d)
    return Case((case.args[0].to(d.choice([torch.uint8, torch.int32])), case.args[1]))


def _nothing_case(d: Draw) -> Case:
    return _instances(d, [], d.choice([{3: 1}, {}]))


def _full_case(d: Draw) -> Case:
    h, w = d.integer(2, 4), d.integer(5, 7)
    number = d.choice([3, 4])
    return Case((torch.full((h, w), number), {number: 2, 9: 1}))


def _as_plain(found: Any) -> Any:
    """Numbers whatever their dtype, which is another property's business; a bool mask is told from numbers."""
    if isinstance(found, torch.Tensor):
        return found if found.dtype == torch.bool else as_double(found)
    if isinstance(found, set) and any(isinstance(label, torch.Tensor) for label in found):
        return "a set of tensors"
    return found


def _target(*wanted: str) -> Callable[[Subject, Case], Any]:
    """Some entries of the answer, so that each can earn its own points."""

    def observe(subject: Subject, case: Case) -> Any:
        targets = subject(*case.args)
        if not isinstance(targets, dict):
            return targets
        return {name: _as_plain(targets[name]) for name in wanted if name in targets}

    return observe


def _numbers(subject: Subject, case: Case) -> Any:
    targets = subject(*case.args)
    if not isinstance(targets, dict):
        return targets
    found = {name: targets[name] for name in ("semantic", "boxes") if name in targets}
    return {
        name: str(t.dtype).removeprefix("torch.") if isinstance(t, torch.Tensor) else kind_of(t)
        for name, t in found.items()
    }


def _unchanged(subject: Subject, case: Case) -> Any:
    targets = subject(*case.args)
    if not isinstance(targets, dict) or set(PARTS) - set(targets):
        return targets
    return {"arguments changed in place": [int(c) for c in subject.changed(*case.args)]}


def _targets(instances, classes, *, ids=None, labels=None, semantic=None, box=None, boxes=None, masks=None):
    """The targets with a switch for each mistake."""
    found = [int(i) for i in instances.unique() if i != 0] if ids is None else ids
    each = [instances == i for i in found]
    rows = []
    for number, mask in zip(found, each, strict=True):
        y, x = torch.where(mask)
        y, x = (int(y.min()), int(y.max())), (int(x.min()), int(x.max()))
        label = classes.get(number, 0)
        width, height = x[1] - x[0] + 1, y[1] - y[0] + 1
        rows.append(box(x, y, label, number) if box else [x[0], y[0], width, height, label])
    whole = torch.zeros(instances.shape, dtype=torch.int64, device=instances.device)
    for number, mask in zip(found, each, strict=True):
        whole[mask] = classes.get(number, 0)
    made = torch.tensor(rows, dtype=torch.int64, device=instances.device).reshape(-1, 5)
    shape = (len(each), *instances.shape)
    stacked = torch.stack(each) if each else torch.zeros(shape, dtype=torch.bool, device=instances.device)
    return {
        "labels": labels(whole, found) if labels else {classes.get(i, 0) for i in found},
        "semantic": semantic(whole, stacked) if semantic else whole,
        "boxes": boxes(made) if boxes else made,
        "masks": masks(stacked) if masks else stacked,
    }


def _answer(**mistakes: Any) -> Callable[..., Any]:
    def instances_to_targets(instances, classes):
        return _targets(instances, classes, **mistakes)

    return instances_to_targets


def _targets_centers(instances, classes):
    def box(x, y, label, number):
        return [(x[0] + x[1]) // 2, (y[0] + y[1]) // 2, x[1] - x[0] + 1, y[1] - y[0] + 1, label]

    return _targets(instances, classes, box=box)


def _targets_per_class(instances, classes):
    right = _targets(instances, classes)
    # Afterwards each class is one object, and a class its own label.
    merged = _targets(right["semantic"], {label: label for label in right["labels"]})
    return {**right, "boxes": merged["boxes"], "masks": merged["masks"]}


def _targets_parts(instances, classes):
    from scipy import ndimage

    parts, owner = torch.zeros_like(instances, dtype=torch.int64), {}
    for number in [int(i) for i in instances.unique() if i != 0]:
        labeled, count = ndimage.label((instances == number).cpu().numpy())
        for part in range(1, count + 1):
            owner[len(owner) + 1] = classes[number]
            parts[torch.from_numpy(labeled == part).to(parts.device)] = len(owner)
    return _targets(parts, owner)


def _targets_ids(instances, classes):
    return _targets(instances, classes, semantic=lambda whole, masks: instances.long())


def _one_after_the_other(instances, classes, ids):
    changing = instances.long().clone()
    for number in ids:
        changing[changing == number] = classes[number]
    return {**_targets(instances, classes), "semantic": changing}


def _targets_relabeled(instances, classes):
    return _one_after_the_other(instances, classes, [i for i in instances.unique().tolist() if i])


def _targets_relabeled_in_turn(instances, classes):
    return _one_after_the_other(instances, classes, classes)


def _targets_one_channel_each(instances, classes):
    def semantic(whole, masks):
        return torch.stack([whole == label for label in range(1 + max(classes.values(), default=0))]).long()

    return _targets(instances, classes, semantic=semantic)


def _targets_all_classes(instances, classes):
    return _targets(instances, classes, labels=lambda whole, ids: set(classes.values()))


def _targets_label_list(instances, classes):
    return _targets(instances, classes, labels=lambda whole, ids: [classes[i] for i in ids])


def _targets_dict_order(instances, classes):
    present = instances.unique().tolist()
    return _targets(instances, classes, ids=[i for i in classes if i in present])


def _targets_scan_order(instances, classes):
    return _targets(instances, classes, ids=list(dict.fromkeys(instances[instances > 0].tolist())))


def _targets_background(instances, classes):
    return _targets(instances, classes, ids=instances.unique().tolist())


def _targets_background_refused(instances, classes):
    labels = {classes[i] for i in instances.unique().tolist()}
    return _targets(instances, classes, labels=lambda whole, ids: labels)


def _targets_first_skipped(instances, classes):
    return _targets(instances, classes, ids=instances.unique().tolist()[1:])


def _targets_tensor_keys(instances, classes):
    labels = {classes[i] for i in instances.unique() if i != 0}
    return _targets(instances, classes, labels=lambda whole, ids: labels)


def _targets_of_the_dict(instances, classes):
    return _targets(instances, classes, ids=sorted(classes))


def _targets_dense_ids(instances, classes):
    return _targets(instances, classes, ids=list(range(1, int(instances.max()) + 1)))


def _targets_stacked(instances, classes):
    targets = _targets(instances, classes)
    ids = [i for i in instances.unique().tolist() if i != 0]
    return {**targets, "masks": torch.stack([instances == i for i in ids])}


def _targets_flat_when_empty(instances, classes):
    targets = _targets(instances, classes)
    if not targets["labels"]:
        targets["boxes"] = targets["masks"] = torch.tensor([])
    return targets


def _targets_in_place(instances, classes):
    targets = _targets(instances, classes)
    instances[:] = targets["semantic"]
    return targets


def _targets_descending(instances, classes):
    return _targets(instances, classes, ids=instances.unique()[instances.unique() > 0].tolist()[::-1])


def _targets_by_class(instances, classes):
    ids = instances.unique()[instances.unique() > 0].tolist()
    return _targets(instances, classes, ids=sorted(ids, key=classes.__getitem__))


def _targets_like_the_map(instances, classes):
    targets = _targets(instances, classes)
    return {**targets, "semantic": targets["semantic"].to(instances.dtype)}


def _targets_float_boxes(instances, classes):
    return _targets(instances, classes, boxes=lambda made: made.float())


def _targets_float_numbers(instances, classes):
    targets = _targets_float_boxes(instances, classes)
    return {**targets, "semantic": targets["semantic"].float()}


def _targets_table(instances, classes):
    """A table from id to class, and rows and columns that hold a pixel of each mask."""
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


def _targets_pixels(instances, classes):
    """Pixel by pixel."""
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


PARTS = ("labels", "semantic", "boxes", "masks")

EXERCISE = Exercise(
    id="instances_to_targets",
    topic="convolutionalize",
    title="One map, five problems",
    reference=reference.instances_to_targets,
    minutes=15,
    difficulty=2,
    properties=(
        Property(
            "labels",
            '"labels": the set of the classes in the map; classes may know ids that the map has not',
            0.5,
            _objects_case,
            _target("labels"),
            examples=6,
        ),
        Property(
            "semantic",
            '"semantic": the class of every pixel, (H, W), 0 for background',
            0.5,
            _objects_case,
            _target("semantic"),
            examples=6,
        ),
        Property(
            "boxes",
            '"boxes": (M, 5), a row x, y, w, h, label for each object, in ascending order of the ids',
            0.5,
            _objects_case,
            _target("boxes"),
            examples=8,
        ),
        Property(
            "masks",
            '"masks": (M, H, W) bool, in the same order',
            0.5,
            _objects_case,
            _target("masks"),
            examples=6,
        ),
        Property(
            "dtype",
            '"semantic" and "boxes" are int64, whatever integers the map holds',
            0.25,
            _small_integers_case,
            _numbers,
            examples=4,
            tried="the dtypes of both",
        ),
        Property(
            "nothing",
            "a map without objects: an empty set, and boxes (0, 5) and masks (0, H, W)",
            0.25,
            _nothing_case,
            _target(*PARTS),
            examples=4,
        ),
        Property(
            "no_background",
            "a map that one object fills to the last pixel",
            0.25,
            _full_case,
            _target(*PARTS),
            examples=3,
        ),
        Property(
            "unchanged",
            "instances is not modified in place",
            0.25,
            _objects_case,
            _unchanged,
            examples=4,
            tried="instances afterwards",
        ),
    ),
    misconceptions=(
        Misconception(
            "extent_without_the_last_pixel",
            "Your boxes lack a column and a row: max − min counts the steps, not the pixels.",
            "w = max − min + 1, and h likewise.",
            ("boxes", "no_background"),
            _answer(box=lambda x, y, label, number: [x[0], y[0], x[1] - x[0], y[1] - y[0], label]),
        ),
        Misconception(
            "rows_before_columns",
            "Your boxes are (y, x, h, w, label).",
            "Boxes have x first: x, y, w, h, label.",
            ("boxes", "no_background"),
            _answer(box=lambda x, y, label, number: [y[0], x[0], y[1] - y[0] + 1, x[1] - x[0] + 1, label]),
        ),
        Misconception(
            "width_and_height_swapped",
            "Your boxes have height and width swapped.",
            "x, y, w, h, label: the width is the extent along the columns.",
            ("boxes", "no_background"),
            _answer(box=lambda x, y, label, number: [x[0], y[0], y[1] - y[0] + 1, x[1] - x[0] + 1, label]),
        ),
        Misconception(
            "corners",
            "Your boxes hold the bottom right pixel where width and height belong.",
            "w = max − min + 1, and h likewise.",
            ("boxes", "no_background"),
            _answer(box=lambda x, y, label, number: [x[0], y[0], x[1], y[1], label]),
        ),
        Misconception(
            "half_open_corners",
            "Your boxes hold right and bottom, exclusive, where width and height belong.",
            "w = max − min + 1, and h likewise.",
            ("boxes",),
            _answer(box=lambda x, y, label, number: [x[0], y[0], x[1] + 1, y[1] + 1, label]),
        ),
        Misconception(
            "centers",
            "Your boxes begin with the center of the object.",
            "x and y are its leftmost column and topmost row.",
            ("boxes", "no_background"),
            _targets_centers,
        ),
        Misconception(
            "label_first",
            "Your boxes begin with the label.",
            "It stands last: x, y, w, h, label.",
            ("boxes", "no_background"),
            _answer(box=lambda x, y, label, number: [label, x[0], y[0], x[1] - x[0] + 1, y[1] - y[0] + 1]),
        ),
        Misconception(
            "ids_in_the_boxes",
            "Your boxes end with the object's id.",
            "They end with its class: classes[id].",
            ("boxes", "no_background"),
            _answer(box=lambda x, y, label, number: [x[0], y[0], x[1] - x[0] + 1, y[1] - y[0] + 1, number]),
        ),
        Misconception(
            "boxes_without_label",
            "Your boxes have no label.",
            "Detection says where and what: append classes[id] as the fifth number.",
            ("boxes", "nothing", "no_background"),
            _answer(boxes=lambda made: made[:, :4]),
        ),
        Misconception(
            "one_object_per_class",
            "You merged the objects of a class into one: that is all a semantic map knows.",
            "Make a box and a mask for every id.",
            ("boxes", "masks"),
            _targets_per_class,
        ),
        Misconception(
            "one_object_per_part",
            "You made an object of every connected part.",
            "An object that something else hides in the middle has two parts and one id: go by the ids.",
            ("boxes", "masks"),
            _targets_parts,
        ),
        Misconception(
            "ids_as_semantic",
            "Your semantic map holds the ids.",
            "A semantic map does not tell objects apart: write classes[id].",
            ("semantic", "no_background"),
            _targets_ids,
        ),
        Misconception(
            "foreground_only",
            "Your semantic map says 1 for every object.",
            "Write the class of each: classes[id].",
            ("semantic", "no_background"),
            _answer(semantic=lambda whole, masks: (whole > 0).long()),
        ),
        Misconception(
            "relabeled_twice",
            "You relabel the map that you search in: a class that looks like a later id is relabeled again.",
            "Search in instances, and write into a map of zeros.",
            ("semantic",),
            _targets_relabeled,
        ),
        Misconception(
            "relabeled_in_turn",
            "You go through classes and relabel the map that you search in: a class that looks like a later id is relabeled again.",
            "Search in instances, and write into a map of zeros.",
            ("semantic",),
            _targets_relabeled_in_turn,
        ),
        Misconception(
            "channel_per_class",
            "Your semantic map has a channel for each class.",
            "It is (H, W): one class number for every pixel.",
            ("semantic", "nothing", "no_background"),
            _targets_one_channel_each,
        ),
        Misconception(
            "ids_as_labels",
            "Your labels are the ids of the objects.",
            "Classification asks for their classes: {classes[id] for each id in the map}.",
            ("labels", "no_background"),
            _answer(labels=lambda whole, ids: set(ids)),
        ),
        Misconception(
            "background_as_label",
            "Your labels hold 0, the background.",
            "Leave it out: it is no class of an object.",
            ("labels", "nothing"),
            _answer(labels=lambda whole, ids: set(whole.unique().tolist())),
        ),
        Misconception(
            "all_classes",
            "Your labels are all the classes that could be there.",
            "Take the classes of the ids that are in the map.",
            ("labels", "nothing", "no_background"),
            _targets_all_classes,
        ),
        Misconception(
            "labels_as_list",
            "Your labels are a list.",
            "Return a set: classification does not count objects.",
            ("labels", "nothing", "no_background"),
            _targets_label_list,
        ),
        Misconception(
            "labels_as_tensors",
            "Your labels are tensors, and two tensors with the same number are two entries of a set.",
            "Make them integers, with int(…) or tolist().",
            ("labels", "no_background"),
            _answer(labels=lambda whole, ids: set(whole[whole > 0].unique())),
        ),
        Misconception(
            "masks_as_numbers",
            "Your masks are numbers.",
            "Masks are bool: instances == id as it is.",
            ("masks", "nothing", "no_background"),
            _answer(masks=lambda stacked: stacked.long()),
        ),
        Misconception(
            "masks_as_list",
            "Your masks are a list.",
            "Stack them into one tensor, (M, H, W), also where there are none.",
            ("masks", "nothing", "no_background"),
            _answer(masks=list),
        ),
        Misconception(
            "masks_last",
            "Your masks are stacked along the last axis.",
            "One map after the other: (M, H, W), torch.stack along axis 0.",
            ("masks", "nothing", "no_background"),
            _answer(masks=lambda stacked: stacked.movedim(0, -1)),
        ),
        Misconception(
            "order_of_the_dict",
            "Your objects stand in the order in which the dictionary `classes` lists them.",
            "Ascending ids: instances.unique() gives them sorted.",
            ("boxes", "masks"),
            _targets_dict_order,
        ),
        Misconception(
            "order_of_the_rows",
            "Your objects stand in the order in which the rows meet them.",
            "Ascending ids: instances.unique() gives them sorted.",
            ("boxes", "masks"),
            _targets_scan_order,
        ),
        Misconception(
            "descending_ids",
            "Your objects stand in descending order of their ids.",
            "Ascending ids: instances.unique() gives them sorted.",
            ("boxes", "masks"),
            _targets_descending,
        ),
        Misconception(
            "sorted_by_class",
            "Your objects are sorted by their class.",
            "Ascending ids: instances.unique() gives them sorted.",
            ("boxes", "masks"),
            _targets_by_class,
        ),
        Misconception(
            "background_as_object",
            "You counted the background as an object.",
            "Leave id 0 out.",
            ("labels", "boxes", "masks", "nothing"),
            _targets_background,
        ),
        Misconception(
            "class_of_the_background",
            "You asked for the class of id 0, which is background and has none.",
            "Leave id 0 out.",
            (*PARTS, "dtype", "nothing", "unchanged"),
            _targets_background_refused,
        ),
        Misconception(
            "first_id_skipped",
            "You took the first id for the background, also where no pixel is background.",
            "Leave out the id 0, not the first one: ids[ids != 0].",
            ("no_background",),
            _targets_first_skipped,
        ),
        Misconception(
            "tensors_as_keys",
            "You looked up classes with a tensor, which is another key than the number in it.",
            "Make the ids integers: int(i), or instances.unique().tolist().",
            (*PARTS, "dtype", "no_background", "unchanged"),
            _targets_tensor_keys,
        ),
        Misconception(
            "every_id_of_the_dict",
            "You went through all ids of classes, also those that the map has not.",
            "Go through the ids of the map: instances.unique(), without 0.",
            (*PARTS, "dtype", "nothing", "no_background", "unchanged"),
            _targets_of_the_dict,
        ),
        Misconception(
            "every_number_up_to_the_largest",
            "You took every number up to the largest id for an object.",
            "Ids may have gaps: go through instances.unique(), without 0.",
            (*PARTS, "dtype", "unchanged", "no_background"),
            _targets_dense_ids,
        ),
        Misconception(
            "nothing_to_stack",
            "A map without objects leaves nothing to stack, and torch.stack refuses that.",
            "Compare all at once, instances == ids[:, None, None], or begin with torch.zeros(len(ids), H, W, dtype=torch.bool).",
            ("nothing",),
            _targets_stacked,
        ),
        Misconception(
            "shapes_lost",
            "Without objects, your boxes and masks lose their shapes.",
            "Begin with torch.zeros(len(ids), 5, dtype=torch.int64) and torch.zeros(len(ids), H, W, dtype=torch.bool): with no ids their shapes remain.",
            ("nothing",),
            _targets_flat_when_empty,
        ),
        Misconception(
            "changed_in_place",
            "You wrote into instances.",
            "Write into a map of your own: torch.zeros(instances.shape, dtype=torch.int64).",
            ("unchanged",),
            _targets_in_place,
        ),
        Misconception(
            "semantic_like_the_map",
            "Your semantic map has the dtype of instances, where a class above 255 may find no room.",
            "Make it int64, whatever instances is: torch.zeros(instances.shape, dtype=torch.int64).",
            ("dtype",),
            _targets_like_the_map,
        ),
        Misconception(
            "boxes_as_floats",
            "Your boxes are floats.",
            "Make them int64: torch.zeros(len(ids), 5, dtype=torch.int64).",
            ("dtype",),
            _targets_float_boxes,
        ),
        Misconception(
            "all_floats",
            "Your semantic map and your boxes are floats, as torch.zeros makes them.",
            "Pass the dtype: torch.zeros(…, dtype=torch.int64).",
            ("dtype",),
            _targets_float_numbers,
        ),
    ),
    right=(
        Variant("a table of classes, boxes from projections", _targets_table),
        Variant("pixel by pixel", _targets_pixels),
    ),
    hints=(
        Hint(
            "I don't know where to begin",
            "All four follow from the masks. A mask is where the map holds one id: instances == id.",
        ),
        Hint(
            "My boxes are off by one, or x and y are swapped",
            "torch.where(mask) gives rows first, y and then x. And from pixel 2 to pixel 4 there are three pixels.",
        ),
        Hint(
            "I don't know how to start",
            "ids = [int(i) for i in instances.unique() if i != 0]. Begin with zeros: semantic (H, W) and boxes (len(ids), 5), both int64, masks (len(ids), H, W) bool. For each m, id: masks[m] = instances == id; semantic[masks[m]] = classes[id]; y, x = torch.where(masks[m]); fill boxes[m].",
        ),
    ),
)
