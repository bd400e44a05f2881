"""The table of a study, computed from what its finished runs left. Without torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from unisd.evaluate.results import Interval, PromptDrift, Results, TaskMeasurement
from unisd.study.record import TrainingRecord
from unisd.study.statistics import Comparison, Estimate, compare, mean_accuracy, mean_over_seeds


@dataclass(frozen=True)
class Finished:
    """A run that has results."""

    results: Results
    training: TrainingRecord


@dataclass(frozen=True)
class Retained:
    """How far a variant moved from the base on one set of prompts; over its seeds, in nats per token."""

    prompts: str
    """A task, whose held-out prompts these are."""
    jsd_own: Estimate | None
    """Jensen-Shannon divergence to the base on what the trained model writes."""
    jsd_base: Estimate | None
    """The same on what the base writes."""
    logp_lost: Estimate | None
    """Log-probability that the base's own completions have lost."""
    general_perplexity: Estimate | None
    """Of the general text, where one was given."""


@dataclass(frozen=True)
class Finding:
    """Something the diagnostics of one or more seeds say."""

    part: str
    """What it is about: a component, the teacher, or nothing in particular."""
    sentence: str
    """As the first of these seeds says it."""
    num_seeds: int


@dataclass(frozen=True)
class Row:
    """One variant on one task; means over its seeds."""

    variant: str
    """`base` for the model before training."""
    task: str
    seeds: tuple[int, ...]
    """That are finished; none for the base."""
    num_items: int
    accuracy: Estimate
    """With the interval of `mean_accuracy`."""
    accuracy_by_seed: dict[int, float]
    to_base: Comparison | None
    """Null for the base, and where the base is not finished."""
    baseline: str | None
    to_baseline: Comparison | None
    """Over the seeds that both have; null for the baseline."""
    well_formed_share: float
    mean_num_tokens: float
    """Of the completions."""
    truncated_share: float
    gold_perplexity: float | None
    retained: Retained | None
    seconds_per_step: float | None
    """Null for the base."""
    seconds_by_part: dict[str, float]
    passes_per_step: float | None
    inert: tuple[Finding, ...]
    """What was configured and did nothing."""
    signs: tuple[Finding, ...]
    """Signs of collapse, leakage or mismatched prompts."""
    mechanisms: dict[str, float | None]
    """How much each component did; null where a run's number is not finite."""


@dataclass(frozen=True)
class Ceiling:
    """The model before training under the teacher's view."""

    task: str
    num_items: int
    accuracy: float
    interval: Interval

    @property
    def estimate(self) -> Estimate:
        """The accuracy with its interval."""
        return Estimate(self.accuracy, *self.interval)


@dataclass(frozen=True)
class Table:
    """Everything a study found, and what it did not run."""

    rows: tuple[Row, ...]
    ceilings: tuple[Ceiling, ...]
    baseline: str
    missing: dict[str, str]
    """Runs without results, by id: why."""
    conditions: tuple[str, ...]
    """What the numbers depend on, a sentence each: weights, versions, machine load."""
    finished: tuple[str, ...]
    """Ids of the runs that the table is made of, the base first; other folders are of other settings."""

    @property
    def tasks(self) -> list[str]:
        """In their order."""
        return list(dict.fromkeys(row.task for row in self.rows))


def table_of(
    base: Results | None,
    variants: Mapping[str, Mapping[int, Finished]],
    *,
    baseline: str,
    baselines: Mapping[str, str | None],
    missing: Mapping[str, str],
    finished: Sequence[str] = (),
) -> Table:
    """The table of what is finished; `variants` by name and seed, `baselines` what each is compared with."""
    done = [*([base] if base else []), *(one.results for runs in variants.values() for one in runs.values())]
    tasks = list(dict.fromkeys(task.name for results in done for task in results.tasks))
    rows: list[Row] = []
    for task in tasks:
        if base is not None:
            rows.append(_base_row(base, base.task(task)))
        for name, runs in variants.items():
            if runs:
                other = baselines[name]
                rows.append(_row(name, task, runs, base, other, variants.get(other or "", {})))
    return Table(
        rows=tuple(rows),
        ceilings=tuple(_ceilings(base)),
        baseline=baseline,
        missing=dict(missing),
        finished=tuple(finished),
        conditions=tuple(_conditions(done, [one.training for runs in variants.values() for one in runs.values()])),
    )


def _base_row(base: Results, measured: TaskMeasurement) -> Row:
    text = base.general_text
    return Row(
        variant="base",
        task=measured.name,
        seeds=(),
        num_items=measured.num_items,
        accuracy=Estimate(measured.accuracy, *measured.accuracy_interval),
        accuracy_by_seed={},
        to_base=None,
        baseline=None,
        to_baseline=None,
        well_formed_share=measured.well_formed_share,
        mean_num_tokens=measured.mean_num_tokens,
        truncated_share=measured.truncated_share,
        gold_perplexity=measured.gold_perplexity,
        retained=Retained(measured.name, None, None, None, _estimate([text.perplexity])) if text else None,
        seconds_per_step=None,
        seconds_by_part={},
        passes_per_step=None,
        inert=(),
        signs=(),
        mechanisms={},
    )


def _row(
    name: str,
    task: str,
    runs: Mapping[int, Finished],
    base: Results | None,
    baseline: str | None,
    others: Mapping[int, Finished],
) -> Row:
    measured = {seed: one.results.task(task) for seed, one in runs.items()}
    trainings = [one.training for one in runs.values()]
    common = [seed for seed in measured if seed in others]
    accuracies = {seed: one.accuracy for seed, one in measured.items()}
    to_baseline = None
    if baseline is not None and common:
        to_baseline = _compared([measured[s] for s in common], [others[s].results.task(task) for s in common])
    return Row(
        variant=name,
        task=task,
        seeds=tuple(measured),
        num_items=next(iter(measured.values())).num_items,
        accuracy=mean_accuracy(list(accuracies.values()), next(iter(measured.values())).num_items),
        accuracy_by_seed=accuracies,
        to_base=None if base is None else _compared(list(measured.values()), [base.task(task)] * len(measured)),
        baseline=baseline,
        to_baseline=to_baseline,
        well_formed_share=fmean(one.well_formed_share for one in measured.values()),
        mean_num_tokens=fmean(one.mean_num_tokens for one in measured.values()),
        truncated_share=fmean(one.truncated_share for one in measured.values()),
        gold_perplexity=_mean([one.gold_perplexity for one in measured.values()]),
        retained=_retained(task, [one.results for one in runs.values()]),
        seconds_per_step=fmean(one.total_seconds_per_step for one in trainings),
        seconds_by_part=_mean_of_each([one.seconds_per_step for one in trainings]),
        passes_per_step=fmean(one.passes_per_step for one in trainings),
        inert=_findings([one.inert for one in trainings], by_part=True),
        signs=_findings([one.signs for one in trainings], by_part=False),
        mechanisms={
            name: value if math.isfinite(value) else None
            for name, value in _mean_of_each([one.mechanisms for one in trainings]).items()
        },
    )


def _compared(first: Sequence[TaskMeasurement], second: Sequence[TaskMeasurement]) -> Comparison:
    # `discordant` refuses results of different items with a message; the order may still differ.
    for mine, theirs in zip(first, second, strict=True):
        mine.discordant(theirs)
    ids = [item.id for item in first[0].items]
    sides = [[one.correct_by_id for one in side] for side in (first, second)]
    outcomes = [[[correct[key] for key in ids] for correct in side] for side in sides]
    return compare(outcomes[0], outcomes[1])


def _retained(task: str, results: Sequence[Results]) -> Retained | None:
    drifts: list[PromptDrift] = [
        drift for one in results if one.retention for drift in one.retention.prompts if drift.name == task
    ]
    texts = [one.general_text.perplexity for one in results if one.general_text is not None]
    if not drifts and not texts:
        return None
    lost = [
        None
        if drift.base_completions.base_logp is None or drift.base_completions.tuned_logp is None
        else drift.base_completions.base_logp - drift.base_completions.tuned_logp
        for drift in drifts
    ]
    return Retained(
        prompts=task,
        jsd_own=_estimate([drift.tuned_completions.jsd for drift in drifts]),
        jsd_base=_estimate([drift.base_completions.jsd for drift in drifts]),
        logp_lost=_estimate(lost),
        general_perplexity=_estimate(texts),
    )


def _ceilings(base: Results | None) -> list[Ceiling]:
    measured = [] if base is None else [(task, task.teacher) for task in base.tasks]
    return [
        Ceiling(task.name, teacher.num_items, teacher.accuracy, teacher.accuracy_interval)
        for task, teacher in measured
        if teacher is not None
    ]


def _conditions(done: Sequence[Results], trainings: Sequence[TrainingRecord]) -> list[str]:
    sentences = []
    for name, facts in (
        ("weights", [results.model.name_or_path for results in done]),
        ("dtype and device", [f"{results.model.dtype} on {results.model.device}" for results in done]),
        ("commit", [results.git_hash or "not a checkout" for results in done]),
        ("versions", [", ".join(f"{key} {value}" for key, value in results.versions.items()) for results in done]),
        ("runs at a time, threads each", [f"{one.num_parallel}, {one.num_threads}" for one in trainings]),
        ("optimizer steps", [str(one.num_steps) for one in trainings]),
    ):
        different = list(dict.fromkeys(facts))
        warning = "" if len(different) <= 1 or name == "optimizer steps" else " (the runs differ in this)"
        if different:
            sentences.append(f"{name}: {'; '.join(different)}{warning}")
    return sentences


def _mean(values: Sequence[float | None]) -> float | None:
    estimate = _estimate(values)
    return None if estimate is None else estimate.value


def _estimate(values: Sequence[float | None]) -> Estimate | None:
    known = [value for value in values if value is not None]
    return mean_over_seeds(known) if known and len(known) == len(values) else None


def _mean_of_each(dicts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in dicts for name in one)
    return {name: fmean(one[name] for one in dicts if name in one) for name in names}


def _findings(by_seed: Sequence[Sequence[str]], *, by_part: bool) -> tuple[Finding, ...]:
    """Sentences of all seeds; they hold figures, so those of one part count as one."""
    found: dict[str, Finding] = {}
    for sentences in by_seed:
        keys = {
            (sentence.partition(":")[0] if by_part else _without_figures(sentence)): sentence for sentence in sentences
        }
        for key, sentence in keys.items():
            first = found.get(key, Finding(key if by_part else "", sentence, 0))
            found[key] = replace(first, num_seeds=first.num_seeds + 1)
    return tuple(found.values())


def _without_figures(sentence: str) -> str:
    return re.sub(r"[\d.]+", "#", sentence)
