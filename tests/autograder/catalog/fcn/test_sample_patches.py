from contract import Contract


class TestSamplePatches(Contract):
    exercise_id = "sample_patches"
