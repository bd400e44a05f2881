"""Keep the main term only where the student is uncertain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unisd.types import Need, TokenLoss, TokenScores, Transform


@dataclass(frozen=True)
class TokenFilter(Transform):
    """Weight 0 for all but the most uncertain tokens of each sequence; the denominator N is unchanged.

    Keeps ceil(fraction * T_b) of the T_b valid tokens by student entropy; earlier tokens win ties.
    """

    fraction: float
    """Share of each sequence's valid tokens that is kept, in (0, 1]."""
    needs: ClassVar[Need] = Need.STUDENT_ENTROPY

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"token_filter.fraction must lie in (0, 1], got {self.fraction}.")

    def __call__(self, loss: TokenLoss, scores: TokenScores) -> TokenLoss:
        entropy = scores.student_entropy.detach().masked_fill(~scores.mask, -torch.inf)
        order = entropy.sort(dim=-1, descending=True, stable=True).indices
        rank = order.argsort(dim=-1)  # (B, T)
        # Rounded first: 0.28 * 25 is a little over 7 in floating point, and must keep 7.
        num_kept = (self.fraction * scores.mask.sum(-1, keepdim=True).double()).round(decimals=6).ceil()
        return loss.reweighted((rank < num_kept).to(loss.weights.dtype))

    def metrics(self, before: TokenLoss, after: TokenLoss, scores: TokenScores) -> dict[str, Tensor]:
        """`kept`: whether the token kept its weight."""
        return {"kept": (after.weights > 0).to(after.weights.dtype)}
