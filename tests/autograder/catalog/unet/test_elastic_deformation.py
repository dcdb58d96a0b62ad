from contract import Contract


class TestElasticDeformation(Contract):
    exercise_id = "elastic_deformation"
