"""Processes of a study: order, failures, kills, and two studies on one folder; with a stand-in for the runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.study.jobs import job
from unisd.config.errors import ConfigError
from unisd.study import pool
from unisd.study.pool import Job, environment_of, locked, run_jobs
from unisd.study.record import Failure

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *(path for path in sys.path if path)]))


def run(folder: Path, jobs: list[Job], num_parallel: int = 1) -> dict[str, Failure | None]:
    """Outcomes in the order in which the jobs ended."""
    outcomes: dict[str, Failure | None] = {}

    def report(ended: Job, failure: Failure | None, seconds: float) -> None:
        assert seconds > 0
        outcomes[ended.folder.name] = failure

    with locked(folder) as lock:
        run_jobs(jobs, num_parallel=num_parallel, environment=environment_of(3), lock=lock, report=report)
    return outcomes


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    # What has ended and was not waited for is still in the list.
    return "State:\tZ" not in Path(f"/proc/{process_id}/status").read_text()


def test_a_failed_run_is_recorded_and_does_not_stop_the_others(tmp_path):
    kinds = {"one": "fails", "two": "dies", "three": "quick", "four": "finishes then dies"}
    jobs = [job(tmp_path, name, kind) for name, kind in kinds.items()]
    outcomes = run(tmp_path, jobs)
    assert list(outcomes) == list(kinds)
    assert outcomes["three"] is None
    assert outcomes["four"] is None
    failure = Failure.load(tmp_path / "one")
    assert failure == outcomes["one"]
    assert failure.last_lines[0] == "first line"
    assert failure.reason == "ValueError: the data is missing"
    assert outcomes["two"] is not None
    assert outcomes["two"].exit_code == -signal.SIGKILL
    # Not the line it happened to print last.
    assert outcomes["two"].last_lines == (" 12%|#         | 5/40",)
    assert outcomes["two"].reason == "ended by signal 9 (Killed), as the system does when memory runs out"
    assert [one.state.split(":")[0] for one in jobs] == ["failed", "failed", "finished", "finished"]
    # Several processes share the cores in peace.
    assert (tmp_path / "three" / "result").read_text() == "quick 3 passive"


def test_what_is_finished_is_not_run_again_and_the_rest_starts_in_an_empty_folder(tmp_path):
    for name in ("done", "half"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "left").touch()
    (tmp_path / "done" / "result").write_text("of before")
    (tmp_path / "half" / "error.json").write_text("{")
    assert list(run(tmp_path, [job(tmp_path, "done", "quick"), job(tmp_path, "half", "quick")])) == ["half"]
    assert (tmp_path / "done" / "result").read_text() == "of before"
    assert sorted(path.name for path in (tmp_path / "half").iterdir()) == ["began", "log.txt", "order", "result"]


def test_so_many_run_at_a_time_as_asked(tmp_path):
    jobs = [job(tmp_path, "slow", "waits"), job(tmp_path, "quick", "after slow")]
    ended: list[str] = []

    def report(one: Job, failure: Failure | None, seconds: float) -> None:
        ended.append(one.folder.name)
        raise KeyboardInterrupt

    with locked(tmp_path) as lock, pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, num_parallel=2, environment=environment_of(1), lock=lock, report=report)
    assert ended == ["quick"]
    # Left by an exception, and the other process is gone too.
    assert not is_alive(int((tmp_path / "slow" / "began").read_text()))


def test_a_study_that_was_killed_leaves_no_process_and_goes_on_where_it_was(tmp_path):
    parent = subprocess.Popen([sys.executable, str(ROOT / "tests" / "study" / "parent.py"), str(tmp_path)])
    until((tmp_path / "b" / "began").exists)
    child = int((tmp_path / "b" / "began").read_text())
    parent.kill()
    parent.wait()
    # The lock is inherited: as long as the run lives, nobody else begins.
    jobs = [job(tmp_path, name, "quick") for name in ("a", "b", "c")]
    assert [one.state for one in jobs] == ["finished", "begun", "to do"]
    assert list(run(tmp_path, jobs)) == ["b", "c"]
    assert not is_alive(child)
    assert (tmp_path / "a" / "result").read_text() == "quick 1 passive"
    assert (tmp_path / "b" / "result").read_text() == "quick 3 passive"


def test_two_studies_on_one_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_PATIENCE_SECONDS", 0.1)
    with locked(tmp_path):
        with pytest.raises(ConfigError, match="in use by another"), locked(tmp_path):
            pass
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path):
        pass
