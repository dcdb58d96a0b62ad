from contract import Contract


class TestStreamingStatistics(Contract):
    exercise_id = "streaming_statistics"
