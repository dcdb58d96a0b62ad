from contract import Contract


class TestOverlapTile(Contract):
    exercise_id = "overlap_tile"
