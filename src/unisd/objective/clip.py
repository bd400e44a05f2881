"""Divergence clipping: a ceiling on per-token values of the main term."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unisd.objective.divergence import Divergence
from unisd.types import Loss, Need, TokenLoss, TokenScores, Transform


@dataclass(frozen=True)
class DivergenceClip(Transform):
    """Cap per-token values, so that a few surprising tokens do not set the gradient.

    min(D, ceiling); a clipped token has zero gradient. Source: UniSD, arXiv:2605.06597.
    """

    ceiling: float | None = None
    """Largest value kept, nats per token."""
    quantile: float | None = None
    """Instead of `ceiling`: this quantile of the micro-batch's valid tokens over all processes, at least 1e-6 nats."""
    needs: ClassVar[Need] = Need()

    @property
    def is_token_local(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A quantile is taken over all tokens."""
        return self.quantile is None

    def __post_init__(self) -> None:
        if (self.ceiling is None) == (self.quantile is None):
            given = "neither" if self.ceiling is None else "both"
            raise ValueError(
                f"divergence_clip takes one of ceiling and quantile, got {given}. Set ceiling: 10, for example."
            )
        if self.ceiling is not None and not self.ceiling > 0:
            raise ValueError(
                f"divergence_clip.ceiling must be positive, got {self.ceiling}. "
                "To switch clipping off, remove the component."
            )
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise ValueError(
                f"divergence_clip.quantile must lie between 0 and 1, got {self.quantile}. "
                "To switch clipping off, remove the component."
            )

    def __call__(self, loss: TokenLoss, scores: TokenScores) -> TokenLoss:
        if self.quantile is None:
            assert self.ceiling is not None
            return loss.with_values(loss.values.clamp(max=self.ceiling))
        # Detached: a ceiling with a gradient would pull the values it is made of (57 % gradient error when measured).
        valid = scores.valid_everywhere(loss.values.detach())
        if not len(valid):
            return loss
        ceiling = torch.quantile(valid.float(), self.quantile).clamp(min=1e-6).to(loss.values.dtype)
        # Not `torch.minimum`, which halves the gradient of the token that the ceiling equals.
        return loss.with_values(loss.values.clamp(max=ceiling))

    def metrics(self, before: TokenLoss, after: TokenLoss, scores: TokenScores) -> dict[str, Tensor]:
        """`clipped`: whether the ceiling cut the token."""
        return {"clipped": (after.values < before.values).to(before.values.dtype)}


DEFAULT_CLIP = DivergenceClip(ceiling=10.0)
"""This very object is the clip of a run that names no components; one that a run names may equal it."""


def default_components(objective: Divergence) -> list[Loss | Transform]:
    """What a run has that names no components: a clip at 10 nats, where the main term can be clipped."""
    return [DEFAULT_CLIP] if objective.can_be_clipped else []


def check_clippable(objective: Divergence, components: Mapping[str, Loss | Transform]) -> None:
    """Refuse a clip of values that are no divergences; the names say where."""
    for name, component in components.items():
        if isinstance(component, DivergenceClip) and objective.support == "sampled":
            raise ValueError(
                f"{name} cannot clip objective.support: sampled, whose values are estimates with the score function's "
                "gradient. Remove the component or set support: full."
            )
