from contract import Contract


class TestUnetOutputSize(Contract):
    exercise_id = "unet_output_size"
