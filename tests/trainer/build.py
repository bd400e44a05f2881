"""Tiny trainers to look at from outside; every argument of `SelfDistillTrainer` and of its config can be set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from tests.tiny import build_tiny_model, build_tiny_tokenizer
from unisd.args import SelfDistillConfig
from unisd.trainer import SelfDistillTrainer
from unisd.types import Example

WORDS = ["red", "blue", "green", "gold", "grey", "pink", "teal", "plum"]

DEFAULTS: dict[str, Any] = {
    "max_completion_length": 8,
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 0.1,
    "optim": "sgd",
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
}
"""What the trainers here are given unless a test says otherwise: one step, a log every step."""


def rows(num: int) -> list[Example]:
    """Text prompts and completions, each of several lengths."""
    return [
        Example(
            prompt=f"Say {WORDS[index % 8]}" + "!" * (index % 4) + "\n",
            privileged_context=WORDS[(index + 3) % 8],
            completion=WORDS[index % 8][: 2 + index % 3],
            answer=WORDS[index % 8],
        )
        for index in range(num)
    ]


def rows_in_contexts(num: int, *, do_agree: bool = False) -> list[Example]:
    """Two auxiliary contexts per row, the same one twice where they agree, and a wrong answer."""
    return [
        replace(
            row,
            auxiliary_contexts=(WORDS[index % 8], WORDS[(index + (0 if do_agree else 1)) % 8]),
            negative_context=WORDS[(index + 5) % 8],
        )
        for index, row in enumerate(rows(num))
    ]


def lora(**options: Any) -> LoraConfig:
    """An adapter on every linear layer."""
    return LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options})


def build(
    folder: Path,
    *,
    train: Any = None,
    cls: type[SelfDistillTrainer] = SelfDistillTrainer,
    keywords: dict[str, Any] | None = None,
    **arguments: Any,
) -> SelfDistillTrainer:
    """A trainer of `cls`; `keywords` go to it, `arguments` to its config. `train` is four rows unless given."""
    tokenizer = build_tiny_tokenizer()
    torch.manual_seed(0)
    return cls(
        build_tiny_model(tokenizer),
        SelfDistillConfig(str(folder), **{**DEFAULTS, **arguments}),
        rows(4) if train is None else train,
        processing_class=tokenizer,
        **(keywords or {}),
    )


def parameters(trainer: SelfDistillTrainer) -> dict[str, Tensor]:
    """A copy of the trainable parameters."""
    model: Any = trainer.model
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def gradients(trainer: SelfDistillTrainer) -> dict[str, Tensor]:
    """Of the first optimizer step, before anything else happens to them: what SGD at rate 1 subtracted."""
    before = parameters(trainer)
    trainer.train()
    return {name: before[name] - value for name, value in parameters(trainer).items()}


def logged(trainer: SelfDistillTrainer, name: str) -> list[float]:
    """Every logged value of that name, in order."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@contextmanager
def scored_sequences(trainer: Any) -> Iterator[list[int]]:
    """The size of every scoring pass inside; those that generate keep a cache."""
    sizes: list[int] = []

    def count(_: Any, args: Any, inputs: dict[str, Any]) -> None:
        if inputs["use_cache"] is False:
            sizes.append(len(inputs["input_ids"]))

    handle = trainer.model.register_forward_pre_hook(count, with_kwargs=True)
    yield sizes
    handle.remove()
