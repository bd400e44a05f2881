"""What a run or a study left in its folder, read for the report. Without torch and without a model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from unisd.evaluate.results import RESULTS_FILE, Results
from unisd.study.record import TRAINING_FILE, TrainingRecord
from unisd.study.table import Table
from unisd.token_maps.record import EXAMPLES_FILE, KeptExamples

CONFIG_FILE = "unisd.yaml"
"""As `unisd.config.dump` calls it, which imports torch."""
METRICS_FILE = "metrics.json"
"""As `unisd.train` calls it, which imports torch."""
TABLE_FILE = "table.json"
"""What makes a folder a study."""
TRAINING_FOLDER = "train"
"""Inside the folder of a study's run: what `unisd train` left."""

Entry = Mapping[str, Any]
"""One entry of the log."""


@dataclass(frozen=True)
class RunRecord:
    """One training."""

    name: str
    config_text: str
    """The resolved configuration; empty where the file is missing."""
    plan: str
    """Empty where it was not kept."""
    history: Sequence[Entry]
    inert: Sequence[str]
    """What was configured and did nothing, a sentence each."""
    signs: Sequence[str]
    """Signs of collapse, leakage or mismatched prompts."""
    final: Mapping[str, float]
    """The evaluation at the end; empty where there was none."""
    examples: KeptExamples | None
    results: Results | None
    """Of `unisd eval`, saved into the folder."""
    variant: str = ""
    """Row of the study."""
    seed: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as nested mappings."""
        document = yaml.safe_load(self.config_text) if self.config_text else None
        return document if isinstance(document, dict) else {}

    @property
    def num_steps(self) -> int:
        """Optimizer steps that were logged."""
        return int(max((entry["step"] for entry in self.history if is_number(entry.get("step"))), default=0))

    def series(self, name: str) -> dict[float, float]:
        """A logged metric by optimizer step."""
        return {
            float(entry["step"]): float(entry[name])
            for entry in self.history
            if is_number(entry.get(name)) and is_number(entry.get("step"))
        }

    @property
    def metrics(self) -> list[str]:
        """Every name in the log."""
        return sorted({name for entry in self.history for name in entry})


@dataclass(frozen=True)
class StudyRecord:
    """A study: its table and its runs."""

    name: str
    table: Table
    base: Results | None
    """Of the model before training; null where that is not finished."""
    runs: Sequence[RunRecord]
    """By variant and seed, in the order of the table."""

    def of_variant(self, name: str) -> list[RunRecord]:
        """Its finished runs."""
        return [run for run in self.runs if run.variant == name]


def read_folder(folder: Path) -> RunRecord | StudyRecord:
    """The study, or else the run, in a folder; a `ValueError` says what is missing."""
    if not folder.is_dir():
        raise ValueError(f"report: {folder} is no folder. Give training.output_dir of a run, or a study's folder.")
    if (folder / TABLE_FILE).is_file():
        return _read_study(folder)
    for place in (folder, folder / TRAINING_FOLDER):
        if (place / METRICS_FILE).is_file():
            return _read_run(place, folder)
    raise ValueError(
        f"report: {folder} holds neither {METRICS_FILE} (of a finished `unisd train`) nor {TABLE_FILE} (of a `unisd "
        "study`). Give training.output_dir of a run that has ended, or the folder of a study."
    )


def is_number(value: object) -> bool:
    """Whether it can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_run(place: Path, folder: Path) -> RunRecord:
    left = _json(place / METRICS_FILE)
    warnings = _strings(left.get("warnings"))
    inert = _strings(left.get("inert"))
    results = folder / RESULTS_FILE
    final = left.get("final")
    return RunRecord(
        name=folder.resolve().name,
        config_text=_text(place / CONFIG_FILE),
        plan=str(left.get("plan", "")),
        history=_history(left.get("history")),
        inert=inert,
        signs=[sentence for sentence in warnings if sentence not in inert],
        final={name: float(value) for name, value in final.items() if is_number(value)} if final else {},
        examples=_examples(place),
        results=Results.load(results) if results.is_file() else None,
    )


def _read_study(folder: Path) -> StudyRecord:
    try:
        table = TypeAdapter(Table).validate_json((folder / TABLE_FILE).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"{folder / TABLE_FILE}: {'.'.join(map(str, first['loc']))}: {first['msg']}. Call `unisd study` again, it "
            "writes the table anew."
        ) from None
    base: Results | None = None
    runs: list[RunRecord] = []
    # Settings that were changed leave folders of their own behind; those that the table is made of count.
    for place in (folder / name for name in table.finished if (folder / name / RESULTS_FILE).is_file()):
        results = Results.load(place / RESULTS_FILE)
        if (place / TRAINING_FILE).is_file():
            runs.append(_run_of_study(place, results))
        else:
            base = results
    order = list(dict.fromkeys(row.variant for row in table.rows))
    runs.sort(key=lambda run: (order.index(run.variant), run.seed or 0))
    return StudyRecord(folder.resolve().name, table, base, runs)


def _run_of_study(place: Path, results: Results) -> RunRecord:
    training = TrainingRecord.load(place)
    inside = place / TRAINING_FOLDER
    return RunRecord(
        name=place.name,
        config_text=_text(place / CONFIG_FILE),
        plan=training.plan,
        history=_history(training.history),
        inert=training.inert,
        signs=training.signs,
        final={},
        examples=_examples(inside),
        results=results,
        variant=training.variant,
        seed=training.seed,
    )


def _examples(folder: Path) -> KeptExamples | None:
    return KeptExamples.load(folder) if (folder / EXAMPLES_FILE).is_file() else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error}). It is cut off or was edited: train again.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must hold an object, got {type(found).__name__}. It was edited: train again.")
    return found


def _history(found: object) -> list[Entry]:
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _strings(found: object) -> list[str]:
    return [str(sentence) for sentence in found] if isinstance(found, list) else []
