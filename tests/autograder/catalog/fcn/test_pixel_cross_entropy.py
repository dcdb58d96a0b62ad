from contract import Contract


class TestPixelCrossEntropy(Contract):
    exercise_id = "pixel_cross_entropy"
