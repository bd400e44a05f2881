"""The studies that ship load with every run, and the rows that examples write for them are what they say."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.published import COS_E, DATA, needs_data, write_rows
from unisd.study.grid import Grid, grid_of
from unisd.study.schema import load_study
from unisd.tasks.cmd import CmdTask
from unisd.tasks.cmd_call import read_call
from unisd.tasks.local import LocalTask
from unisd.tasks.source import DataSource

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "configs" / "study").glob("*.yaml"))


def example(name: str) -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A folder with what the examples write; the translations are those of a model that has learnt nothing."""
    folder = tmp_path_factory.mktemp("data")
    example("noisy_demonstrations").main(folder)
    example("other_answers").main(str(tiny_checkpoint), folder)
    rows = str(write_rows(folder / "rows.jsonl", COS_E))
    example("rationales").main(rows, rows, folder)
    return folder


@pytest.fixture
def grids(tmp_path: Path, data: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds the grid of a shipped study, from a working directory that has the data it asks for."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, "runs/data")
    Path("runs/data/python-topics.txt").write_text("Any text.\n")
    # A grader by import path is found from the folder of the project, which a user's shell is in.
    Path("examples").symlink_to(ROOT / "examples")

    def build(path: Path) -> Grid:
        # Its tokenizer makes several times as many tokens of a text.
        lengths = ["data.max_prompt_length=2048", "data.max_teacher_prompt_length=4096"]
        overrides = [f"model.name_or_path={tiny_checkpoint}", *lengths]
        if path.stem == "cos_e":
            overrides += [f"data.{role}={{task: cos_e, path: runs/data/rows.jsonl}}" for role in ("train", "eval")]
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


def test_so_many_demonstrations_are_wrong_as_asked_and_the_answers_stay(data):
    module = example("noisy_demonstrations")
    loaded = {
        share: LocalTask(train=DataSource(str(data / f"cmd-wrong-{share}.jsonl"))).train_examples()
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


def test_the_answers_come_in_forms_that_all_count(data):
    task = CmdTask()
    right = task.train_examples()
    made = LocalTask(train=DataSource(str(data / "cmd-several.jsonl"))).train_examples()
    assert [(one.prompt, one.teacher_prompt, one.answer) for one in made] == [
        (one.prompt, one.teacher_prompt, one.answer) for one in right
    ]
    texts = [str(one.completion) for one in made]
    assert [one.privileged_context for one in made] == texts
    assert all(task.grade(one, text).correct for one, text in zip(made, texts, strict=True))
    forms = Counter((text[0] == "`", '"' in text, "=" in text) for text in texts if "set_timer" not in text)
    assert len(forms) == 8
    assert min(forms.values()) > 20


def test_the_answers_in_words_say_everything_and_count_nowhere(data):
    module = example("other_answers")
    task = CmdTask()
    right = task.train_examples()
    made, translated = (
        LocalTask(train=DataSource(str(data / f"cmd-{name}.jsonl"))).train_examples()
        for name in ("words", "translated")
    )
    trained_on = right[: module.TRAINED_ON]
    behind = {one.answer for one in right[module.TRAINED_ON :]} - {one.answer for one in trained_on}
    assert [(one.prompt, one.answer) for one in made] == [(one.prompt, one.answer) for one in trained_on]
    for one in made:
        name, _, arguments = read_call(one.answer)
        words = str(one.completion)
        assert not task.grade(one, words).correct
        assert all(str(part) in words for part in (name, *arguments, *arguments.values()))
        assert one.teacher_prompt[-1]["content"].endswith(words)
        answers = [turn["content"] for turn in one.privileged_context if turn["role"] == "assistant"]
        assert len(set(answers)) == module.SOLVED
        assert set(answers) <= behind
        assert {read_call(answer)[0] for answer in answers} == {name}
    assert len({one.completion for one in made}) > 300
    assert [replace(one, completion=None) for one in translated] == [replace(one, completion=None) for one in made]
    # The tiny model has learnt nothing, so that it writes no word of the answer.
    assert not {one.completion for one in translated} & {one.completion for one in made}


def test_the_translations_of_the_results_are_those_of_their_readme(tmp_path, capsys):
    example("other_answers").main(str(ROOT / "docs" / "results" / "answers" / "translations.json"), tmp_path)
    assert "251 of 320 completions are right" in capsys.readouterr().out


def test_without_a_model_the_example_says_how_to_name_one(capsys):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "other_answers.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "other_answers.py MODEL" in done.stderr


def test_reasons_stand_before_the_option_and_only_the_option_is_graded(data):
    module = example("rationales")
    made, *_ = LocalTask(train=DataSource(str(data / "cos_e-rationales-train.jsonl"))).train_examples()
    reply = "Roofs are warm.\nAnswer: " + made.answer["right"]
    assert made.completion == made.privileged_context == reply
    assert made.answer["right"].endswith(". on a roof")
    assert all(option in made.prompt[-1]["content"] for option in COS_E[0]["choices"])
    assert "car" not in made.teacher_prompt[-1]["content"]
    wrong = next(letter for letter in "ABC" if not made.answer["right"].startswith(letter))
    verdicts = {
        reply: (True, True),
        made.answer["right"]: (True, True),
        f"Roofs are warm.\nAnswer: {wrong}": (False, True),
        "Roofs are warm.": (False, False),
    }
    for completion, (correct, readable) in verdicts.items():
        grade = module.grade(completion, made.answer)
        assert (grade.correct, grade.is_well_formed) == (correct, readable), completion


def test_a_row_without_a_reason_is_refused_by_its_id(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{**COS_E[0], "abstractive_explanation": " "}])
    with pytest.raises(ValueError, match=r"0: has no abstractive_explanation"):
        example("rationales").main(str(path), str(path), tmp_path)
    assert not list(tmp_path.glob("cos_e*"))


@needs_data
def test_the_published_reasons_leave_the_published_answers_readable(tmp_path):
    module = example("rationales")
    module.main(*(str(DATA / "cos_e" / f"{split}.jsonl") for split in ("train", "validation")), tmp_path)
    made = LocalTask(train=DataSource(str(tmp_path / "cos_e-rationales-train.jsonl"))).train_examples()
    assert len(made) == 7610
    assert all(module.grade(str(one.completion), one.answer).correct for one in made)
