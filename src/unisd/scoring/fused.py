"""Per-token scores from hidden states in chunks: nothing of shape (tokens, vocabulary) outlives its chunk."""

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

_CHUNK_BYTES = 96 * 2**20
"""Bytes of two float32 logit buffers of one chunk."""


def chunk_rows(vocabulary: int) -> int:
    """Tokens projected at a time: as many as fit 96 MiB of student and teacher logits, 128 at least, 1024 at most."""
    rows = min(max(_CHUNK_BYTES // (8 * vocabulary), 128), 1024)
    return rows // 64 * 64


def token_scores(
    student: PassOutput,
    teacher: PassOutput | None,
    *,
    ids: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    objective: Divergence,
    signals: Signal,
    rows_per_chunk: int | None = None,
) -> dict[Signal, Tensor]:
    """The asked signals, each (B, T), 0 outside the mask; only valid tokens are projected.

    Divergence and student log-probability carry gradient to the student's states and, where it is trainable, head: each
    chunk's logits are computed again in the backward pass. Softmax, log and sums are at least float32; float64 stays.
    """
    vocabulary = _vocabulary(student)
    if teacher is not None and _vocabulary(teacher) != vocabulary:
        raise ValueError(
            f"teacher and student must share a vocabulary, got {_vocabulary(teacher)} and {vocabulary} logits a token."
        )
    rows_per_chunk = rows_per_chunk or chunk_rows(vocabulary)
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


def _vocabulary(output: PassOutput) -> int:
    return output.states.shape[-1] if output.head.weight is None else output.head.weight.shape[0]


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


def token_logp(
    output: PassOutput, *, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], temperature: float = 1.0
) -> Tensor:
    """Log-probability of the realised tokens under one more view, (B, T), without gradient."""
    objective = Divergence("none", temperature=temperature)
    with torch.no_grad():
        scores = token_scores(output, None, ids=ids, mask=mask, objective=objective, signals=Signal.STUDENT_LOGP)
    return scores[Signal.STUDENT_LOGP]
