"""How much of its base a model still is: what either writes, scored by both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from unisd.evaluate.likelihood import Sequences
from unisd.evaluate.results import Drift, PromptDrift
from unisd.modes import evaluation_mode
from unisd.objective.divergence import Divergence
from unisd.options import RolloutOptions
from unisd.rollout.hf import HFRollout
from unisd.scoring.forward import run_pass
from unisd.scoring.fused import token_scores
from unisd.scoring.head import head_of
from unisd.teacher.teacher import without_adapter
from unisd.types import RolloutBatch, Signal

MAX_PROMPTS = 128
"""Of each set, its first ones: two sets of completions and four passes, and means over tokens need no more."""
_SIGNALS = Signal.STUDENT_LOGP | Signal.TEACHER_LOGP | Signal.DIVERGENCE


@dataclass(frozen=True)
class BaseModel:
    """What the evaluated model is compared with: another model, or itself with its adapter switched off.

    The latter is the model before training unless the adapter's start changed the base weights (PiSSA, OLoRA) or biases
    were trained with it.
    """

    name: str
    """For the results."""
    model: Any | None = None
    """`None`: the evaluated model without its adapter."""

    @contextmanager
    def active(self, evaluated: Any) -> Iterator[Any]:
        """Inside, what it yields computes as the base model."""
        if self.model is not None:
            yield self.model
            return
        if not isinstance(evaluated, PeftModel):
            raise ValueError("retention: the model has no adapter to switch off. Give BaseModel(name, model).")
        with without_adapter(evaluated):
            yield evaluated


def prompt_drift(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    base: BaseModel,
    name: str,
    *,
    tuned: Sequences,
    options: RolloutOptions,
) -> PromptDrift:
    """Drift on the first `MAX_PROMPTS` prompts of a set; `tuned` holds them with the model's own greedy completions."""
    tuned = Sequences(tuned.prompts[:MAX_PROMPTS], tuned.completions[:MAX_PROMPTS])
    with base.active(model) as base_model:
        written = HFRollout(options)(base_model, tokenizer, tuned.prompts, seed=0, greedy=True)
    theirs = Sequences(tuned.prompts, [completion.ids for completion in written])
    return PromptDrift(
        name=name,
        num_prompts=len(tuned.prompts),
        tuned_completions=drift(model, tokenizer, base, tuned, label=f"{name}: own completions"),
        base_completions=drift(model, tokenizer, base, theirs, label=f"{name}: the base's completions"),
    )


@torch.no_grad()
def drift(
    model: Any, tokenizer: PreTrainedTokenizerBase, base: BaseModel, sequences: Sequences, *, label: str
) -> Drift:
    """Both models over the same completions, at temperature 1."""
    totals = torch.zeros(3, dtype=torch.float64)
    for batch in sequences.batches(tokenizer, next(model.parameters()).device, label):
        scores = _scores(model, base, batch)
        wanted = (Signal.DIVERGENCE, Signal.TEACHER_LOGP, Signal.STUDENT_LOGP)
        totals += torch.stack([scores[signal].double().sum().cpu() for signal in wanted])
    num = sequences.num_tokens
    jsd, base_logp, tuned_logp = (total / num if num and math.isfinite(total) else None for total in totals.tolist())
    return Drift(num_tokens=num, jsd=jsd, base_logp=base_logp, tuned_logp=tuned_logp)


def _scores(model: Any, base: BaseModel, batch: RolloutBatch) -> dict[Signal, torch.Tensor]:
    """JSD and both log-probabilities of every completion token; the evaluated model is the student of the scoring."""
    view = batch.views["prompt"]
    with base.active(model) as base_model:
        # Asked for inside, because an adapter may have a head of its own.
        whole_logits = head_of(base_model) is None
        with evaluation_mode(base_model):
            theirs = run_pass(base_model, view, batch, whole_logits=whole_logits)
    with evaluation_mode(model):
        mine = run_pass(model, view, batch, whole_logits=head_of(model) is None)
    return token_scores(
        mine,
        theirs,
        ids=batch.completion_ids,
        mask=batch.mask,
        objective=Divergence("jsd"),
        signals=_SIGNALS,
    )
