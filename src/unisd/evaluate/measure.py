"""One task: greedy answers under the student's prompt, optionally sampled ones and those of the privileged view."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from unisd.args import SelfDistillConfig
from unisd.contexts.demonstration import Demonstration, build_views
from unisd.contexts.template import (
    STUDENT_VIEW,
    PromptOverflow,
    assert_same_generation_prompt,
    fit_examples,
    render_views,
)
from unisd.contexts.view_report import ViewReport
from unisd.diagnostics import ngram_overlap
from unisd.evaluate.likelihood import Sequences, perplexity
from unisd.evaluate.pass_at_k import mean_pass_at_k
from unisd.evaluate.results import CONFIDENCE, Item, TaskMeasurement, TeacherCeiling
from unisd.options import PromptOptions
from unisd.rollout.dataset import dataset_completion
from unisd.rollout.hf import HFRollout
from unisd.rollout.seeds import purpose_seed
from unisd.stats import wilson
from unisd.tasks.local import LocalTask
from unisd.tasks.task import Grade, Task, last_turn
from unisd.types import Completion, Example, Prompt

PRIVILEGED = "privileged"
MAX_GRADERS = 8
"""Completions graded at a time; a grader that runs code waits for a process most of the time."""


def held_out_examples(
    task: Task, limit: int | None, tokenizer: PreTrainedTokenizerBase, options: PromptOptions
) -> tuple[list[Example], ViewReport]:
    """The items of an evaluation. The student's view alone decides, so that recipes with other teachers have the same.

    Raises `PromptOverflow` for a prompt over `max_prompt_length`, unless such rows are dropped.
    """
    return fit_examples(task.eval_examples(limit), tokenizer, options, lambda example: {STUDENT_VIEW: example.prompt})


def held_out_views(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    options: PromptOptions,
    demonstration: Demonstration,
    *,
    is_teacher_asked: bool,
) -> list[dict[str, list[int]]]:
    """Token ids of each item's prompt, and of its privileged view where it has one that fits.

    Raises `PromptOverflow` for one that does not fit where the teacher is asked, unless such rows are dropped: its item
    then stays, without the teacher's answer.
    """

    def built(example: Example) -> dict[str, Prompt]:
        views = build_views(example, demonstration)
        return {name: view for name, view in views.items() if name in (STUDENT_VIEW, PRIVILEGED)}

    found = []
    for index, example in enumerate(examples):
        try:
            if is_teacher_asked:
                assert_same_generation_prompt(tokenizer, built(example), options)
            found.append(render_views(example, tokenizer, options, built))
        except PromptOverflow as overflow:
            if is_teacher_asked and options.on_overflow != "drop":
                raise PromptOverflow(f"row {index}: {overflow}", view=overflow.view) from overflow
            found.append(render_views(example, tokenizer, options, lambda one: {STUDENT_VIEW: one.prompt}))
        except ValueError as error:
            raise ValueError(f"row {index}: {error}") from error
    return found


@dataclass(frozen=True)
class MeasuredTask:
    """The measurement of a task, and the prompts with the model's greedy completions."""

    measurement: TaskMeasurement
    written: Sequences


@dataclass(frozen=True)
class TaskMeter:
    """Measures tasks, all in one way, on one model."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    options: SelfDistillConfig
    demonstration: Demonstration
    limit: int | None = None
    num_samples: int = 0
    with_teacher: bool = False

    def __call__(self, task: Task) -> MeasuredTask:
        """Every measurement of one task."""
        examples, report = held_out_examples(task, self.limit, self.tokenizer, self.options)
        views = held_out_views(
            examples, self.tokenizer, self.options, self.demonstration, is_teacher_asked=self.with_teacher
        )
        prompts = [view[STUDENT_VIEW] for view in views]
        completions = self._answers(prompts)
        texts = self._texts(completions)
        grades = graded(task, examples, texts)
        teacher = self._teacher_verdicts(task, examples, views)
        samples = self._sampled_verdicts(task, examples, prompts)
        items = tuple(
            Item(
                id=key,
                correct=grade.correct,
                well_formed=grade.is_well_formed,
                num_tokens=len(completion.ids),
                truncated=not completion.is_finished,
                completion=text,
                note=grade.note,
                teacher_correct=verdict,
                num_correct_samples=num_correct,
                request=last_turn(example.prompt),
            )
            for key, example, grade, completion, text, verdict, num_correct in zip(
                item_ids(examples), examples, grades, completions, texts, teacher, samples, strict=True
            )
        )
        return MeasuredTask(
            TaskMeasurement(
                **_summary(task.name, items, self.num_samples),
                num_dropped=report.num_dropped,
                gold_perplexity=self._gold_perplexity(task.name, examples, prompts),
                privileged_overlap=_overlap(completions, views),
            ),
            Sequences(prompts, [completion.ids for completion in completions]),
        )

    def _answers(self, prompts: Sequence[list[int]], *, seed: int = 0, greedy: bool = True) -> list[Completion]:
        return HFRollout(self.options)(self.model, self.tokenizer, prompts, seed=seed, greedy=greedy)

    def _texts(self, completions: Sequence[Completion]) -> list[str]:
        return [str(self.tokenizer.decode(completion.ids, skip_special_tokens=True)) for completion in completions]

    def _teacher_verdicts(
        self, task: Task, examples: Sequence[Example], views: Sequence[dict[str, list[int]]]
    ) -> list[bool | None]:
        shown = [index for index, view in enumerate(views) if self.with_teacher and PRIVILEGED in view]
        verdicts: list[bool | None] = [None] * len(views)
        if not shown:
            return verdicts
        texts = self._texts(self._answers([views[index][PRIVILEGED] for index in shown]))
        grades = graded(task, [examples[index] for index in shown], texts)
        for index, grade in zip(shown, grades, strict=True):
            verdicts[index] = grade.correct
        return verdicts

    def _sampled_verdicts(
        self, task: Task, examples: Sequence[Example], prompts: Sequence[list[int]]
    ) -> list[int | None]:
        n = self.num_samples
        if not n:
            return [None] * len(prompts)
        seed = purpose_seed(self.options.seed, "evaluate", task.name)
        completions = self._answers([prompt for prompt in prompts for _ in range(n)], seed=seed, greedy=False)
        grades = graded(task, [example for example in examples for _ in range(n)], self._texts(completions))
        return [sum(grade.correct for grade in grades[start : start + n]) for start in range(0, len(grades), n)]

    def _gold_perplexity(self, name: str, examples: Sequence[Example], prompts: Sequence[list[int]]) -> float | None:
        eos = self.tokenizer.eos_token_id
        assert eos is None or isinstance(eos, int)
        gold = [
            (prompt, dataset_completion(example, self.tokenizer, end_of_sequence=eos, max_length=sys.maxsize).ids)
            for example, prompt in zip(examples, prompts, strict=True)
            if example.completion is not None
        ]
        if not gold:
            return None
        sequences = Sequences([prompt for prompt, _ in gold], [ids for _, ids in gold])
        return perplexity(self.model, self.tokenizer, sequences, label=f"{name}: gold completions")


def _summary(name: str, items: Sequence[Item], num_samples: int) -> dict[str, Any]:
    """The fields of `TaskMeasurement` that the items alone decide."""
    n = len(items)
    num_correct = sum(item.correct for item in items)
    verdicts = [item.teacher_correct for item in items if item.teacher_correct is not None]
    counts = [item.num_correct_samples for item in items if item.num_correct_samples is not None]
    return {
        "name": name,
        "num_items": n,
        "accuracy": num_correct / n,
        "accuracy_interval": wilson(num_correct, n, CONFIDENCE),
        "well_formed_share": sum(item.well_formed for item in items) / n,
        "mean_num_tokens": sum(item.num_tokens for item in items) / n,
        "truncated_share": sum(item.truncated for item in items) / n,
        "teacher": _ceiling(verdicts) if verdicts else None,
        "pass_at_k": mean_pass_at_k(num_samples, counts) if counts else None,
        "items": tuple(items),
    }


def _ceiling(verdicts: Sequence[bool]) -> TeacherCeiling:
    n, num_correct = len(verdicts), sum(verdicts)
    return TeacherCeiling(n, num_correct / n, wilson(num_correct, n, CONFIDENCE))


def _overlap(completions: Sequence[Completion], views: Sequence[dict[str, list[int]]]) -> float | None:
    shares = [
        ngram_overlap(completion.ids, view[PRIVILEGED], view[STUDENT_VIEW])
        for completion, view in zip(completions, views, strict=True)
        if PRIVILEGED in view
    ]
    return sum(shares) / len(shares) if shares else None


def item_ids(examples: Sequence[Example]) -> list[str]:
    """A name for each prompt that every run gives it; the second of two equal prompts gets `-2`."""
    seen: dict[str, int] = {}
    ids = []
    for example in examples:
        text = json.dumps(example.prompt, sort_keys=True, ensure_ascii=False)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        seen[key] = seen.get(key, 0) + 1
        ids.append(key if seen[key] == 1 else f"{key}-{seen[key]}")
    return ids


def graded(task: Task, examples: Sequence[Example], texts: Sequence[str]) -> list[Grade]:
    """One grade per text, in order; several at a time for the tasks of this package, whose graders keep no state."""
    label = f"{task.name}: grading"
    pairs = list(zip(examples, texts, strict=True))
    if isinstance(task, LocalTask):
        # A grader of the user's own may be anything; some time themselves with signals, which need the main thread.
        return [task.grade(*pair) for pair in tqdm(pairs, desc=label, leave=False)]
    with ThreadPoolExecutor(min(MAX_GRADERS, os.cpu_count() or 1)) as pool:
        return list(tqdm(pool.map(lambda pair: task.grade(*pair), pairs), desc=label, total=len(pairs), leave=False))
