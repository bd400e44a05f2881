"""Scores of a micro-batch of 2 x 3 tokens, to be computed with by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from unisd.types import Signal, StepCounts, TokenLoss, TokenScores

MASK = torch.tensor([[True, True, False], [True, True, True]])
"""Five valid tokens; the sixth place is padding, and whatever stands there must not matter."""
PADDING = torch.nan


def scores_of(
    *,
    mask: Tensor = MASK,
    counts: StepCounts | None = None,
    gather: Callable[[Tensor], Tensor] | None = None,
    scored_rows: Mapping[Signal, Tensor] | None = None,
    student_hidden: Mapping[int, Tensor] | None = None,
    teacher_hidden: Mapping[int, Tensor] | None = None,
    **signals: Any,
) -> TokenScores:
    """Scores that hold the named signals, such as `student_logp=[[...], [...]]`."""
    return TokenScores(
        mask=mask,
        completion_ids=torch.zeros(mask.shape, dtype=torch.long),
        signals={Signal[name.upper()]: torch.as_tensor(values) for name, values in signals.items()},
        counts=counts,
        gather=gather,
        scored_rows=scored_rows,
        student_hidden=student_hidden,
        teacher_hidden=teacher_hidden,
    )


def loss_of(values: list[list[float]] | Tensor, weights: list[list[float]] | Tensor | None = None) -> TokenLoss:
    """Values and their weights, 1 unless given."""
    values = torch.as_tensor(values)
    return TokenLoss(values, torch.ones_like(values) if weights is None else torch.as_tensor(weights))
