from contract import Contract


class TestBilinearKernel(Contract):
    exercise_id = "bilinear_kernel"
