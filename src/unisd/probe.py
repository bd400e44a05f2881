"""Measuring without training: what the student and the teacher make of the same held-out prompts."""

from __future__ import annotations

import logging
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unisd.config.schema import RunConfig
from unisd.contexts.demonstration import Demonstration, build_views
from unisd.contexts.template import PromptOverflow, fit_examples, render_views
from unisd.loading import check_vocabulary
from unisd.modes import evaluation_mode
from unisd.objective.divergence import Divergence
from unisd.objects import arguments_of, model_of, task_of, tokenizer_of
from unisd.options import RolloutOptions
from unisd.rollout.collate import Row, collate
from unisd.rollout.hf import HFRollout
from unisd.scoring.forward import run_pass
from unisd.scoring.fused import token_scores
from unisd.scoring.head import head_of
from unisd.tasks.accuracy import TaskResult, task_result
from unisd.tasks.local import LocalTask
from unisd.tasks.task import Task, last_turn
from unisd.types import Completion, Example, RolloutBatch, Signal, StepCounts

logger = logging.getLogger(__name__)

STYLES: dict[str, Demonstration] = {
    "message": Demonstration(style="message"),
    "turns x1": Demonstration(style="turns", repeats=1),
    "turns x2": Demonstration(style="turns", repeats=2),
}
"""What `unisd probe --styles` compares."""

MAX_CONTINUED = 64
"""Completions of the student that the teacher goes on with, at most."""
MAX_DIVERGENCES = 32
"""Completions whose divergence is measured at most: two passes each, and the mean needs no interval."""
ROWS_PER_PASS = 8
NUM_POSITIONS = 12
"""Positions of the divergence that are printed."""
FIRST_TOKEN_RATIO = 10.0
"""A first token whose divergence is this many times the median is worth a look at the prompts."""


@dataclass(frozen=True)
class ProbedView:
    """What the model makes of one view of the held-out prompts, decoded greedily."""

    name: str
    prompts: list[list[int]]
    """Token ids."""
    completions: list[Completion]
    texts: list[str]
    result: TaskResult | None
    """`None` where no grader is configured."""

    @property
    def row(self) -> tuple[str, ...]:
        """A line of the table: name, accuracy, share of readable answers, prompt lengths, share of cut completions."""
        lengths = [len(prompt) for prompt in self.prompts]
        shortest_to_longest = (min(lengths), round(statistics.median(lengths)), max(lengths))
        cut = sum(not completion.is_finished for completion in self.completions) / len(self.completions)
        return (
            self.name,
            "not graded" if self.result is None else self.result.text(),
            "" if self.result is None else f"{100 * self.result.well_formed_fraction:.0f} %",
            " / ".join(map(str, shortest_to_longest)),
            f"{100 * cut:.0f} %",
        )


@dataclass(frozen=True)
class ProbeResult:
    """Student against teacher on the same held-out prompts."""

    task: Task
    examples: list[Example]
    student: ProbedView
    teachers: list[ProbedView]
    """The teacher of the configuration first, then the other styles of demonstration."""
    continued: ProbedView
    """The teacher of the configuration, on the first `MAX_CONTINUED` prompts, going on from the student's first token.

    In training it scores what the student began, so what it knows must outlive the student's beginnings.
    """
    divergences: list[list[float]]
    """KL(teacher || student) in nats of each token of the student's greedy completions, a list per completion."""

    @property
    def teacher(self) -> ProbedView:
        """The teacher of the configuration."""
        return self.teachers[0]

    @property
    def views(self) -> list[ProbedView]:
        """In the order of the table."""
        return [self.student, *self.teachers, self.continued]

    @property
    def divergence_by_position(self) -> list[float]:
        """Mean KL of each position over the completions that reach it."""
        longest = max(map(len, self.divergences))
        reached = [[row[position] for row in self.divergences if position < len(row)] for position in range(longest)]
        return [statistics.fmean(values) for values in reached]

    def verdict(self) -> str:
        """Whether training can help, from the 95 % Wilson intervals of both accuracies.

        Yes when the teacher's interval lies above the student's. No when the teacher's accuracy itself is not above
        the student's interval. In between the prompts are too few to say. A yes has its limits where the teacher is no
        better than the student as soon as that has written a token.
        """
        teacher, student = self.teacher.result, self.student.result
        if teacher is None or student is None:
            return "accuracy was not measured, for want of a grader: read the examples, or set data.eval.grader."
        measured = f"teacher {100 * teacher.accuracy:.0f} %, student {100 * student.accuracy:.0f} %"
        if teacher.interval()[0] > student.interval()[1]:
            return f"{measured}: there is something to learn.{self._limit_of_a_yes()}"
        if teacher.accuracy <= student.interval()[1]:
            return (
                f"{measured}: no gap on {teacher.n} prompts: training cannot help. "
                "Show the teacher more, or in another style (--styles)."
            )
        return f"{measured}: a gap, but {teacher.n} prompts are too few to be sure. Use more (--prompts)."

    def _limit_of_a_yes(self) -> str:
        continued, student = self.continued.result, self.student.result
        assert continued is not None
        assert student is not None
        if continued.accuracy > student.interval()[1]:
            return ""
        return (
            f" But after the student's first token the teacher is right on {100 * continued.accuracy:.0f} %, hardly "
            "more than the student: all it can teach on the student's completions is how to begin. Learn from those "
            "of the data (rollout.backend: dataset), or show the teacher more."
        )

    def text(self, *, num_examples: int = 3) -> str:
        """The whole report, with the completions of the first `num_examples` prompts side by side."""
        head = ("view", "correct [95 %]", "readable", "prompt tokens", "cut off")
        title = f"{self.task.name}: {len(self.examples)} held-out prompts, greedy; prompt tokens as min / median / max"
        table = aligned([head, *(view.row for view in self.views)])
        parts = [title, table, self._divergence_text(), self._examples_text(num_examples), f"verdict: {self.verdict()}"]
        return "\n\n".join(parts)

    def _divergence_text(self) -> str:
        means = self.divergence_by_position
        shown = means[:NUM_POSITIONS]
        median = statistics.median(value for row in self.divergences for value in row)
        lines = [
            f"KL(teacher || student) in nats on {len(self.divergences)} of the student's completions",
            aligned(
                [("position", *(str(place + 1) for place in range(len(shown)))), ("mean", *(f"{x:.2f}" for x in shown))]
            ),
            f"first token {means[0]:.3f}, median of all tokens {median:.3f}",
        ]
        if means[0] > FIRST_TOKEN_RATIO * median:
            lines.append(
                f"The first token diverges more than {FIRST_TOKEN_RATIO:.0f} times as much as the median: look whether "
                "the teacher's completions open in another way than the student's (template, thinking, format)."
            )
        return "\n".join(lines)

    def _examples_text(self, num_examples: int) -> str:
        blocks = []
        for index, example in enumerate(self.examples[:num_examples]):
            shown = [view for view in self.views if index < len(view.texts)]
            rows = [(f"  {view.name}", _mark(view, index), one_line(view.texts[index])) for view in shown]
            blocks.append(f"{last_turn(example.prompt)}\n{aligned(rows)}")
        return "\n\n".join(blocks)


def _mark(view: ProbedView, index: int) -> str:
    if view.result is None:
        return ""
    return "right" if view.result.correct[index] else "wrong"


def one_line(text: str, *, width: int = 80) -> str:
    """The text for a table: white space collapsed, unprintable characters replaced, cut at `width` characters."""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return line if len(line) <= width else f"{line[: width - 4]} ..."


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of a plain-text table, columns padded to one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def probe(
    config: RunConfig, *, num_prompts: int = 64, styles: Mapping[str, Demonstration] | None = None
) -> ProbeResult:
    """Answer the first `num_prompts` held-out prompts under the student's and every teacher view; no training.

    The model is the one training would start from, which is also the teacher of the first step. `styles` are further
    forms of the demonstration to measure next to the configured one, by the name they are shown under.
    """
    task = task_of(config, "eval")
    if task is None:
        raise ValueError("data.eval is missing, so there are no held-out prompts. Give a task or {path: eval.jsonl}.")
    options = arguments_of(config)
    tokenizer = tokenizer_of(config)
    build = partial(build_views, demonstration=config.contexts.privileged)
    examples, _ = fit_examples(task.eval_examples(num_prompts), tokenizer, options, build)
    rendered = [render_views(example, tokenizer, options, build) for example in examples]
    without = sum("privileged" not in views for views in rendered)
    if without:
        raise ValueError(
            f"data.eval: {without} of {len(rendered)} rows have no privileged_context, so the teacher sees no more "
            "than the student. Add the column, or data.privileged_template."
        )
    present = Counter(name for views in rendered for name in views if name != "prompt")
    names = [name for name, number in present.items() if number == len(rendered)]
    for name in set(present) - set(names):
        logger.warning("%s: only %d of %d rows have this view: not measured.", name, present[name], len(rendered))
    shown_styles: dict[str, list[list[int]]] = {}
    for style, demonstration in (styles or {}).items():
        styled = partial(build_views, demonstration=demonstration)
        try:
            shown_styles[style] = [
                render_views(example, tokenizer, options, styled)["privileged"] for example in examples
            ]
        except PromptOverflow as overflow:
            logger.warning("teacher (%s): not measured, as it does not fit. %s", style, overflow)
    model = model_of(config).to(options.device)  # pyright: ignore[reportArgumentType]
    check_vocabulary(model, tokenizer)
    answer = partial(answer_view, model, tokenizer, task, examples, options=options)
    student = answer([views["prompt"] for views in rendered], name="student")
    teachers = [answer([views[name] for views in rendered], name=f"teacher ({name})") for name in names]
    for style, shown in shown_styles.items():
        is_configured = shown == teachers[0].prompts
        teachers.append(
            replace(teachers[0], name=f"teacher ({style})")
            if is_configured
            else answer(shown, name=f"teacher ({style})")
        )
    rows = [Row(*parts) for parts in zip(examples, rendered, student.completions, strict=True)]
    return ProbeResult(
        task=task,
        examples=examples,
        student=student,
        teachers=teachers,
        continued=answer(
            [views["privileged"] for views in rendered[:MAX_CONTINUED]],
            name="teacher, after the student's first token",
            begun=student.completions,
        ),
        divergences=divergences(model, tokenizer, rows[:MAX_DIVERGENCES]),
    )


def answer_view(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    examples: Sequence[Example],
    prompts: Sequence[list[int]],
    *,
    name: str,
    options: RolloutOptions,
    begun: Sequence[Completion] | None = None,
) -> ProbedView:
    """Greedy completions of `prompts` (token ids, of the first examples), graded where the task can grade.

    Each goes on from the first token of its completion in `begun`, and is no longer for that.
    """
    rollout = HFRollout(options)
    if begun is None:
        completions = rollout(model, tokenizer, prompts, seed=0, greedy=True)
    else:
        begun = begun[: len(prompts)]
        asked = [prompt + one.ids[:1] for prompt, one in zip(prompts, begun, strict=True)]
        written = rollout(model, tokenizer, asked, seed=0, greedy=True)
        limit = options.max_completion_length
        completions = [_continued(one, rest, limit) for one, rest in zip(begun, written, strict=True)]
    texts = [str(tokenizer.decode(completion.ids, skip_special_tokens=True)) for completion in completions]
    is_gradable = not (isinstance(task, LocalTask) and not task.has_grader)
    return ProbedView(
        name=name,
        prompts=list(prompts),
        completions=completions,
        texts=texts,
        result=task_result(task, examples[: len(texts)], texts) if is_gradable else None,
    )


def _continued(begun: Completion, rest: Completion, max_length: int) -> Completion:
    """The first token of one and all of the other, or the first as it is where that token ended it."""
    if begun.is_finished and len(begun.ids) == 1:
        return begun
    ids = [*begun.ids[:1], *rest.ids]
    return Completion(ids[:max_length], None, is_finished=rest.is_finished and len(ids) <= max_length)


@torch.no_grad()
def divergences(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[list[float]]:
    """KL(teacher || student) in nats, at temperature 1, of every completion token; a list per row.

    The teacher is the same model under the privileged view.
    """
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    whole_logits = head_of(model) is None
    values: list[list[float]] = []
    with evaluation_mode(model):
        for start in range(0, len(rows), ROWS_PER_PASS):
            chunk = rows[start : start + ROWS_PER_PASS]
            batch = collate(chunk, pad=pad, options=RolloutOptions(), counts=StepCounts(0, 0)).to(model.device)
            kl = _divergence(model, batch, whole_logits)
            values.extend(row[keep].tolist() for row, keep in zip(kl, batch.mask, strict=True))
    return values


def _divergence(model: Any, batch: RolloutBatch, whole_logits: bool) -> Tensor:
    student, teacher = (
        run_pass(model, batch.views[view], batch, whole_logits=whole_logits) for view in ("prompt", "privileged")
    )
    scores = token_scores(
        student,
        teacher,
        ids=batch.completion_ids,
        mask=batch.mask,
        objective=Divergence("forward_kl"),
        signals=Signal.DIVERGENCE,
    )
    return scores[Signal.DIVERGENCE]
