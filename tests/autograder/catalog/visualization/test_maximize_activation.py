from contract import Contract


class TestMaximizeActivation(Contract):
    exercise_id = "maximize_activation"
