import pytest

from autograder import catalog
from autograder.catalog.preprocessing import ORDER
from autograder.oracle.arguments import SCREEN, _numbers, named
from autograder.oracle.exam import Exam


@pytest.mark.parametrize("exercise_id", ORDER)
def test_every_input_fits_on_a_screen(exercise_id):
    exercise = catalog.find(exercise_id)
    for cases in Exam(exercise).every().values():
        for case in cases:
            assert sum(map(_numbers, named(exercise, case).values())) <= SCREEN
