from contract import Contract


class TestBatchNorm(Contract):
    exercise_id = "BatchNorm"
