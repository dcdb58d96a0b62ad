from contract import Contract


class TestUnetWeightMap(Contract):
    exercise_id = "unet_weight_map"
