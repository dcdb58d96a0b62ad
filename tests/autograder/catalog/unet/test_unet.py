from contract import Contract


class TestUNet(Contract):
    exercise_id = "UNet"
