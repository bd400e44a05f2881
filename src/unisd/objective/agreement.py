"""Multi-teacher agreement: trust the teacher where its views of the same completion agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unisd.types import Need, TokenLoss, TokenScores, Transform

DEFAULT_FLOORS = {"token": 0.01, "sequence": 1e-6}
"""Smallest weight where no floor is given, by granularity."""
_QUANTILE = 0.95
_LARGEST_SCALED_SPREAD = 10.0
_SMALLEST_QUANTILE = 1e-6


@dataclass(frozen=True)
class Agreement(Transform):
    """Weights in (0, 1] from the spread of the realised tokens' log-probability over K >= 2 auxiliary views.

    token: max(floor, 1 / (1 + strength * spread_t)). sequence: max(floor, exp(-strength * spread)) with the spread of
    the views' mean log-probability, the same for every token. A sequence that the gate left out keeps weight 1.
    Source: UniSD, arXiv:2605.06597; weights are not renormalised away (docs/deviations.md).
    """

    granularity: Literal["token", "sequence"] = "token"
    """One weight per token, or one per sequence."""
    statistic: Literal["variance", "range"] = "variance"
    """Spread over the views: population variance (nats squared), or largest minus smallest (nats)."""
    strength: float = 1.0
    """How fast the weight falls with the spread; 0 switches the filter off."""
    floor: float | None = None
    """Smallest weight; 0.01 for tokens and 1e-6 for sequences when left out."""
    scale: Literal["absolute", "quantile"] = "absolute"
    """`quantile` divides the spread by its 0.95 quantile over the micro-batch and caps it at 10 (published code)."""
    include_primary: bool = False
    """Count the privileged view as one more: a wrong demonstration then shows as spread."""

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise ValueError(f"agreement.strength must be 0 or positive, got {self.strength}.")
        if self.floor is not None and not 0 < self.floor <= 1:
            raise ValueError(f"agreement.floor must lie in (0, 1], got {self.floor}.")

    @property
    def needs(self) -> Need:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The auxiliary views, and the privileged one where it counts."""
        return Need.AUXILIARY_LOGP | Need.TEACHER_LOGP if self.include_primary else Need.AUXILIARY_LOGP

    @property
    def is_token_local(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A sequence's mean and a quantile are taken over many tokens."""
        return self.granularity == "token" and self.scale == "absolute"

    def __call__(self, loss: TokenLoss, scores: TokenScores) -> TokenLoss:
        return loss.reweighted(self.weights(scores).to(loss.weights.dtype))

    def weights(self, scores: TokenScores) -> Float[Tensor, "B T"]:
        """One weight per token; 1 where no auxiliary view was scored."""
        views = scores.auxiliary_logp.detach()
        if self.include_primary:
            views = torch.cat([views, scores.teacher_logp.detach()[None]])
        if self.granularity == "sequence":
            views = _sequence_means(views, scores.mask)[..., None].expand_as(views)
        spread = self._scaled(self._spread(views), scores)
        if self.granularity == "token":
            weights = 1 / (1 + self.strength * spread)
        else:
            weights = torch.exp(-self.strength * spread)
        floor = DEFAULT_FLOORS[self.granularity] if self.floor is None else self.floor
        return torch.where(scores.auxiliary_scored[:, None], weights.clamp(min=floor), 1.0)

    def _spread(self, views: Float[Tensor, "K B T"]) -> Float[Tensor, "B T"]:
        if self.statistic == "range":
            return views.amax(0) - views.amin(0)
        return views.var(0, unbiased=False)

    def _scaled(self, spread: Float[Tensor, "B T"], scores: TokenScores) -> Float[Tensor, "B T"]:
        if self.scale == "absolute":
            return spread
        valid = scores.valid_everywhere(spread, rows=scores.auxiliary_scored)
        if not len(valid):
            return spread
        quantile = torch.quantile(valid.float(), _QUANTILE).clamp(min=_SMALLEST_QUANTILE)
        return (spread / quantile).clamp(max=_LARGEST_SCALED_SPREAD)

    def metrics(self, before: TokenLoss, after: TokenLoss, scores: TokenScores) -> dict[str, Tensor]:
        """`below_0.99`: whether the weight does anything."""
        return {"below_0.99": (after.weights < 0.99 * before.weights).to(after.weights.dtype)}


def _sequence_means(values: Float[Tensor, "K B T"], mask: Tensor) -> Float[Tensor, "K B"]:
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
