from contract import Contract


class TestCropAndConcat(Contract):
    exercise_id = "crop_and_concat"
