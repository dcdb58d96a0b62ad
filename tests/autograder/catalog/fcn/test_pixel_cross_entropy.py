import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestPixelCrossEntropy(Contract):
    exercise_id = "pixel_cross_entropy"


def mean_of(loss, valid, true_class, class_weights, mask):
    weight = valid.to(loss.dtype)
    if class_weights is not None:
        weight = weight * class_weights[true_class]
    if mask is not None:
        weight = weight * mask
    total = weight.sum()
    return (weight * loss).sum() / total if total > 0 else (0 * loss).sum()


def gathered(logits, target, class_weights=None, mask=None, ignore_index=255):
    """Looks void up, and leaves it out rightly."""
    valid = target != ignore_index
    loss = -logits.log_softmax(1).gather(1, target.long()[:, None])[:, 0]
    return mean_of(loss, valid, target.long(), class_weights, mask)


def unaware(logits, target, class_weights=None, mask=None, ignore_index=255):
    loss = -logits.log_softmax(1).gather(1, target.long()[:, None])[:, 0]
    return mean_of(loss, torch.ones_like(loss), target.long(), class_weights, mask)


def indexed(logits, target, class_weights=None, mask=None, ignore_index=255):
    n, _, h, w = logits.shape
    at = torch.meshgrid(torch.arange(n), torch.arange(h), torch.arange(w), indexing="ij")
    loss = -logits.log_softmax(1)[at[0], target.long(), at[1], at[2]]
    return mean_of(loss, target != ignore_index, target.long(), class_weights, mask)


def weights_looked_up(logits, target, class_weights=None, mask=None, ignore_index=255):
    valid = target != ignore_index
    loss = -logits.log_softmax(1).gather(1, target.masked_fill(~valid, 0).long()[:, None])[:, 0]
    return mean_of(loss, valid, target.long(), class_weights, mask)


def zero_afterwards(logits, target, class_weights=None, mask=None, ignore_index=255):
    valid = target != ignore_index
    true_class = target.masked_fill(~valid, 0).long()
    weight = valid.to(logits.dtype)
    if class_weights is not None:
        weight = weight * class_weights[true_class]
    if mask is not None:
        weight = weight * mask
    loss = -logits.log_softmax(1).gather(1, true_class[:, None])[:, 0]
    return ((weight * loss).sum() / weight.sum()).nan_to_num()


def of_one_axis(logits, target, class_weights=None, mask=None, ignore_index=255):
    valid = target != ignore_index
    true_class = target.masked_fill(~valid, 0).long()
    loss = -logits.log_softmax(1).gather(1, true_class[:, None])[:, 0]
    return mean_of(loss, valid, true_class, class_weights, mask)[None].double()


def int64_only(logits, target, class_weights=None, mask=None, ignore_index=255):
    valid = target != ignore_index
    true_class = target.masked_fill(~valid, 0)
    loss = -logits.log_softmax(1).gather(1, true_class[:, None])[:, 0]
    return mean_of(loss, valid, true_class, class_weights, mask)


@pytest.mark.parametrize(
    ("answer", "lost", "names"),
    [
        (gathered, {"void", "ignore_index", "nothing"}, {"void_looked_up"}),
        (unaware, {"void", "ignore_index", "nothing"}, {"void_not_left_out"}),
        (indexed, {"void", "ignore_index", "nothing"}, {"void_indexed"}),
        (weights_looked_up, {"void"}, {"void_weights_looked_up"}),
        (zero_afterwards, {"nothing"}, {"gradient_of_nan"}),
        (of_one_axis, {"carries"}, set()),
        (int64_only, {"carries"}, {"int64_only"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_costs_its_own_claim_and_has_its_name(answer, lost, names):
    verdict = evaluate("pixel_cross_entropy", answer)
    assert {n for n, o in verdict.outcomes.items() if o is not Outcome.CORRECT} == lost
    assert {finding.name for finding in verdict.findings} == names


def test_a_loop_over_pixels_is_right():
    def looped(logits, target, class_weights=None, mask=None, ignore_index=255):
        above = below = 0 * logits.sum()
        for n, row, column in (target != ignore_index).nonzero().tolist():
            z, y = logits[n, :, row, column], int(target[n, row, column])
            weight = 1.0 if class_weights is None else class_weights[y]
            if mask is not None:
                weight = weight * mask[n, row, column]
            above, below = above + weight * (z.logsumexp(0) - z[y]), below + weight
        return above / below if below > 0 else above

    assert evaluate("pixel_cross_entropy", looped).correct
