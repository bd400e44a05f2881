"""Results and trainings with numbers made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unisd.evaluate.results import (
    SCHEMA_VERSION,
    Drift,
    Generation,
    Item,
    ModelFacts,
    PromptDrift,
    Results,
    Retention,
    TaskMeasurement,
    TeacherCeiling,
)
from unisd.stats import wilson
from unisd.study.record import TrainingRecord
from unisd.study.table import Finished

GENERATION = Generation(20, 8, 1.0, 100, 100, {}, {}, {}, 0, None, None, None, None)


def results(correct: Sequence[int], **changes: Any) -> Results:
    """Of a task `toy`, whose items are right where `correct` says 1."""
    items = tuple(
        Item(
            f"item-{index}",
            bool(right),
            True,
            3 + index,
            False,
            "text",
            "",
            None,
            None,
            f"what is asked in item-{index}",
        )
        for index, right in enumerate(correct)
    )
    measured = TaskMeasurement(
        name="toy",
        num_items=len(items),
        num_dropped=0,
        accuracy=sum(correct) / len(correct),
        accuracy_interval=wilson(sum(correct), len(correct)),
        well_formed_share=1.0,
        mean_num_tokens=5.0,
        truncated_share=0.25,
        gold_perplexity=1.5,
        privileged_overlap=None,
        teacher=None,
        pass_at_k=None,
        items=items,
    )
    made = Results(
        schema_version=SCHEMA_VERSION,
        created="2026-01-01T00:00:00+00:00",
        model=ModelFacts("tiny", None, "tiny", "float32", "cpu"),
        config_hash=None,
        seed=0,
        limit=None,
        versions={"torch": "2"},
        git_hash="abc",
        generation=GENERATION,
        tasks=(measured,),
        general_text=None,
        retention=None,
    )
    return replace(made, **changes)


def base_results(correct: Sequence[int], *, ceiling: float) -> Results:
    """The same, with what the teacher's view gets right."""
    made = results(correct)
    teacher = TeacherCeiling(len(correct), ceiling, wilson(round(ceiling * len(correct)), len(correct)))
    return replace(made, tasks=(replace(made.tasks[0], teacher=teacher),))


def finished(correct: Sequence[int], *, seed: int = 0, jsd: float = 0.02, **training: Any) -> Finished:
    """A run; `training` replaces fields of its record."""
    drift = PromptDrift("toy", len(correct), Drift(9, jsd, -1.0, -1.5), Drift(9, 2 * jsd, -1.0, -1.25))
    record = TrainingRecord(
        variant="any",
        seed=seed,
        num_steps=40,
        seconds=80.0,
        seconds_per_step={"rollout": 0.5, "student": 1.5},
        passes_per_step=2.0,
        num_parallel=1,
        num_threads=1,
        plan="",
        inert=(),
        signs=(),
        mechanisms={},
        history=[],
    )
    return Finished(results(correct, retention=Retention("tiny", (drift,))), replace(record, **training))
