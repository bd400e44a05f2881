"""The studies that ship load with every run, and their noisy rows are what they say."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from unisd.study.grid import Grid, grid_of
from unisd.study.schema import load_study
from unisd.tasks.cmd import CmdTask
from unisd.tasks.local import LocalTask
from unisd.tasks.source import DataSource

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "configs" / "study").glob("*.yaml"))
QUESTION = {"id": "a", "question": "Which one is red?", "choices": ["sky", "grass", "blood"], "answer": "blood"}


def noisy() -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("noisy", ROOT / "examples" / "noisy_demonstrations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def grids(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds the grid of a shipped study, from a working directory that has the data it asks for."""
    monkeypatch.chdir(tmp_path)
    noisy().main(Path("runs/data"))
    Path("runs/data/python-topics.txt").write_text("Any text.\n")
    Path("rows.jsonl").write_text(json.dumps(QUESTION) + "\n")

    def build(path: Path) -> Grid:
        overrides = [f"model.name_or_path={tiny_checkpoint}"]
        if path.stem == "cos_e":
            overrides += [f"data.{role}={{task: cos_e, path: rows.jsonl}}" for role in ("train", "eval")]
        return grid_of(load_study(path), path, overrides)

    yield build
    shutil.rmtree("runs")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_loads_whole_and_costs_what_its_head_says(path, grids, capsys):
    made = grids(path)
    head = "\n".join(re.findall(r"^#(.*)$", path.read_text("utf-8"), re.MULTILINE))
    assert f"Costs {len(made.runs)} runs" in head
    assert f"unisd study configs/study/{path.name}" in head
    assert str(made.folder) == f"runs/study/{path.stem}"
    assert len({run.id for run in made}) == len(made.runs) + 1
    for run in made.runs:
        assert run.config.training["lr_scheduler_type"] == "linear"
        assert run.config.training["max_steps"] == (20 if run.variant == "sft_20" else 40)


def test_the_rows_that_claims_are_made_about_have_five_seeds(grids):
    (path,) = [path for path in STUDIES if path.stem == "cmd"]
    made = grids(path)
    num_seeds = {name: len(made.of_variant(name)) for name in ("sft", "sdft", "unisd_star", "ema")}
    assert num_seeds == {"sft": 5, "sdft": 5, "unisd_star": 5, "ema": 3}


def test_so_many_demonstrations_are_wrong_as_asked_and_the_answers_stay(tmp_path, capsys):
    module = noisy()
    module.main(tmp_path)
    loaded = {
        share: LocalTask(train=DataSource(str(tmp_path / f"cmd-wrong-{share}.jsonl"))).train_examples()
        for share in module.PERCENTAGES
    }
    task = CmdTask()
    right = task.train_examples()
    wrong: dict[int, set[int]] = {}
    for share, examples in loaded.items():
        assert [example.prompt for example in examples] == [example.prompt for example in right]
        assert [example.answer for example in examples] == [example.answer for example in right]
        graded = [task.grade(example, str(example.privileged_context)).correct for example in examples]
        assert [not correct for correct in graded] == [example.fields["is_wrong"] for example in examples]
        assert all(example.completion == example.privileged_context for example in examples)
        wrong[share] = {index for index, correct in enumerate(graded) if not correct}
        # Three binomial standard errors of 400 rows.
        assert abs(len(wrong[share]) / len(examples) - share / 100) < 0.075
    assert wrong[20] < wrong[40]
    clean = module.rows(0)
    assert [row["privileged_context"] for row in clean] == [example.privileged_context for example in right]
    assert [row["teacher_prompt"] for row in clean] == [example.teacher_prompt for example in right]
