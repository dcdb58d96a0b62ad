"""The ``autograder`` command."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autograder import lean

if TYPE_CHECKING:
    from rich.console import Console


class OutputFile(click.Path):
    """A file to write, refused before any work is done where it cannot be written."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, writable=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent}", param, ctx)
        if not os.access(path.parent, os.W_OK):
            self.fail(f"nothing can be written into {path.parent}", param, ctx)
        return path


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Build the lectures, look after submissions, grade a class."""
    lean.without_grammars()
    # nbgrader calls `alembic` by name; it lies beside this interpreter even where no environment is active.
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = beside + os.pathsep + os.environ.get("PATH", "")


@main.command()
@click.argument("topics", nargs=-1)
@click.option("--check", "checking", is_flag=True, help="Write nothing; fail on drift, leaks and slips.")
@click.option("--root", type=click.Path(path_type=Path, file_okay=False, exists=True), default=".",
              show_default="the current folder", help="The repository.")  # fmt: skip
def build(topics: tuple[str, ...], checking: bool, root: Path) -> None:
    """Build the notebooks of TOPICS (all when left out) from solutions/NN_topic.py."""
    from autograder import authoring

    if checking:
        for warning in authoring.warnings(root):
            click.echo(f"Warning: {warning}.", err=True)
        problems = authoring.check(root, topics or None)
        for problem in problems:
            click.echo(problem)
        if problems:
            raise click.ClickException(f"{len(problems)} problem{'s' * (len(problems) != 1)}")
        click.echo("Every notebook is what its source builds.")
        return
    try:
        found = authoring.sources(root, topics or None)
        for source in found:
            for path in authoring.build(root, [source.assignment]):
                click.echo(path.relative_to(root.resolve()))
    except (authoring.AuthoringError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if not found:
        raise click.ClickException(f"no lecture sources (solutions/NN_topic.py) in {root.resolve()}")


@main.command()
@click.argument("notebook", type=click.Path(path_type=Path))
@click.option("--fix", "out", type=OutputFile(), help="Write the repaired notebook.")
@click.option("--release", type=click.Path(path_type=Path, dir_okay=False),
              help="The notebook as handed out; found under lectures/ by its name when left out.")  # fmt: skip
def doctor(notebook: Path, out: Path | None, release: Path | None) -> None:
    """Examine NOTEBOOK before it is handed in; exit status 1 if something needs repair.

    What belongs to the course is put back from the release; your own code is never changed.
    """
    import nbformat

    from autograder import doctor

    if not notebook.is_file():
        raise click.ClickException(f"there is no file {notebook}")
    release = release or _release_of(notebook)
    if not release.is_file():
        raise click.ClickException(f"there is no release {release}")
    try:
        repaired, report = doctor.repair(notebook, release)
    except doctor.Unreadable as error:
        raise click.ClickException(str(error)) from None
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise click.ClickException(f"the release {release} cannot be read: {error}") from None
    doctor.look_beside(notebook, repaired, report)
    for finding in report.findings:
        click.echo(f"- {finding.says}")
    if not report.needs_repair:
        click.echo(f"{notebook.name} is ready to be handed in.")
    if out is not None:
        out.write_text(doctor.written(repaired), encoding="utf-8", newline="\n")
        click.echo(f"The repaired notebook is {out}.")
    elif report.needs_repair:
        click.echo("To write the repaired notebook: autograder doctor NOTEBOOK --fix OUT")
    sys.exit(1 if report.needs_repair else 0)


@main.command()
@click.argument("exercises", nargs=-1)
@click.option("--json", "out", type=OutputFile(), help="Write the rows as JSON.")
@click.option("--seed", type=int, help="Draw these inputs instead of fresh ones.")
@click.option("--local", is_flag=True, help="Leave out the second run, through the wire.")
@click.option("--chances", is_flag=False, flag_value=40, type=click.IntRange(min=1), metavar="[N]",
              help="Instead, sit N exams (40) and tell whose points differ between two of them.")  # fmt: skip
def gate(
    exercises: tuple[str, ...], out: Path | None, seed: int | None, local: bool, chances: int | None
) -> None:
    """Send reference, right variants and misconceptions of EXERCISES (all when left out) through every check.

    Exit status 1 unless references and right variants get full points, every misconception fails exactly
    what it declares and is diagnosed as itself, and the wire gives the same verdicts.

    With --chances, exit status 1 where an exam passes a mistake, or fails an answer that is right there.
    Exercises that train a network are left out.
    """
    import json

    from autograder import catalog, gate
    from autograder.exercise import Training

    try:
        chosen = [catalog.find(name) for name in exercises] or list(catalog.every())
    except ValueError as error:
        raise click.ClickException(str(error)) from None

    if chances is not None:
        if out is not None or local:
            raise click.UsageError("--chances goes neither with --json nor with --local")
        likely = False
        for exercise in chosen:
            if isinstance(exercise, Training):
                continue
            found = gate.luck(exercise, chances, seed or 0)
            click.echo(f"{exercise.id:<24} {'ok' if not found else 'by luck:'}")
            for answer, prop, declared, seeds in found:
                click.echo(
                    f"    {prop} {'passes' if declared else 'fails'} {answer} in {len(seeds)} of {chances} exams: "
                    f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds[:5]))}"
                )
            likely |= bool(found)
        sys.exit(1 if likely else 0)

    def tell(row: dict) -> None:
        right, wrong = len(row["right"]), len(row["misconceptions"])
        verdict = "ok" if not row["problems"] else "NOT OK"
        click.echo(f"{row['exercise']:<24} {right} right variants, {wrong:>2} misconceptions: {verdict}")
        for problem in row["problems"]:
            click.echo(f"    {problem}")

    rows = gate.run(chosen, wire=not local, seed=seed, after=tell)
    median, longest = gate.overhead(rows)
    click.echo(
        f"a check takes {median:.2f} s beside the learner's own time (median), {longest:.2f} s at most"
    )
    typed, wrong = gate.shown(rows)
    click.echo(
        f"an input that fits on a screen and can be retyped is shown to {typed} of {wrong} wrong answers"
    )
    if out is not None:
        out.write_text(
            json.dumps(gate.published(rows), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    if any(row["problems"] for row in rows):
        sys.exit(1)


@main.command()
@click.argument("exercise_id", metavar="EXERCISE")
@click.argument("mistakes", metavar="[MISTAKE]...", nargs=-1)
def show(exercise_id: str, mistakes: tuple[str, ...]) -> None:
    """Print a right answer to EXERCISE, and each MISTAKE (all when left out) as what it changes of one.

    What a learner is told stands above the change, the properties that fail below it.
    """
    from autograder import catalog
    from autograder.catalog.differences import difference

    try:
        exercise = catalog.find(exercise_id)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    known = {m.name: m for m in exercise.misconceptions}
    if unknown := [name for name in mistakes if name not in known]:
        raise click.ClickException(
            f"{exercise.id} has no mistake {unknown[0]!r}; there are {', '.join(known)}"
        )
    if not mistakes:
        right = exercise.right[0]
        click.secho(f"{exercise.id}, a right answer: {right.name}", bold=True)
        click.echo(f"{right.code.body}\n")
    colors = {"-": "red", "+": "green"}
    for name in mistakes or known:
        wrong = known[name]
        click.secho(f"{exercise.id}, {name}", bold=True)
        click.echo(f"{wrong.mistake}\n{wrong.repair}")
        for line in difference(exercise, wrong):
            click.secho(f"    {line}", fg=colors.get(line[:1]))
        click.echo(f"fails {', '.join(wrong.fails)}\n")


@main.group()
def exam() -> None:
    """The inputs that decide about a class, as a file beside its gradebook (exams/NN_topic.exam)."""


@exam.command("draw")
@click.argument("lecture")
@click.argument("file", type=OutputFile())
@click.option("--seed", type=int, help="Draw these inputs instead of fresh ones.")
def draw_exam(lecture: str, file: Path, seed: int | None) -> None:
    """Draw an exam for LECTURE (02_batchnorm) and write it to FILE, which must not be there yet."""
    from autograder import catalog
    from autograder.oracle import exam_file

    drawn = exam_file.draw(catalog.topic(_assignment(lecture).partition("_")[2]), seed)
    try:
        exam_file.write(file, drawn)
    except FileExistsError:
        raise click.ClickException(
            f"{file} is there already, and a class may have sat it: move it away"
        ) from None
    click.echo(f"{file}: seed {next(iter(drawn.values())).seed}, {len(drawn)} exercises")


@exam.command("show")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.argument("exercises", nargs=-1)
def show_exam(file: Path, exercises: tuple[str, ...]) -> None:
    """List what the exam in FILE asks, of EXERCISES or all: every input of every claim."""
    from autograder import catalog
    from autograder.oracle import exam_file
    from autograder.oracle.arguments import lines

    try:
        told = exam_file.about(file)
        exams = exam_file.read(file)
    except exam_file.WrongExam as error:
        raise click.ClickException(str(error)) from None
    if unknown := [name for name in exercises if name not in exams]:
        raise click.ClickException(f"{unknown[0]!r} is not asked in {file}; there are {', '.join(exams)}")
    made = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
    click.echo(f"seed {told['seed']}, drawn with {made}\n")
    for name in exercises or exams:
        exercise = catalog.find(name)
        for claim, cases in exams[name].every().items():
            click.secho(f"{name}, {claim}: {len(cases)} input{'s' * (len(cases) != 1)}", bold=True)
            for number, case in enumerate(cases, 1):
                for line in lines(exercise, case):
                    click.echo(f"{number:>4}  {line}")
        click.echo()


@main.command("sample-class")
@click.argument("lecture", default="02_batchnorm")
@click.option("--students", type=click.IntRange(min=1), metavar="N",
              help="A class of that many, instead of all that can be handed in.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True,
              help="Who makes a mix of mistakes, and what the checks draw.")  # fmt: skip
@click.option("--unsafe-no-sandbox", is_flag=True,
              help="Run the sample submissions without a sandbox, as the user who calls.")  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path, file_okay=False, exists=True), default=".",
              show_default="the current folder", help="The repository.")  # fmt: skip
def make_sample_class(
    lecture: str, students: int | None, seed: int, unsafe_no_sandbox: bool, root: Path
) -> None:
    """Grade a class of sample submissions to LECTURE (02_batchnorm) with stock nbgrader.

    Its students make the mistakes of the lecture. The course is made anew in demo/, with its report in
    demo/report.html.
    """
    from rich.console import Console

    from autograder import report, sample_class
    from autograder.sandbox import machine

    assignment = _assignment(lecture)
    root, course = root.resolve(), root.resolve() / "demo"
    if not (root / "solutions" / assignment).is_dir():
        raise click.ClickException(f"{root} holds no built notebooks: run `autograder build` first")
    # A log or a pipe has no width: the table is then as wide as it likes.
    console = Console(width=None if sys.stdout.isatty() else 160)
    missing = "you asked for it" if unsafe_no_sandbox else machine.trouble()
    if missing:
        console.print(
            f"Without a sandbox ({missing}): the sample submissions, which are this project's own, run as you."
        )
    console.print(f"Making the course in {course.name}/ and the submissions of its class.")
    try:
        made = sample_class.prepare(
            root, course, assignment, sample_class.samples(students, seed), seed, walled=not missing
        )
        _show_progress(console, "grading", sample_class.grade(course, assignment), len(made))
        _show_progress(console, "writing feedback", sample_class.feedback(course, assignment), len(made))
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    submissions = report.collect(course, assignment)
    page = course / "report.html"
    page.write_text(report.html(submissions, f"Sample class: {assignment}"), encoding="utf-8")
    console.print(report.table(submissions))
    for line in report.summary_lines(submissions):
        console.print(line)
    console.print(
        f"The report is {page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page}"
    )


@main.command()
@click.option("--selftest", is_flag=True, help="Try to get through each wall, from inside.")
def sandbox(selftest: bool) -> None:
    """Say whether students' code can be graded behind walls on this machine, and what is missing."""
    from autograder.sandbox import machine
    from autograder.sandbox.selftest import tried

    if reason := machine.trouble():
        raise click.ClickException(f"no sandbox on this machine: {reason}")
    if not selftest:
        click.echo("Students' code can be graded behind walls here; --selftest tries each of them.")
        return
    fell = False
    for forked, started in ((False, "started directly"), (True, "forked from a warm process")):
        try:
            held = tried(forked=forked)
        except RuntimeError as error:
            raise click.ClickException(f"the walls could not be tried, {started}: {error}") from None
        click.echo(f"A kernel that is {started}:")
        for wall in held:
            what = f"FELL  {wall.keeps}: {wall.reached}" if wall.reached else f"held  {wall.keeps}"
            click.echo(f"  {what}")
        fell |= any(wall.reached for wall in held)
    if fell:
        sys.exit(1)


def _show_progress(console: Console, what: str, students: Iterable[str], total: int) -> None:
    """How far a class is, while its students come: a bar in a terminal, elsewhere a line for each."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if not console.is_terminal:
        for number, student in enumerate(students, 1):
            click.echo(f"{what}: {number} of {total} ({student})")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        for student in students:
            progress.update(task, description=f"{what}: {student}", advance=1)
        progress.update(task, description=what, completed=total)


def _assignment(lecture: str) -> str:
    """A lecture by its number and topic, or by the topic alone."""
    from coursekit import TOPICS

    lectures = [f"{number:02}_{topic}" for number, topic in enumerate(TOPICS, 1)]
    assignment = next((full for full in lectures if lecture in (full, full.partition("_")[2])), None)
    if assignment is None:
        raise click.ClickException(f"no lecture is called {lecture!r}; there are {', '.join(lectures)}")
    return assignment


def _release_of(notebook: Path) -> Path:
    """The release of the lecture that a submission is of, by what it holds and whatever it is called: in lectures/ here,
    anywhere above the submission, or where this package lies."""
    import nbformat

    from autograder import doctor
    from autograder.cells import about
    from autograder.matching import shared

    try:
        handed_in = doctor.read(notebook)
    except doctor.Unreadable as error:
        raise click.ClickException(str(error)) from None
    said = about(handed_in).get("assignment")
    for base in [Path.cwd(), *notebook.resolve().parents, Path(__file__).parents[1]]:
        paths = [p for p in sorted(base.glob("lectures/*/*.ipynb")) if p.resolve() != notebook.resolve()]
        with contextlib.suppress(OSError, ValueError):
            releases = {path: nbformat.read(path, 4) for path in paths}
            found = {path: len(shared(handed_in, release)) for path, release in releases.items()}
            best = max(
                found,
                key=lambda path: (found[path], about(releases[path]).get("assignment") == said),
                default=None,
            )
            if best is not None and found[best]:
                return best
    raise click.ClickException(
        f"{notebook.name} holds no exercise of a lecture that lies under lectures/ here or above it: name the lecture's "
        "notebook as it was handed out with --release"
    )


if __name__ == "__main__":
    main()
