"""Token heat maps: what every component does to every token of a completion."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from unisd.report.colours import shade_of
from unisd.report.template import html, write_html
from unisd.token_maps.record import Candidate, Measure, TokenMap

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from unisd.contexts.demonstration import Demonstration
    from unisd.objective.divergence import Divergence
    from unisd.teacher.teacher import Teacher
    from unisd.trainer import SelfDistillTrainer
    from unisd.types import Completion, Example, Loss, Transform

MEANINGS = {
    "contrastive/gradient": "whether the hinge moves the student",
    "divergence": "between teacher and student, before the components; nats",
    "divergence_clip/clipped": "whether the ceiling cuts the token",
    "loss/divergence": "what the components leave of it; nats",
    "negative_logp": "log-probability of the token under the teacher's view of a wrong answer; strong is unlikely",
    "normalized/weight_mean": "factor on the divergence, divided by its mean over these completions",
    "token_filter/kept": "whether the token keeps its weight",
    "student_logp": "log-probability of the token under the student; strong is unlikely",
    "teacher_logp": "log-probability of the token under the teacher's privileged view; strong is unlikely",
}
"""What a reader has to know about a measure; the others are explained by where their names come from."""
_BY_KIND = {
    "flag": "yes or no, as logged",
    "logp": "log-probability; strong is unlikely",
    "value": "as logged, its coefficient multiplied in",
    "weight": "factor on the divergence after this component",
}

Scales = Mapping[str, float]
"""The size that gets the darkest shade, by measure."""


@dataclass(frozen=True)
class HeatMap:
    """A notebook shows it as it is; `token_map` holds the numbers."""

    token_map: TokenMap
    temperature: float
    """Of the objective, at which probabilities are taken."""

    def _repr_html_(self) -> str:
        return self._rendered("heatmap.html")

    def save(self, path: str | Path) -> Path:
        """Write an HTML page that needs no other file and no network."""
        write_html(Path(path), self._rendered("heatmap_page.html"))
        return Path(path)

    def _rendered(self, template: str) -> str:
        measured = self.token_map
        return html(template, shown=shown(measured), legend=legend(measured), temperature=self.temperature)


def token_heatmap(
    model: SelfDistillTrainer | PreTrainedModel | Any,
    example: Example | Mapping[str, Any],
    completion: str | Completion | None = None,
    *,
    processing_class: PreTrainedTokenizerBase | None = None,
    teacher: Teacher | None = None,
    objective: Divergence | None = None,
    components: Sequence[Loss | Transform] | None = None,
    demonstration: Demonstration | None = None,
) -> HeatMap:
    """Every token of a completion under the trainer's own step: divergence, weights, hinge, clip, log-probabilities.

    `model` is a trainer, with its weights as they are now, or a model to try the keyword arguments on; they mean what
    they mean to `SelfDistillTrainer`. Without a completion the student answers the example greedily.
    """
    # Torch and the trainer come in here, so that `unisd report` need not wait for them.
    from unisd.contexts.rows import as_example
    from unisd.token_maps.keep import row_of
    from unisd.token_maps.measure import token_maps
    from unisd.trainer import SelfDistillTrainer

    given = {
        "processing_class": processing_class,
        "teacher": teacher,
        "objective": objective,
        "components": components,
        "demonstration": demonstration,
    }
    trainer = model
    if not isinstance(trainer, SelfDistillTrainer):
        trainer = _trainer_for(model, given)
    elif any(value is not None for value in given.values()):
        name = next(name for name, value in given.items() if value is not None)
        raise ValueError(f"token_heatmap: a trainer has its own {name}. Give a model to try another, or leave it out.")
    (measured,) = token_maps(trainer, [row_of(trainer, as_example(example), completion)])
    return HeatMap(measured, trainer.objective.temperature)


def _trainer_for(model: Any, given: Mapping[str, Any]) -> SelfDistillTrainer:
    from unisd.args import SelfDistillConfig
    from unisd.trainer import SelfDistillTrainer

    # Nothing is trained or saved; the trainer only wants a folder to exist.
    with tempfile.TemporaryDirectory(prefix="unisd-") as folder:
        # The budget of a prompt is the model's business here.
        arguments = SelfDistillConfig(
            folder, report_to="none", max_prompt_length=_NO_LIMIT, max_teacher_prompt_length=_NO_LIMIT
        )
        return SelfDistillTrainer(model, arguments, **given)


_NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class ShownRow:
    """One measure over the tokens."""

    name: str
    scale: tuple[str, str]
    """What the first and the last shade stand for."""
    cells: list[tuple[str, str]]
    """Class and hover text of each token."""


@dataclass(frozen=True)
class ShownMap:
    """A token map as the template reads it."""

    tokens: list[str]
    rows: list[ShownRow]
    cards: list[ShownCard]
    num_left_out: int


@dataclass(frozen=True)
class ShownCard:
    """What hovering over a token shows."""

    numbers: list[tuple[str, str]]
    students: list[tuple[str, str]]
    teachers: list[tuple[str, str]]


def shown(token_map: TokenMap, scales: Scales | None = None) -> ShownMap:
    """The map with classes, labels and texts; `scales` are those of several maps side by side."""
    scales = scales or scales_of([token_map])
    measures = token_map.measures
    cards = [
        ShownCard(
            [(one.name, _number(one, position)) for one in measures],
            _candidates(token_map.student_top, position),
            _candidates(token_map.teacher_top, position),
        )
        for position in range(len(token_map.tokens))
    ]
    return ShownMap(
        tokens=[visible(token) for token in token_map.tokens],
        rows=[_row(one, token_map.is_counted, scales[one.name]) for one in measures],
        cards=cards,
        num_left_out=token_map.num_left_out,
    )


def legend(token_map: TokenMap, coefficients: Mapping[str, float] | None = None) -> list[tuple[str, str]]:
    """What each measure is, by name; `coefficients` of the added losses where they are known."""
    found = []
    for one in token_map.measures:
        meaning = MEANINGS.get(one.name, _BY_KIND[one.kind])
        coefficient = (coefficients or {}).get(one.name.removeprefix("loss/"))
        if one.name.startswith("loss/") and coefficient is not None:
            meaning = f"added term, its coefficient {coefficient:g} multiplied in"
        found.append((one.name, meaning))
    return found


def scales_of(token_maps: Iterable[TokenMap]) -> dict[str, float]:
    """The largest size of every measure over all maps, so that they can be compared; weights and flags up to 1."""
    found: dict[str, float] = {}
    for token_map in token_maps:
        for one in token_map.measures:
            counted = [
                abs(value) for value, counts in zip(one.values, token_map.is_counted, strict=True) if counts and value
            ]
            least = 1.0 if one.kind in ("weight", "flag") else 0.0
            found[one.name] = max([found.get(one.name, least), *counted])
    return found


def visible(token: str) -> str:
    """The token with its line breaks and lone spaces as signs; other spaces stay spaces."""
    marked = token.replace("\r", "").replace("\t", "\N{RIGHTWARDS ARROW TO BAR}")
    marked = marked.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
    if not marked:
        return "\N{EMPTY SET}"
    return marked.replace(" ", "\N{OPEN BOX}") if marked.isspace() else marked


def _row(one: Measure, is_counted: Sequence[bool], largest: float) -> ShownRow:
    cells = []
    for position, (value, counts) in enumerate(zip(one.values, is_counted, strict=True)):
        if not counts:
            cells.append(("off", f"{one.name}: not counted in the loss"))
        elif value is None:
            cells.append(("off", f"{one.name}: not finite"))
        else:
            cells.append((f"h{shade_of(abs(value), largest)}", f"{one.name} {_number(one, position)}"))
    sign = "\N{MINUS SIGN}" if one.kind == "logp" and largest else ""
    return ShownRow(one.name, ("no", "yes") if one.kind == "flag" else ("0", f"{sign}{largest:.3g}"), cells)


def _number(one: Measure, position: int) -> str:
    value = one.values[position]
    if value is None:
        return "not finite"
    if one.kind == "flag":
        return "yes" if value else "no"
    return f"{value:.3g}"


def _candidates(tops: Sequence[Sequence[Candidate]], position: int) -> list[tuple[str, str]]:
    return [(visible(token), f"{100 * share:.1f} %") for token, share in tops[position]] if tops else []


def heatmap_markup(shown_map: ShownMap) -> Markup:
    """The map alone, for a page that holds the style sheet."""
    return Markup(html("tokens.html", shown=shown_map))
