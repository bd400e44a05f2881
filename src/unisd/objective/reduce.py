"""Token values to one number, with counts of the whole optimizer step."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unisd.objective.divergence import Divergence
from unisd.types import StepCounts, TokenLoss


def reduce_tokens(
    loss: TokenLoss, mask: Bool[Tensor, "B T"], *, objective: Divergence, counts: StepCounts
) -> Float[Tensor, ""]:
    """This micro-batch's share of the step's loss; summed over micro-batches and processes it is the loss.

    token_mean     sum w v / N                  sequence_mean  1/S sum_b (1/T_b) sum_t w v
    reference      1/S sum_b sum_t w v / max(sum_t w, 1)
    with N and S from `counts`. Weights are not renormalised away: where the views disagree, the gradient is smaller.
    Values outside the mask may be anything, NaN included.
    """
    weights = torch.where(mask, loss.weights, 0.0)
    values = torch.where(mask, loss.values, 0.0) * weights
    if objective.reference:
        return (values.sum(-1) / weights.sum(-1).clamp(min=1)).sum() / max(counts.num_sequences, 1)
    if objective.reduction == "sequence_mean":
        return (values.sum(-1) / mask.sum(-1).clamp(min=1)).sum() / max(counts.num_sequences, 1)
    return values.sum() / max(counts.num_tokens, 1)
