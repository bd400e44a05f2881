"""The page of a study."""

from __future__ import annotations

from collections.abc import Sequence

from unisd.report.charts import Bar, Dot, intervals, plane
from unisd.report.parts import (
    Comparison,
    Page,
    Question,
    ShownAnswer,
    TextTable,
    curve_charts,
    cut,
    heat_maps,
    mechanism_table,
    question_of,
    source_note,
)
from unisd.report.read import RunRecord, StudyRecord
from unisd.report.run_page import measured_sentences
from unisd.study.render import METHOD, baseline_cells, bonferroni, inert_cell, percent, points, with_digits
from unisd.study.statistics import Estimate
from unisd.study.table import Ceiling, Row, Table

NUM_QUESTIONS = 4
"""Held-out prompts shown with every recipe's answer."""
FEW_SEEDS = 3
"""With fewer the interval over seeds says little, and is pointed out."""


def study_page(study: StudyRecord, *, max_tokens: int) -> Page:
    """What a study shows, with heat maps of `max_tokens` tokens at most."""
    table = study.table
    variants = list(dict.fromkeys(row.variant for row in table.rows if row.seeds))
    groups = {name: study.of_variant(name) for name in variants}
    first_runs = [runs[0] for runs in groups.values() if runs]
    kept = [(f"{run.variant}, seed {run.seed}, ", run.examples) for run in first_runs if run.examples]
    maps = heat_maps(kept, max_tokens)
    held_out = _held_out_questions(study, first_runs)
    trained = [
        question_of(f"{run.variant}, seed {run.seed}", example, f"after {run.examples.num_steps} steps")
        for run in first_runs
        if run.examples
        for example in run.examples.examples[:1]
    ]
    notes = ["Of every recipe the first seed."]
    if held_out:
        notes.append("Held-out prompts are the first that some rows answer right and others wrong, chosen afterwards.")
    if kept:
        notes.append(f"Then an example kept by each recipe. {source_note([one for _, one in kept])}")
    rows = [row for row in table.rows if row.task == table.tasks[0]] if table.tasks else []
    return Page(
        title=study.name,
        kind="Study",
        facts=_facts(table, variants, groups),
        honesty=study_honesty(study),
        inert=[_with_seeds(row, one.sentence, one.num_seeds) for row in rows for one in row.inert],
        signs=[_with_seeds(row, one.sentence, one.num_seeds) for row in rows for one in row.signs],
        curves=curve_charts(groups),
        questions=[*held_out, *trained],
        questions_note=" ".join(notes),
        maps=maps.maps,
        maps_legend=maps.legend,
        maps_note=maps.note,
        mechanisms=mechanism_table({row.variant: row.mechanisms for row in rows if row.mechanisms}),
        plans=[(run.variant, run.plan) for run in first_runs if run.plan],
        configs=[(f"{run.variant}, seed {run.seed}", run.config_text) for run in first_runs if run.config_text],
        comparisons=[_comparison(table, task) for task in table.tasks],
        compared_note=f"Dots are means over seeds. {METHOD}",
    )


def study_honesty(study: StudyRecord) -> list[str]:
    """What was not run, did nothing, or rests on little."""
    table = study.table
    seeds = {row.variant: row.seeds for row in table.rows if row.seeds}
    said = [f"Seeds: {'; '.join(f'{name} {len(own)}' for name, own in seeds.items()) or 'no run is finished'}."]
    few = [name for name, own in seeds.items() if len(own) < FEW_SEEDS]
    if few:
        said.append(f"Fewer than {FEW_SEEDS} seeds, so hardly anything can be said of other seeds: {', '.join(few)}.")
    said += [f"Not in the table: {run}: {why}." for run, why in table.missing.items()]
    inert = [f"{row.variant} ({one.part})" for row in table.rows for one in row.inert]
    said.append(
        f"Inert: {', '.join(dict.fromkeys(inert))}. These rows do not say what the mechanism would do."
        if inert
        else "No part was found inert. That a part acted does not say that it helped."
    )
    if not any(row.variant == "base" for row in table.rows):
        said.append("The model before training is not measured, so nothing says how much any row gained.")
    said += measured_sentences(study.base, is_base=True) if study.base and not study.runs else _measured(study)
    several = bonferroni(table)
    said += [several] if several else []
    said += [f"{sentence[:1].upper()}{sentence[1:]}." for sentence in table.conditions]
    return said


def _measured(study: StudyRecord) -> list[str]:
    said = [] if study.table.ceilings else ["Not measured: the teacher's ceiling."]
    retained = any(row.retained is not None and row.retained.jsd_own is not None for row in study.table.rows)
    return [*said, *([] if retained else ["Not measured: retention (what the model could do before)."])]


def _facts(table: Table, variants: Sequence[str], groups: dict[str, list[RunRecord]]) -> list[tuple[str, str]]:
    num_runs = sum(len(runs) for runs in groups.values())
    facts = [("recipes", str(len(variants))), ("finished runs", str(num_runs)), ("compared with", table.baseline)]
    for task in table.tasks:
        rows = [row for row in table.rows if row.task == task and row.seeds]
        if rows:
            best = max(rows, key=lambda row: row.accuracy.value)
            facts.append((f"highest mean on {task}", f"{best.variant}, {percent(best.accuracy)}"))
    return facts


def _with_seeds(row: Row, sentence: str, num_seeds: int) -> str:
    return f"{row.variant}, {num_seeds} of {len(row.seeds)} seeds: {sentence}"


def _comparison(table: Table, task: str) -> Comparison:
    rows = [row for row in table.rows if row.task == task]
    ceilings = [one for one in table.ceilings if one.task == task]
    bars = [
        *[_bar(row.variant, row.accuracy, is_reference=row.variant == "base") for row in rows],
        *[_bar("teacher's view", one.estimate, is_reference=True) for one in ceilings],
    ]
    charts = [intervals(f"Accuracy on {task}", bars, unit="% correct")]
    paired = [(row, row.to_baseline) for row in rows if row.to_baseline is not None]
    if paired:
        names = [
            row.variant if row.baseline == table.baseline else f"{row.variant} (to {row.baseline})" for row, _ in paired
        ]
        differences = [_bar(name, one.difference) for name, (_, one) in zip(names, paired, strict=True)]
        charts.append(intervals(f"{task}: difference to {table.baseline}", differences, unit="points", zero=True))
    dots = [
        Dot(row.variant, 100 * row.accuracy.value, row.retained.jsd_base.value)
        for row in rows
        if row.retained is not None and row.retained.jsd_base is not None
    ]
    if len(dots) > 1:
        units = {"x_unit": "% correct", "y_unit": "JSD on the base's answers, nats"}
        charts.append(plane(f"{task}: distance to the base", dots, **units))
    return Comparison(f"{task}, {rows[0].num_items} held-out prompts", charts, _table(table, rows, ceilings))


def _bar(name: str, one: Estimate, *, is_reference: bool = False) -> Bar:
    low, high = (None if bound is None else 100 * bound for bound in (one.low, one.high))
    return Bar(name, 100 * one.value, low, high, is_reference)


def _table(table: Table, rows: Sequence[Row], ceilings: Sequence[Ceiling]) -> TextTable:
    head = (
        "recipe", "seeds", "correct, %", "vs base", f"vs {table.baseline}", "p models", "p recipe", "tokens", "s/step",
        "passes", "JSD to base", "inert",
    )  # fmt: skip
    lines = [_line(table, row) for row in rows]
    lines += [("teacher's view", "", percent(one.estimate), *[""] * (len(head) - 3)) for one in ceilings]
    return TextTable(head, lines)


def _line(table: Table, row: Row) -> tuple[str, ...]:
    return (
        row.variant,
        str(len(row.seeds)) if row.seeds else "",
        percent(row.accuracy),
        points(row.to_base),
        *baseline_cells(table, row),
        f"{row.mean_num_tokens:.1f}",
        "" if row.seconds_per_step is None else f"{row.seconds_per_step:.2f}",
        "" if row.passes_per_step is None else f"{row.passes_per_step:g}",
        "" if row.retained is None else with_digits(row.retained.jsd_own, 4),
        inert_cell(row),
    )


def _held_out_questions(study: StudyRecord, runs: Sequence[RunRecord]) -> list[Question]:
    """Held-out prompts with everybody's answers: the first on which the rows differ."""
    found = [("base", study.base), *((run.variant, run.results) for run in runs)]
    everyone = [(name, results) for name, results in found if results is not None]
    if len(everyone) < 2 or not study.table.tasks:
        return []
    task = study.table.tasks[0]
    by_id = [(name, {item.id: item for item in results.task(task).items}) for name, results in everyone]
    shared = [key for key in by_id[0][1] if all(key in items for _, items in by_id)]
    differing = [key for key in shared if len({items[key].correct for _, items in by_id}) > 1]
    return [
        Question(
            f"{task}, held-out prompt {key}",
            cut(next((items[key].request for _, items in by_id if items[key].request), "")),
            "",
            "",
            [
                ShownAnswer(name, cut(items[key].completion), items[key].correct, cut(items[key].note, 200))
                for name, items in by_id
            ],
        )
        for key in differing[:NUM_QUESTIONS]
    ]
