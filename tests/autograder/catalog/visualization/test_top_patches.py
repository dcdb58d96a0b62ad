from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


def cut(activations, channel, k, field, image_size, order=None, clip=lambda v, n: min(max(v, 0), n)):
    size, jump, start = field
    maps = activations[:, channel]
    best = maps.amax((1, 2))
    order = best.argsort(descending=True)[:k] if order is None else order(best)
    patches = []
    for n in order.tolist():
        cell = divmod(int(maps[n].argmax()), maps.shape[2])
        top, left = (int(start + c * jump - (size - 1) / 2) for c in cell)
        (top, bottom), (left, right) = (
            [clip(edge, side) for edge in (first, first + size)]
            for first, side in zip((top, left), image_size, strict=True)
        )
        patches.append((n, top, left, bottom, right))
    return patches


def lost(verdict):
    return {name for name, outcome in verdict.outcomes.items() if outcome is not Outcome.CORRECT}


class TestTopPatches(Contract):
    exercise_id = "top_patches"

    def test_topk_of_more_images_than_there_are_is_named(self, exam):
        def top_patches(activations, channel, k, field, image_size):
            return cut(activations, channel, k, field, image_size, lambda best: best.topk(k).indices)

        verdict = evaluate("top_patches", top_patches, exam=exam)
        assert lost(verdict) == {"few_images"}
        assert verdict.diagnosis == "topk_of_too_many"

    def test_as_many_as_there_are_images_is_legal(self, exam):
        def top_patches(activations, channel, k, field, image_size):
            k = k - 1 if 1 < k == len(activations) else k
            return cut(activations, channel, k, field, image_size)

        assert lost(evaluate("top_patches", top_patches, exam=exam)) == {"order"}

    def test_a_field_larger_than_the_image_is_cut_at_both_ends(self, exam):
        def top_patches(activations, channel, k, field, image_size):
            n, top, left, bottom, right = cut(
                activations, channel, 1, field, image_size, clip=lambda v, n: v
            )[0]
            patches = cut(activations, channel, k, field, image_size)
            if top < 0 and bottom > image_size[0]:
                patches[0] = (n, 0, max(left, 0), bottom, min(right, image_size[1]))
            return patches

        assert lost(evaluate("top_patches", top_patches, exam=exam)) == {"clipped"}

    def test_the_first_column_by_column_is_named(self, exam):
        def top_patches(activations, channel, k, field, image_size):
            turned = activations.transpose(2, 3)
            patches = cut(turned, channel, k, field, image_size[::-1])
            return [(n, left_, top_, right_, bottom_) for n, top_, left_, bottom_, right_ in patches]

        verdict = evaluate("top_patches", top_patches, exam=exam)
        assert lost(verdict) == {"ties"}
        assert verdict.diagnosis == "column_order"

    def test_where_all_are_negative_cutting_them_off_is_told_truly(self, exam):
        def top_patches(activations, channel, k, field, image_size):
            return cut(activations.clamp(min=0), channel, k, field, image_size)

        verdict = evaluate("top_patches", top_patches, exam=exam)
        assert lost(verdict) == {"negative"}
        assert "clamp" in verdict.findings[0].mistake

    def test_swapped_sides_of_the_image_are_seen_at_its_border_in_every_exam(self):
        def ends_alone(activations, channel, k, field, image_size):
            patches = cut(activations, channel, k, field, image_size, clip=lambda v, n: max(v, 0))
            return [
                (n, t, left, min(b, image_size[1]), min(r, image_size[0])) for n, t, left, b, r in patches
            ]

        def both_ends(activations, channel, k, field, image_size):
            return cut(activations, channel, k, field, image_size[::-1])

        for seed in range(3):
            for answer in (ends_alone, both_ends):
                verdict = evaluate("top_patches", answer, seed=seed)
                assert (lost(verdict), verdict.diagnosis) == ({"clipped"}, "image_size_swapped")

    def test_boxes_go_beyond_the_shorter_and_the_longer_side_in_every_exam(self):
        for side in (min, max):

            def top_patches(activations, channel, k, field, image_size, side=side):
                return cut(activations, channel, k, field, (side(image_size),) * 2)

            for seed in range(3):
                assert "clipped" in lost(evaluate("top_patches", top_patches, seed=seed))

    def test_images_of_equal_activation_all_count_in_every_exam_in_whatever_order(self):
        def first_of_equals(activations, channel, k, field, image_size):
            found = {}
            for patch in cut(activations, channel, len(activations), field, image_size):
                found.setdefault(float(activations[patch[0], channel].max()), patch)
            return list(found.values())[:k]

        def the_last_image_first(activations, channel, k, field, image_size):
            patches = cut(activations.flip(0), channel, k, field, image_size)
            return [(len(activations) - 1 - n, *box) for n, *box in patches]

        for seed in range(3):
            verdict = evaluate("top_patches", first_of_equals, seed=seed)
            assert lost(verdict) == {"order", "few_images"}
            assert evaluate("top_patches", the_last_image_first, seed=seed).correct
