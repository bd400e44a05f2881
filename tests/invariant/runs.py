"""Tiny training runs whose numbers can be compared; also a script, for `accelerate launch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from tests.tiny import build_tiny_model, build_tiny_tokenizer
from unisd.args import SelfDistillConfig
from unisd.objective.agreement import Agreement
from unisd.objective.clip import DivergenceClip
from unisd.objective.cross_entropy import CrossEntropy
from unisd.objective.divergence import Divergence
from unisd.teacher import EMATeacher
from unisd.trainer import SelfDistillTrainer
from unisd.types import Example

WORDS = ["red", "blue", "green", "gold", "grey", "pink", "teal", "plum"]

KINDS: dict[str, dict[str, Any]] = {
    "full": {"is_peft": False},
    "normalized": {"is_peft": True, "objective": Divergence(normalize_weights=True)},
    "peft": {"is_peft": True},
}
"""Keywords of `make_trainer` for the runs that are split over processes."""
UNEVEN = 5
"""Rows to evaluate: no multiple of what two processes take at a time."""


def examples(num: int) -> list[Example]:
    """Rows of different lengths, so that padding differs with the batch."""
    return [
        Example(
            prompt=f"Say {WORDS[index % 8]}" + "!" * (index % 5) + "\n",
            privileged_context=f"{WORDS[(index + 3) % 8]} {index}",
            auxiliary_contexts=(WORDS[(index + 3) % 8], WORDS[(index + 4 + index % 2) % 8]),
            completion=WORDS[index % 8] * (1 + index % 3),
        )
        for index in range(num)
    ]


def make_trainer(
    folder: Path,
    *,
    is_peft: bool,
    num: int = 24,
    dropout: float = 0.0,
    objective: Divergence | None = None,
    **options: Any,
) -> SelfDistillTrainer:
    """A trainer on fixed completions with SGD; `options` are training arguments that replace those.

    Where the objective normalises weights, there are some: by agreement, on the cross-entropy as well.
    """
    tokenizer = build_tiny_tokenizer()
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    arguments: dict[str, Any] = {
        "backend": "dataset",
        "max_completion_length": 12,
        "max_steps": 3,
        "learning_rate": 0.5,
        "optim": "sgd",
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    objective = objective or Divergence()
    has_weights = objective.normalize_weights
    agreement = [Agreement(strength=0.1)] if has_weights else []
    torch.manual_seed(0)
    return SelfDistillTrainer(
        build_tiny_model(tokenizer),
        SelfDistillConfig(str(folder), **{**arguments, **options}),
        examples(num),
        processing_class=tokenizer,
        teacher=EMATeacher(decay=0.5, every=2),
        objective=objective,
        components=[*agreement, DivergenceClip(ceiling=3.0), CrossEntropy(coefficient=0.1, weighted=has_weights)],
        peft_config=lora if is_peft else None,
    )


def trainable(trainer: SelfDistillTrainer) -> dict[str, Tensor]:
    """A copy of the trainable parameters."""
    model: Any = trainer.model
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def losses(trainer: SelfDistillTrainer) -> list[float]:
    """The logged loss of every step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def relative_residual(mine: dict[str, Tensor], theirs: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """|mine - theirs| / |theirs - start| over all parameters."""
    difference = sum((mine[name] - theirs[name]).double().square().sum() for name in mine)
    moved = sum((theirs[name] - start[name]).double().square().sum() for name in mine)
    return float((difference / moved) ** 0.5)  # pyright: ignore[reportOperatorIssue]


def main(folder: str, per_device: str) -> None:
    """One process of a distributed launch, which runs every kind; the first process saves what came out."""
    for kind, keywords in KINDS.items():
        sizes = {"per_device_train_batch_size": int(per_device), "per_device_eval_batch_size": 2}
        trainer = make_trainer(Path(folder), **keywords, **sizes)
        start = trainable(trainer)
        trainer.train()
        evaluated = trainer.evaluate(examples(UNEVEN))
        if trainer.is_world_process_zero():
            result = {"start": start, "end": trainable(trainer), "losses": losses(trainer), "evaluated": evaluated}
            torch.save({**result, "world": trainer.accelerator.num_processes}, Path(folder) / f"{kind}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
