from contract import Contract


class TestFilterGrid(Contract):
    exercise_id = "filter_grid"
