import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate
from autograder.oracle.exam import Exam

VALUES = ("every_pixel", "any_size", "large_offset")


def kind(batch):
    return batch.dtype if batch.is_floating_point() else torch.float32


def by_images(batches):
    """What a well-known forum post does."""
    mean, std, images = 0.0, 0.0, 0
    for batch in batches:
        x = batch.to(kind(batch)).reshape(len(batch), batch.shape[1], -1)
        mean, std, images = mean + x.mean(2).sum(0), std + x.std(2).sum(0), images + len(batch)
    return mean / images, std / images


def mean_variance(batches):
    kept = [(b.double().mean((0, 2, 3)), b.double().var((0, 2, 3)), kind(b)) for b in batches]
    means, variances, kinds = zip(*kept, strict=True)
    return sum(means).div(len(means)).to(kinds[0]), sum(variances).div(len(means)).sqrt().to(kinds[0])


def chan(distance):
    def merged(batches):
        n, mean, spread = 0, 0.0, 0.0
        for batch in batches:
            pixels = batch.double().transpose(0, 1).flatten(1)
            k, own = pixels.shape[1], pixels.mean(1)
            old, mean = mean, mean + (own - mean) * k / (n + k)
            spread = spread + (pixels - own[:, None]).square().sum(1)
            spread = spread + distance(own, old, mean) ** 2 * n * k / (n + k)
            n += k
        return mean.to(kind(batch)), (spread / n).sqrt().to(kind(batch))

    return merged


def concatenated(batches):
    x = torch.cat(list(batches), 0)
    return x.double().mean((0, 2, 3)).to(kind(x)), x.double().std((0, 2, 3), correction=0).to(kind(x))


def weighed_by_images(batches):
    total, squares, n = 0.0, 0.0, 0
    for batch in batches:
        x = batch.double().mean((2, 3)), batch.double().square().mean((2, 3))
        total, squares, n = total + x[0].sum(0), squares + x[1].sum(0), n + len(batch)
    return (total / n).to(kind(batch)), (squares / n - (total / n) ** 2).clamp(0).sqrt().to(kind(batch))


class TestStreamingStatistics(Contract):
    exercise_id = "streaming_statistics"

    @pytest.mark.parametrize(
        ("name", "claims", "answer"),
        [
            ("average_over_images", (*VALUES, "bytes"), by_images),
            ("average_of_unbiased_variances", VALUES, mean_variance),
            ("merged_around_the_new_mean", VALUES, chan(lambda own, old, new: own - new)),
            ("concatenated", ("any_size",), concatenated),
            ("images_counted_not_pixels", ("any_size",), weighed_by_images),
        ],
    )
    def test_reported_mistakes_have_names(self, name, claims, answer):
        (finding,) = evaluate("streaming_statistics", answer).findings
        assert (finding.name, finding.claims) == (name, claims)

    def test_a_wrong_merge_keeps_the_points_of_form(self):
        verdict = evaluate("streaming_statistics", chan(lambda own, old, new: own - new))
        assert verdict.outcomes["kinds"] is Outcome.CORRECT

    def test_float32_for_float64_costs_the_kinds_alone(self):
        merged = chan(lambda own, old, new: own - old)
        assert evaluate("streaming_statistics", merged).correct
        verdict = evaluate("streaming_statistics", lambda batches: [v.float() for v in merged(batches)])
        assert verdict.points == 3.5
        assert verdict.diagnosis == "always_single"

    def test_every_exam_has_a_batch_of_one_image_and_one_of_one_pixel(self, exercise):
        cases = Exam(exercise).every()
        batches = {name: [b for c in cases[name] for b in c.args[0].items] for name in VALUES}
        assert any(len(batch) == 1 for batch in batches["every_pixel"])
        assert any(batch[:, 0].numel() == 1 for batch in batches["any_size"])
