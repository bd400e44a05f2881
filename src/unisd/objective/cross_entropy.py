"""Cross-entropy on the completion, whoever wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from unisd.types import Loss, Need, TokenScores


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Negative log-probability of the realised token, nats.

    On completions of the data set it is supervised fine-tuning, on sampled ones self-training.
    """

    needs: ClassVar[Need] = Need.STUDENT_LOGP
    is_token_local: ClassVar[bool] = True

    def __call__(self, scores: TokenScores) -> Float[Tensor, "B T"]:
        return -scores.student_logp
