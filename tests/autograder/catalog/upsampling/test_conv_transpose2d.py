from contract import Contract


class TestConvTranspose2d(Contract):
    exercise_id = "conv_transpose2d"
