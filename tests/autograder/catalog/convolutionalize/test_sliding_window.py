from contract import Contract


class TestSlidingWindow(Contract):
    exercise_id = "sliding_window"
