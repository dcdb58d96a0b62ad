from contract import Contract


class TestMaxPoolWithSwitches(Contract):
    exercise_id = "max_pool_with_switches"
