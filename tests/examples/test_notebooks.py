"""The notebooks of `examples/`: small and stripped in git, and run from top to bottom on the demo model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unisd.demo import smollm2

FOLDER = Path(__file__).parents[2] / "examples"
STEPS = "UNISD_NOTEBOOK_STEPS"
MAX_CELLS = 12
SHOWS = {
    "01_first_run": ["prompts are right only after training", "right answer  book_room(room='Willow', hour=14)"],
    "02_what_the_teacher_sees": ["teacher (own message)", "the mean is largest at position"],
    "03_components_on_one_completion": [
        "agreement: weights from 0.",
        "moves the student on 2 of 10 tokens",
    ],
    "04_ema_teacher": ["same divergences: True, same student: True, same teacher: True", "teacher.safetensors"],
    "05_write_your_own_loss": ["largest difference between the three: 0.0e+00", "Did you mean 'delta'?"],
    "06_diagnose_a_bad_run": [
        "divergence_clip: it changed no token's value or weight",
        "agreement: every weight is above 0.99",
        "teacher: it was updated and has not moved",
        "warnings: [",
    ],
}
"""What each notebook prints when it shows what it is about."""


def notebook(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))


def what_is_left(document: dict[str, Any]) -> list[str]:
    """What running a notebook leaves in its file: outputs, counts, and metadata that differ by machine and editor."""
    found = [] if set(document["metadata"]) <= {"kernelspec", "language_info"} else ["metadata of the notebook"]
    found += [] if set(document["metadata"].get("language_info", {})) <= {"name"} else ["the version of Python"]
    for number, cell in enumerate(document["cells"], start=1):
        found += [f"cell {number}: outputs"] if cell.get("outputs") else []
        found += [f"cell {number}: execution count"] if cell.get("execution_count") else []
        found += [f"cell {number}: metadata"] if cell["metadata"] else []
    return found


def code_of(document: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]


def printed(document: Any) -> str:
    outputs = [output for cell in document.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def demo_model() -> str:
    """Looked for, and read from its wheel, once: the kernels find what this leaves in the cache."""
    try:
        return smollm2().name_or_path
    except ValueError as error:
        pytest.skip(str(error))


def test_every_notebook_of_the_folder_is_run():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(SHOWS)


@pytest.mark.parametrize("name", SHOWS)
def test_a_notebook_is_small_stripped_and_opens_with_its_idea(name):
    document = notebook(name)
    assert what_is_left(document) == []
    assert len(document["cells"]) <= MAX_CELLS
    assert len({cell["id"] for cell in document["cells"]}) == len(document["cells"])
    assert document["cells"][0]["source"][0].startswith(f"# {int(name[:2])}. ")


@pytest.mark.parametrize("name", SHOWS)
def test_the_number_of_steps_comes_from_one_place(name):
    first, *others = code_of(notebook(name))
    is_short_anyway = name == "03_components_on_one_completion"
    assert first.count(STEPS) == (0 if is_short_anyway else 1)
    assert not any("environ" in source for source in others)


def test_a_notebook_that_was_run_and_saved_is_noticed():
    document = notebook("01_first_run")
    position = next(index for index, cell in enumerate(document["cells"]) if cell["cell_type"] == "code")
    document["cells"][position].update(outputs=[{"output_type": "stream"}], execution_count=3)
    assert what_is_left(document) == [f"cell {position + 1}: outputs", f"cell {position + 1}: execution count"]
    document["metadata"]["widgets"] = {}
    assert what_is_left(document)[0] == "metadata of the notebook"


@pytest.mark.notebook
@pytest.mark.usefixtures("demo_model")
@pytest.mark.parametrize("name", SHOWS)
def test_a_notebook_runs_and_shows_what_it_is_about(name, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the notebooks run in the extra `dev`")
    nbclient = pytest.importorskip("nbclient", reason="the notebooks run in the extra `dev`")
    monkeypatch.setenv(STEPS, "2")
    # Nothing is read from, or left in, the home folder or the checkout.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    document = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(document, timeout=600, kernel_name="python3", resources=resources).execute()
    text = printed(document)
    for sentence in SHOWS[name]:
        assert sentence in text
