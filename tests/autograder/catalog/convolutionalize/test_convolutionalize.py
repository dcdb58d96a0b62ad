from contract import Contract


class TestConvolutionalize(Contract):
    exercise_id = "convolutionalize"
