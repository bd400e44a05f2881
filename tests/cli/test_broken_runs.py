"""Broken configurations and data files: one readable error each, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from unisd.cli import main

ROW = {"prompt": "What is 2 + 2?", "privileged_context": "4"}
GOOD_RUN = """\
model: {name_or_path: MODEL}
data: {train: {path: rows.jsonl}}
training: {output_dir: out, max_steps: 1, use_cpu: true}
"""

BROKEN_CONFIGS = {
    "misspelt key": ("rollout: {temprature: 1}", ["rollout", "'temprature'", "Did you mean 'temperature'?", "top_p"]),
    "misspelt section": ("rolout: {top_k: 1}", ["run.yaml", "'rolout'", "Did you mean 'rollout'?", "components"]),
    "wrong type": ("rollout: {top_k: many}", ["rollout.top_k", "'many'", "an integer"]),
    "jsd at beta 0": ("objective: {divergence: jsd, beta: 0}", ["objective.beta", "0.0", "between 0 and 1"]),
    "unreadable YAML": ("rollout: {top_k: 1", ["run.yaml, line 4, column", "not readable as YAML"]),
    "contradictory keys": ("teacher: {kind: live, decay: 0.9}", ["teacher", "'decay'", "kind: live", "kind: ema"]),
    "component without its option": ("components: [{type: token_filter}]", ["components[0].fraction is missing"]),
}

BROKEN_DATA = {
    "missing column": ('{"question": "2 + 2?"}', ["rows.jsonl", "prompt", "missing", "Columns of the row: question"]),
    "empty data set": ("", ["rows.jsonl", "no rows"]),
    "unreadable row": (json.dumps(ROW) + '\n{"prompt": ', ["rows.jsonl, line 2", "not JSON"]),
    "prompt over budget": (json.dumps(ROW | {"prompt": "long " * 300}), ["max_prompt_length", "1024", "on_overflow"]),
}


@pytest.fixture
def run_folder(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run that would train."""
    (tmp_path / "run.yaml").write_text(GOOD_RUN.replace("MODEL", str(tiny_checkpoint)))
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW))
    monkeypatch.chdir(tmp_path)
    # The log handler of datasets keeps the stderr of the test that imported it, and complains that it is closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    return tmp_path


def assert_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]) -> None:
    """The command ends with 2 and one error line that has all the parts; the folder is as before."""
    before = sorted(os.walk("."))
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    # Reading data shows progress before it fails.
    error = printed.splitlines()[-1]
    assert error.startswith("error: ")
    assert printed.count("error: ") == 1
    for part in parts:
        assert part in error
    assert sorted(os.walk(".")) == before


@pytest.mark.parametrize("fault", BROKEN_CONFIGS)
def test_a_broken_configuration_is_refused(run_folder, capsys, fault):
    text, parts = BROKEN_CONFIGS[fault]
    with (run_folder / "run.yaml").open("a") as file:
        file.write(text)
    assert_refused(capsys, ["train", "run.yaml"], parts)
    assert_refused(capsys, ["plan", "run.yaml"], parts)


@pytest.mark.parametrize("fault", BROKEN_DATA)
def test_a_broken_data_file_is_refused(run_folder, capsys, fault):
    text, parts = BROKEN_DATA[fault]
    (run_folder / "rows.jsonl").write_text(text)
    assert_refused(capsys, ["train", "run.yaml"], parts)


def test_a_file_that_does_not_exist_is_refused(run_folder, capsys):
    assert_refused(capsys, ["train", "ran.yaml"], ["ran.yaml", "no such file", "In .: run.yaml"])
    assert_refused(capsys, ["train", "run.yaml", "data.train.path=raws.jsonl"], ["raws.jsonl", "no such file"])


def test_an_unknown_model_is_refused(run_folder, capsys):
    allowed = "Allowed: an existing folder, or owner/name."
    assert_refused(
        capsys,
        ["train", "run.yaml", "model.name_or_path=./nope"],
        ["model.name_or_path: './nope'", "no folder", allowed],
    )
    assert_refused(
        capsys, ["train", "run.yaml", "model.name_or_path=no-one/nope"], ["model.name_or_path", "no-one/nope"]
    )


def test_an_output_folder_that_cannot_be_written_is_refused(run_folder, capsys):
    parts = ["training.output_dir: 'rows.jsonl/out'", "is a file"]
    assert_refused(capsys, ["train", "run.yaml", "training.output_dir=rows.jsonl/out"], parts)
    # Not even root may make a folder there.
    if Path("/proc/self").is_dir():
        parts = ["training.output_dir: '/proc/self/out'", "cannot be written to"]
        assert_refused(capsys, ["train", "run.yaml", "training.output_dir=/proc/self/out"], parts)


def test_an_output_folder_in_use_is_refused_without_resume(run_folder, capsys):
    (run_folder / "out").mkdir()
    (run_folder / "out" / "notes.txt").touch()
    assert_refused(capsys, ["train", "run.yaml"], ["training.output_dir: 'out' is not empty", "--resume"])
    assert_refused(capsys, ["train", "run.yaml", "--resume"], ["resume: There is no checkpoint in out."])


def test_the_run_that_these_faults_were_made_in_trains(run_folder):
    assert main(["train", "run.yaml"]) == 0
    assert (run_folder / "out" / "checkpoint-1").is_dir()
