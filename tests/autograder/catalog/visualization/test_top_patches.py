from contract import Contract


class TestTopPatches(Contract):
    exercise_id = "top_patches"
