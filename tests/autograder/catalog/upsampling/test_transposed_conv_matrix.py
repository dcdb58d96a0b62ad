from contract import Contract


class TestTransposedConvMatrix(Contract):
    exercise_id = "transposed_conv_matrix"
