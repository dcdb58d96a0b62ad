from contract import Contract


class TestGroupNorm(Contract):
    exercise_id = "group_norm"
