"""The command line itself: arguments, exit codes, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unisd.cli import main
from unisd.config import load

STARTS = """\
import sys
from unisd.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(code, sorted({"torch", "transformers", "peft", "datasets"} & set(sys.modules)))
"""


def start(folder: Path, *arguments: str) -> str:
    """The exit code and the heavy modules that the command imported, from a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run(
        [sys.executable, "-c", STARTS, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.splitlines()[-1]


def test_help_and_the_errors_of_the_first_phase_come_without_torch(tmp_path):
    (tmp_path / "key.yaml").write_text("model: {name_or_path: a/b}\nrollout: {temprature: 1}")
    (tmp_path / "section.yaml").write_text("model: {name_or_path: a/b}\nrolout: {}")
    (tmp_path / "syntax.yaml").write_text("model: {")
    assert start(tmp_path, "--help") == "0 []"
    assert start(tmp_path, "train", "--help") == "0 []"
    for name in ("key", "section", "syntax", "missing"):
        assert start(tmp_path, "train", f"{name}.yaml") == "2 []"
    # The control: a fault inside `training` needs transformers to be seen.
    (tmp_path / "late.yaml").write_text("model: {name_or_path: a/b}\ntraining: {lerning_rate: 1}")
    assert "'torch'" in start(tmp_path, "plan", "late.yaml")


def test_overrides_may_stand_on_either_side_of_an_option(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("model: {name_or_path: a/b}")
    path = str(tmp_path / "run.yaml")
    for arguments in (
        ["probe", path, "rollout.top_k=many", "--prompts", "3"],
        ["probe", path, "--prompts", "3", "rollout.top_k=many"],
        ["probe", "--prompts", "3", path, "rollout.top_k=many"],
        ["probe", path, "rollout.top_k=many", "--prompts", "3", "rollout.top_p=1"],
    ):
        assert main(arguments) == 2
        assert "rollout.top_k must be an integer, got 'many'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["probe", path, "--promts", "3"])
    assert stop.value.code == 2
    assert main(["probe", path, "--prompts", "0"]) == 2
    assert main(["train", path, "--resume", "rollout.top_k=1"]) == 2
    assert "Write overrides before --resume" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["eval", "no/model"], ["report", "no/run"]])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, command):
    (tmp_path / "file").touch()
    assert main([*command, "--output", str(tmp_path)]) == 2
    assert f"--output {tmp_path} is a folder. Give the name of a file in it." in capsys.readouterr().err
    assert main([*command, "--output", str(tmp_path / "file" / "new" / "x")]) == 2
    assert f"{tmp_path / 'file'} is no folder that you may write in" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_crash_and_another_broken_pipe_is(tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("sys.stdout", os.fdopen(writer, "w"))
    assert main(["init", "cmd", str(tmp_path / "one.yaml")]) == 141
    assert "model:" in (tmp_path / "one.yaml").read_text()
    sys.stdout.close()

    def fails(task: str, path: str) -> str:
        raise BrokenPipeError

    monkeypatch.undo()
    monkeypatch.setattr("unisd.config.starter.starter_yaml", fails)
    with pytest.raises(BrokenPipeError):
        main(["init", "cmd", str(tmp_path / "two.yaml")])


def test_init_writes_a_file_once(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "cmd"]) == 0
    written = (tmp_path / "cmd.yaml").read_text()
    assert main(["init", "cmd"]) == 2
    assert "cmd.yaml exists and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "cmd.yaml").read_text() == written
    assert main(["init", "local", "mine.yaml"]) == 0
    assert load.load_config("mine.yaml").training["output_dir"] == "runs/local"
    assert main(["init", "cmdd", "other.yaml"]) == 2
    assert "no starter for 'cmdd'. Did you mean 'cmd'?" in capsys.readouterr().err
    assert main(["init", "cmd", "no/such/folder.yaml"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cmd.yaml", "mine.yaml"]


def test_plan_prints_the_passes(tmp_path, tiny_checkpoint, capsys):
    (tmp_path / "run.yaml").write_text(f"model: {{name_or_path: {tiny_checkpoint}}}\ndata: {{train: cmd, limit: 4}}")
    assert main(["plan", str(tmp_path / "run.yaml")]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["pass", "weights", "context", "grad", "yields"]
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_command_ends_as_shells_expect(tmp_path, monkeypatch, capsys):
    (tmp_path / "run.yaml").write_text("model: {name_or_path: a/b}")

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unisd.cli.load_config", interrupted)
    assert main(["plan", str(tmp_path / "run.yaml")]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_fault_inside_a_library_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "run.yaml").write_text("model: {name_or_path: a/b}")
    monkeypatch.setattr("unisd.cli.load_config", lambda *arguments: json.loads("not JSON"))
    with pytest.raises(json.JSONDecodeError):
        main(["plan", str(tmp_path / "run.yaml")])
