from contract import Contract


class TestSegmentationScores(Contract):
    exercise_id = "segmentation_scores"
