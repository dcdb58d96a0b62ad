from contract import Contract


class TestBatchnormBackward(Contract):
    exercise_id = "batchnorm_backward"
