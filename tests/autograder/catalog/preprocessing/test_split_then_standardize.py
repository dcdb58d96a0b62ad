from contract import Contract


class TestSplitThenStandardize(Contract):
    exercise_id = "split_then_standardize"
