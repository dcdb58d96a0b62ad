from contract import Contract


class TestMedianFrequencyWeights(Contract):
    exercise_id = "median_frequency_weights"
