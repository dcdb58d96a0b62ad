"""The exercise pixel_cross_entropy of lecture 06: one loss for every pixel that counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.observations import carries
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Forbidden, Hint, Misconception, Property, Variant
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
    n, classes, h, w = d.integer(2, 3), d.integer(3, 4), d.integer(2, 4), d.choice([5, 3, 6])
    logits = d.layout(d.tensor(n, classes, h, w, scale=scale))
    return logits, d.integers(n, h, w, low=0, high=classes - 1)


def _pitted(d: Draw, target: torch.Tensor, void: int) -> torch.Tensor:
    """A target with some void pixels, more of them in the first image."""
    holes = d.integers(*target.shape, low=0, high=4) == 0
    holes[0, :, :2] = True
    holes[1, 0, 0] = False
    return target.masked_fill(holes, void)


def _loss_case(
    *,
    void: bool = False,
    weights: bool = False,
    mask: bool = False,
    other_void: bool = False,
    scale: float = 1.0,
) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        logits, target = _maps(d, scale)
        given: dict[str, Any] = {}
        if void:
            target = _pitted(d, target, 255)
        if other_void:
            given["ignore_index"] = d.choice([-1, -100, 0, 7])
            target = _pitted(d, target, given["ignore_index"])
        if weights:
            given["class_weights"] = d.positive(logits.shape[1], low=0.2, high=3.0)
        if mask:
            half = d.integers(*target.shape, low=0, high=1).bool()
            half[:, 0, -1] = True
            half[:, -1, 0] = False
            # This one is never void, so something counts.
            half[1, 0, 0] = True
            given["mask"] = d.choice([half * d.positive(*target.shape, low=1.0, high=3.0), half])
        return Case((logits, target), given)

    return draw


def _no_pixel(d: Draw) -> Case:
    logits, target = _maps(d)
    given = d.choice(
        [
            {},
            {"mask": torch.zeros(target.shape, dtype=torch.bool)},
            {"mask": torch.zeros(target.shape, dtype=torch.float64)},
            {"class_weights": torch.zeros(logits.shape[1], dtype=torch.float64)},
        ]
    )
    return Case((logits, target if given else torch.full_like(target, 255)), given)


def _loss_gradient_case(d: Draw) -> Case:
    case = _loss_case(void=True, weights=True, mask=True)(d)
    # Floats in any case, and more than 1 together under the smallest class weights.
    return Case(case.args, {**case.kwargs, "mask": case.kwargs["mask"].double() * 8})


def _loss_gradients(subject: Subject, case: Case) -> Any:
    return subject.vjp(*case.args, wrt=[0, "class_weights", "mask"], **case.kwargs)["grads"]


def _with_gradient(subject: Subject, case: Case) -> Any:
    seen = subject.vjp(*case.args, wrt=[0], **case.kwargs)
    return {"loss": seen["value"], "gradient in logits": seen["grads"]}


def _light(d: Draw) -> Case:
    """Weights whose sum over the pixels is below 1."""
    logits, target = _loss_case(void=True)(d).args
    weights = d.positive(logits.shape[1], low=0.2, high=3.0) / 1000
    return Case((logits, target), {"class_weights": weights, "mask": d.positive(*target.shape)})


def _loss_single(d: Draw) -> Case:
    case = _loss_case(weights=True, void=True)(d)
    logits, target = case.args
    weights = case.kwargs["class_weights"]
    return Case((logits.float(), target), {"class_weights": weights.float()})


def _loss(
    logits, target, class_weights, mask, ignore_index, *, log_softmax=lambda x: x.log_softmax(1), void=None,
    count_void=False, over=None, guard=True,
):  # fmt: skip
    """The weighted mean with a seam at each step. `over` makes the divisor of weights, mask and validity."""
    void = ignore_index if void is None else void
    valid = target != void
    true_class = target.masked_fill(~valid, 0).long()
    loss = -log_softmax(logits).gather(1, true_class[:, None])[:, 0]
    valid = torch.ones_like(valid) if count_void else valid
    w = torch.ones_like(loss) if class_weights is None else class_weights[true_class]
    m = torch.ones_like(loss) if mask is None else mask.to(loss.dtype)
    total = (w * m * valid).sum() if over is None else over(w, m, valid.to(loss.dtype))
    mean = (w * m * valid * loss).sum()
    return mean / (torch.where(total > 0, total, 1) if guard else total)


def _loss_divided_by_all(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(
        logits, target, class_weights, mask, ignore_index, over=lambda w, m, v: w.new_tensor(w.numel())
    )


def _loss_divided_by_valid(logits, target, class_weights=None, mask=None, ignore_index=255):
    def over(w, m, v):
        return v.sum()

    return _loss(logits, target, class_weights, mask, ignore_index, over=over)


def _loss_weights_not_counted(logits, target, class_weights=None, mask=None, ignore_index=255):
    def over(w, m, v):
        return (m * v).sum()

    return _loss(logits, target, class_weights, mask, ignore_index, over=over)


def _loss_mask_not_counted(logits, target, class_weights=None, mask=None, ignore_index=255):
    def over(w, m, v):
        return (w * v).sum()

    return _loss(logits, target, class_weights, mask, ignore_index, over=over)


def _loss_void_as_class(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index, count_void=True)


def _loss_nan(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index, guard=False)


def _loss_at_least_one(logits, target, class_weights=None, mask=None, ignore_index=255):
    def over(w, m, v):
        return (w * m * v).sum().clamp(min=1)

    return _loss(logits, target, class_weights, mask, ignore_index, over=over)


def _loss_overwritten(logits, target, class_weights=None, mask=None, ignore_index=255):
    value = _loss(logits, target, class_weights, mask, ignore_index)
    target[target == ignore_index] = 0
    return value


def _loss_constant_zero(logits, target, class_weights=None, mask=None, ignore_index=255):
    value = _loss(logits, target, class_weights, mask, ignore_index, guard=False)
    return torch.tensor(0.0, device=logits.device) if bool(value.isnan()) else value


def _loss_of_gain(logits, target, class_weights=None, mask=None, ignore_index=255):
    return -_loss(logits, target, class_weights, mask, ignore_index)


def _loss_of_ones(logits, target, class_weights=None, mask=None, ignore_index=255):
    mask = None if mask is None else mask != 0
    return _loss(logits, target, class_weights, mask, ignore_index)


def _loss_weights_detached(logits, target, class_weights=None, mask=None, ignore_index=255):
    class_weights = None if class_weights is None else class_weights.detach()
    mask = None if mask is None else mask.detach()
    return _loss(logits, target, class_weights, mask, ignore_index)


def _loss_loose_zero(logits, target, class_weights=None, mask=None, ignore_index=255):
    value = _loss(logits, target, class_weights, mask, ignore_index, guard=False)
    return logits.new_zeros(()) if bool(value.isnan()) else value


def _loss_255(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index, void=255)


def _loss_log_of_softmax(logits, target, class_weights=None, mask=None, ignore_index=255):
    def log_softmax(x):
        return x.softmax(1).log()

    return _loss(logits, target, class_weights, mask, ignore_index, log_softmax=log_softmax)


def _loss_exp(logits, target, class_weights=None, mask=None, ignore_index=255):
    def log_softmax(x):
        return (x.exp() / x.exp().sum(1, keepdim=True)).log()

    return _loss(logits, target, class_weights, mask, ignore_index, log_softmax=log_softmax)


def _loss_epsilon(logits, target, class_weights=None, mask=None, ignore_index=255):
    def log_softmax(x):
        return (x.softmax(1) + 1e-12).log()

    return _loss(logits, target, class_weights, mask, ignore_index, log_softmax=log_softmax)


def _loss_wrong_axis(logits, target, class_weights=None, mask=None, ignore_index=255):
    def log_softmax(x):
        return x.log_softmax(-1)

    return _loss(logits, target, class_weights, mask, ignore_index, log_softmax=log_softmax)


def _loss_summed(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index, over=lambda w, m, v: w.new_ones(()))


def _loss_per_image(logits, target, class_weights=None, mask=None, ignore_index=255):
    images = [
        _loss(
            logits[i : i + 1],
            target[i : i + 1],
            class_weights,
            None if mask is None else mask[i : i + 1],
            ignore_index,
        )
        for i in range(len(logits))
    ]
    return torch.stack(images).mean()


def _loss_detached(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index).detach()


def _loss_double(logits, target, class_weights=None, mask=None, ignore_index=255):
    return _loss(logits, target, class_weights, mask, ignore_index).double()


def _loss_one_hot(logits, target, class_weights=None, mask=None, ignore_index=255):
    """Against a one-hot target, all weights in it."""
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    hot = ((target[:, None] == classes) & (target != ignore_index)[:, None]).to(logits.dtype)
    if class_weights is not None:
        hot = hot * class_weights[:, None, None]
    if mask is not None:
        hot = hot * mask[:, None]
    total = hot.sum()
    surprise = logits.logsumexp(1, keepdim=True) - logits
    return torch.einsum("nlhw,nlhw->", hot, surprise) / (total + (total == 0))


def _loss_selected(logits, target, class_weights=None, mask=None, ignore_index=255):
    """Only the pixels that count, as rows of a table."""
    keep = target != ignore_index
    rows, classes = logits.movedim(1, -1)[keep], target[keep]
    shifted = rows - rows.amax(1, keepdim=True).detach()
    wrong = shifted.exp().sum(1).log() - shifted[torch.arange(len(rows), device=rows.device), classes]
    weight = torch.ones_like(wrong)
    if class_weights is not None:
        weight = weight * class_weights[classes]
    if mask is not None:
        weight = weight * mask[keep]
    return (weight * wrong).sum() / weight.sum() if weight.sum() > 0 else (0 * wrong).sum()


COUNTING = ("void", "class_weights", "mask", "light", "gradients")

EXERCISE = Exercise(
    id="pixel_cross_entropy",
    topic="fcn",
    title="One loss for every pixel that counts",
    reference=reference.pixel_cross_entropy,
    minutes=20,
    difficulty=3,
    properties=(
        Property("plain", "the mean over all pixels of −log softmax at the true class", 1.0, _loss_case()),
        Property("void", "void pixels count neither above nor below", 0.5, _loss_case(void=True)),
        Property(
            "ignore_index",
            "the void label may be any integer, also the number of a class",
            0.25,
            _loss_case(other_void=True),
        ),
        Property(
            "class_weights",
            "class weights count in the sum and in the divisor",
            0.75,
            _loss_case(weights=True),
        ),
        Property("mask", "so does a mask of bools or of floats", 0.5, _loss_case(mask=True)),
        Property("light", "also where they sum to less than 1", 0.25, _light),
        Property(
            "nothing",
            "where nothing counts, the loss is 0 and so is its gradient",
            0.5,
            _no_pixel,
            _with_gradient,
        ),
        Property("stable", "large logits stay finite", 0.25, _loss_case(scale=1000.0), examples=4),
        Property(
            "gradients",
            "gradients reach the logits, the class weights and the mask",
            0.75,
            _loss_gradient_case,
            _loss_gradients,
            examples=5,
            tried="gradients with respect to logits, class_weights and mask",
        ),
        Property(
            "carries",
            "float32 stays float32, a scalar; nothing is modified in place",
            0.25,
            _loss_single,
            carries,
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "divided_by_all_pixels",
            "You divided by the number of all pixels, void ones included.",
            "Divide by the sum of the same weights that you multiplied with: Σ w·M over the valid pixels.",
            (*COUNTING, "ignore_index"),
            _loss_divided_by_all,
        ),
        Misconception(
            "divided_by_valid_pixels",
            "You divided by the number of valid pixels, without their weights.",
            "Divide by Σ w·M: a pixel of weight 3 counts as three pixels, below as well as above.",
            ("class_weights", "mask", "light", "gradients"),
            _loss_divided_by_valid,
        ),
        Misconception(
            "class_weights_not_in_the_divisor",
            "Your divisor holds the mask and not the class weights.",
            "Divide by Σ w·M, both of them.",
            ("class_weights", "light", "gradients"),
            _loss_weights_not_counted,
        ),
        Misconception(
            "mask_not_in_the_divisor",
            "Your divisor holds the class weights and not the mask.",
            "Divide by Σ w·M, both of them: a pixel that is masked out is not there.",
            ("mask", "light", "gradients"),
            _loss_mask_not_counted,
        ),
        Misconception(
            "averaged_per_image",
            "You averaged each image on its own and then over images.",
            "Sum over the whole batch above and below, and divide once: every pixel of the batch counts the same.",
            ("ignore_index", *COUNTING),
            _loss_per_image,
        ),
        Misconception(
            "void_counts_as_class_0",
            "Your void pixels count as pixels of class 0.",
            "A stand-in class is fine for looking up, if the weight of these pixels is then 0.",
            ("void", "ignore_index", "light", "nothing", "gradients"),
            _loss_void_as_class,
        ),
        Misconception(
            "void_is_always_255",
            "You compare with 255 instead of with ignore_index.",
            "valid = target != ignore_index.",
            ("ignore_index",),
            _loss_255,
        ),
        Misconception(
            "nan_where_nothing_counts",
            "Where no pixel counts, you divide 0 by 0.",
            "Divide by 1 there: torch.where(total > 0, total, 1). The sum above is 0 already.",
            ("nothing",),
            _loss_nan,
        ),
        Misconception(
            "divisor_at_least_one",
            "Your divisor never falls below 1: small weights make the loss small.",
            "Only 0 has to be avoided: torch.where(total > 0, total, 1).",
            ("light",),
            _loss_at_least_one,
        ),
        Misconception(
            "constant_zero",
            "Where no pixel counts you return a new 0, of another dtype and without a graph.",
            "Keep the sum, which is 0 and has a gradient of 0, and divide it by 1.",
            ("nothing",),
            _loss_constant_zero,
        ),
        Misconception(
            "zero_without_a_graph",
            "Where no pixel counts you return a constant, and backward() fails on it.",
            "Keep the sum, which is 0 and has a gradient of 0, and divide it by 1.",
            ("nothing",),
            _loss_loose_zero,
        ),
        Misconception(
            "log_of_softmax",
            "You took the logarithm of a softmax: for large logits it is the logarithm of 0.",
            "log_softmax does both at once and stays finite.",
            ("stable",),
            _loss_log_of_softmax,
        ),
        Misconception(
            "exponentials_overflow",
            "You exponentiated the logits: above 700 that is infinite.",
            "log_softmax subtracts the largest logit first.",
            ("stable",),
            _loss_exp,
        ),
        Misconception(
            "probabilities_lifted",
            "You added a small number to the probabilities, which caps the loss of confident mistakes.",
            "log_softmax needs no such help.",
            ("stable",),
            _loss_epsilon,
        ),
        Misconception(
            "softmax_over_columns",
            "Your softmax runs along the columns of the image.",
            "In (N, L, H, W) the classes are axis 1.",
            ("plain", "void", "ignore_index", "class_weights", "mask", "light", "stable", "gradients"),
            _loss_wrong_axis,
        ),
        Misconception(
            "sum_instead_of_mean",
            "You summed the losses and did not divide.",
            "Divide by Σ w·M.",
            ("plain", "void", "ignore_index", "class_weights", "mask", "light", "stable", "gradients"),
            _loss_summed,
        ),
        Misconception(
            "graph_cut",
            "No gradient comes through: the loss was detached.",
            "Leave detach(), item() and torch.no_grad() out.",
            ("nothing", "gradients"),
            _loss_detached,
        ),
        Misconception(
            "sign_forgotten",
            "Your loss has the wrong sign: a sure and right answer costs most.",
            "−log softmax: the logarithm of a probability is negative.",
            ("plain", "void", "ignore_index", "class_weights", "mask", "light", "stable", "gradients"),
            _loss_of_gain,
        ),
        Misconception(
            "mask_of_ones",
            "You took every mask value that is not 0 for 1.",
            "A mask of floats weighs: multiply by it.",
            ("mask", "light", "gradients"),
            _loss_of_ones,
        ),
        Misconception(
            "weights_detached",
            "No gradient reaches the class weights and the mask.",
            "Leave detach(), .data and torch.tensor(…) around them out.",
            ("gradients",),
            _loss_weights_detached,
        ),
        Misconception(
            "target_overwritten",
            "You wrote into target: the caller's void pixels are gone.",
            "Make a new map: target.masked_fill(void, 0), or torch.where.",
            ("carries",),
            _loss_overwritten,
        ),
        Misconception(
            "always_float64",
            "Your loss is float64 whatever the logits were.",
            "Give it the dtype of logits.",
            ("carries",),
            _loss_double,
        ),
    ),
    right=(
        Variant("one-hot target and einsum", _loss_one_hot),
        Variant("valid pixels selected first", _loss_selected),
    ),
    hints=(
        Hint(
            "Void pixels give an index error",
            "255 is no class to look up. Put class 0 in its place for looking up, and give these pixels the weight 0.",
        ),
        Hint(
            "My loss is too small or too large with weights",
            "What would the loss be if all pixels had the same ℓ? Exactly ℓ, whatever the weights are. What do you have to divide by?",
        ),
        Hint(
            "I don't know how to start",
            "ℓ = −logits.log_softmax(1).gather(1, true_class[:, None])[:, 0]; weight = valid, times class_weights[true_class], times mask; total = weight.sum(); return (weight·ℓ).sum() / torch.where(total > 0, total, 1).",
        ),
    ),
    forbidden=(CROSS_ENTROPY, NLL_LOSS),
)
