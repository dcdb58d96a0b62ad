from contract import Contract


class TestLinearToConv(Contract):
    exercise_id = "linear_to_conv"
