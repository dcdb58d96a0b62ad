from contract import TrainingContract

from autograder.catalog.unet.train_unet import symptom


class TestTrainUnet(TrainingContract):
    exercise_id = "train_unet"
    classes, margin = 2, 40

    def test_symptoms_of_a_unet_that_merges_cells(self):
        seen = {
            "score": 0.4,
            "on bytes": 0.0,
            "swapped": 0.0,
            "foreground": 0.5,
            "pieces": 0.6,
            "right pixels": 0.9,
        }
        assert symptom(seen) == "cells_merged"
        assert symptom({**seen, "right pixels": 0.6, "score": 0.1}) == "learned_too_little"
        assert symptom({**seen, "pieces": 1.1}) == ""

    def test_what_is_told_of_a_generator_is_what_was_seen(self, exercise):
        (ignored,) = (m for m in exercise.misconceptions if m.name == "generator_ignored")
        # A fixed seed draws nothing from it either, and gives the same network each time.
        assert "another network" not in ignored.mistake
