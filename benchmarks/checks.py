"""What checks cost beside the learner's own calls, in seconds of processor time."""

import statistics
import time
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

from jupyter_client.manager import KernelManager

from autograder import catalog, feedback
from autograder.agent import serve
from autograder.exercise import Training
from autograder.oracle import evaluate
from autograder.oracle.exam import Exam
from benchmarks.measure import Row

SLOWEST = 3
AT_HOME = ("batchnorm_forward", "BatchNorm", "batchnorm_backward", "fold_batchnorm", "group_norm")


def checks() -> Iterator[Row]:
    exams = [Exam(exercise) for exercise in catalog.every() if not isinstance(exercise, Training)]
    yield from exam_taken(exams)
    yield from wrong_answer(exams)
    yield from check_at_home()


def exam_taken(exams: list[Exam]) -> Iterator[Row]:
    """Right answers that sit an exam that is ready; beside it the answers' own calls, in the same run."""
    whole, own, drawing = [], [], 0.0
    for exam in exams:
        answer = exam.exercise.right[0].answer
        start = time.process_time()
        exam.every()
        drawing += time.process_time() - start
        _taken(exam, answer)
        taken = min((_taken(exam, answer) for _ in range(3)), key=lambda pair: pair[0])
        whole.append(taken[0])
        own.append(taken[1])
    ranked = sorted(range(len(exams)), key=lambda i: -whole[i])
    fourth = ranked[SLOWEST]
    slowest = ", ".join(f"{exams[i].exercise.id} {whole[i]:.3f}" for i in ranked[: SLOWEST + 1])
    print(f"  the slowest: {slowest} s; all {sum(whole):.2f} s, the answers' own calls {sum(own):.2f} s")
    yield _within("exam_taken", whole[fourth], own[fourth], 0.06)
    yield Row("exam drawn", drawing, sum(whole), drawing / sum(whole), "s", "told", True)


def _taken(exam: Exam, answer: Any) -> tuple[float, float]:
    """Processor time of a check, and of the answer's own calls in it."""
    own = 0.0
    call: Callable[..., Any] = serve._compiled_late

    def timed(*arguments: Any) -> Any:
        nonlocal own
        start = time.process_time()
        try:
            return call(*arguments)
        finally:
            own += time.process_time() - start

    with unittest.mock.patch.object(serve, "_compiled_late", timed):
        start = time.process_time()
        verdict = evaluate(exam.exercise.id, answer, exam=exam, devices=("cpu",))
        taken = time.process_time() - start
    assert verdict.correct, verdict.outcomes
    return taken, own


def wrong_answer(exams: list[Exam]) -> Iterator[Row]:
    """Every mistake of the catalogue, its name, its smallest input and its feedback included."""
    taken = []
    for exam in exams:
        for wrong in exam.exercise.misconceptions:
            answer = wrong.answer
            start = time.process_time()
            feedback.html(evaluate(exam.exercise.id, answer, exam=exam, devices=("cpu",)))
            taken.append((time.process_time() - start, f"{exam.exercise.id}, {wrong.name}"))
    worst, name = max(taken)
    print(f"  the worst of {len(taken)}: {name}")
    yield _within("wrong_answer", statistics.median(t for t, _ in taken), 0.4, 0.4)
    yield _within("wrong_answer, worst", worst, 3, 3)


def check_at_home() -> Iterator[Row]:
    """From a check's cell to its feedback in a kernel of its own: the clock's time, as a learner waits."""
    kernel = KernelManager()
    kernel.start_kernel()
    client = kernel.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        _run(client, "import torch\nfrom autograder import check, example, hint, progress")
        taken = []
        for name in AT_HOME:
            code = catalog.find(name).right[0].code
            _run(client, code.text())
            for _ in range(4):
                start = time.perf_counter()
                _run(client, f"check({name!r})")
                taken.append(time.perf_counter() - start)
        yield _within("check_at_home", statistics.median(taken), 0.2, 0.2)
        yield _within("the first check", taken[0], 1.0, 1.0)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


def _run(client: Any, code: str) -> None:
    reply = client.execute_interactive(code, timeout=300, output_hook=lambda message: None)
    assert reply["content"]["status"] == "ok", reply["content"]


def _within(name: str, ours: float, peer: float, bound: float) -> Row:
    return Row(name, ours, peer, ours / bound, "s", f"≤ {bound:g} s", ours <= bound)
