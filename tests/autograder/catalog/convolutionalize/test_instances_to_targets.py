from contract import Contract


class TestInstancesToTargets(Contract):
    exercise_id = "instances_to_targets"
