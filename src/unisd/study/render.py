"""The table of a study as Markdown, CSV and JSON, and how its figures are written anywhere."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from unisd.study.record import write_whole
from unisd.study.statistics import CONFIDENCE, Comparison, Estimate
from unisd.study.table import Row, Table

TABLE_NAME = "table"
"""Of the three files, before their endings."""

METHOD = """\
Correct: mean over seeds, with the wider of the 95 % t interval over seeds and Wilson's over prompts at either end.
Differences are in points and paired by seed and prompt; their 95 % interval and p recipe take seeds and prompts as
drawn (two-way, t with one degree of freedom less than seeds): would it happen again? p models asks only whether these
trained models differ: exact sign-flip over prompts, all seeds of a prompt at once, which with one seed is exact
McNemar. Where seeds are noisy it is small for recipes that are alike: claim a better recipe on p recipe only."""
"""What the numbers of a row are."""


def save_table(table: Table, folder: Path) -> None:
    """Write `table.md`, `table.csv` and `table.json`, each as a whole."""
    for ending, text in (("md", markdown(table)), ("csv", csv_text(table)), ("json", json_text(table))):
        write_whole(folder / f"{TABLE_NAME}.{ending}", text)


def json_text(table: Table) -> str:
    """Every field of the table; shares between 0 and 1, infinite numbers as null."""
    return json.dumps(_finite(asdict(table)), indent=1, allow_nan=False) + "\n"


def markdown(table: Table) -> str:
    """The table for people: one block per task, then what the mechanisms did and what the numbers depend on."""
    blocks: list[str] = []
    for task in table.tasks:
        rows = [row for row in table.rows if row.task == task]
        blocks += [f"## {task}, {rows[0].num_items} held-out prompts", _main(table, task, rows), _answers(rows)]
        retained = _retention(rows)
        blocks += [retained] if retained else []
    blocks += [_mechanisms(table), _costs(table), METHOD, bonferroni(table), _findings(table), _missing(table)]
    blocks.append("\n".join(f"- {sentence}" for sentence in table.conditions))
    return "\n\n".join(block for block in blocks if block) + "\n"


def csv_text(table: Table) -> str:
    """One line per variant and task; shares between 0 and 1, empty where there is nothing to say."""
    lines = [_flat(row) for row in table.rows]
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(lines[0]) if lines else ["variant"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _flat(row: Row) -> dict[str, object]:
    retained = row.retained
    line: dict[str, object] = {
        "task": row.task,
        "variant": row.variant,
        "seeds": " ".join(map(str, row.seeds)),
        "num_items": row.num_items,
        "accuracy": row.accuracy.value,
        "accuracy_low": row.accuracy.low,
        "accuracy_high": row.accuracy.high,
        **_flat_comparison("to_base", row.to_base),
        "baseline": row.baseline,
        **_flat_comparison("to_baseline", row.to_baseline),
        "well_formed_share": row.well_formed_share,
        "mean_num_tokens": row.mean_num_tokens,
        "truncated_share": row.truncated_share,
        "gold_perplexity": row.gold_perplexity,
        **_flat_estimate("jsd_own", retained and retained.jsd_own),
        **_flat_estimate("jsd_base", retained and retained.jsd_base),
        **_flat_estimate("logp_lost", retained and retained.logp_lost),
        **_flat_estimate("general_perplexity", retained and retained.general_perplexity),
        "seconds_per_step": row.seconds_per_step,
        "passes_per_step": row.passes_per_step,
        "inert": "; ".join(f"{one.part} in {one.num_seeds} of {len(row.seeds)} seeds" for one in row.inert),
    }
    return {key: "" if value is None else value for key, value in line.items()}


def _flat_estimate(name: str, estimate: Estimate | None) -> dict[str, object]:
    one = estimate or Estimate(math.nan, None, None)
    return {name: estimate and one.value, f"{name}_low": one.low, f"{name}_high": one.high}


def _flat_comparison(name: str, comparison: Comparison | None) -> dict[str, object]:
    difference = comparison.difference if comparison else Estimate(math.nan, None, None)
    return {
        f"{name}_difference": comparison and difference.value,
        f"{name}_low": difference.low,
        f"{name}_high": difference.high,
        f"{name}_num_seeds": comparison and comparison.num_seeds,
        f"{name}_p_models": comparison and comparison.p_models,
        f"{name}_p_recipe": comparison and comparison.p_recipe,
    }


def _main(table: Table, task: str, rows: Sequence[Row]) -> str:
    head = (
        "variant", "seeds", "correct, %", "vs base", f"vs {table.baseline}", "p models", "p recipe", "s/step", "passes",
        "inert",
    )  # fmt: skip
    lines: list[Sequence[str]] = []
    for row in rows:
        inert = inert_cell(row)
        lines.append(
            (
                row.variant,
                str(len(row.seeds)) if row.seeds else "",
                percent(row.accuracy),
                points(row.to_base),
                *baseline_cells(table, row),
                "" if row.seconds_per_step is None else f"{row.seconds_per_step:.2f}",
                "" if row.passes_per_step is None else f"{row.passes_per_step:g}",
                f"**{inert}**" if row.inert else inert,
            )
        )
        if row.variant == "base":
            for ceiling in table.ceilings:
                if ceiling.task == task:
                    lines.append(("teacher's view", "", percent(ceiling.estimate), *[""] * 7))
    return _table(head, lines)


def baseline_cells(table: Table, row: Row) -> tuple[str, str, str]:
    """Difference to the row's baseline, p models, p recipe; said where the baseline or the seeds are not all alike."""
    other = row.to_baseline
    if other is None:
        return "", "", ""
    notes = [] if row.baseline == table.baseline else [f"to {row.baseline}"]
    notes += [] if other.num_seeds == len(row.seeds) else [f"over {other.num_seeds} of its seeds"]
    versus = f" ({', '.join(notes)})" if notes else ""
    return points(other) + versus, _p(other.p_models), _p(other.p_recipe)


def inert_cell(row: Row) -> str:
    """Which parts did nothing, in how many seeds."""
    parts = ", ".join(f"{one.part} ({one.num_seeds} of {len(row.seeds)} seeds)" for one in row.inert)
    return parts or ("no" if row.seeds else "")


def _answers(rows: Sequence[Row]) -> str:
    head = ("variant", "readable, %", "tokens", "cut off, %", "gold perplexity", "correct by seed, %")
    return _table(
        head,
        [
            (
                row.variant,
                f"{100 * row.well_formed_share:.0f}",
                f"{row.mean_num_tokens:.1f}",
                f"{100 * row.truncated_share:.0f}",
                _number(row.gold_perplexity, 3),
                ", ".join(f"{100 * value:.1f}" for value in row.accuracy_by_seed.values()),
            )
            for row in rows
        ],
    )


def _retention(rows: Sequence[Row]) -> str:
    kept = [(row.variant, row.retained) for row in rows if row.retained is not None]
    if not kept:
        return ""
    head = (
        "variant",
        "JSD to base, own answers",
        "JSD, base's answers",
        "logp lost, base's answers",
        "text perplexity",
    )
    lines = [
        (
            name,
            with_digits(one.jsd_own, 4),
            with_digits(one.jsd_base, 4),
            with_digits(one.logp_lost, 3),
            with_digits(one.general_perplexity, 2),
        )
        for name, one in kept
    ]
    method = "means per token in nats, with the t interval over seeds (these prompts)"
    return f"Retention: distance to the base, {method}:\n\n{_table(head, lines)}"


def _mechanisms(table: Table) -> str:
    rows = [row for row in table.rows if row.task == table.tasks[0]] if table.tasks else []
    lines = [(row.variant, name, mechanism(value)) for row in rows for name, value in row.mechanisms.items()]
    if not lines:
        return ""
    return f"## What the mechanisms did\n\n{_table(('variant', 'metric', 'mean'), lines)}"


def mechanism(value: float | None) -> str:
    """How much a part did."""
    return "not finite" if value is None else f"{value:.4g}"


def _costs(table: Table) -> str:
    rows = [row for row in table.rows if row.task == table.tasks[0] and row.seconds_by_part] if table.tasks else []
    if not rows:
        return ""
    parts = list(dict.fromkeys(part for row in rows for part in row.seconds_by_part))
    lines = [(row.variant, *(_number(row.seconds_by_part.get(part), 2) for part in parts)) for row in rows]
    return f"## Seconds per step\n\n{_table(('variant', *parts), lines)}"


def bonferroni(table: Table) -> str:
    """How small a p has to be where several rows are compared; empty where they are not."""
    number = sum(row.to_baseline is not None for row in table.rows)
    if number < 2:
        return ""
    return (
        f"{number} rows are compared with a baseline and no p is corrected for that: by Bonferroni's rule one below "
        f"{(1 - CONFIDENCE) / number:.2g} stands at 5 % for all of them together."
    )


def _findings(table: Table) -> str:
    rows = [row for row in table.rows if row.task == table.tasks[0]] if table.tasks else []
    lines = [
        f"- {row.variant}, {one.num_seeds} of {len(row.seeds)} seeds: {one.sentence}"
        for row in rows
        for one in (*row.inert, *row.signs)
    ]
    return "\n".join(["What the diagnostics say:", "", *lines]) if lines else ""


def _missing(table: Table) -> str:
    if not table.missing:
        return ""
    return "\n".join(["**Not in the table:**", "", *(f"- {run}: {why}" for run, why in table.missing.items())])


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---" if position == 0 else "--:" for position in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *cells))


def percent(estimate: Estimate) -> str:
    """A share in percent, with its interval where there is one."""
    return _with_interval(estimate, ".1f")


def points(comparison: Comparison | None) -> str:
    """A difference of shares in percentage points, with its interval where there is one."""
    return "" if comparison is None else _with_interval(comparison.difference, "+.1f")


def with_digits(estimate: Estimate | None, digits: int) -> str:
    """A number with its interval where there is one."""
    return "" if estimate is None else _with_interval(estimate, f".{digits}f", scale=1)


def _with_interval(estimate: Estimate, form: str, scale: int = 100) -> str:
    text = f"{scale * estimate.value:{form}}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{scale * estimate.low:{form}}, {scale * estimate.high:{form}}]"


def _p(value: float | None) -> str:
    return "one seed" if value is None else f"{value:.2g}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
