"""The example that `make quickstart` runs, on a model that can learn nothing in two steps."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unisd.probe import ProbedView, ProbeResult
from unisd.tasks.accuracy import TaskResult
from unisd.tasks.cmd import CmdTask
from unisd.types import Completion

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.py"


@pytest.fixture(scope="module")
def quickstart() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def arguments(tmp_path, tiny_checkpoint) -> list[str]:
    """One byte is one token for the tiny model, so prompts are longer."""
    options: dict[str, Any] = {
        "model.name_or_path": tiny_checkpoint,
        "data.max_prompt_length": 1000,
        "data.max_teacher_prompt_length": 1000,
        "rollout.max_completion_length": 4,
        "training.max_steps": 2,
        "training.per_device_train_batch_size": 2,
        "training.output_dir": tmp_path / "run",
    }
    return [*(f"{key}={value}" for key, value in options.items()), "--prompts", "5"]


def test_a_run_leaves_a_summary_and_a_figure_and_fails_when_nothing_was_learned(
    quickstart, arguments, tmp_path, capsys
):
    assert quickstart.main(arguments) == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for name in ("base", "teacher_ceiling", "tuned"):
        assert summary[name] == {"accuracy": 0.0, "n": 5}
    assert summary["mcnemar_p"] == 1.0
    assert summary["num_steps"] == 2
    assert set(summary["seconds_per_step"]) == {"rollout", "teacher", "student", "update"}
    assert summary["minutes"] * 60 == pytest.approx(sum(summary["seconds"].values()), abs=1)
    assert (tmp_path / "run" / "quickstart.png").read_bytes().startswith(b"\x89PNG")
    output = capsys.readouterr()
    assert "step   2/2" in output.out
    assert "Supervised fine-tuning" in output.out
    assert "this run did not work" in output.err


def test_an_earlier_run_is_replaced_and_another_folder_is_not(quickstart, arguments, tmp_path, capsys):
    folder = tmp_path / "run"
    assert quickstart.fresh_folder(folder) == folder
    (folder / "old.txt").write_text("of an interrupted run")
    assert quickstart.fresh_folder(folder) == folder
    assert not (folder / "old.txt").exists()
    (folder / quickstart.MARKER).unlink()
    (folder / "thesis.txt").write_text("years of work")
    assert quickstart.main(arguments) == 2
    assert "not a quickstart run, and is not replaced" in capsys.readouterr().err
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_a_misspelt_override_ends_with_one_line(quickstart, arguments, capsys):
    assert quickstart.main([*arguments, "training.learning_rat=1"]) == 2
    assert "learning_rate" in capsys.readouterr().err


def views(num_base: int, num_tuned: int, n: int) -> tuple[ProbeResult, ProbedView]:
    """Results in which whatever the base has right stays right."""
    task = CmdTask()
    completions = [Completion([1], None, is_finished=True)] * n
    base, tuned, teacher = (
        ProbedView("x", [[1]] * n, completions, ["text"] * n, TaskResult("cmd", correct, [True] * n, ["text"] * n))
        for correct in ([place < number for place in range(n)] for number in (num_base, num_tuned, n))
    )
    return ProbeResult(task, task.eval_examples(n), base, [teacher], teacher, [[1.0]]), tuned


def test_success_needs_more_than_chance(quickstart, capsys):
    # 0 against 8 new right answers: p = 2 / 2^8 = 0.008; against 7: 0.016
    assert quickstart.exit_code(*views(3, 11, 20)) == 0
    assert quickstart.exit_code(*views(3, 10, 20)) == 1
    assert quickstart.exit_code(*views(11, 3, 20)) == 1


def test_the_table_shows_the_numbers_of_the_summary(quickstart):
    before, after = views(1, 15, 20)
    summary = quickstart.summary_of(before, after)
    assert summary["base"] == {"accuracy": 0.05, "n": 20}
    assert summary["teacher_ceiling"]["accuracy"] == 1.0
    assert summary["tuned"]["accuracy"] == 0.75
    # 14 : 0 -> 2 / 2^14
    assert summary["mcnemar_p"] == pytest.approx(2**-13)
    text = quickstart.results_text(before, replace(after, texts=["changed"] * 20))
    assert "14 right only after training, 0 only before" in text
    assert text.count("after   changed") == 3
    is_new = [example.fields["is_new_phrasing"] for example in before.examples]
    assert f"% of {sum(is_new)}" in text
