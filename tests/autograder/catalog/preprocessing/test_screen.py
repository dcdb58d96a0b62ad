import pytest

from autograder import catalog
from autograder.catalog.preprocessing import ORDER
from autograder.oracle import arguments
from autograder.oracle.exam import Exam


@pytest.mark.parametrize("exercise_id", ORDER)
def test_every_input_fits_on_a_screen(exercise_id):
    exercise = catalog.find(exercise_id)
    for cases in Exam(exercise).every().values():
        for case in cases:
            assert arguments.statements(exercise, case)
