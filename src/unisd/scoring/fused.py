"""Per-token scores from hidden states in chunks: nothing of shape (tokens, vocabulary) outlives its chunk."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unisd import kernels
from unisd.kernels import Predict
from unisd.kernels.chunk import chunk_rows
from unisd.objective.divergence import Divergence, sampled_reverse_kl
from unisd.scoring.formula import scores_by_formula
from unisd.scoring.forward import PassOutput
from unisd.scoring.plan import TEACHER_SIGNALS
from unisd.types import Signal

_TEACHER_STATISTICS = (Signal.TEACHER_LOGP, Signal.TEACHER_ENTROPY)


def token_scores(
    student: PassOutput,
    teacher: PassOutput | None,
    *,
    ids: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    objective: Divergence,
    signals: Signal,
    rows_per_chunk: int | None = None,
    predict: Predict | None = None,
) -> dict[Signal, Tensor]:
    """The asked signals, each (B, T), 0 outside the mask; only valid tokens are projected.

    Divergence and student log-probability carry gradient to the student's states and, where it is trainable, head.
    Softmax, log and sums are at least float32; float64 stays. `predict` (see `kernels.token_scores`) may save time or
    memory where both carry gradient or the head is trainable, and changes no number.
    """
    vocabulary = _vocabulary(student)
    if teacher is not None and _vocabulary(teacher) != vocabulary:
        raise ValueError(
            f"teacher and student must share a vocabulary, got {_vocabulary(teacher)} and {vocabulary} logits a token."
        )
    if student.head.weight is None or objective.support == "topk" or not _are_alike(student, teacher):
        return scores_by_formula(
            student,
            teacher,
            ids=ids,
            mask=mask,
            objective=objective,
            signals=signals,
            rows_per_chunk=rows_per_chunk or chunk_rows(vocabulary),
        )
    if not signals & TEACHER_SIGNALS:
        teacher = None
    is_whole = teacher is not None and objective.support == "full" and Signal.DIVERGENCE in signals
    common = {**_options(student, objective.temperature), "ids": ids, "mask": mask, "chunk_rows": rows_per_chunk}
    if teacher is not None and is_whole:
        return _pair_scores(student, teacher, objective, signals, common, predict)
    scores = kernels.token_scores(
        student.states, student.head.weight, None,
        divergence="none", differentiable=("student_logp",), student_bias=student.head.bias, **common,
    )  # fmt: skip
    found = {Signal.STUDENT_LOGP: scores.student_logp, Signal.STUDENT_ENTROPY: scores.student_entropy}
    if teacher is not None:
        statistics = _statistics_of(teacher, ids, mask, objective.temperature, rows_per_chunk)
        found.update(zip(_TEACHER_STATISTICS, statistics, strict=True))
    if Signal.DIVERGENCE in signals:
        found[Signal.DIVERGENCE] = sampled_reverse_kl(found[Signal.STUDENT_LOGP], found[Signal.TEACHER_LOGP])
    return {signal: found[signal] for signal in signals.members()}


def token_logp(
    output: PassOutput, *, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], temperature: float = 1.0
) -> Tensor:
    """Log-probability of the realised tokens under one more view, (B, T), without gradient."""
    if output.head.weight is not None:
        return _statistics_of(output, ids, mask, temperature, None).logp
    objective = Divergence("none", temperature=temperature)
    with torch.no_grad():
        scores = token_scores(output, None, ids=ids, mask=mask, objective=objective, signals=Signal.STUDENT_LOGP)
    return scores[Signal.STUDENT_LOGP]


def _vocabulary(output: PassOutput) -> int:
    return output.states.shape[-1] if output.head.weight is None else output.head.weight.shape[0]


def _are_alike(student: PassOutput, teacher: PassOutput | None) -> bool:
    """Whether the same comes after both heads, and they have the same parts."""
    if teacher is None:
        return True
    mine, theirs = student.head, teacher.head
    return theirs.weight is not None and (mine.scale, mine.softcap) == (theirs.scale, theirs.softcap)


def _options(output: PassOutput, temperature: float) -> dict[str, Any]:
    return {"temperature": temperature, "softcap": output.head.softcap, "scale": output.head.scale}


def _statistics_of(
    output: PassOutput, ids: Tensor, mask: Tensor, temperature: float, rows_per_chunk: int | None
) -> kernels.RowStatistics:
    assert output.head.weight is not None, "whole logits take the formulas"
    options = {**_options(output, temperature), "bias": output.head.bias, "chunk_rows": rows_per_chunk}
    return kernels.token_logp(output.states, output.head.weight, ids, mask=mask, **options)


def _pair_scores(
    student: PassOutput,
    teacher: PassOutput,
    objective: Divergence,
    signals: Signal,
    common: dict[str, Any],
    predict: Predict | None,
) -> dict[Signal, Tensor]:
    """Student against teacher over the whole vocabulary."""
    assert student.head.weight is not None, "whole logits take the formulas"
    has_logp = Signal.STUDENT_LOGP in signals
    # For one score a frozen head keeps one gradient per token anyway, without a prediction that may be wrong.
    is_worth_it = predict is not None and (has_logp or student.head.is_trainable)
    scores = kernels.token_scores(
        student.states,
        student.head.weight,
        teacher.states,
        teacher.head.weight,
        divergence=objective.divergence,
        beta=objective.beta,
        student_bias=student.head.bias,
        teacher_bias=teacher.head.bias,
        differentiable=("divergence", "student_logp") if has_logp else ("divergence",),
        predict=partial(_predict_unscaled, predict, objective.factor) if predict and is_worth_it else None,
        **common,
    )
    found = {signal: getattr(scores, str(signal.name).lower()) for signal in signals.members()}
    return {**found, Signal.DIVERGENCE: found[Signal.DIVERGENCE] * objective.factor}


def _predict_unscaled(predict: Predict, factor: float, scores: kernels.TokenScores, tokens: slice) -> kernels.Weights:
    """The prediction is about the divergence of the objective, which is `factor` times the kernels'."""
    assert scores.divergence is not None, "it is asked for where there is one"
    of_divergence, of_logp = predict(scores._replace(divergence=scores.divergence * factor), tokens)
    return kernels.Weights(None if of_divergence is None else of_divergence * factor, of_logp)
