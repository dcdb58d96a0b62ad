from contract import Contract


class TestAtrous(Contract):
    exercise_id = "atrous"
