"""A study from its file to its table: read, check, run what is missing, tabulate. Read this first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unisd.config.dump import CONFIG_FILE, resolved_yaml
from unisd.evaluate.results import RESULTS_FILE, Results
from unisd.objective.clip import DEFAULT_CLIP
from unisd.study.grid import Grid, Run, grid_of, plan_text
from unisd.study.pool import Job, environment_of, locked, run_jobs
from unisd.study.record import LOG_FILE, Failure, TrainingRecord, write_whole
from unisd.study.render import TABLE_NAME, save_table
from unisd.study.run import Order
from unisd.study.schema import Study, load_study
from unisd.study.table import Finished, Table, table_of

STUDY_FILE = "study.yaml"
"""In the folder of a study: its file and the overrides, as last called."""


def plan_study(path: str | Path, overrides: Sequence[str] = ()) -> str:
    """The runs of a study and their passes; nothing is started."""
    study = load_study(path)
    grid = grid_of(study, path, overrides)
    jobs = jobs_of(study, grid, num_parallel=1, num_threads=1)
    return plan_text(study, grid, {run: job.state for run, job in jobs.items()})


def write_table(path: str | Path, overrides: Sequence[str] = (), *, say: Callable[[str], None] = print) -> Table:
    """Write the table of what is finished; nothing is started."""
    study = load_study(path)
    grid = grid_of(study, path, overrides)
    if not any(job.is_finished for job in jobs_of(study, grid, num_parallel=1, num_threads=1).values()):
        raise ValueError(f"{grid.folder} holds no finished run of this study. Call it without --table.")
    return _saved(study, grid, say)


def run_study(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    num_parallel: int = 1,
    num_threads: int = 1,
    say: Callable[[str], None] = print,
) -> Table:
    """Run what the study has no results of yet, and write its table; runs that failed before are tried again.

    Raises a `ValueError` at the end, after the table was written, if a run failed. `say` gets a line per run.
    """
    for name, number in (("--jobs", num_parallel), ("--threads", num_threads)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    study = load_study(path)
    grid = grid_of(study, path, overrides)
    jobs = jobs_of(study, grid, num_parallel=num_parallel, num_threads=num_threads)
    with locked(grid.folder) as lock:
        said = f"# unisd study {path} {' '.join(overrides)}".rstrip()
        write_whole(grid.folder / STUDY_FILE, f"{said}\n{Path(path).read_text(encoding='utf-8')}")
        num_done = sum(job.is_finished for job in jobs.values())
        say(f"{len(jobs)} runs in {grid.folder}, {num_done} of them finished")
        run_jobs(
            list(jobs.values()),
            num_parallel=num_parallel,
            environment=environment_of(num_threads),
            lock=lock,
            report=_Reporter(num_done, len(jobs), grid, study, say),
        )
        table = _saved(study, grid, say)
    failed = [run for run, job in jobs.items() if not job.is_finished]
    if failed:
        first = failed[0]
        raise ValueError(
            f"{len(failed)} of {len(jobs)} runs failed: {', '.join(failed)}. See "
            f"{jobs[first].folder / LOG_FILE}; call the study again to run them again."
        )
    return table


def _saved(study: Study, grid: Grid, say: Callable[[str], None]) -> Table:
    table = tabulate(study, grid)
    save_table(table, grid.folder)
    say(f"Saved {grid.folder / TABLE_NAME}.md, .csv and .json.")
    return table


def tabulate(study: Study, grid: Grid) -> Table:
    """The table of the runs that are finished."""
    jobs = jobs_of(study, grid, num_parallel=1, num_threads=1)
    finished = {run.id: jobs[run.id].is_finished for run in grid}
    variants = {
        variant.name: {
            seed: _finished(grid, run) for seed, run in grid.of_variant(variant.name).items() if finished[run.id]
        }
        for variant in study.variants
    }
    base = Results.load(grid.folder_of(grid.base) / RESULTS_FILE) if finished[grid.base.id] else None
    return table_of(
        base,
        variants,
        baseline=study.baseline,
        baselines={variant.name: study.baseline_of(variant) for variant in study.variants},
        missing={run: jobs[run].state for run, is_finished in finished.items() if not is_finished},
        finished=[run for run, is_finished in finished.items() if is_finished],
    )


def _finished(grid: Grid, run: Run) -> Finished:
    folder = grid.folder_of(run)
    return Finished(Results.load(folder / RESULTS_FILE), TrainingRecord.load(folder))


def jobs_of(study: Study, grid: Grid, *, num_parallel: int, num_threads: int) -> dict[str, Job]:
    """The process of every run, by the run's id."""
    jobs = {}
    for run in grid:
        folder = grid.folder_of(run)
        is_default = any(component is DEFAULT_CLIP for component in run.config.components)
        order = Order(run.variant, run.seed, run.evaluation, study.keep_models, num_parallel, num_threads, is_default)
        command = (sys.executable, "-m", "unisd.study", str(folder))
        jobs[run.id] = Job(folder, command, RESULTS_FILE, partial(_prepare, run=run, order=order))
    return jobs


def _prepare(folder: Path, *, run: Run, order: Order) -> None:
    write_whole(folder / CONFIG_FILE, resolved_yaml(run.config))
    order.save(folder)


@dataclass
class _Reporter:
    """A line per run as it ends, and a fresh table after each, so that a study can be read while it runs."""

    num_done: int
    num_runs: int
    grid: Grid
    study: Study
    say: Callable[[str], None]

    def __call__(self, job: Job, failure: Failure | None, seconds: float) -> None:
        self.num_done += 1
        outcome = f"failed: {failure.reason}" if failure else _accuracies(job.folder)
        self.say(f"[{self.num_done}/{self.num_runs}] {job.folder.name}: {outcome} ({seconds:.0f} s)")
        save_table(tabulate(self.study, self.grid), self.grid.folder)


def _accuracies(folder: Path) -> str:
    results = Results.load(folder / RESULTS_FILE)
    return ", ".join(f"{task.name} {100 * task.accuracy:.1f} %" for task in results.tasks)
