"""What a run of a study leaves beside its results: how training went, in one file. Without torch."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import TypeAdapter, ValidationError

TRAINING_FILE = "training.json"
"""`TrainingRecord` of a run."""
ERROR_FILE = "error.json"
"""`Failure` of a run that did not finish; it is tried again the next time."""
LOG_FILE = "log.txt"
"""Everything the process of a run printed."""

_OWNERS = ("auxiliary", "loss", "negative", "teacher")


@dataclass(frozen=True)
class TrainingRecord:
    """How one training went."""

    variant: str
    seed: int
    num_steps: int
    """Optimizer steps."""
    seconds: float
    """Of `unisd train` as a whole: loading, contexts, training, saving."""
    seconds_per_step: dict[str, float]
    """By part, median over the log entries, by the host's clock: rollout, teacher, student (and backward), update."""
    passes_per_step: float
    """Forward passes per optimizer step of one process, by the plan; rollouts are none, a gated pass is its share."""
    num_parallel: int
    """Runs at a time: with more than one the seconds are those of a shared machine."""
    num_threads: int
    """Of each run."""
    plan: str
    """The passes of a micro-batch, as `unisd plan` prints them."""
    inert: tuple[str, ...]
    """What was configured and did nothing, a sentence each (`unisd.diagnostics.dead_knobs`)."""
    signs: tuple[str, ...]
    """Signs of collapse, leakage or mismatched prompts, a sentence each."""
    mechanisms: dict[str, float]
    """How much each component did: logged metrics, mean over all steps; the teacher's at the end."""
    history: list[dict[str, Any]]
    """Everything that was logged."""

    @property
    def total_seconds_per_step(self) -> float:
        """Sum over the parts."""
        return sum(self.seconds_per_step.values())

    def save(self, folder: Path) -> None:
        """Write `training.json` as a whole or not at all."""
        write_whole(folder / TRAINING_FILE, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> TrainingRecord:
        """Read `training.json` back."""
        return _load(cls, folder / TRAINING_FILE)


@dataclass(frozen=True)
class Failure:
    """Why a run has no results."""

    exit_code: int
    """Of its process; negative for a signal."""
    last_lines: tuple[str, ...]
    """Of what it printed."""

    @property
    def reason(self) -> str:
        """The signal that ended it, else the line that says most: the last one."""
        if self.exit_code < 0:
            # The last line is then whatever it was doing, a progress bar for example.
            memory = ", as the system does when memory runs out" if self.exit_code == -signal.SIGKILL else ""
            return f"ended by signal {-self.exit_code} ({signal.strsignal(-self.exit_code) or 'unknown'}){memory}"
        return next((line for line in reversed(self.last_lines) if line.strip()), f"exit code {self.exit_code}")

    def save(self, folder: Path) -> None:
        """Write `error.json` as a whole or not at all."""
        write_whole(folder / ERROR_FILE, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Failure:
        """Read `error.json` back."""
        return _load(cls, folder / ERROR_FILE)


def write_whole(path: Path, text: str) -> None:
    """Write beside the place and rename, so that a reader finds the whole file or none."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def median_seconds(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Median of `time/<part>` over the log entries; the first step, which loads and compiles, does not move it."""
    entries = [entry for entry in history if "loss" in entry]
    names = dict.fromkeys(name for entry in entries for name in entry if name.startswith("time/"))
    return {name.removeprefix("time/"): median(entry[name] for entry in entries if name in entry) for name in names}


def mechanisms_of(history: Sequence[Mapping[str, Any]], components: Iterable[str]) -> dict[str, float]:
    """The metrics that say how much each part acts: means over the log entries, of the teacher the last value."""
    owners = {*components, *_OWNERS}
    entries = [entry for entry in history if "loss" in entry]
    found: dict[str, float] = {}
    for name in sorted({name for entry in entries for name in entry}):
        owner = name.partition("/")[0]
        if "/" in name and owner in owners:
            values = [entry[name] for entry in entries if name in entry]
            found[name] = values[-1] if owner == "teacher" else sum(values) / len(values)
    return found


def _load(cls: Any, path: Path) -> Any:
    try:
        return TypeAdapter(cls).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:200]}). Remove the run's folder, it is run again."
        ) from error
