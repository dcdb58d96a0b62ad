from contract import Contract


class TestShiftAndStitch(Contract):
    exercise_id = "shift_and_stitch"
