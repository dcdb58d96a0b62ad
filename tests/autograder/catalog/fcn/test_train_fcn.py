from contract import TrainingContract

from autograder.catalog.fcn.train_fcn import symptom
from autograder.exercise import Outcome
from autograder.oracle import evaluate
from coursekit.data.scenes import CLASSES
from coursekit.fcn import train_fcn


class TestTrainFcn(TrainingContract):
    exercise_id = "train_fcn"
    classes, margin = 6, 0

    def test_symptoms_are_told_apart(self):
        seen = {
            "score": 0.12,
            "of one class": 1.0,
            "on training images": 0.12,
            "on bytes": 0.12,
            "transposed": 0.12,
        }
        assert symptom(seen) == "one_class_everywhere"
        # Trained for a moment on bytes: there it tells classes apart, a little.
        assert symptom({**seen, "on bytes": 0.19}) == "trained_on_bytes"
        assert symptom({**seen, "of one class": 0.8, "on bytes": 0.19}) == "learned_too_little"
        assert symptom({**seen, "of one class": 0.8, "on training images": 0.5}) == "few_images"
        assert symptom({**seen, "score": 0.3, "of one class": 0.8, "on training images": 0.4}) == ""
        assert symptom({"shape": (20, 96, 96)}) == "classes_returned"
        assert symptom({"shape": (20, 6, 9216)}) == ""
        assert symptom({"shape": (20, 6, 12, 12)}) == "not_upsampled"

    def test_what_is_said_is_true_of_whoever_shows_it(self, exercise):
        told = {m.name: f"{m.mistake} {m.repair}" for m in exercise.misconceptions}
        assert "learning rate is too large" in told["one_class_everywhere"]
        assert "must hold" not in told["one_class_everywhere"]
        assert "drew nothing from the generator" in told["generator_ignored"]

    def test_an_answer_that_calls_the_reference_is_a_shortcut(self):
        class Small:
            """Few images, so that the shortcut is a short one."""

            classes = CLASSES

            def __init__(self, dataset):
                self.dataset = dataset
                self.name = dataset.name

            def __len__(self):
                return 4

            def __getitem__(self, index):
                return {name: value[..., :32, :32] for name, value in self.dataset[index].items()}

        def shortcut(dataset, generator):
            return train_fcn(Small(dataset), generator)

        verdict = evaluate("train_fcn", shortcut)
        assert verdict.outcome is Outcome.SHORTCUT
        assert "coursekit.fcn.train_fcn" in verdict.message
