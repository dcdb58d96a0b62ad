from contract import Contract


class TestConfusionMatrix(Contract):
    exercise_id = "confusion_matrix"
