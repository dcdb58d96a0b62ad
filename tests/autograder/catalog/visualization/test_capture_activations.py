from contract import Contract


class TestCaptureActivations(Contract):
    exercise_id = "capture_activations"
