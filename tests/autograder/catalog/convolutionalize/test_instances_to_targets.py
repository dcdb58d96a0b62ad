import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate

HOLDS = (Outcome.CORRECT, Outcome.WAITING)


def lost(verdict):
    return {name for name, outcome in verdict.outcomes.items() if outcome not in HOLDS}


def targets(instances, classes):
    ids = sorted(set(instances.flatten().tolist()) - {0})
    masks = torch.stack([instances == i for i in [0, *ids]])[1:]
    semantic = torch.zeros(instances.shape, dtype=torch.int64)
    boxes = torch.zeros(len(ids), 5, dtype=torch.int64)
    for box, mask, i in zip(boxes, masks, ids, strict=True):
        semantic[mask] = classes[i]
        y, x = mask.nonzero().T
        box[:] = torch.tensor([x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1, classes[i]])
    return {"labels": {classes[i] for i in ids}, "semantic": semantic, "boxes": boxes, "masks": masks}


def with_one(part, make):
    def answer(instances, classes):
        found = targets(instances, classes)
        return {**found, part: make(found[part])}

    return answer


class TestInstancesToTargets(Contract):
    exercise_id = "instances_to_targets"

    def test_a_slip_in_one_entry_costs_that_entry(self):
        assert lost(evaluate("instances_to_targets", targets)) == set()
        assert lost(evaluate("instances_to_targets", with_one("masks", torch.Tensor.byte))) == {"dtype"}
        assert lost(evaluate("instances_to_targets", with_one("masks", torch.Tensor.numpy))) == {"masks"}
        assert lost(evaluate("instances_to_targets", with_one("labels", sorted))) == {"labels"}
        cut = with_one("boxes", lambda boxes: boxes - torch.tensor([0, 0, 1, 1, 0]))
        verdict = evaluate("instances_to_targets", cut)
        assert (lost(verdict), verdict.diagnosis) == ({"boxes"}, "extent_without_the_last_pixel")

    def test_the_dictionary_is_looked_at_too(self):
        def extended(instances, classes):
            classes[0] = 0
            return targets(instances, classes)

        verdict = evaluate("instances_to_targets", extended)
        assert (lost(verdict), verdict.diagnosis) == ({"unchanged"}, "classes_extended")

    def test_an_object_of_one_pixel_comes_in_every_exam(self):
        def larger_ones_only(instances, classes):
            found = targets(instances, classes)
            assert all(mask.sum() > 1 for mask in found["masks"])
            return found

        for seed in range(3):
            assert "boxes" in lost(evaluate("instances_to_targets", larger_ones_only, seed=seed))
