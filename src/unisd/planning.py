"""`unisd plan`: what a run will do and need, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, TrainingArguments

from unisd.config.dump import component_name, plain
from unisd.config.schema import RunConfig
from unisd.contexts.demonstration import build_views
from unisd.contexts.template import measure_views
from unisd.contexts.view_report import ViewReport
from unisd.loading import load_model_config, with_adapter
from unisd.mean_weight import scores_privileged_twice
from unisd.objects import adapter_of, tokenizer_of, train_examples
from unisd.prepare import with_cheap_contexts
from unisd.scoring.fused import chunk_rows
from unisd.scoring.head import FAMILIES
from unisd.scoring.plan import Plan, plan_passes
from unisd.teacher.teacher import BaseTeacher, EMATeacher, LiveTeacher
from unisd.types import Example, Need, Signal

MIB = 2**20

FORMULA_BUFFERS = 8
"""Float32 buffers of (chunk, vocabulary) alive at once in the plain formulas: logits, log-softmax and gradients."""


def passes_of(config: RunConfig) -> Plan:
    """The forward passes of one micro-batch."""
    auxiliary = config.contexts.auxiliary
    return plan_passes(
        [config.objective.needs, Need.STUDENT_ENTROPY, *(component.needs for component in config.components)],
        num_auxiliary=0 if auxiliary is None else auxiliary.count,
        gates=config.contexts.gates,
        privileged_twice=scores_privileged_twice(config.objective, config.components),
    )


def plan(config: RunConfig) -> str:
    """Passes, memory, prompt lengths per view, warnings; loads the model's configuration and tokenizer only."""
    passes = passes_of(config)
    sizes = _sizes(config)
    examples, not_built = with_cheap_contexts(config, train_examples(config))
    report = _view_report(config, examples)
    parts = [passes.text(), _loss_text(config), sizes.text(config, passes), report.text()]
    if not_built:
        parts.append(f"not measured before it is built: {', '.join(not_built)}. `unisd prepare` builds and caches it.")
    warnings = _warnings(config, sizes, report)
    if warnings:
        parts.append("\n".join(f"warning: {warning}" for warning in warnings))
    return "\n\n".join(parts)


def _loss_text(config: RunConfig) -> str:
    """The main term and the components, in their order, with every option."""
    lines = [f"  {config.objective.divergence}"] if config.objective.divergence != "none" else []
    for component in config.components:
        options = yaml.safe_dump(plain(component), default_flow_style=True, sort_keys=False, width=1000).strip()
        lines.append(f"  {component_name(component)} {options}")
    return "\n".join(["loss", *lines])


@dataclass(frozen=True)
class Sizes:
    """Counts of a model that was never loaded."""

    num_parameters: int
    num_trainable: int
    bytes_per_parameter: int
    hidden_size: int
    vocabulary: int
    model_type: str
    is_peft: bool

    def text(self, config: RunConfig, passes: Plan) -> str:
        """The memory that follows from the configuration alone, a line per part."""
        float32 = 4
        trainable_bytes = self.num_trainable * (float32 if self.is_peft else self.bytes_per_parameter)
        batch_size = config.training.get("per_device_train_batch_size", TrainingArguments.per_device_train_batch_size)
        tokens = batch_size * config.rollout.num_generations * config.rollout.max_completion_length
        teacher_copies = {EMATeacher: self.num_trainable * float32, LiveTeacher: 0}
        base_copy = 0 if self.is_peft else trainable_bytes
        rows, num_buffers = self._chunk(config, passes)
        rows = min(rows, tokens)
        parts = [
            (f"weights ({self.num_parameters:,} parameters)", self.num_parameters * self.bytes_per_parameter),
            (f"gradients ({self.num_trainable:,} trainable)", trainable_bytes),
            ("AdamW state", 2 * trainable_bytes),
            ("teacher copy", teacher_copies.get(type(config.teacher), base_copy) if passes.has_teacher else 0),
            (f"states of {tokens:,} completion tokens", 2 * tokens * self.hidden_size * float32),
            (f"loss, {rows} tokens at a time", num_buffers * rows * self.vocabulary * float32),
        ]
        lines = [f"  {name.ljust(44)} {size / MIB:>9,.0f} MiB" for name, size in parts]
        total = sum(size for _, size in parts)
        return "\n".join(
            [
                "memory per process (without activations of the backbone and the rollout's cache)",
                *lines,
                f"  {'sum'.ljust(44)} {total / MIB:>9,.0f} MiB",
            ]
        )

    def _chunk(self, config: RunConfig, passes: Plan) -> tuple[int, int]:
        """Tokens that the loss takes at a time on this machine, and buffers of their logits alive at once."""
        if config.objective.support == "topk" or config.objective.impl == "full" or self.model_type not in FAMILIES:
            return chunk_rows(self.vocabulary), FORMULA_BUFFERS
        has_accelerator = torch.accelerator.is_available() and not config.training.get("use_cpu")
        accelerator = torch.accelerator.current_accelerator() if has_accelerator else None
        is_pair = config.objective.support == "full" and Signal.DIVERGENCE in passes.signals
        device = "cpu" if accelerator is None else accelerator.type
        return chunk_rows(self.vocabulary, device, num_buffers=1 + is_pair), 1 + is_pair


def _sizes(config: RunConfig) -> Sizes:
    section = config.model
    model_config = load_model_config(
        section.name_or_path,
        revision=section.revision,
        gguf_file=section.gguf_file,
        trust_remote_code=section.trust_remote_code,
    )
    dtype: Any = model_config.dtype if section.dtype == "auto" else getattr(torch, section.dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=section.trust_remote_code)
        adapted = with_adapter(model, adapter_of(config))
    text_config = model_config.get_text_config()
    return Sizes(
        num_parameters=sum(parameter.numel() for parameter in adapted.parameters()),
        num_trainable=sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad),
        bytes_per_parameter=(dtype or torch.float32).itemsize,
        hidden_size=text_config.hidden_size,
        vocabulary=text_config.vocab_size,
        model_type=model_config.model_type,
        is_peft=isinstance(adapted, PeftModel),
    )


def _view_report(config: RunConfig, examples: Sequence[Example]) -> ViewReport:
    return measure_views(
        examples,
        tokenizer_of(config),
        config.data,
        lambda example: build_views(example, config.contexts.privileged),
    )


def _warnings(config: RunConfig, sizes: Sizes, report: ViewReport) -> list[str]:
    warnings = []
    if isinstance(config.teacher, BaseTeacher) and config.teacher.kind == "base" and not sizes.is_peft:
        warnings.append("full fine-tuning with teacher base keeps a second copy of the weights; peft does without.")
    if sizes.model_type not in FAMILIES and config.objective.impl != "full":
        warnings.append(
            f"model type {sizes.model_type!r} is not known ({', '.join(FAMILIES)}): whole (batch, tokens, vocabulary) "
            "logits will be used."
        )
    if config.objective.support == "sampled":
        rollout = config.rollout
        if rollout.temperature != config.objective.temperature or rollout.top_p < 1 or rollout.top_k:
            warnings.append(
                "support: sampled is unbiased only where completions are sampled from the scored distribution, but "
                f"rollout.temperature is {rollout.temperature} (objective.temperature {config.objective.temperature}), "
                f"top_p {rollout.top_p}, top_k {rollout.top_k}."
            )
    for view, number in report.num_over_budget.items():
        if number:
            warnings.append(
                f"{number} views {view!r} are over their budget; data.on_overflow: {config.data.on_overflow}."
            )
    return warnings
