"""What `unisd train` keeps of a few prompts: the answers before and after, and the tokens of the latter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from unisd.config.schema import RunConfig
from unisd.contexts.rows import as_example
from unisd.contexts.template import render_views
from unisd.objects import task_of
from unisd.rollout.collate import Row
from unisd.rollout.dataset import dataset_completion
from unisd.tasks.task import Task, last_turn
from unisd.token_maps.measure import token_maps
from unisd.token_maps.record import SCHEMA_VERSION, Answer, KeptExample, KeptExamples
from unisd.trainer import SelfDistillTrainer
from unisd.types import Completion, Example, Loss

MAX_TOKENS = 96
"""Tokens kept of a completion: enough for a reader, and a report of many runs stays small."""


def row_of(trainer: SelfDistillTrainer, example: Example, completion: str | Completion | None = None) -> Row:
    """An example with the views of the trainer's plan and a completion; left out, the student answers greedily."""
    tokenizer = _tokenizer(trainer)
    options: Any = trainer.args
    views = render_views(example, tokenizer, options, trainer.build_views)
    needed = trainer.plan.contexts
    if "privileged" in needed and "privileged" not in views:
        raise ValueError(
            "The example has no privileged_context, so the teacher has nothing to score. Give it one, or use a trainer "
            "whose plan has no teacher (objective.divergence: none)."
        )
    views = {name: ids for name, ids in views.items() if name == "prompt" or name.startswith(tuple(needed))}
    if completion is None:
        (completion,) = trainer.generate([views["prompt"]], seed=options.seed, greedy=True)
    elif isinstance(completion, str):
        eos: Any = tokenizer.eos_token_id
        given = replace(example, completion=completion)
        completion = dataset_completion(given, tokenizer, end_of_sequence=eos, max_length=sys.maxsize)
    if not completion.ids:
        raise ValueError("The completion has no tokens, so there is nothing to measure. Give a longer one.")
    return Row(example, views, completion)


@dataclass(frozen=True)
class ExampleKeeper:
    """Some prompts of a run with their answers before training."""

    source: str
    """`held-out` or `training`."""
    examples: Sequence[Example]
    task: Task | None
    """Grades the answers."""
    before: Sequence[Answer]

    @classmethod
    def start(cls, trainer: SelfDistillTrainer, config: RunConfig, num_examples: int) -> ExampleKeeper:
        """Answer the first prompts of the held-out data, or of the training data where there is none."""
        held_out: Any = trainer.eval_dataset
        is_held_out = isinstance(held_out, list)
        rows: Any = held_out if is_held_out else trainer.train_dataset
        examples = [as_example(row) for row in rows[:num_examples]] if isinstance(rows, list) else []
        named = task_of(config, "eval" if is_held_out else "train")
        task = next((one for one in trainer.eval_tasks if named is not None and one.name == named.name), None)
        source = "held-out" if is_held_out else "training"
        return cls(source, examples, task, _answers(trainer, examples, task)[0])

    def save(self, trainer: SelfDistillTrainer, folder: Path) -> None:
        """Answer again, measure every token of the answers, and write `examples.json`; nothing without examples."""
        if not self.examples:
            return
        after, rows = _answers(trainer, self.examples, self.task)
        maps = token_maps(trainer, rows, max_tokens=MAX_TOKENS)
        tokenizer = _tokenizer(trainer)
        KeptExamples(
            schema_version=SCHEMA_VERSION,
            source="held-out" if self.source == "held-out" else "training",
            num_steps=trainer.state.global_step,
            temperature=trainer.objective.temperature,
            coefficients={name: one.coefficient for name, one in trainer.components.items() if isinstance(one, Loss)},
            examples=tuple(
                KeptExample(
                    request=last_turn(row.example.prompt),
                    prompt=str(tokenizer.decode(row.views["prompt"])),
                    privileged=str(tokenizer.decode(row.views["privileged"])) if "privileged" in row.views else None,
                    before=old,
                    after=new,
                    token_map=token_map,
                )
                for row, old, new, token_map in zip(rows, self.before, after, maps, strict=True)
            ),
        ).save(folder)


def _answers(
    trainer: SelfDistillTrainer, examples: Sequence[Example], task: Task | None
) -> tuple[list[Answer], list[Row]]:
    tokenizer = _tokenizer(trainer)
    options: Any = trainer.args
    prompts = [render_views(one, tokenizer, options, trainer.build_views)["prompt"] for one in examples]
    written = trainer.generate(prompts, seed=options.seed, greedy=True) if prompts else []
    rows = [row_of(trainer, example, one) for example, one in zip(examples, written, strict=True)]
    answers = []
    for example, completion in zip(examples, written, strict=True):
        text = str(tokenizer.decode(completion.ids, skip_special_tokens=True))
        grade = None if task is None else task.grade(example, text)
        answers.append(Answer(text, None) if grade is None else Answer(text, grade.correct, grade.note))
    return answers, rows


def _tokenizer(trainer: SelfDistillTrainer) -> PreTrainedTokenizerBase:
    tokenizer = trainer.processing_class
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer
