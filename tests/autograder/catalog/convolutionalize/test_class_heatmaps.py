from contract import Contract


class TestClassHeatmaps(Contract):
    exercise_id = "class_heatmaps"
