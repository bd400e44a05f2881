"""Weights that are told ahead are of ordinary size, so that a half-precision gradient can hold them."""

from __future__ import annotations

import torch
from torch import Tensor

from unisd import kernels
from unisd.scoring.foresight import foreseen
from unisd.types import RolloutBatch, StepCounts, TokenScores


def test_the_weights_of_a_mean_over_a_long_sequence_are_as_large_as_those_of_a_sum() -> None:
    mask = torch.ones(2, 1000, dtype=torch.bool)
    mask[1, 500:] = False
    batch = RolloutBatch(
        views={}, completion_ids=torch.zeros(2, 1000, dtype=torch.long), completion_mask=mask, mask=mask,
        sampler_logp=None, counts=StepCounts(1500, 2), examples=[], completions=[],
    )  # fmt: skip

    def loss_of(scores: TokenScores) -> Tensor:
        return scores.divergence

    predict = foreseen(loss_of, batch=batch, signals={}, scored_rows={}, divisors=mask.sum(-1))
    zeros = torch.zeros(1500)
    weights = predict(kernels.TokenScores(zeros, zeros, zeros, zeros, zeros), slice(0, 1500)).divergence
    # A token of the sequence that is half as long counts twice.
    assert weights is not None
    assert weights.tolist() == [1.0] * 1000 + [2.0] * 500
