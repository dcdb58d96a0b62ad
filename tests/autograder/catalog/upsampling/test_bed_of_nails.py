from contract import Contract


class TestBedOfNails(Contract):
    exercise_id = "bed_of_nails"
