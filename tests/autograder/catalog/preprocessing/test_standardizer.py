from contract import Contract


class TestStandardizer(Contract):
    exercise_id = "Standardizer"
