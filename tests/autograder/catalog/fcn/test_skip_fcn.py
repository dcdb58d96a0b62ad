from contract import Contract


class TestSkipFCN(Contract):
    exercise_id = "SkipFCN"
