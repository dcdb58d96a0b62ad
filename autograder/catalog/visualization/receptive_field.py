"""The exercise receptive_field of lecture 03: what one unit sees."""

from collections.abc import Callable
from typing import Any

import torch

from autograder.attempt import Subject, kind_of
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import visualization as reference

Layer = tuple[int, int, int, int]


def _chain(d: Draw, *, padded: bool = False, dilated: bool = False) -> list[Layer]:
    """Some layers; one of them has a stride larger than its kernel, and a layer behind it."""
    layers = [
        (
            d.choice([3, 2, 5, 4]),
            d.choice([2, 3, 1]),
            d.choice([1, 2, 0]) if padded else 0,
            d.choice([2, 3, 1]) if dilated else 1,
        )
        for _ in range(d.choice([2, 1, 3]))
    ]
    wide = (2, 3, d.choice([1, 0]) if padded else 0, d.choice([2, 3]) if dilated else 1)
    place = d.integer(0, len(layers))
    return [*layers[:place], wide, *layers[place:], (d.choice([3, 4]), 1, int(padded), 1 + dilated)]


def _unpadded(d: Draw) -> Case:
    return Case((_chain(d),))


def _strided(d: Draw) -> Case:
    """Chains that end with a stride, some of them of one layer."""
    count = d.choice([3, 2, 1, 4])
    return Case(([(d.choice([3, 2, 5]), d.choice([2, 3]), 0, 1) for _ in range(count)],))


def _padded(d: Draw) -> Case:
    layers = _chain(d, padded=True, dilated=True)
    return Case((layers,), {}, {"without_padding": [(k, s, 0, dilation) for k, s, _, dilation in layers]})


def _dilated(d: Draw) -> Case:
    layers = _chain(d, padded=True, dilated=True)
    return Case((layers,), {}, {"without_dilation": [(k, s, padding, 1) for k, s, padding, _ in layers]})


def _no_layers(d: Draw) -> Case:
    pointwise = [(1, 1, 0, 1)] * d.integer(0, 2)
    return Case((pointwise,))


def _one_pixel(subject: Subject, case: Case) -> Any:
    """A 1×1 layer adds no pixel, but its stride counts."""
    behind = subject([*case.args[0], (1, 2, 0, 1)])
    return {"layers": _plain(subject(*case.args)), "and (1, 2, 0, 1) behind": _plain(behind)}


def _number(place: int) -> Callable[[Subject, Case], Any]:
    """One of the three numbers; of which kind it is is another property's business."""

    def observe(subject: Subject, case: Case) -> Any:
        found = _plain(subject(*case.args))
        return found[place] if _is_triple(found) else found

    return observe


def _change(**places: int) -> Callable[[Subject, Case], Any]:
    """How far numbers are from those of the layers that stand beside the case."""

    def observe(subject: Subject, case: Case) -> Any:
        (plainer,) = case.extra.values()
        found, before = _plain(subject(*case.args)), _plain(subject(plainer))
        if not _is_triple(found) or not _is_triple(before):
            return found
        return {name: found[place] - before[place] for name, place in places.items()}

    return observe


def _plain(found: Any) -> Any:
    """Numbers as floats, whichever kind they are of."""
    if isinstance(found, list | tuple):
        return tuple(map(_plain, found))
    single = isinstance(found, torch.Tensor) and found.numel() == 1
    return float(found) if single or type(found) in (int, float) else found


def _is_triple(found: Any) -> bool:
    return isinstance(found, tuple) and len(found) == 3 and all(type(number) is float for number in found)


def _kinds(subject: Subject, case: Case) -> Any:
    found = subject(*case.args)
    return [kind_of(number) for number in found[:2]] if isinstance(found, list | tuple) else found


CLAIMS = Exercise(
    id="receptive_field",
    topic="visualization",
    title="What one unit sees",
    reference=reference.receptive_field,
    minutes=25,
    difficulty=3,
    properties=claims(
        """
        size (1): each layer adds its kernel less one, in steps of the layers before it
        tried: the first number that receptive_field(layers) returns
        jump (0.25): the jump is the product of all strides, the last layer's too
        tried: the second number that receptive_field(layers) returns
        integers (0.25): size and jump are integers
        start (0.75): the first unit's center moves in by half of what each layer adds
        tried: the third number that receptive_field(layers) returns
        padding (0.5): padding moves the first center back, in steps of the layers before it, and leaves the
          size alone
        tried: size and start of receptive_field(layers) less those of receptive_field(without_padding)
        dilation (0.5): a dilated kernel reaches dilation · (kernel − 1) + 1
        tried: the size of receptive_field(layers) less that of receptive_field(without_dilation)
        dilated_start (0.5): a dilated kernel moves the first center in by half of what it adds, too
        tried: start of receptive_field(layers) less that of receptive_field(without_dilation)
        no_layers (0.25): no layers, or only 1×1 layers of stride 1 without padding: (1, 1, 0.0); a 1×1
          layer's stride counts
        tried: receptive_field(layers) and receptive_field([*layers, (1, 2, 0, 1)])
        """,
        size=on(_unpadded, _number(0)),
        jump=on(_strided, _number(1)),
        integers=on(_unpadded, _kinds, examples=3, beside="size"),
        start=on(_unpadded, _number(2)),
        padding=on(_padded, _change(size=0, start=2)),
        dilation=on(_dilated, _change(size=0)),
        dilated_start=on(_dilated, _change(start=2)),
        no_layers=on(_no_layers, _one_pixel, examples=3, beside="size"),
    ),
    hints=hints("""
        I don't know what a layer adds
        A 3×3 convolution sees one more neighbor on each side. How many pixels of the image apart are two
          neighbors in the map it looks at?

        My numbers are right for one layer and wrong for two
        A layer's kernel and padding count in steps of the layers before it: multiply them by the jump so far.
          Its own stride counts only for the layers behind it.

        I don't know how to start
        size, jump, start = 1, 1, 0.0. For each layer, in this order: extent = dilation · (kernel − 1); size
          += extent · jump; start += (extent / 2 − padding) · jump; jump *= stride.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def recursion(layers):
    """the recursion"""
    size, jump, start = 1, 1, 0.0
    for kernel, stride, padding, dilation in layers:
        extent = dilation * (kernel - 1)
        size += extent * jump
        start += (extent / 2 - padding) * jump
        jump *= stride
    return size, jump, start


answers.edits("""
strides_ignored_in_both: all but jump integers no_layers
- size += extent * jump
- start += (extent / 2 - padding) * jump
+ size += extent
+ start += extent / 2 - padding
You added kernels in pixels of their own input, for the size and for the start.
A step behind a stride is several pixels of the image: add (kernel − 1) · jump, with the jump of the layers
  before, to the size, and half of that to the start.

strides_ignored_in_size: size dilation
- size += extent * jump
+ size += extent
You added kernels in pixels of their own input: 1 + Σ (kernel − 1).
A step behind a stride is several pixels of the image: add (kernel − 1) · jump, with the jump of the layers
  before.

strides_ignored_in_start: start padding dilated_start
- (extent / 2 - padding) * jump
+ extent / 2 - padding
You moved the center in pixels of each layer's own input.
Multiply by the jump of the layers before it: start += (dilation · (kernel − 1) / 2 − padding) · jump.

stride_too_early: all but jump integers no_layers
- extent = dilation * (kernel - 1)
+ jump *= stride
+ extent = dilation * (kernel - 1)
- jump *= stride
You multiplied by a layer's stride before you used the jump.
A kernel steps on its own input: use the jump of the layers before it, then multiply by the stride.

stride_too_early_in_start: start padding dilated_start
- start += (extent / 2 - padding) * jump
- jump *= stride
+ jump *= stride
+ start += (extent / 2 - padding) * jump
You multiplied by a layer's stride before you moved the center.
Move the center with the jump of the layers before: jump *= stride comes last.

last_stride: all but integers no_layers
- jump *= stride
+ jump = stride
Your jump is the last layer's stride.
Strides multiply: jump *= stride.

last_stride_left_out: jump no_layers
- for kernel, stride, padding, dilation in layers:
+ for number, (kernel, stride, padding, dilation) in enumerate(layers, start=1):
- jump *= stride
+ if number < len(layers):
+     jump *= stride
You left the stride of the last layer out of the jump.
It counts as well: its units are that much farther apart. jump *= stride after each layer, the last too.

pointwise_left_out: no_layers
- extent = dilation * (kernel - 1)
+ if kernel == 1:
+     continue
+ extent = dilation * (kernel - 1)
You passed over layers with a kernel of 1. They add no pixel, but their stride and padding count.
No case of its own is needed: with kernel 1 the rule adds 0 to the size, and jump *= stride is still right.

jump_before_size: size jump dilation no_layers
- return size, jump, start
+ return jump, size, start
You returned (jump, size, start).
The order is (size, jump, start).

size_from_zero: size no_layers
- 1, 1, 0.0
+ 0, 1, 0.0
Your size begins at 0.
Before any layer a unit is one pixel: begin with size = 1.

whole_extent: start dilated_start
- extent / 2
+ extent
You moved the center in by all that a layer adds.
The other half lies on the other side: start += (dilation · (kernel − 1) / 2 − padding) · jump.

strides_added: all but integers no_layers
- jump *= stride
+ jump += stride - 1
You added the strides up.
They multiply: two layers of stride 2 step by 4 pixels. jump *= stride.

whole_kernels: size no_layers
- size += extent * jump
+ size += (extent + 1) * jump
You added the whole kernel. A kernel of 3 adds 2: one of its pixels was there already.
Add (kernel − 1) · jump.

dilation_ignored: dilation dilated_start
- extent = dilation * (kernel - 1)
+ extent = kernel - 1
You left the dilation out.
A dilated kernel reaches dilation · (kernel − 1) + 1 of its inputs.

dilation_left_out_of_size: dilation
- size += extent * jump
+ size += (kernel - 1) * jump
You left the dilation out of the size.
A dilated kernel reaches dilation · (kernel − 1) + 1 of its inputs: add dilation · (kernel − 1) · jump.

dilation_left_out_of_start: dilated_start
- (extent / 2 - padding) * jump
+ ((kernel - 1) / 2 - padding) * jump
You left the dilation out of the start: your rule is the one for plain kernels.
A dilated kernel moves the center farther in: start += (dilation · (kernel − 1) / 2 − padding) · jump.

kernel_times_dilation: dilation dilated_start
- dilation * (kernel - 1)
+ dilation * kernel - 1
You took dilation · kernel for the reach of a dilated kernel; there are no holes behind its last value.
dilation · (kernel − 1) + 1: a kernel of 3 with dilation 2 reaches 5.

padding_in_size: padding
- size += extent * jump
+ size += (extent - 2 * padding) * jump
You took the padding off the size.
A unit looks through its whole kernel, padding or not. Padding moves only the start.

padding_ignored: padding
- (extent / 2 - padding) * jump
+ extent / 2 * jump
You left the padding out.
It moves the first center back: start += (dilation · (kernel − 1) / 2 − padding) · jump.

padding_added: padding
- extent / 2 - padding
+ extent / 2 + padding
You moved the first center in by the padding.
Padded rows lie before pixel 0: subtract padding · jump.

padding_unscaled: padding
- (extent / 2 - padding) * jump
+ extent / 2 * jump - padding
You subtracted the padding in pixels of the layer's own input.
A padded row behind a stride is several pixels wide: subtract padding · jump.

start_is_the_edge: start dilated_start
- start += (extent / 2 - padding) * jump
+ start -= padding * jump
Your start is the first pixel of the field, or only the padding moves it.
It is the field's center: add half of what each layer adds to the size.

half_pixel: start no_layers
- 1, 1, 0.0
+ 1, 1, 0.5
You counted from the corner of pixel 0, where its center is 0.5.
Here the center of pixel 0 is 0: begin with start = 0.0. The center of pixels 0, 1 and 2 is then 1, not 1.5.

halves_rounded: start dilated_start
- extent / 2
+ extent // 2
You rounded half of a kernel down. The center of an even field lies between two pixels.
Divide with / and not with //.

start_rounded: start dilated_start
- return size, jump, start
+ return size, jump, int(start)
You made an integer of start. The center of an even field lies between two pixels.
Return it as it is; size and jump alone are integers.

layers_reversed: all but jump integers no_layers
- in layers
+ in reversed(layers)
Your rule goes in one direction, and your loop in the other.
size += (kernel − 1) · jump goes from the first layer to the last; size = (size − 1) · stride + kernel from
  the last to the first.

backward_rule_forward: size dilation
- size += extent * jump
+ size = (size - 1) * stride + extent + 1
size = (size − 1) · stride + kernel goes from the last layer to the first; you went the other way.
Go through reversed(layers) with it, or forward with size += (kernel − 1) · jump.

fractional_pixels: integers
- 1, 1, 0.0
+ 1.0, 1, 0.0
Your size is a float.
Pixels are counted: size and jump are integers. Only start can lie between pixels.
""")


@answers.wrong("size dilation")
def pixels_counted(layers):
    """You counted the pixels that a unit is connected to. Behind a stride larger than its kernel, or a
    dilation, there are others between them.

    The size goes from the first pixel to the last one: 1 + Σ dilation · (kernel − 1) · jump.
    """
    size, jump, start = {0}, 1, 0.0
    for kernel, stride, padding, dilation in layers:
        size = {pixel + i * dilation * jump for pixel in size for i in range(kernel)}
        start += (dilation * (kernel - 1) / 2 - padding) * jump
        jump *= stride
    return len(size), jump, start


@answers.right
def ends(layers):
    """first and last pixel"""
    first = last = 0
    jump = 1
    for kernel, stride, padding, dilation in layers:
        first, last = first - padding * jump, last + ((kernel - 1) * dilation - padding) * jump
        jump *= stride
    return last - first + 1, jump, (first + last) / 2


@answers.right
def backwards(layers):
    """intervals, from the unit back"""

    def reach(low, high):
        for kernel, stride, padding, dilation in reversed(layers):
            low, high = low * stride - padding, high * stride - padding + dilation * (kernel - 1)
        return low, high

    (low, high), (next_low, _) = reach(0, 0), reach(1, 1)
    return high - low + 1, next_low - low, low + (high - low) / 2


@answers.right
def sets(layers):
    """sets of pixels"""
    units = {0}, {1}
    for kernel, stride, padding, dilation in layers[::-1]:
        units = tuple(
            {u * stride - padding + dilation * i for u in group for i in (0, kernel - 1)} for group in units
        )
    first, second = units
    return max(first) - min(first) + 1, min(second) - min(first), (max(first) + min(first)) / 2


EXERCISE = answers.exercise()
