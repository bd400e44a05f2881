"""Processes of a study: some at a time, none twice, none left behind. Without torch; Unix only, for its locks."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unisd.config.errors import ConfigError
from unisd.study.record import ERROR_FILE, LOG_FILE, Failure

LOCK_FILE = "study.lock"
"""Held by every process of a study while it lives."""
NUM_LAST_LINES = 15
"""Of a failed run's log, kept in its `error.json`."""

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Job:
    """One process to run in a folder of its own."""

    folder: Path
    """Emptied before the start, unless the job is finished."""
    command: tuple[str, ...]
    result: str
    """Name of the file in the folder that says that the job is finished; the process writes it last, as a whole."""
    prepare: Callable[[Path], None]
    """Puts into the emptied folder what the process reads."""

    @property
    def is_finished(self) -> bool:
        """Whether the result is there; everything else in the folder counts for nothing."""
        return (self.folder / self.result).is_file()

    @property
    def state(self) -> str:
        """For people."""
        if self.is_finished:
            return "finished"
        if (self.folder / ERROR_FILE).is_file():
            return f"failed: {Failure.load(self.folder).reason}"
        return "begun" if self.folder.exists() else "to do"


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the folder for one study; yields the descriptor that its processes inherit.

    The lock goes when the last of them has ended, however it ended. The processes of a study that was killed end by
    themselves (see `end_with_parent`), so a few seconds are waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a") as file:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"folder: {folder} is in use by another `unisd study`. Wait for it, stop it, or give another "
                        "folder."
                    ) from None
                time.sleep(_POLL_SECONDS)
        yield file.fileno()


def run_jobs(
    jobs: Sequence[Job],
    *,
    num_parallel: int,
    environment: Mapping[str, str],
    lock: int,
    report: Callable[[Job, Failure | None, float], None],
) -> None:
    """Run what is not finished, in order, `num_parallel` at a time; `report` hears of each with its seconds.

    When this function is left, by whatever exception, no process of it is alive.
    """
    waiting = [job for job in jobs if not job.is_finished]
    running: list[_Started] = []
    try:
        while waiting or running:
            while waiting and len(running) < num_parallel:
                running.append(_start(waiting.pop(0), environment, lock))
            for started in [one for one in running if one.process.poll() is not None]:
                running.remove(started)
                report(started.job, _outcome(started), time.monotonic() - started.since)
            time.sleep(_POLL_SECONDS)
    finally:
        for started in running:
            started.process.kill()
        for started in running:
            started.process.wait()


@dataclass(frozen=True)
class _Started:
    job: Job
    process: subprocess.Popen[bytes]
    since: float


def _start(job: Job, environment: Mapping[str, str], lock: int) -> _Started:
    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True)
    job.prepare(job.folder)
    with (job.folder / LOG_FILE).open("wb") as log:
        process = subprocess.Popen(
            job.command,
            # Never written to: its end tells the process that this one is gone.
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            pass_fds=(lock,),
        )
    return _Started(job, process, time.monotonic())


def _outcome(started: _Started) -> Failure | None:
    job, code = started.job, started.process.returncode
    assert started.process.stdin is not None
    started.process.stdin.close()
    # A process that dies after its result was written has finished all the same; one without a result never has.
    if job.is_finished:
        return None
    text = (job.folder / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    failure = Failure(code, tuple(line.rstrip() for line in text.splitlines()[-NUM_LAST_LINES:]))
    failure.save(job.folder)
    return failure


def end_with_parent(descriptor: int = 0) -> None:
    """From now on this process ends when the one that started it does, even by SIGKILL.

    The standard input is a pipe that nobody writes to; it ends with its other side.
    """

    def wait() -> None:
        # Not through sys.stdin, whose lock a thread must not hold when the interpreter ends.
        while os.read(descriptor, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


def environment_of(num_threads: int) -> dict[str, str]:
    """What a process of a study gets beside its parent's environment, so that several share a machine in peace."""
    threads = str(num_threads)
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # Threads that wait sleep; spinning, they take the cores of the other runs.
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
