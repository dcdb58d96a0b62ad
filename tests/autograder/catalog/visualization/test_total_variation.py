from contract import Contract


class TestTotalVariation(Contract):
    exercise_id = "total_variation"
