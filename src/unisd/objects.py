"""The objects that a checked configuration describes: tasks, arguments, model, tokenizer."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unisd.args import SelfDistillConfig
from unisd.config.schema import RunConfig
from unisd.loading import load_model, load_tokenizer
from unisd.options import PromptOptions, RolloutOptions
from unisd.tasks import TASKS
from unisd.tasks.benchmark import Benchmark
from unisd.tasks.code import CodeTask
from unisd.tasks.local import LocalTask
from unisd.tasks.source import DataSource
from unisd.tasks.task import Task
from unisd.types import Example


def arguments_of(config: RunConfig) -> SelfDistillConfig:
    """Sections `training`, `rollout` and the prompt options of `data`, as trainer arguments."""
    prompts = {field.name: getattr(config.data, field.name) for field in fields(PromptOptions)}
    rollout = {field.name: getattr(config.rollout, field.name) for field in fields(RolloutOptions)}
    return SelfDistillConfig(**{**config.eval.strategy, **config.training, **rollout, **prompts})


def task_of(config: RunConfig, split: str) -> Task | None:
    """The task of `data.train` or `data.eval`; `None` where the section names none."""
    source = config.data.train if split == "train" else config.data.eval
    if source is None:
        return None
    name = source if isinstance(source, str) else source.task
    if name is not None:
        return named_task(config, name)
    assert isinstance(source, DataSource)
    return LocalTask(
        train=source if split == "train" else None,
        eval=source if split == "eval" else None,
        prompt_template=config.data.prompt_template,
        privileged_template=config.data.privileged_template,
    )


def named_task(config: RunConfig, name: str) -> Task:
    """A task of `TASKS` with the rows that `data.train` and `data.eval` give for it, else with the hub's."""
    task = TASKS[name]
    if not issubclass(task, Benchmark):
        return task()
    given = {"train": config.data.train, "eval": config.data.eval}
    options: dict[str, Any] = {
        role: source for role, source in given.items() if isinstance(source, DataSource) and source.task == name
    }
    if issubclass(task, CodeTask):
        options["allow_code_execution"] = config.data.allow_code_execution
    return task(**options)


def train_examples(config: RunConfig) -> list[Example]:
    """The training examples of a run, at most `data.limit`."""
    task = task_of(config, "train")
    if task is None:
        raise ValueError(f"data.train is missing. Give a task ({', '.join(TASKS)}) or {{path: train.jsonl}}.")
    return task.train_examples(config.data.limit)


def eval_examples(config: RunConfig, limit: int | None = None) -> list[Example] | None:
    """The held-out examples of a run, at most `limit` or else `eval.limit`; `None` without `data.eval`."""
    task = task_of(config, "eval")
    return None if task is None else task.eval_examples(limit or config.eval.limit)


def model_of(config: RunConfig) -> PreTrainedModel:
    """The student before training, without adapter."""
    section = config.model
    return load_model(
        section.name_or_path,
        dtype=section.dtype,
        attn_implementation=section.attn_implementation,
        revision=section.revision,
        gguf_file=section.gguf_file,
        trust_remote_code=section.trust_remote_code,
    )


def tokenizer_of(config: RunConfig) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to the model."""
    section = config.model
    return load_tokenizer(
        section.name_or_path,
        revision=section.revision,
        gguf_file=section.gguf_file,
        trust_remote_code=section.trust_remote_code,
    )


def adapter_of(config: RunConfig) -> LoraConfig | None:
    """Section `peft`; `None` for full fine-tuning."""
    return None if config.peft is None else LoraConfig(**{"task_type": "CAUSAL_LM", **config.peft})


def eval_tasks(config: RunConfig) -> list[Task]:
    """The tasks whose accuracy is measured: `eval.tasks`, or else the task of `data.eval` where it can grade."""
    if config.eval.tasks is not None:
        return [named_task(config, name) for name in config.eval.tasks]
    task = task_of(config, "eval")
    is_gradable = task is not None and not (isinstance(task, LocalTask) and not task.has_grader)
    return [task] if is_gradable else []  # pyright: ignore[reportReturnType]


def trainer_arguments(config: RunConfig) -> dict[str, Any]:
    """What `SelfDistillTrainer` is constructed with; a fresh teacher each time."""
    # The data first: its faults should not wait for the weights.
    train_dataset, eval_dataset, tokenizer = train_examples(config), eval_examples(config), tokenizer_of(config)
    return {
        "model": model_of(config),
        "args": arguments_of(config),
        "train_dataset": train_dataset,
        "eval_dataset": eval_dataset,
        "processing_class": tokenizer,
        "teacher": replace(config.teacher),
        "objective": config.objective,
        "components": config.components,
        "demonstration": config.contexts.privileged,
        "eval_tasks": eval_tasks(config),
        "eval_limit": config.eval.limit,
        "gates": config.contexts.gates,
        "peft_config": adapter_of(config),
    }
