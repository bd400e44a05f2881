"""`unisd prepare`: auxiliary and negative contexts are built, checked and cached, ahead of a run or at its start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unisd.config.import_path import import_object
from unisd.config.schema import RunConfig
from unisd.contexts.auxiliary import AuxiliaryContexts
from unisd.contexts.cache import Built
from unisd.contexts.demonstration import Demonstration
from unisd.contexts.few_shot import few_shot_context, own_turns, random_shots, retrieved_shots, views_of
from unisd.contexts.induction import MAX_INSTRUCTION_TOKENS, induce, induction_context
from unisd.contexts.negative import NegativeContexts, verified_negatives
from unisd.contexts.own import auxiliary_from, check_auxiliary_column, negatives_from, refuse_filled
from unisd.contexts.pool import ShotPool
from unisd.hub import cache_folder
from unisd.objects import (
    arguments_of,
    eval_examples,
    model_of,
    task_of,
    tokenizer_of,
    train_examples,
    trainer_arguments,
)
from unisd.options import RolloutOptions
from unisd.rollout.context_writer import ContextWriter
from unisd.tasks.local import LocalTask
from unisd.tasks.source import DataSource
from unisd.tasks.task import Task
from unisd.types import Example, Message, Prompt

logger = logging.getLogger(__name__)

TEMPERATURE = 0.7
"""Low enough for whole sentences and for the form of an answer, high enough for another one at every try."""


@dataclass(frozen=True)
class ContextReport:
    """What came of one kind of context on one split."""

    split: str
    context: str
    """`auxiliary (few_shot)` and the like."""
    num_rows: int
    num_filled: int
    """Rows that have the context now."""
    note: str = ""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Reasons with counts: of rows without a negative, or of demonstrations that gave no instruction."""
    built: tuple[Built, ...] = ()
    """The cached builds behind it; none where building costs nothing."""

    def text(self) -> str:
        """One line: yield, failures, seconds, files."""
        parts = [f"{self.split}: {self.context}: {self.num_filled} of {self.num_rows} rows"]
        if self.note:
            parts.append(self.note)
        if self.failures:
            parts.append("failures: " + ", ".join(f"{number} {reason}" for reason, number in self.failures.items()))
        for built in self.built:
            file = f" ({built.path.name})" if built.path else ""
            parts.append(f"{'built' if built.is_new else 'found, once built'} in {built.seconds:.1f} s{file}")
        return "; ".join(parts)


@dataclass(frozen=True)
class PrepareReport:
    """What came of all contexts of a run."""

    parts: tuple[ContextReport, ...] = ()

    @property
    def num_built(self) -> int:
        """Builds that the cache did not have."""
        return sum(built.is_new for part in self.parts for built in part.built)

    def text(self) -> str:
        """A line per kind of context and split, then where the cache is."""
        if not self.parts:
            return "nothing to build: the run has neither contexts.auxiliary nor contexts.negative"
        return "\n".join([*(part.text() for part in self.parts), f"cache: {cache_folder() / 'contexts'}"])


def with_contexts(
    config: RunConfig,
    examples: Sequence[Example],
    *,
    pool: Sequence[Example],
    task: Task | None,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    split: str = "train",
) -> tuple[list[Example], PrepareReport]:
    """The examples with the auxiliary and negative contexts of the run, and what came of it.

    `pool` is the training split, from which other examples are shown; `task` grades negatives. The model is the one
    before training, without adapter; it and the tokenizer may be `None` where `needs_model` says so.
    """
    filled, parts = list(examples), []
    auxiliary, negative = config.contexts.auxiliary, config.contexts.negative
    if auxiliary is not None:
        write = _writer(config, model, tokenizer, auxiliary.seed, MAX_INSTRUCTION_TOKENS)
        filled, part = _with_auxiliary(auxiliary, filled, pool, config.contexts.privileged, write, split)
        parts.append(part)
    if negative is not None:
        write = _writer(config, model, tokenizer, negative.seed, config.rollout.max_completion_length)
        filled, part = _with_negatives(negative, filled, task, write, split)
        parts.append(part)
    return filled, PrepareReport(tuple(parts))


def needs_model(config: RunConfig) -> bool:
    """Whether building the contexts of the run takes the model."""
    auxiliary, negative = config.contexts.auxiliary, config.contexts.negative
    is_induced = auxiliary is not None and auxiliary.type == "induction"
    return is_induced or (negative is not None and negative.type == "verified")


def prepare(config: RunConfig) -> str:
    """Build the contexts of a run into the cache; says what came of it. A training run then finds them there."""
    tokenizer, model = (tokenizer_of(config), model_of(config)) if needs_model(config) else (None, None)
    return _both_splits(config, train_examples(config), eval_examples(config), model, tokenizer)[2].text()


def prepared_arguments(config: RunConfig) -> dict[str, Any]:
    """The arguments of `SelfDistillTrainer`, whose data sets have the contexts of the run."""
    arguments = trainer_arguments(config)
    names = ("train_dataset", "eval_dataset", "model", "processing_class")
    # One process of each machine builds and writes the cache; the others wait and find it there.
    with arguments["args"].main_process_first(desc="building contexts"):
        train, evaluation, report = _both_splits(config, *(arguments[name] for name in names))
    if report.parts and arguments["args"].process_index == 0:
        logger.info("%s", report.text())
    return {**arguments, "train_dataset": train, "eval_dataset": evaluation}


def with_cheap_contexts(config: RunConfig, examples: Sequence[Example]) -> tuple[list[Example], list[str]]:
    """The training examples with the contexts that need neither a model nor the user's code, and what is left out."""
    auxiliary, negative = config.contexts.auxiliary, config.contexts.negative
    left_out = [
        f"{name} ({section.type})"
        for name, section in (("auxiliary", auxiliary), ("negative", negative))
        if section is not None and section.type != "column"
    ]
    if auxiliary is None or auxiliary.type != "few_shot" or auxiliary.select != "random":
        return list(examples), left_out
    filled, _ = _with_auxiliary(auxiliary, list(examples), examples, config.contexts.privileged, None, "train")
    return filled, left_out[1:]


def _both_splits(
    config: RunConfig,
    train: list[Example],
    evaluation: list[Example] | None,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> tuple[list[Example], list[Example] | None, PrepareReport]:
    shared: dict[str, Any] = {"pool": train, "model": model, "tokenizer": tokenizer}
    filled, report = with_contexts(config, train, task=_grading_task(config, "train"), **shared)
    if evaluation is None:
        return filled, None, report
    held_out, more = with_contexts(config, evaluation, task=_grading_task(config, "eval"), split="eval", **shared)
    return filled, held_out, PrepareReport((*report.parts, *more.parts))


def _grading_task(config: RunConfig, split: str) -> Task | None:
    task = task_of(config, split)
    if not isinstance(task, LocalTask):
        return task
    # The grader may stand at the other split.
    sources = {"train": config.data.train, "eval": config.data.eval}
    return replace(task, **{name: source for name, source in sources.items() if isinstance(source, DataSource)})


def _writer(
    config: RunConfig,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    seed: int,
    max_completion_length: int,
) -> ContextWriter | None:
    if model is None or tokenizer is None:
        return None
    options = RolloutOptions(
        max_completion_length=max_completion_length,
        temperature=TEMPERATURE,
        generation_batch_size=config.rollout.generation_batch_size,
    )
    return ContextWriter(model, tokenizer, options, config.data.student_chat_kwargs, arguments_of(config).device, seed)


def _with_auxiliary(
    section: AuxiliaryContexts,
    examples: list[Example],
    pool: Sequence[Example],
    demonstration: Demonstration,
    write: ContextWriter | None,
    split: str,
) -> tuple[list[Example], ContextReport]:
    report = ContextReport(split, f"auxiliary ({section.type})", len(examples), len(examples))
    if section.type == "column":
        check_auxiliary_column(split, examples, section.count)
        return examples, report
    refuse_filled(split, "auxiliary", section.type, examples)
    if ":" in section.type:
        function = import_object(section.type, where="contexts.auxiliary.type")
        contexts = auxiliary_from(section.type, _callable(function), examples, section.count)
    else:
        own = [own_turns(example, section, demonstration) for example in examples]
        fill = {"few_shot": _few_shot, "induction": _induced}[section.type]
        contexts, report = fill(section, examples, ShotPool(pool), own, write, report)
    return [replace(one, auxiliary_contexts=tuple(each)) for one, each in zip(examples, contexts, strict=True)], report


def _few_shot(
    section: AuxiliaryContexts,
    examples: list[Example],
    pool: ShotPool,
    own: list[list[Message]],
    write: ContextWriter | None,
    report: ContextReport,
) -> tuple[list[list[Prompt]], ContextReport]:
    if section.select == "retrieval":
        shots, built = retrieved_shots(examples, pool, section)
        report = replace(report, built=(built,))
    else:
        shots = random_shots(examples, pool, section)
    contexts: list[list[Prompt]] = [
        [few_shot_context(pool, view, turns) for view in views_of(one, section)]
        for one, turns in zip(shots, own, strict=True)
    ]
    return contexts, report


def _induced(
    section: AuxiliaryContexts,
    examples: list[Example],
    pool: ShotPool,
    own: list[list[Message]],
    write: ContextWriter | None,
    report: ContextReport,
) -> tuple[list[list[Prompt]], ContextReport]:
    assert write is not None
    induced = induce(examples, pool, section, write)
    num_written = induced.num_groups - sum(induced.failures.values())
    note = f"{num_written} instructions from {induced.num_groups} groups of demonstrations"
    contexts: list[list[Prompt]] = [
        [induction_context(instruction, turns) for instruction in one]
        for one, turns in zip(induced.instructions, own, strict=True)
    ]
    return contexts, replace(report, note=note, failures=induced.failures, built=induced.built)


def _with_negatives(
    section: NegativeContexts, examples: list[Example], task: Task | None, write: ContextWriter | None, split: str
) -> tuple[list[Example], ContextReport]:
    report = ContextReport(split, f"negative ({section.type})", len(examples), len(examples))
    contexts: Sequence[Prompt | None] = [example.negative_context for example in examples]
    if section.type != "column":
        refuse_filled(split, "negative", section.type, examples)
    if ":" in section.type:
        function = import_object(section.type, where="contexts.negative.type")
        contexts = negatives_from(section.type, _callable(function), examples)
    if section.type == "verified":
        assert task is not None
        assert write is not None
        grader = str(task.grader) if isinstance(task, LocalTask) else task.name
        negatives = verified_negatives(examples, task, grader, section, write)
        contexts, report = negatives.answers, replace(report, failures=negatives.failures, built=(negatives.built,))
    report = replace(report, num_filled=sum(context is not None for context in contexts))
    return [replace(one, negative_context=each) for one, each in zip(examples, contexts, strict=True)], report


def _callable(function: object) -> Callable[[Example], Any]:
    # The configuration was refused where it is not.
    assert callable(function)
    return function
