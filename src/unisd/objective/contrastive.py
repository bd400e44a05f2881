"""Token-level contrast: closer to the teacher's view of a right answer than to its view of a wrong one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unisd.types import Loss, Need, TokenScores


@dataclass(frozen=True)
class Contrastive(Loss):
    """Hinge on the log-probability of the realised token under student, privileged and negative view, nats.

    paper:        relu(margin + |l_s - l_p| - |l_s - l_n|)
    directional:  relu(min(margin, |delta|) - sign(delta) (l_s - l_n)), delta = l_p - l_n
    The gradient reaches l_s only. The paper's is zero unless the student lies between the two views; the directional
    one is zero once the student stands on the good side by the margin, or has reached the good view.
    Source: UniSD, arXiv:2605.06597 (paper); directional is unisd's own.
    """

    coefficient: float = field(default=0.1, kw_only=True)
    """What the term is multiplied by."""
    margin: float = 0.5
    """Nats by which the good view must be closer."""
    form: Literal["paper", "directional"] = "paper"
    """Which hinge."""
    needs: ClassVar[Need] = Need.STUDENT_LOGP | Need.TEACHER_LOGP | Need.NEGATIVE_LOGP
    is_token_local: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.margin >= 0:
            raise ValueError(f"contrastive.margin must be 0 or positive, got {self.margin}.")

    def __call__(self, scores: TokenScores) -> Float[Tensor, "B T"]:
        student, teacher, negative = scores.student_logp, scores.teacher_logp.detach(), scores.negative_logp.detach()
        if self.form == "paper":
            values = torch.relu(self.margin + (student - teacher).abs() - (student - negative).abs())
        else:
            delta = teacher - negative
            values = torch.relu(delta.abs().clamp(max=self.margin) - delta.sign() * (student - negative))
        # Sequences that the gate left out have no negative view.
        return torch.where(scores.negative_scored[:, None], values, 0.0)

    def metrics(self, values: Float[Tensor, "B T"], scores: TokenScores) -> dict[str, Tensor]:
        """`active`: whether the hinge is positive; `gradient`: whether it also moves the student."""
        active = values > 0
        student, teacher, negative = scores.student_logp, scores.teacher_logp, scores.negative_logp
        # Outside the two views both distances change alike, and the paper's hinge has no gradient.
        between = (student - teacher).sign() != (student - negative).sign()
        moves = active & between if self.form == "paper" else active & (teacher != negative)
        return {"active": active.to(values.dtype), "gradient": moves.to(values.dtype)}
