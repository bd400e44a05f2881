"""Tiny students, and a training that can be computed by hand."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tests.tiny import build_tiny_model, build_tiny_tokenizer
from unisd.teacher.shadow import trainable_parameters
from unisd.teacher.teacher import Teacher, scoring_with

IDS = torch.arange(5, 45).view(2, 20)


def student(kind: str, **options: Any) -> nn.Module:
    """`full`: every parameter trains. `lora`: a new adapter. `trained_lora`: one that is not the identity."""
    torch.manual_seed(0)
    model = build_tiny_model(build_tiny_tokenizer())
    if kind == "full":
        return model
    torch.manual_seed(1)
    is_new = kind == "lora"
    lora = {"r": 2, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": is_new, **options}
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))


def train(model: nn.Module, by: float = 0.25) -> None:
    """One step of a training that adds `by` to every trainable parameter."""
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(by)


def logits(model: nn.Module) -> Tensor:
    """The model's own."""
    with torch.no_grad():
        return model(input_ids=IDS).logits


def teacher_logits(teacher: Teacher, model: nn.Module) -> Tensor:
    """The same of the teacher."""
    with scoring_with(teacher, model):
        return model(input_ids=IDS).logits
