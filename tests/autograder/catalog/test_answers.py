"""How answers are written: edits of a right one, their text, and what is refused."""

import inspect
import pickle
import re
import subprocess
import sys
import traceback

import pytest
import torch
from torch import nn

from autograder import catalog
from autograder.catalog.answers import Answers, Change, EditError, changed
from autograder.exercise import Case, Exercise, Property

CLAIMS = Exercise(
    id="halved",
    topic="batchnorm",
    title="",
    reference=lambda x, factor=2: x / factor,
    properties=tuple(Property(name, "", 1, lambda d: Case()) for name in ("values", "dtype", "refusal")),
    hints=("", "", ""),
    minutes=1,
    difficulty=1,
)


def plain(x, factor=2):
    """said in one line"""
    if factor == 0:
        raise ValueError("factor must not be 0")
    part = x / factor
    return part


class Plain(nn.Module):
    """a layer"""

    def __init__(self, factor=2):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x / self.factor


def edited(text, base=plain):
    answers = Answers(CLAIMS)
    answers.right(base)
    answers.edits(text)
    return answers.exercise().misconceptions


def test_an_edit_is_the_right_answer_with_a_part_changed():
    (doubled,) = edited("""
    doubled: values
    - x / factor
    + x * factor
    You multiplied.
    Divide.
    """)
    assert (doubled.name, doubled.fails) == ("doubled", ("values",))
    assert (doubled.mistake, doubled.repair) == ("You multiplied.", "Divide.")
    assert doubled.answer(3) == 6
    assert doubled.answer.__name__ == "halved"
    assert doubled.code.body == (
        'def halved(x, factor=2):\n    if factor == 0:\n        raise ValueError("factor must not be 0")\n'
        "    part = x * factor\n    return part\n"
    )


def test_lines_go_and_come_with_the_margin_of_the_place():
    anything, guarded = edited("""
    anything_goes: refusal
    - if factor == 0:
    -     raise ValueError("factor must not be 0")
    You refuse nothing.
    Refuse a factor of 0.

    guarded: refusal values
    - if factor == 0:
    -     raise ValueError("factor must not be 0")
    ...
    - part = x / factor
    + if factor:
    +     part = x / factor
    + else:
    +     part = x
    You hand x back where factor is 0,
      and that is a line that goes on.
    Refuse it.
    """)
    assert anything.code.body == "def halved(x, factor=2):\n    part = x / factor\n    return part\n"
    assert guarded.code.body.splitlines()[1:5] == [
        "    if factor:",
        "        part = x / factor",
        "    else:",
        "        part = x",
    ]
    assert guarded.mistake == "You hand x back where factor is 0, and that is a line that goes on."
    assert guarded.answer(5, 0) == 5
    assert guarded.fails == ("values", "refusal"), "in the order of the claims"


@pytest.mark.parametrize(
    ("fails", "meant"),
    [
        ("all", ("values", "dtype", "refusal")),
        ("all but dtype", ("values", "refusal")),
        ("all but dtype refusal", ("values",)),
        ("refusal dtype", ("dtype", "refusal")),
    ],
)
def test_what_fails_may_be_all_or_all_but_some(fails, meant):
    (made,) = edited(f"wrong: {fails}\n- part = x / factor\n+ part = x\nYou did nothing.\nDivide.")
    assert made.fails == meant


def test_a_class_is_edited_too_and_bears_the_name():
    (made,) = edited("wrong: values\n- x / self.factor\n+ x\nYou did nothing.\nDivide.", Plain)
    layer = made.answer(3)
    assert layer(torch.tensor(6.0)) == 6
    assert type(layer).__name__ == "halved"
    assert inspect.getsource(made.answer) == made.code.body


BAD = {
    "does not occur": ("wrong: values\n- x // factor\n+ x\nA.\nB.", "`x // factor` occurs 0 times"),
    "occurs twice": ("wrong: values\n- factor\n+ x\nA.\nB.", "`factor` occurs 4 times"),
    "no such claim": (
        "wrong: value\n- part = x\n+ x\nA.\nB.",
        "no claim is called 'value'; there are values",
    ),
    "nothing changed": ("wrong: values\nA.\nB.", "nothing is changed"),
    "one sentence": ("wrong: values\n- x / factor\n+ x\nA.", "here are 1"),
    "three sentences": ("wrong: values\n- x / factor\n+ x\nA.\nB.\nC.", "here are 3"),
    "no head": ("- x / factor\n+ x\nA.\nB.", "a block starts with `name: claims`"),
    "added to nothing": ("wrong: values\n+ x\nA.\nB.", "the first line of a change is one with `-`"),
    "a change after words": ("wrong: values\n- x / factor\nA.\n+ x\nB.", "changes come before the sentences"),
    "the same line twice": (
        "wrong: values\n- part = x / factor\n+ part = x\n- / factor\n+ x\nA.\nB.",
        "two changes touch the same line",
    ),
    "all and what": ("wrong: all values\n- x / factor\n+ x\nA.\nB.", "`but`, got 'values'"),
    "a name twice": (
        "wrong: values\n- x / factor\n+ x\nA.\nB.\n\nwrong: dtype\n- x / factor\n+ 2\nA.\nB.",
        "a second mistake of the name 'wrong'",
    ),
}


@pytest.mark.parametrize(("text", "why"), BAD.values(), ids=BAD)
def test_an_edit_that_does_not_fit_is_refused_and_says_where(text, why):
    with pytest.raises(EditError, match=re.escape(why)) as refused:
        edited(text)
    assert str(refused.value).startswith(f"{__file__}:")
    assert re.match(r".*test_answers\.py:\d+: ", str(refused.value))


def test_the_line_that_is_told_is_the_block_s(tmp_path):
    lines = [
        "from autograder.catalog.answers import Answers",
        "from autograder.catalog.batchnorm.group_norm import CLAIMS",
        "answers = Answers(CLAIMS)",
        "@answers.right",
        "def plain(x):",
        '    """plain"""',
        "    return x",
        'answers.edits("""',
        "one: eps",
        "- return x",
        "+ return 2 * x",
        "A.",
        "B.",
        "",
        "other: eps",
        "- return y",
        "A.",
        "B.",
        '""")',
    ]
    module = tmp_path / "broken.py"
    module.write_text("\n".join(lines))
    done = subprocess.run([sys.executable, module], capture_output=True, text=True)
    assert f"EditError: {module}:15: other: `return y` occurs 0 times" in done.stderr


def test_edits_need_a_right_answer_above():
    with pytest.raises(ValueError, match="edits are of the right answer above"):
        Answers(CLAIMS).edits("wrong: values\n- x\nA.\nB.")


def test_a_wrong_answer_written_out_is_named_by_its_own_name():
    answers = Answers(CLAIMS)

    @answers.wrong("all but dtype")
    class HandedBack(nn.Module):
        """You handed x back,
        all of it.

        Divide it.
        """

        def forward(self, x):
            return x

    (made,) = answers.exercise().misconceptions
    assert (made.name, made.mistake, made.repair) == (
        "handed_back", "You handed x back, all of it.", "Divide it."
    )  # fmt: skip
    assert '"""' not in made.code.body


@pytest.mark.parametrize("doc", [None, "One paragraph.", "One.\n\nTwo.\n\nThree."])
def test_a_wrong_answer_tells_two_things(doc):
    def wrong(x):
        return x

    wrong.__doc__ = doc
    with pytest.raises(ValueError, match=r"test_answers.py.*two paragraphs"):
        Answers(CLAIMS).wrong("all")(wrong)


def test_a_right_answer_without_a_name_is_refused():
    def nameless(x):
        return x

    with pytest.raises(ValueError, match=r"docstring is its name"):
        Answers(CLAIMS).right(nameless)


def test_the_source_of_an_edited_answer_can_be_had_everywhere():
    wrong = catalog.find("group_norm").misconception("eps_outside_root")
    assert inspect.getsource(wrong.answer) in wrong.code.text()
    with pytest.raises(AttributeError) as raised:
        wrong.answer(None, 2, None, None)
    told = "".join(traceback.format_exception(raised.value))
    assert '<group_norm: eps_outside_root>", line' in told
    assert "n, c, h, w = x.shape" in told


def test_importing_an_exercise_makes_no_answer():
    program = (
        "import sys; from autograder import catalog; e = catalog.find('group_norm');"
        "made = lambda: sum(n.startswith('catalogued.') for n in sys.modules);"
        "print(made()); e.misconceptions[0].answer; print(made())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]


def test_an_answer_brings_what_it_uses_of_the_catalogue_and_its_imports():
    code = catalog.find("train_fcn").misconception("classes_returned").code
    names = re.findall(r"^(?:def|class) (\w+)", code.body, re.MULTILINE)
    assert names[-1] == "train_fcn"
    assert {"Around", "Classes", "descend", "own_loop"} < set(names)
    assert names.index("Around") < names.index("Classes")
    assert "import torch" in code.imports()
    assert "import torch" not in code.imports(known=["torch"])
    assert "autograder" not in code.text()


@pytest.mark.parametrize(
    "exercise", catalog.every(), ids=lambda e: e.id
)  # fmt: skip
def test_no_answer_of_the_catalogue_leans_on_the_autograder(exercise):
    for answer in (*exercise.right, *exercise.misconceptions):
        assert not re.search(r"^(from|import) autograder", answer.code.text(), re.MULTILINE), answer.name


def test_changes_are_made_where_they_were_found():
    text = "a = 1\nb = a + a\nc = 3"
    assert changed(text, [Change(("a + a",), ("a",)), Change(("c = 3",), ())]) == "a = 1\nb = a"
    assert changed(text, [Change(("a + ",), ()), Change(("= 3",), ("= 4",))]) == "a = 1\nb = a\nc = 4"


def halved_under_our_name(x, factor=2):
    """a name of its own that this module has, too"""
    changed = x / factor
    return changed


def test_an_answers_own_names_are_no_names_of_ours():
    answers = Answers(CLAIMS)
    answers.right(halved_under_our_name)
    (right,) = answers.exercise().right
    assert right.code.text() == "def halved(x, factor=2):\n    changed = x / factor\n    return changed\n"


def test_a_network_of_a_made_answer_can_be_kept():
    hourglass = next(v for v in catalog.find("train_fcn").right if "hourglass" in v.name).answer
    network = sys.modules[hourglass.__module__].Hourglass(3)
    assert type(pickle.loads(pickle.dumps(network))) is type(network)
