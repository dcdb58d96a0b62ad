from contract import Contract


class TestMaxUnpool(Contract):
    exercise_id = "max_unpool"
