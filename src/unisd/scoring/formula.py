"""Per-token scores by the plain formulas and autograd, in chunks: top-k supports, and whole logits from the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unisd.objective.divergence import Divergence, sampled_reverse_kl
from unisd.scoring.forward import PassOutput
from unisd.scoring.plan import TEACHER_SIGNALS
from unisd.types import Signal


def scores_by_formula(
    student: PassOutput,
    teacher: PassOutput | None,
    *,
    ids: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    objective: Divergence,
    signals: Signal,
    rows_per_chunk: int,
) -> dict[Signal, Tensor]:
    """The asked signals, each (B, T); a chunk's logits are computed again in the backward pass."""
    score_chunk = partial(_score_chunk, student=student, teacher=teacher, objective=objective, signals=signals)
    student_rows = student.states[mask]  # (N, D)
    teacher_rows = student_rows.new_zeros(len(student_rows), 0) if teacher is None else teacher.states[mask]
    chunks = [
        _in_bounded_memory(score_chunk, *rows)
        for rows in zip(
            student_rows.split(rows_per_chunk),
            teacher_rows.split(rows_per_chunk),
            ids[mask].split(rows_per_chunk),
            strict=True,
        )
    ]
    return {signal: _scatter(torch.cat([chunk[signal] for chunk in chunks]), mask) for signal in signals.members()}


def _in_bounded_memory(
    score_chunk: Callable[..., dict[Signal, Tensor]], student_rows: Tensor, teacher_rows: Tensor, ids: Tensor
) -> dict[Signal, Tensor]:
    if not torch.is_grad_enabled():
        return score_chunk(student_rows, teacher_rows, ids)
    # No randomness inside: a head has no dropout.
    return checkpoint(score_chunk, student_rows, teacher_rows, ids, use_reentrant=False, preserve_rng_state=False)


def _score_chunk(
    student_rows: Tensor,
    teacher_rows: Tensor,
    ids: Tensor,
    *,
    student: PassOutput,
    teacher: PassOutput | None,
    objective: Divergence,
    signals: Signal,
) -> dict[Signal, Tensor]:
    student_log_probs = (student.head.logits(student_rows) / objective.temperature).log_softmax(-1)
    scores = _statistics(
        student_log_probs, ids, logp=Signal.STUDENT_LOGP, entropy=Signal.STUDENT_ENTROPY, signals=signals
    )
    if signals & TEACHER_SIGNALS:
        assert teacher is not None, "the plan holds a teacher pass for every signal that needs one"
        with torch.no_grad():
            teacher_log_probs = (teacher.head.logits(teacher_rows) / objective.temperature).log_softmax(-1)
        teacher_scores = _statistics(
            teacher_log_probs, ids, logp=Signal.TEACHER_LOGP, entropy=Signal.TEACHER_ENTROPY, signals=signals
        )
        scores.update(teacher_scores)
        if Signal.DIVERGENCE in signals:
            if objective.support == "sampled":
                student_logp, teacher_logp = _realised(student_log_probs, ids), _realised(teacher_log_probs, ids)
                scores[Signal.DIVERGENCE] = sampled_reverse_kl(student_logp, teacher_logp)
            else:
                scores[Signal.DIVERGENCE] = objective.per_token(student_log_probs, teacher_log_probs)
    return scores


def _statistics(
    log_probs: Tensor, ids: Tensor, *, logp: Signal, entropy: Signal, signals: Signal
) -> dict[Signal, Tensor]:
    scores: dict[Signal, Tensor] = {}
    if logp in signals:
        scores[logp] = _realised(log_probs, ids)
    if entropy in signals:
        with torch.no_grad():
            # -inf * 0 is NaN, but a token without probability adds nothing.
            scores[entropy] = -(log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1)
    return scores


def _realised(log_probs: Tensor, ids: Tensor) -> Tensor:
    return log_probs.gather(-1, ids[:, None]).squeeze(-1)


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
