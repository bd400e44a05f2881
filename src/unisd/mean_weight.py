"""The mean weight of a step, known before the student's pass: what `objective.normalize_weights` divides by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from unisd.objective.clip import DivergenceClip
from unisd.objective.divergence import Divergence
from unisd.options import Gate
from unisd.scoring.views import realised_logp
from unisd.step import Step
from unisd.teacher.teacher import scoring_with
from unisd.types import Loss, Need, RolloutBatch, Signal, TokenLoss, TokenScores, Transform

KNOWN_AHEAD = Need.AUXILIARY_LOGP | Need.NEGATIVE_LOGP | Need.TEACHER_LOGP | Need.SAMPLER_LOGP
"""What a transform may read where weights are normalised: the student's pass yields the rest."""


def check_weights_known(components: Mapping[str, Loss | Transform], gates: Mapping[str, Gate]) -> None:
    """Refuse `normalize_weights` where nothing sets weights, or where they would wait for the student's pass."""
    transforms = {
        name: component
        for name, component in components.items()
        if isinstance(component, Transform) and not isinstance(component, DivergenceClip)
    }
    if not transforms:
        raise ValueError(
            "objective.normalize_weights divides by the weights of the main term, but no component sets any. "
            "Remove it, or add a component such as agreement."
        )
    for name, transform in transforms.items():
        if transform.needs not in KNOWN_AHEAD:
            allowed = ", ".join(str(signal.name).lower() for signal in KNOWN_AHEAD.signals.members())
            raise ValueError(
                f"objective.normalize_weights needs weights that are known before the student's pass, but {name} reads "
                f"what only that pass yields; before it there are {allowed}. Remove normalize_weights or the component."
            )
    for context, need in (("auxiliary", Need.AUXILIARY_LOGP), ("negative", Need.NEGATIVE_LOGP)):
        readers = [name for name, transform in transforms.items() if need in transform.needs]
        gate = gates.get(context)
        if readers and gate is not None and gate.signal == "student_entropy" and gate.fraction < 1:
            raise ValueError(
                f"objective.normalize_weights needs weights that are known before the student's pass, but {readers[0]} "
                f"reads {context}_logp, which contexts.{context}.gate.signal: student_entropy scores after it. Set "
                "signal: sampler_nll, or remove normalize_weights."
            )


def scores_privileged_twice(objective: Divergence, components: Iterable[Loss | Transform]) -> bool:
    """Whether the mean weight costs one more pass: its states are not kept over micro-batches."""
    transforms = [component for component in components if isinstance(component, Transform)]
    return objective.normalize_weights and any(Need.TEACHER_LOGP in transform.needs for transform in transforms)


def with_mean_weight(step: Step, model: nn.Module, batches: Sequence[RolloutBatch]) -> list[RolloutBatch]:
    """The micro-batches of a step, with the mean weight of the main term over all of them and all processes.

    The mean is the one that the reduction takes: sum(w) / N, or 1/S sum_b (1/T_b) sum_t w. The extra views are scored
    here and kept.
    """
    kept, shares = [], []
    for batch in batches:
        with scoring_with(step.teacher, model):
            signals, rows = step.extra_views(model, batch, late=False)
            kept.append(replace(batch, scored_ahead={signal: (signals[signal], rows[signal]) for signal in signals}))
            signals |= _privileged_logp(step, model, batch)
        if batch.sampler_logp is not None:
            signals[Signal.SAMPLER_LOGP] = batch.sampler_logp
        scores = TokenScores(
            mask=batch.mask,
            completion_ids=batch.completion_ids,
            signals=signals,
            scored_rows=rows,
            counts=batch.counts,
            gather=step.gather,
        )
        ones = batch.mask.to(scores.dtype)
        weights = step.transformed(TokenLoss(ones, ones), scores).weights
        shares.append(step.reduce({"weight": TokenLoss(ones, weights)}, scores))
    share = torch.stack(shares).sum()[None]
    mean = (share if step.gather is None else step.gather(share)).sum()
    return [replace(batch, counts=replace(batch.counts, mean_weight=mean)) for batch in kept]


def _privileged_logp(step: Step, model: nn.Module, batch: RolloutBatch) -> dict[Signal, Tensor]:
    if not scores_privileged_twice(step.objective, step.components.values()):
        return {}
    logp, _ = realised_logp(
        model,
        [batch.views["privileged"]],
        batch,
        whole_logits=step.whole_logits,
        temperature=step.objective.temperature,
    )
    return {Signal.TEACHER_LOGP: logp[0]}
