"""What run and study pages share: curves, answers, heat maps, each bounded so that the file stays small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup

from unisd.report.charts import LINES_PER_CHART, MAX_POINTS, Chart, Curve, curves
from unisd.report.heatmap import heatmap_markup, legend, scales_of, shown
from unisd.report.read import RunRecord
from unisd.study.render import mechanism
from unisd.token_maps.record import Answer, KeptExample, KeptExamples

MAX_TEXT = 1500
"""Characters of a prompt or an answer."""
POINTS_PER_QUANTITY = 3000
"""Drawn of all seeds of all recipes: the page of a study of a hundred runs and more stays small."""

TITLES = {
    "loss": "Loss",
    "divergence": "Divergence to the teacher, nats",
    "completions/mean_length": "Length of completions, tokens",
    "entropy": "Entropy of the student, nats",
}
"""What is drawn of every run that logged it."""
NOT_MECHANISMS = ("completions/", "divergence/", "eval_", "time/")
"""Starts of logged names that say how the run went rather than what a part of it did."""


@dataclass(frozen=True)
class TextTable:
    """Rows of text; the first column names them."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class ShownAnswer:
    """Who wrote what."""

    who: str
    text: str
    is_correct: bool | None
    note: str

    @property
    def mark(self) -> str:
        """In words, because colour alone does not carry."""
        return "" if self.is_correct is None else "right" if self.is_correct else "wrong"


@dataclass(frozen=True)
class Question:
    """One prompt and its answers."""

    title: str
    request: str
    """What was asked; empty where it was not kept."""
    prompt: str
    """The same as the student reads it."""
    privileged: str
    answers: Sequence[ShownAnswer]


@dataclass(frozen=True)
class Comparison:
    """One task of a study: intervals and the table."""

    title: str
    charts: Sequence[Chart]
    table: TextTable


@dataclass(frozen=True)
class Page:
    """Everything the template reads."""

    title: str
    kind: str
    facts: Sequence[tuple[str, str]]
    honesty: Sequence[str]
    inert: Sequence[str]
    signs: Sequence[str]
    curves: Sequence[Chart]
    questions: Sequence[Question]
    questions_note: str
    maps: Sequence[tuple[str, Markup]]
    maps_legend: Sequence[tuple[str, str]]
    maps_note: str
    mechanisms: TextTable
    plans: Sequence[tuple[str, str]]
    configs: Sequence[tuple[str, str]]
    comparisons: Sequence[Comparison] = field(default=())
    compared_note: str = ""


def curve_charts(groups: Mapping[str, Sequence[RunRecord]]) -> list[Chart]:
    """A chart per quantity that any of the recipes logged, a few recipes each; `groups` are the seeds by recipe."""
    accuracies = {
        name: f"Accuracy on {name.removeprefix('eval_').removesuffix('_accuracy')}, %"
        for runs in groups.values()
        for run in runs
        for name in run.metrics
        if name.startswith("eval_") and name.endswith("_accuracy")
    }
    drawn = []
    num_seeds = sum(len(runs) for runs in groups.values())
    max_points = max(12, min(MAX_POINTS, POINTS_PER_QUANTITY // max(1, num_seeds)))
    for name, title in {**TITLES, **accuracies}.items():
        factor = 100 if name in accuracies else 1
        # A single point is no curve; the tables have it.
        lines = [
            Curve(group, seeds)
            for group, runs in groups.items()
            if (seeds := [_scaled(run.series(name), factor) for run in runs if len(run.series(name)) > 1])
        ]
        num_charts = -(-len(lines) // LINES_PER_CHART)
        # Alike in size, so that no curve stands alone and without its name.
        bounds = [number * len(lines) // num_charts for number in range(num_charts + 1)] if lines else []
        blocks = [lines[start:end] for start, end in pairwise(bounds)]
        for number, block in enumerate(blocks, start=1):
            part = f" ({number} of {len(blocks)})" if len(blocks) > 1 else ""
            drawn.append(curves(f"{title}{part}", block, is_percent=name in accuracies, max_points=max_points))
    return drawn


def _scaled(points: Mapping[float, float], factor: float) -> dict[float, float]:
    return {step: value * factor for step, value in points.items()}


@dataclass(frozen=True)
class HeatMaps:
    """The maps of a page."""

    maps: Sequence[tuple[str, Markup]] = ()
    """With their captions."""
    legend: Sequence[tuple[str, str]] = ()
    note: str = ""
    """What a reader has to know."""


def heat_maps(kept: Sequence[tuple[str, KeptExamples]], max_tokens: int) -> HeatMaps:
    """Maps of `max_tokens` tokens in all, the first of every recipe before the second of any."""
    queue = [
        (f"{name}{example_title(number)}", example, examples.coefficients)
        for number in range(max((len(one.examples) for _, one in kept), default=0))
        for name, examples in kept
        for example in examples.examples[number : number + 1]
    ]
    if not queue:
        return HeatMaps()
    scales = scales_of(example.token_map for _, example, _ in queue)
    maps, num_tokens = [], 0
    meanings: dict[str, str] = {}
    for caption, example, coefficients in queue:
        num_tokens += len(example.token_map.tokens)
        if num_tokens > max_tokens:
            break
        maps.append((caption, heatmap_markup(shown(example.token_map, scales))))
        meanings.update(legend(example.token_map, coefficients))
    temperatures = sorted({examples.temperature for _, examples in kept})
    note = (
        "The student's greedy answers after training, one row per measure, named as in the training log; all maps "
        "share their scales, from 0 next to the page's own colour. Probabilities at the objective's temperature, "
        f"{', '.join(f'{one:g}' for one in temperatures)}."
    )
    if len(maps) < len(queue):
        note += f" {len(queue) - len(maps)} more maps lie in examples.json, left out to keep this file small."
    return HeatMaps(maps, list(meanings.items()), note)


def example_title(number: int) -> str:
    """Of the example of that place, counted from 0."""
    return f"example {number + 1}"


def question_of(title: str, example: KeptExample, steps: str) -> Question:
    """A kept example as prompt, before and after."""
    return Question(
        title,
        cut(example.request),
        cut(example.prompt),
        cut(example.privileged or ""),
        [shown_answer("before", example.before), shown_answer(steps, example.after)],
    )


def shown_answer(who: str, answer: Answer) -> ShownAnswer:
    """An answer under the name of who wrote it."""
    return ShownAnswer(who, cut(answer.text), answer.is_correct, cut(answer.note, 200))


def cut(text: str, length: int = MAX_TEXT) -> str:
    """The text, its end left out where it is too long, and said so."""
    return text if len(text) <= length else f"{text[:length]} ... ({len(text) - length} more characters)"


def mechanism_table(groups: Mapping[str, Mapping[str, float | None]]) -> TextTable:
    """Metrics down, recipes across."""
    names = sorted({name for found in groups.values() for name in found})
    rows = [(name, *(mechanism(found[name]) if name in found else "" for found in groups.values())) for name in names]
    return TextTable(("metric", *groups), rows)


def source_note(kept: Sequence[KeptExamples]) -> str:
    """Whose prompts the examples are."""
    sources = sorted({one.source for one in kept})
    return f"Prompts of the {' and the '.join(sources)} data, the first ones, chosen before training." + (
        " Training prompts show what was fitted, not what was learned." if "training" in sources else ""
    )
