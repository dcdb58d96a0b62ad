from contract import TrainingContract

from autograder.exercise import Outcome
from autograder.oracle import evaluate
from coursekit.data.scenes import CLASSES
from coursekit.fcn import train_fcn


class TestTrainFcn(TrainingContract):
    exercise_id = "train_fcn"
    classes, margin = 6, 0

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
