"""The results of an evaluation for people."""

from __future__ import annotations

from collections.abc import Sequence

from unisd.evaluate.results import Drift, Interval, Results, TaskMeasurement
from unisd.probe import aligned


def results_text(results: Results) -> str:
    """A table of the tasks, then perplexity of general text and retention where they were measured."""
    generation, model = results.generation, results.model
    how = f"greedy, at most {generation.max_completion_length} tokens, {model.dtype} on {model.device}"
    blocks = [f"{model.description}; {how}"]
    if results.tasks:
        blocks.append(_tasks(results.tasks))
    if generation.num_samples:
        blocks.append(_pass_at_k(results))
    if results.general_text is not None:
        text = results.general_text
        base = "" if text.base_perplexity is None else f", base {text.base_perplexity:.2f}"
        blocks.append(
            f"{text.file}: perplexity {_number(text.perplexity, 2)}{base} "
            f"({text.num_tokens} tokens in windows of {text.window})"
        )
    if results.retention is not None:
        blocks.append(_retention(results))
    for name, metrics in (results.harness or {}).items():
        blocks.append(f"lm-eval, {name}: " + "  ".join(f"{metric} {value:.4g}" for metric, value in metrics.items()))
    return "\n\n".join(blocks)


def _tasks(tasks: Sequence[TaskMeasurement]) -> str:
    head = ("task", "n", "correct [95 %]", "teacher [95 %]", "readable", "tokens", "cut off", "gold PPL", "overlap")
    rows: list[tuple[str, ...]] = [head]
    for task in tasks:
        teacher = task.teacher
        rows.append(
            (
                task.name,
                str(task.num_items),
                _accuracy(task.accuracy, task.accuracy_interval),
                "-" if teacher is None else _accuracy(teacher.accuracy, teacher.accuracy_interval),
                _percent(task.well_formed_share),
                f"{task.mean_num_tokens:.1f}",
                _percent(task.truncated_share),
                _number(task.gold_perplexity, 2),
                "-" if task.privileged_overlap is None else _percent(task.privileged_overlap),
            )
        )
    dropped = [f"{task.name}: {task.num_dropped} rows over the prompt budget" for task in tasks if task.num_dropped]
    return "\n".join([aligned(rows), *dropped])


def _pass_at_k(results: Results) -> str:
    generation = results.generation
    lines = [f"{generation.num_samples} samples per prompt at temperature {generation.temperature}"]
    for task in results.tasks:
        values = (task.pass_at_k or {}).items()
        lines.append(f"{task.name}: " + "  ".join(f"pass@{k} {100 * value:.1f} %" for k, value in values))
    return "\n".join(lines)


def _retention(results: Results) -> str:
    retention = results.retention
    assert retention is not None
    rows: list[tuple[str, ...]] = [("prompts", "n", "written by", "tokens", "JSD", "logp base", "logp here")]
    for one in retention.prompts:
        for writer, drift in (("this model", one.tuned_completions), ("the base", one.base_completions)):
            rows.append((one.name, str(one.num_prompts), writer, *_drift(drift)))
    return f"retention against {retention.base}; means per token, nats\n{aligned(rows)}"


def _drift(drift: Drift) -> tuple[str, ...]:
    values = (_number(value, 4) for value in (drift.jsd, drift.base_logp, drift.tuned_logp))
    return (str(drift.num_tokens), *values)


def _accuracy(share: float, interval: Interval) -> str:
    low, high = interval
    return f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
