from contract import Contract


class TestReceptiveField(Contract):
    exercise_id = "receptive_field"
