from contract import Contract


class TestCellToBox(Contract):
    exercise_id = "cell_to_box"
