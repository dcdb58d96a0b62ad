from contract import Contract


class TestZcaWhiten(Contract):
    exercise_id = "zca_whiten"
