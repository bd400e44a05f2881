"""Stands in for `unisd study`: `parent.py FOLDER` runs a quick job, one that waits, and another quick one."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.study.jobs import job
from unisd.study.pool import environment_of, locked, run_jobs


def main(folder: Path) -> None:
    jobs = [job(folder, "a", "quick"), job(folder, "b", "waits"), job(folder, "c", "quick")]
    with locked(folder) as lock:
        run_jobs(jobs, num_parallel=1, environment=environment_of(1), lock=lock, report=lambda *_: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
