"""Every page as a reader sees it in JupyterLab: formulas are set, figures and tables are there."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

ROOT = Path(__file__).parents[2]
LECTURES = sorted(p.name for p in (ROOT / "lectures").iterdir() if p.is_dir())


def _topic(lecture: str) -> str:
    return lecture.partition("_")[2]


@pytest.mark.parametrize("lecture", LECTURES)
def test_formulas_and_text_of_a_released_lecture_are_set(open_notebook, lecture):
    notebook = open_notebook(f"{lecture}/{_topic(lecture)}.ipynb")
    found = notebook.page.evaluate(
        """async () => {
            const notebook = window.jupyterapp.shell.currentWidget.content;
            const wrong = [];
            let formulas = 0;
            for (let i = 0; i < notebook.widgets.length; i++) {
                const cell = notebook.widgets[i];
                if (cell.model.type !== 'markdown') continue;
                await notebook.scrollToItem(i, 'start');
                await cell.ready;
                let node = null;
                // Formulas are set a moment after the text; most are there at once.
                for (let t = 0; t < 20 && !(node && !/\\$/.test(node.textContent)); t++) {
                    await new Promise(done => setTimeout(done, t ? 50 : 10));
                    node = cell.node.querySelector('.jp-RenderedMarkdown');
                }
                if (!node) { wrong.push(`cell ${i} was not drawn`); continue; }
                formulas += node.querySelectorAll('mjx-container').length;
                for (const e of node.querySelectorAll('mjx-merror, .MathJax_Error, [data-mjx-error]'))
                    wrong.push(`cell ${i}: formula ${e.textContent} ${e.getAttribute('data-mjx-error')}`);
                const bare = node.cloneNode(true);
                bare.querySelectorAll('mjx-container, code, pre').forEach(e => e.remove());
                if (/\\$|\\\\[a-z]+\\{/.test(bare.textContent))
                    wrong.push(`cell ${i}: unset formula in ${bare.textContent.slice(0, 200)}`);
            }
            return {wrong, formulas};
        }"""
    )
    assert found["wrong"] == []
    assert found["formulas"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("lecture", LECTURES)
def test_figures_of_a_solved_lecture_are_shown_with_words(open_notebook, lab, lecture):
    _, folder = lab
    name = f"solved-{lecture}.ipynb"
    notebook = nbformat.read(ROOT / "solutions" / lecture / f"{_topic(lecture)}.ipynb", 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    nbformat.write(notebook, folder / name)
    opened = open_notebook(name)
    figures = opened.page.evaluate(
        """async () => {
            const notebook = window.jupyterapp.shell.currentWidget.content;
            const found = [];
            for (let i = 0; i < notebook.widgets.length; i++) {
                const cell = notebook.widgets[i];
                if (!JSON.stringify(cell.model.toJSON().outputs || []).includes('<img')) continue;
                await notebook.scrollToItem(i, 'start');
                await cell.ready;
                await new Promise(done => setTimeout(done, 300));
                for (const e of cell.node.querySelectorAll('.jp-OutputArea img'))
                    found.push({index: i, words: e.alt, width: e.naturalWidth, shown: e.clientWidth,
                                room: e.closest('.jp-OutputArea').clientWidth, height: e.clientHeight});
            }
            return found;
        }"""
    )
    assert len(figures) > 3
    for figure in figures:
        assert figure["width"] > 0, figure
        assert len(figure["words"]) > 20, figure
        assert figure["shown"] <= figure["room"], figure
    target = os.environ.get("SCREENSHOTS")
    if target:
        # The tallest figure of each half: two places that show what the lecture is about (docs/lectures.md).
        for number, part in enumerate((figures[: len(figures) // 2], figures[len(figures) // 2 :]), 1):
            tallest = max(part, key=lambda f: f["height"])
            opened.page.evaluate(
                """async index => {
                    const notebook = window.jupyterapp.shell.currentWidget.content;
                    await notebook.scrollToItem(index, 'start');
                    const cell = notebook.widgets[index].node;
                    cell.querySelector('.jp-OutputArea img').scrollIntoView({block: 'center'});
                    await new Promise(done => setTimeout(done, 500));
                }""",
                tallest["index"],
            )
            shot = opened.page.locator(".jp-NotebookPanel-notebook:visible").first.screenshot()
            # JPEG, since a palette would change the small patches of a key.
            picture = Image.open(io.BytesIO(shot)).convert("RGB")
            picture.save(Path(target) / f"{lecture}-{number}.jpg", quality=90, subsampling=0)
    shutil.rmtree(folder / ".ipynb_checkpoints", ignore_errors=True)
