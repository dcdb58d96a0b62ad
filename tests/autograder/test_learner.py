"""What a notebook cell calls: at the prompt, in a notebook, and while a class is graded."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from autograder import catalog, check, example, hint, learner, progress
from autograder.attempt import Attempt
from autograder.exercise import Outcome
from autograder.oracle import evaluate

EXERCISE = catalog.find("batchnorm_forward")
RIGHT = EXERCISE.right[0].answer
WRONG = EXERCISE.misconception("unbiased_variance").answer
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def session(monkeypatch):
    """A session in which nothing has been checked or asked."""
    monkeypatch.setattr(learner, "_verdicts", {})
    monkeypatch.setattr(learner, "_hints", {})
    monkeypatch.delenv(learner.SOCKET, raising=False)


@pytest.fixture
def no_shell(monkeypatch):
    monkeypatch.setattr(learner, "_shell", lambda: None)


# -- at the prompt ------------------------------------------------------------------------------------------


def test_a_check_returns_the_verdict_and_prints_it(no_shell, capsys):
    verdict = check("batchnorm_forward", WRONG, seed=3)
    shown = capsys.readouterr().out
    assert verdict.diagnosis == "unbiased_variance"
    assert "unbiased variance" in shown
    assert "3" in shown


def test_a_check_looks_the_name_up_where_it_is_called(no_shell, capsys):
    namespace = {"check": check, "batchnorm_forward": RIGHT}
    exec("verdict = check('batchnorm_forward', seed=1)", namespace)
    assert namespace["verdict"].correct
    del namespace["batchnorm_forward"]
    exec("verdict = check('batchnorm_forward', seed=1)", namespace)
    assert namespace["verdict"].outcome is Outcome.NOT_ATTEMPTED
    assert "Not attempted" in capsys.readouterr().out


def test_the_input_that_a_check_shows_can_be_had_as_objects(no_shell, capsys):
    check("batchnorm_forward", WRONG, seed=3)
    shown = capsys.readouterr().out
    assert 'example("batchnorm_forward", seed=3)' in shown
    found = example("batchnorm_forward", WRONG, seed=3)
    assert not torch.allclose(WRONG(*found.args, **found.kwargs), RIGHT(*found.args, **found.kwargs))
    assert torch.allclose(found.expected, RIGHT(*found.args, **found.kwargs))
    assert torch.allclose(found.got, WRONG(*found.args, **found.kwargs))
    # What is shown can be typed in again.
    (line,) = [t for t in check("batchnorm_forward", WRONG, seed=3).results[0].tried if t.startswith("x = ")]
    typed = eval(line.removeprefix("x = "), {"torch": torch})
    torch.testing.assert_close(typed, found.args[0], rtol=1e-15, atol=0)


def test_an_answer_that_no_check_fails_has_no_example(no_shell, capsys):
    assert example("batchnorm_forward", RIGHT, seed=3) is None
    assert "No check of batchnorm_forward fails" in capsys.readouterr().out


def test_the_input_of_a_training_is_its_data_set():
    dataset, generator = example("train_unet", None, seed=3).args
    assert len(dataset) > 10
    assert isinstance(generator, torch.Generator)


def test_a_graded_notebook_has_no_examples(monkeypatch, tmp_path):
    monkeypatch.setenv(learner.SOCKET, str(tmp_path / "s"))
    assert example("batchnorm_forward", WRONG) is None


@pytest.mark.parametrize("call", [check, example, hint])
def test_an_unknown_exercise_is_a_value_error(call):
    with pytest.raises(ValueError, match="batchnorm_forward"):
        call("batchnorm")


def test_hints_come_one_by_one_and_the_last_one_stays(capsys):
    for number in (1, 2, 3, 3):
        hint("batchnorm_forward")
        shown = capsys.readouterr().out
        assert shown.startswith(f"Hint {number} of 3")
        assert EXERCISE.hints[number - 1].help in shown
    hint("batchnorm_forward", 1)
    assert EXERCISE.hints[0].help in capsys.readouterr().out
    hint("batchnorm_backward")
    assert catalog.find("batchnorm_backward").hints[0].help in capsys.readouterr().out


@pytest.mark.parametrize("number", [0, 4, -1])
def test_a_hint_that_does_not_exist_is_a_value_error(number):
    with pytest.raises(ValueError, match=f"1 to 3, got {number}"):
        hint("batchnorm_forward", number)


def test_hints_and_progress_are_silent_where_a_class_is_graded(monkeypatch, capsys):
    monkeypatch.setenv(learner.SOCKET, "/nowhere")
    monkeypatch.setitem(sys.modules, "autograder.catalog", None)  # out of reach behind walls
    hint("batchnorm_forward")
    progress()
    assert example("batchnorm_forward") is None
    assert capsys.readouterr().out == ""


def test_progress_adds_up(no_shell, capsys):
    progress()
    assert "Nothing has been checked yet" in capsys.readouterr().out
    check("batchnorm_forward", WRONG, seed=1)
    check("group_norm", catalog.find("group_norm").right[0].answer, seed=1)
    check("batchnorm_forward", RIGHT, seed=1)
    capsys.readouterr()
    progress()
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "4 of 4" in lines["batchnorm_forward"]
    assert "3 of 3" in lines["group_norm"]
    assert "not checked yet" in lines["BatchNorm"]
    assert f"7 of {sum(e.points for e in catalog.topic('batchnorm')):g}" in lines["together"]
    assert "streaming_statistics" not in lines


# -- in a notebook ------------------------------------------------------------------------------------------


@pytest.fixture
def shell():
    shell = InteractiveShell.instance()
    yield shell
    InteractiveShell.clear_instance()


def run(shell, code, capsys):
    """Run a cell and give what it showed; fails where the cell failed."""
    done = shell.run_cell(textwrap.dedent(code), store_history=True)
    done.raise_error()
    return done.result, capsys.readouterr().out


def test_a_cell_shows_its_verdict_and_has_no_value(shell, capsys):
    value, shown = run(
        shell,
        """
        from autograder import check
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            return x.var()
        check("batchnorm_forward", seed=1)
        """,
        capsys,
    )
    assert value is None
    assert "expected shape" in shown


def test_a_name_that_is_missing_is_no_name_error(shell, capsys):
    shell.reset()
    _, shown = run(shell, "from autograder import check\ncheck('BatchNorm')", capsys)
    assert "Not attempted" in shown


def test_the_feedback_is_html_and_text(shell, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append((data, raw)))
    run(shell, "from autograder import check\ncheck('BatchNorm')", capsys)
    ((data, raw),) = shown
    assert raw
    assert set(data) == {"text/html", "text/plain"}
    assert data["text/html"].lstrip().startswith("<")


def test_a_redefined_function_is_the_one_that_is_checked(shell, capsys):
    shell.user_ns["answer"] = RIGHT
    _, first = run(shell, "batchnorm_forward = lambda *a: a[0]\nfrom autograder import check\ncheck('batchnorm_forward')", capsys)  # fmt: skip
    _, second = run(shell, "batchnorm_forward = answer\ncheck('batchnorm_forward')", capsys)
    assert "Correct" not in first
    assert "Correct" in second


def test_a_copy_typed_into_a_cell_is_seen(shell, capsys):
    source = (ROOT / "coursekit" / "batchnorm.py").read_text(encoding="utf-8")
    run(shell, source, capsys)
    _, shown = run(shell, "from autograder import check\ncheck('batchnorm_backward')", capsys)
    assert "Shortcut" in shown


# -- while a class is graded --------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [RIGHT, WRONG, None], ids=["right", "wrong", "missing"])
def test_through_a_socket_the_verdict_is_the_same_and_nothing_is_shown(tmp_path, monkeypatch, capsys, answer):
    namespace = {} if answer is None else {"batchnorm_forward": answer}
    expected = evaluate("batchnorm_forward", namespace, seed=9)
    path = str(tmp_path / "oracle.sock")
    verdicts = []

    def judge(server):
        connection, _ = server.accept()
        with connection:
            verdicts.append(
                evaluate("batchnorm_forward", Attempt.remote(connection, "batchnorm_forward"), seed=9)
            )

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        oracle = threading.Thread(target=judge, args=(server,))
        oracle.start()
        monkeypatch.setenv(learner.SOCKET, path)
        assert eval("check('batchnorm_forward')", namespace | {"check": check}) is None
        oracle.join()
    assert capsys.readouterr() == ("", "")
    (verdict,) = verdicts
    assert (verdict.results, verdict.diagnosis, verdict.points) == (
        expected.results,
        expected.diagnosis,
        expected.points,
    )
    assert learner._verdicts == {}


def test_a_process_that_only_answers_is_judged_from_here(tmp_path):
    """The learner's half in another process, as it is in the sandbox."""
    path = str(tmp_path / "oracle.sock")
    program = """
        from torch import nn
        from autograder import check
        class BatchNorm(nn.Module):
            def __init__(self, num_features, eps=1e-5, momentum=0.1):
                super().__init__()
                raise NotImplementedError
        check("BatchNorm")
        print("done")
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(60)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
            env=os.environ | {learner.SOCKET: path, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        connection, _ = server.accept()
        with connection:
            verdict = evaluate("BatchNorm", Attempt.remote(connection, "BatchNorm", grace=30.0), seed=1)
        output, _ = process.communicate(timeout=60)
    assert verdict.outcome is Outcome.NOT_ATTEMPTED
    assert process.returncode == 0
    assert output == "done\n"


def test_an_answer_that_is_handed_over_is_checked_here_even_then(no_shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(learner.SOCKET, str(tmp_path / "nobody"))
    assert check("batchnorm_forward", RIGHT, seed=1).correct
