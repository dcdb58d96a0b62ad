import torch
from contract import Contract

from autograder.catalog.unet.elastic_deformation import EXERCISE
from autograder.oracle.exam import Exam


class TestElasticDeformation(Contract):
    exercise_id = "elastic_deformation"

    def test_labels_read_exactly_between_two_pixels_are_nobodys_mistake(self):
        labels = EXERCISE.property("labels")
        for case in Exam(EXERCISE).cases(labels):
            image, given = case.args
            for read, shift in ((given, 0.5), (torch.zeros_like(given) + given[20, 20], 0.25)):
                moved = image.clone()
                moved[:2] += shift
                found = labels.judge(case, None, {"image": moved, "labels": read})
                # A quarter of a pixel away it is clear which label is the nearest.
                assert (found is None) == (shift == 0.5)
