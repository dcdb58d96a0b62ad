"""The exercise pixel_cross_entropy of lecture 06: one loss for every pixel that counts."""

from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import as_double, carries
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Forbidden
from coursekit import fcn as reference

CROSS_ENTROPY = Forbidden("F.cross_entropy", ("torch.nn.functional.cross_entropy", "aten.cross_entropy_loss"))

NLL_LOSS = Forbidden(
    "F.nll_loss",
    (
        "torch.nn.functional.nll_loss",
        "torch.nn.functional.nll_loss_nd",
        "aten.nll_loss",
        "aten.nll_loss_forward",
        "aten.nll_loss2d",
        "aten.nll_loss2d_forward",
        "aten.nll_loss_nd",
    ),
)


def _maps(d: Draw, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, L, H, W) and target (N, H, W); two images or more, whose void shares may differ."""
    n, classes, h, w = d.integer(2, 3), d.integer(3, 4), d.integer(2, 4), d.choice([5, 3, 12])
    logits = d.layout(d.tensor(n, classes, h, w, scale=scale))
    return logits, d.integers(n, h, w, low=0, high=classes - 1)


def _pitted(d: Draw, target: torch.Tensor, void: int, first_image: bool = False) -> torch.Tensor:
    """A target with some void pixels, more of them in the first image, perhaps all of that."""
    holes = d.integers(*target.shape, low=0, high=4) == 0
    holes[0, :, :2] = True
    holes[0] |= first_image
    holes[1, 0, 0] = False
    return target.masked_fill(holes, void)


def _plain(d: Draw) -> Case:
    return Case(_maps(d))


def _void(d: Draw) -> Case:
    """Void pixels, where classes are looked up too that all weigh the same."""
    logits, target = _maps(d)
    alike = torch.ones(logits.shape[1], dtype=torch.float64)
    given = d.each([{}, {"class_weights": alike}])
    return Case((logits, _pitted(d, target, 255, d.each([False, True]))), given)


def _other_void(d: Draw) -> Case:
    logits, target = _maps(d)
    void = d.each([0, -1, 1, 7, -100])
    target = _pitted(d, target, void)
    target[1, 0, 0] = 2
    return Case((logits, target), {"ignore_index": void})


def _weighted(d: Draw) -> Case:
    logits, target = _maps(d)
    return Case((logits, target), {"class_weights": d.positive(logits.shape[1], low=0.2, high=3.0)})


def _masked(d: Draw) -> Case:
    logits, target = _maps(d)
    half = d.integers(*target.shape, low=0, high=1).bool()
    half[:, 0, -1] = True
    half[:, -1, 0] = False
    mask = d.each([half * d.positive(*target.shape, low=1.0, high=3.0), half])
    return Case((logits, target), {"mask": mask})


def _light(d: Draw) -> Case:
    """Weights whose sum over the pixels is below 1."""
    logits, target = _maps(d)
    return Case((logits, target), {"class_weights": d.positive(logits.shape[1], low=0.2, high=3.0) / 1000})


def _no_pixel(d: Draw) -> Case:
    logits, target = _maps(d)
    given = d.each(
        [
            {},
            {"mask": torch.zeros(target.shape, dtype=torch.bool)},
            {"mask": torch.zeros(target.shape, dtype=torch.float64)},
            {"class_weights": torch.zeros(logits.shape[1], dtype=torch.float64)},
        ]
    )
    return Case((logits, target if given else torch.full_like(target, 255)), given)


def _large(d: Draw) -> Case:
    return Case(_maps(d, scale=1000.0))


def _loss_gradient_case(d: Draw) -> Case:
    logits, target = _maps(d)
    weights = d.positive(logits.shape[1], low=0.2, high=3.0)
    mask = d.positive(*target.shape, low=1.0, high=3.0) * d.integers(*target.shape, low=0, high=1)
    # More than 1 together under the smallest class weights.
    mask[:, 0, -1] = 2.5
    return Case((logits, target), {"class_weights": weights, "mask": mask * 8})


def _one_number(value: Any) -> Any:
    """The loss without dtype and axes, which are another property's business."""
    return as_double(value.reshape(())) if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def _loss(subject: Subject, case: Case) -> Any:
    return _one_number(subject(*case.args, **case.kwargs))


def _loss_gradients(subject: Subject, case: Case) -> Any:
    return subject.vjp(*case.args, wrt=[0, "class_weights", "mask"], **case.kwargs)["grads"]


def _with_gradient(subject: Subject, case: Case) -> Any:
    seen = subject.vjp(*case.args, wrt=[0], **case.kwargs)
    return {"loss": _one_number(seen["value"]), "gradient in logits": seen["grads"]}


def _loss_single(d: Draw) -> Case:
    """A void label that can be looked up: whoever does that has another property to care for."""
    logits, target = _maps(d)
    weights, void = d.positive(logits.shape[1], low=0.2, high=3.0).float(), d.choice([1, 2])
    target = _pitted(d, target, void)
    target[1, 0, 0] = 0
    target = target.to(d.each([torch.int64, torch.uint8, torch.int32]))
    return Case((logits.float(), target), {"class_weights": weights, "ignore_index": void})


CLAIMS = Exercise(
    id="pixel_cross_entropy",
    topic="fcn",
    title="One loss for every pixel that counts",
    reference=reference.pixel_cross_entropy,
    minutes=20,
    difficulty=3,
    properties=claims(
        """
        plain (1): the mean over all pixels of −log softmax at the true class
        void (0.5): void pixels count neither above nor below, and are no class to look up
        ignore_index (0.25): the void label may be any integer, negative or the number of a class too
        class_weights (0.75): class weights count in the sum and in the divisor
        mask (0.5): so does a mask of bools or of floats
        light (0.25): also where they sum to less than 1
        nothing (0.5): where nothing counts, the loss is 0 and so is its gradient
        stable (0.25): large logits stay finite
        gradients (0.75): gradients reach the logits, the class weights and the mask
        tried: gradients with respect to logits, class_weights and mask
        carries (0.25): a scalar, float32 where logits are; target of any integers; nothing is modified in
          place
        """,
        plain=on(_plain, _loss),
        void=on(_void, _loss),
        ignore_index=on(_other_void, _loss, examples=10),
        class_weights=on(_weighted, _loss),
        mask=on(_masked, _loss),
        light=on(_light, _loss),
        nothing=on(_no_pixel, _with_gradient, beside="plain"),
        stable=on(_large, _loss, examples=4),
        gradients=on(_loss_gradient_case, _loss_gradients, examples=5),
        carries=on(_loss_single, carries, examples=6, beside="plain"),
    ),
    hints=hints("""
        Void pixels give an index error
        255 is no class to look up. Put class 0 in its place for looking up, and give these pixels the weight
          0.

        My loss is too small or too large with weights
        What would the loss be if all pixels had the same ℓ? Exactly ℓ, whatever the weights are. What do you
          have to divide by?

        I don't know how to start
        ℓ = −logits.log_softmax(1).gather(1, true_class[:, None])[:, 0]; weight = valid, times
          class_weights[true_class], times mask; total = weight.sum(); return (weight·ℓ).sum() /
          torch.where(total > 0, total, 1).
        """),
    forbidden=(CROSS_ENTROPY, NLL_LOSS),
)

answers = Answers(CLAIMS)


@answers.right
def weighed(logits, target, class_weights=None, mask=None, ignore_index=255):
    """a weight for every pixel"""
    valid = target != ignore_index
    true_class = target.masked_fill(~valid, 0).long()
    loss = -logits.log_softmax(1).gather(1, true_class[:, None])[:, 0]
    weight = valid.to(loss.dtype)
    if class_weights is not None:
        weight = weight * class_weights[true_class]
    if mask is not None:
        weight = weight * mask
    total = weight.sum()
    mean = (weight * loss).sum() / torch.where(total > 0, total, 1)
    return mean


answers.edits("""
probabilities_clipped: stable
- logits.log_softmax(1)
+ logits.softmax(1).clamp(1e-7, 1 - 1e-7).log()
You cut the probabilities off at a smallest one: the loss of a badly wrong pixel stops there, and its gradient
  is 0.
log_softmax gives the logarithm itself, which is as large as the logits: nothing needs to be cut off.

divided_by_all_pixels: all but plain nothing stable carries
- total = weight.sum()
- mean = (weight * loss).sum() / torch.where(total > 0, total, 1)
+ mean = (weight * loss).mean()
You divided by the number of all pixels, void ones included.
Divide by the sum of the same weights that you multiplied with: Σ w·M over the valid pixels.

divided_by_valid_pixels: class_weights mask light gradients
- total = weight.sum()
+ total = valid.sum()
You divided by the number of valid pixels, without their weights.
Divide by Σ w·M: a pixel of weight 3 counts as three pixels, below as well as above.

class_weights_not_in_the_divisor: class_weights light gradients
- weight = weight * class_weights[true_class]
+ loss = loss * class_weights[true_class]
Your class weights are not in the divisor.
Divide by Σ w·M: a pixel of weight 3 counts as three pixels, below as well as above.

mask_not_in_the_divisor: mask gradients
- weight = weight * mask
+ loss = loss * mask
Your mask is not in the divisor.
Divide by Σ w·M: a pixel that is masked out is not there, below as little as above.

mask_counted_in_the_divisor: mask gradients
- if mask is not None:
-     weight = weight * mask
- total = weight.sum()
+ total = weight.sum()
+ if mask is not None:
+     total = (weight * (mask != 0)).sum()
+     weight = weight * mask
Your mask multiplies the losses, and in the divisor every pixel whose mask is not 0 counts fully.
Divide by the sum of the same weights that you multiplied with: Σ w·M over the valid pixels.

averaged_per_image: void ignore_index class_weights mask light gradients
- total = weight.sum()
- mean = (weight * loss).sum() / torch.where(total > 0, total, 1)
+ total = weight.sum((1, 2))
+ mean = ((weight * loss).sum((1, 2)) / torch.where(total > 0, total, 1)).mean()
You averaged each image on its own and then over images.
Sum over the whole batch above and below, and divide once: every pixel of the batch counts the same.

void_not_left_out: void ignore_index nothing
- target.masked_fill(~valid, 0).long()
+ target.long()
- valid.to(loss.dtype)
+ torch.ones_like(loss)
You did not leave void pixels out: 255 is looked up as if it were a class.
valid = target != ignore_index: give the other pixels the weight 0, and a class in their place for looking up.

void_looked_up: void ignore_index nothing
- target.masked_fill(~valid, 0).long()
+ target.long()
Void pixels have no weight with you, and are looked up all the same: 255 is no class.
Put a class in their place first: target.masked_fill(~valid, 0); their weight is 0 anyway.

void_indexed: void ignore_index nothing
- target.masked_fill(~valid, 0).long()
+ target.long()
- logits.log_softmax(1).gather(1, true_class[:, None])[:, 0]
+ logits.log_softmax(1).movedim(1, -1).flatten(0, 2)[torch.arange(target.numel()), true_class.flatten()]
+ loss = loss.reshape(target.shape)
Void pixels have no weight with you, and are looked up all the same: 255 is no index of a class.
Put a class in their place first: target.masked_fill(~valid, 0); their weight is 0 anyway.

void_in_one_hot: void ignore_index nothing
- target.masked_fill(~valid, 0).long()
+ target.long()
- logits.log_softmax(1).gather(1, true_class[:, None])[:, 0]
+ (torch.nn.functional.one_hot(true_class, logits.shape[1]).movedim(-1, 1) * logits.log_softmax(1)).sum(1)
Void pixels have no weight with you, and are made one-hot all the same: 255 is no class.
Put a class in their place first: target.masked_fill(~valid, 0); their weight is 0 anyway.

void_weights_looked_up: void
- class_weights[true_class]
+ class_weights[target.long()]
You look up the class weight of void pixels, and 255 is no class.
Look up what stands in their place: class_weights[true_class]; their weight is 0 anyway.

void_counts_as_class_0: void ignore_index nothing
- weight = valid.to(loss.dtype)
+ weight = torch.ones_like(loss)
Your void pixels count as pixels of class 0.
A stand-in class is fine for looking up, if the weight of these pixels is then 0.

void_is_always_255: ignore_index
- target != ignore_index
+ target != 255
You compare with 255 instead of with ignore_index.
valid = target != ignore_index.

void_by_range: ignore_index
- target != ignore_index
+ (target >= 0) & (target < logits.shape[1])
You leave out what is no class, and not what is ignore_index: that may be the number of a class, too.
valid = target != ignore_index.

nan_where_nothing_counts: nothing
- torch.where(total > 0, total, 1)
+ total
Where no pixel counts, you divide 0 by 0.
Divide by 1 there: torch.where(total > 0, total, 1). The sum above is 0 already.

gradient_of_nan: nothing
- torch.where(total > 0, total, 1)
+ total
- return mean
+ return torch.where(total > 0, mean, 0)
Where no pixel counts your loss is 0, and its gradient NaN: 0/0 was computed and then replaced.
Divide by 1 there: torch.where(total > 0, total, 1) belongs below the fraction, not around it.

divisor_at_least_one: light
- torch.where(total > 0, total, 1)
+ total.clamp(min=1)
Your divisor never falls below 1: small weights make the loss small.
Only 0 has to be avoided: torch.where(total > 0, total, 1).

zero_without_a_graph: nothing
- mean = (weight * loss).sum() / torch.where(total > 0, total, 1)
+ if total == 0:
+     return logits.new_zeros(())
+ mean = (weight * loss).sum() / total
Where no pixel counts you return a new 0, from which no gradient reaches the logits.
Keep the sum, which is 0 and has a gradient of 0, and divide it by 1.

log_of_softmax: stable
- logits.log_softmax(1)
+ logits.softmax(1).log()
You took the logarithm of a softmax: for large logits it is the logarithm of 0.
log_softmax does both at once and stays finite.

exponentials_overflow: stable
- logits.log_softmax(1)
+ (logits.exp() / logits.exp().sum(1, keepdim=True)).log()
You exponentiated the logits: above 700 that is infinite.
log_softmax subtracts the largest logit first.

probabilities_lifted: stable
- logits.log_softmax(1)
+ (logits.softmax(1) + 1e-12).log()
You added a small number to the probabilities, which caps the loss of confident mistakes.
log_softmax needs no such help.

softmax_over_columns: all but nothing carries
- logits.log_softmax(1)
+ logits.log_softmax(-1)
Your softmax runs along the columns of the image.
In (N, L, H, W) the classes are axis 1.

sum_instead_of_mean: all but nothing carries
- total = weight.sum()
- mean = (weight * loss).sum() / torch.where(total > 0, total, 1)
+ mean = (weight * loss).sum()
You summed the losses and did not divide.
Divide by Σ w·M.

graph_cut: nothing gradients
- return mean
+ return mean.detach()
No gradient comes through: the loss was detached.
Leave detach(), item() and torch.no_grad() out.

sign_forgotten: all but nothing carries
- loss = -logits
+ loss = logits
Your loss has the wrong sign: a sure and right answer costs most.
−log softmax: the logarithm of a probability is negative.

mask_of_ones: mask gradients
- weight * mask
+ weight * (mask != 0)
You took every mask value that is not 0 for 1.
A mask of floats weighs: multiply by it.

masks_of_bools_only: mask nothing gradients
- weight = weight * mask
+ weight = weight * (valid & mask)
You joined the mask by &, which takes bools alone.
A mask may hold floats, which weigh: multiply by it.

weights_detached: gradients
- class_weights[true_class]
+ class_weights.detach()[true_class]
- weight * mask
+ weight * mask.detach()
No gradient reaches the class weights and the mask.
Leave detach(), .data and torch.tensor(…) around them out.

target_overwritten: carries
- true_class = target.masked_fill(~valid, 0).long()
+ target[~valid] = 0
+ true_class = target.long()
You wrote into target: the caller's void pixels are gone.
Make a new map: target.masked_fill(void, 0), or torch.where.

int64_only: carries
- target.masked_fill(~valid, 0).long()
+ target.masked_fill(~valid, 0)
You look classes up in target as it came, and only int64 serves gather as an index.
Make it int64 first, whatever integers it holds: target.long().

always_float64: carries
- return mean
+ return mean.double()
Your loss is float64 whatever the logits were.
Give it the dtype of logits.
""")


@answers.right
def encoded(logits, target, class_weights=None, mask=None, ignore_index=255):
    """one-hot target and einsum"""
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    hot = ((target[:, None] == classes) & (target != ignore_index)[:, None]).to(logits.dtype)
    if class_weights is not None:
        hot = hot * class_weights[:, None, None]
    if mask is not None:
        hot = hot * mask[:, None]
    total = hot.sum()
    surprise = logits.logsumexp(1, keepdim=True) - logits
    return torch.einsum("nlhw,nlhw->", hot, surprise) / (total + (total == 0))


@answers.right
def selected(logits, target, class_weights=None, mask=None, ignore_index=255):
    """valid pixels selected first"""
    keep = target != ignore_index
    rows, classes = logits.movedim(1, -1)[keep], target[keep].long()
    shifted = rows - rows.amax(1, keepdim=True).detach()
    wrong = shifted.exp().sum(1).log() - shifted[torch.arange(len(rows), device=rows.device), classes]
    weight = torch.ones_like(wrong)
    if class_weights is not None:
        weight = weight * class_weights[classes]
    if mask is not None:
        weight = weight * mask[keep]
    return (weight * wrong).sum() / weight.sum() if weight.sum() > 0 else (0 * wrong).sum()


EXERCISE = answers.exercise()
