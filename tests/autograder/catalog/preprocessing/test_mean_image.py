from contract import Contract


class TestMeanImage(Contract):
    exercise_id = "mean_image"
