from contract import Contract


class TestDoubleConv(Contract):
    exercise_id = "DoubleConv"
