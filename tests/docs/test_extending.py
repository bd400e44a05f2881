"""The page on extending, executed: files are written, Python runs, commands go to the command line."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from unisd import cli

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\S+\.(?:py|yaml))\n")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> dict[str, Any]:
    """What the page's Python leaves behind, and under `folder` where it ran."""
    folder = tmp_path_factory.mktemp("extending")
    text = PAGE.read_text("utf-8")
    assert HUB_ID in text
    left: dict[str, Any] = {"folder": folder}
    modules = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        for language, block in BLOCK.findall(text.replace(HUB_ID, str(tiny_checkpoint))):
            run_block(language, block, left)
    for name in set(sys.modules) - modules:
        if name.startswith("my_"):
            del sys.modules[name]
    return left


def run_block(language: str, block: str, left: dict[str, Any]) -> None:
    file_name = FILE_NAME.match(block)
    if file_name:
        (left["folder"] / file_name[1]).write_text(block, encoding="utf-8")
    elif language == "python":
        exec(compile(block, str(PAGE), "exec"), left)
    else:
        assert language == "bash"
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "unisd"
            assert cli.main(arguments) == 0


def logged(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def written(page: dict[str, Any], run: str) -> list[dict[str, float]]:
    history = json.loads((page["folder"] / "runs" / run / "metrics.json").read_text("utf-8"))["history"]
    return [entry for entry in history if "loss" in entry]


def test_a_loss_of_ones_own_trains_and_is_logged_under_its_name(page):
    assert len(logged(page["focal"], "loss/focal_cross_entropy")) == 2
    assert min(logged(page["focal"], "loss/focal_cross_entropy")) > 0


def test_parts_of_ones_own_are_named_by_import_path_in_yaml(page):
    first = written(page, "my_run")[0]
    assert 0 < first["confident_teacher/kept"] < 1
    assert first["loss"] != first["loss/divergence"]
    assert first["loss/focal_cross_entropy"] > 0


def test_a_teacher_of_ones_own_scores_and_is_updated(page):
    assert page["snapshot"].teacher.kind == "snapshot"
    # After the first step the student has left the snapshot, after the second it has just been taken anew.
    first, second = logged(page["snapshot"], "teacher/distance_to_student")
    assert first > 0
    assert second == 0


def test_contexts_of_ones_own_are_scored(page):
    first = written(page, "my_contexts")[0]
    assert 0 < first["agreement/weight_mean"] < 1
    assert first["loss/contrastive"] > 0
    reports = page["encouraged"].view_reports["train"].lengths
    # "system\nYou know this." and its two special tokens, with a line end behind: one token per byte.
    lengthened = [own - plain for own, plain in zip(reports["privileged"], plain_lengths(page), strict=True)]
    assert set(lengthened) == {len("system\nYou know this.\n") + 2}


def plain_lengths(page: dict[str, Any]) -> list[int]:
    return page["focal"].view_reports["train"].lengths["privileged"]


def test_a_task_of_ones_own_is_trained_on_and_graded(page):
    task = page["task"]
    assert task.grade(task.eval_examples(1)[0], "2.").correct
    assert not task.grade(task.eval_examples(1)[0], "3").correct
    assert 0 <= page["doubles"].evaluate()["eval_doubles_accuracy"] <= 1


def test_a_subclass_of_the_trainer_knows_the_step(page):
    assert logged(page["warm"], "warm_start/share") == [1.0, 0.5]
    assert min(logged(page["warm"], "loss/warm_start")) > 0
