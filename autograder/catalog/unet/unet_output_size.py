"""The exercise unet_output_size of lecture 07: what valid convolutions leave of an image."""

from autograder.attempt import Raised, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.unet.draws import input_side
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import unet as reference


def _size_at_four(d: Draw) -> Case:
    return Case((input_side(d.choice([28, 4, 5, 17, 40]), 4),))


def _size_at_depth(d: Draw) -> Case:
    """The smallest legal size of each depth, and larger ones."""
    depth, least = d.each([(3, 4), (1, 3), (2, 4), (5, 4)])
    return Case((input_side(d.each([least, d.integer(least + 1, 30)]), depth), depth))


def _uneven(d: Draw) -> Case:
    """Between two legal sizes, at several depths: some pooling there meets an odd side."""
    bottom = d.integer(6, 30)
    sizes = [
        (input_side(bottom, depth) + more, depth) for depth in (4, 1, 2, 3, 5) for more in range(1, 2**depth)
    ]
    return Case(extra={"sizes and depths": sizes})


def _nothing_left(d: Draw) -> Case:
    """Even at every pooling, and too small: at depth 1 and 2 the largest of them leaves a map of side 0."""
    lowest = d.integer(-3, 1)
    sizes = [
        (input_side(b, depth), depth)
        for depth in (4, 1, 2, 3)
        for b in range(3 - (depth == 1), lowest - 1, -1)
    ]
    return Case(extra={"sizes and depths": sizes})


def _refusals(subject: Subject, case: Case) -> dict[str, str]:
    found = {}
    for size, depth in case.extra["sizes and depths"]:
        try:
            subject(size, depth)
            answer = "accepted"
        except Raised as raised:
            if "ValueError" not in raised.kinds:
                raise
            answer = "refused with a ValueError"
        found[f"size {size}, depth {depth}"] = answer
    return found


CLAIMS = Exercise(
    id="unet_output_size",
    topic="unet",
    title="What valid convolutions leave of an image",
    reference=reference.unet_output_size,
    minutes=12,
    difficulty=2,
    properties=claims(
        """
        depth_four (1): sizes at depth 4: 572 → 388
        other_depths (0.75): sizes at any depth, the smallest legal ones too
        uneven (0.75): a size that some pooling does not divide evenly is refused with a ValueError
        tried: sizes between two legal ones, at depths 1 to 5
        nothing_left (0.5): a size that leaves nothing is refused with a ValueError
        tried: sizes that are even at every pooling and too small, at depths 1 to 4
        """,
        depth_four=on(_size_at_four, examples=5),
        other_depths=on(_size_at_depth, examples=8),
        uneven=on(_uneven, _refusals, examples=3, beside="depth_four"),
        nothing_left=on(_nothing_left, _refusals, examples=3, beside="depth_four"),
    ),
    hints=hints("""
        My number is close to 388 but not 388
        Write down the side after each step: 572, 570, 568, then 284. Which steps have no number in your loop?

        Which sizes are to be refused?
        Two things can go wrong: a pooling meets an odd side, at any level, or the result has no pixel left.

        I don't know how to put it together
        depth times: side −= 4, refuse an odd one, side //= 2. At the bottom: side −= 4. depth times: side =
          2·side − 4. Refuse a result below 1.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def stepwise(size, depth=4):
    """down and up again"""
    cost = 4
    side = size
    for level in range(depth):
        side -= cost
        if side % 2:
            raise ValueError(f"size must be even at pooling {level + 1}, got {size}")
        side //= 2
    side -= cost
    for _ in range(depth):
        side = 2 * side - cost
    if side < 1:
        raise ValueError(f"size must leave a pixel, got {size}")
    return side


answers.edits("""
one_convolution_a_level: all
- cost = 4
+ cost = 2
You took 2 pixels off at each level: that is one convolution.
A level has two 3×3 convolutions without padding, and each costs a pixel on either side: 4 in all.

padded_convolutions: all
- cost = 4
+ cost = 0
Your convolutions cost no pixels, as if they were padded.
The U-Net's are valid: every pair takes 4 pixels off.

bottom_forgotten: all but uneven
- side -= cost
- for _ in range(depth):
+ for _ in range(depth):
You left out the two convolutions between the last pooling and the first upsampling.
The lowest level has a pair of convolutions too: 4 pixels less there.

way_up_bare: all but uneven
- side = 2 * side - cost
+ side = 2 * side
On the way up you only double.
After every upsampling two valid convolutions follow: side = 2·side − 4.

way_down_only: all but uneven
- for _ in range(depth):
-     side = 2 * side - cost
You stopped at the lowest level.
Go up again, as often as you went down: side = 2·side − 4.

depth_ignored: other_depths uneven
- for level in range(depth):
+ for level in range(4):
- for _ in range(depth):
+ for _ in range(4):
You always pool four times, whatever depth says.
Loop depth times down and depth times up.

one_level_short: all
- for level in range(depth):
+ for level in range(depth - 1):
- for _ in range(depth):
+ for _ in range(depth - 1):
You pool once too seldom.
depth counts the poolings: there are depth + 1 levels, the lowest included.

odd_sizes_accepted: uneven
- if side % 2:
-     raise ValueError(f"size must be even at pooling {level + 1}, got {size}")
You accept sizes that some pooling does not divide evenly.
Raise a ValueError where a pooling meets an odd side: the rows it drops would shift the skips.

first_pooling_only: uneven
- if side % 2:
+ if level == 0 and side % 2:
You look for an odd side before the first pooling only.
Look before each: 574 is fine at the first pooling and odd at the second.

divisible_by_the_stride: all but nothing_left
- if side % 2:
+ if size % 2**depth:
You ask for a size that 2^depth divides, and so refuse 572.
The convolutions take pixels off before each pooling: the side must be even there, not at the start.

too_much_refused: depth_four other_depths
- if side < 1:
+ if side < 5:
You refuse the smallest legal sizes, of which a few pixels are left.
Refuse only where less than one pixel is left.

nothing_is_an_answer: nothing_left
- if side < 1:
-     raise ValueError(f"size must leave a pixel, got {size}")
You return sizes of 0 and less.
Raise a ValueError where less than one pixel is left.

zero_is_a_size: nothing_left
- if side < 1:
+ if side < 0:
You return 0: a map without pixels.
Refuse that too: at least one pixel must be left.

bottom_checked_only: nothing_left
- for _ in range(depth):
-     side = 2 * side - cost
- if side < 1:
-     raise ValueError(f"size must leave a pixel, got {size}")
+ if side < 1:
+     raise ValueError(f"size must leave a pixel, got {size}")
+ for _ in range(depth):
+     side = 2 * side - cost
You look whether a pixel is left at the lowest level only.
The way up takes pixels off as well: check the result.

asserted: uneven nothing_left
- if side % 2:
-     raise ValueError(f"size must be even at pooling {level + 1}, got {size}")
+ assert side % 2 == 0, "odd side"
- if side < 1:
-     raise ValueError(f"size must leave a pixel, got {size}")
+ assert side > 0, "nothing left"
You refuse with an assert, which raises an AssertionError.
Raise a ValueError that names the size: asserts are for what cannot happen, and python -O drops them.

float_returned: depth_four other_depths
- side //= 2
+ side /= 2
You return a float.
A number of pixels is an int: halve with //.
""")


@answers.right
def formula(size, depth=4):
    """one formula"""
    factor = 2**depth
    rest = size - 4 * (2 * factor - 1)
    if rest % factor:
        raise ValueError(f"size must be even at every pooling, got {size}")
    out = rest - 4 * (factor - 1)
    if out < 1:
        raise ValueError(f"size must leave a pixel, got {size}")
    return out


@answers.wrong("other_depths uneven nothing_left")
def always_184(size, depth=4):
    """You take 184 pixels off whatever depth is, and accept every size.

    184 is what four poolings cost: go down and up depth times, and refuse what cannot be halved or leaves
    nothing.
    """
    return size - 184


@answers.right
def recursive(size, depth=4):
    """level within level"""
    if size < 5:
        raise ValueError(f"size is too small: {size} pixels reach a level")
    below = size - 4
    if depth > 0:
        if below % 2 != 0:
            raise ValueError(f"{below} pixels cannot be halved")
        below = 2 * recursive(below // 2, depth - 1) - 4
    if below <= 0:
        raise ValueError("size is too small: nothing is left")
    return below


EXERCISE = answers.exercise()
