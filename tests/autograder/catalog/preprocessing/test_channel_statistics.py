from contract import Contract


class TestChannelStatistics(Contract):
    exercise_id = "channel_statistics"
