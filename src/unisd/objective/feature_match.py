"""Match the student's hidden states to the teacher's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unisd.types import Loss, Need, TokenScores

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda student, teacher: 1 - torch.cosine_similarity(student, teacher, dim=-1),
    "mse": lambda student, teacher: (student - teacher).square().mean(-1),
    "normalized_mse": lambda student, teacher: (
        (student - teacher).square().mean(-1) / teacher.square().mean(-1).clamp(min=1e-12)
    ),
}
"""Distance of two states, over their D features."""


@dataclass(frozen=True)
class FeatureMatch(Loss):
    """Distance between hidden states of student and teacher, at the positions that predict the completion tokens.

    The mean over `layers`. Source: UniSD, arXiv:2605.06597 (last layer, mse).
    """

    coefficient: float = field(default=0.1, kw_only=True)
    """What the term is multiplied by."""
    layers: tuple[int, ...] = (-1,)
    """-1 is the final state after the last norm; 0, 1, ... are outputs of the blocks, -2, ... those from the end."""
    distance: Literal["mse", "normalized_mse", "cosine"] = "mse"
    """`mse` over the features; `normalized_mse`: divided by the teacher's mean square; `cosine`: 1 - cosine."""

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError(
                "feature_match.layers is empty. Give layers: [-1], the final state, or drop the component."
            )

    @property
    def needs(self) -> Need:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The hidden states of its layers."""
        return Need.hidden(*self.layers)

    def __call__(self, scores: TokenScores) -> Float[Tensor, "B T"]:
        distance = DISTANCES[self.distance]
        values = [
            distance(_wide(scores.student_hidden[layer]), _wide(scores.teacher_hidden[layer].detach()))
            for layer in self.layers
        ]
        return torch.stack(values).mean(0)


def _wide(states: Tensor) -> Tensor:
    return states if states.dtype == torch.float64 else states.float()
