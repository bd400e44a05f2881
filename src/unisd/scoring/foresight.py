"""What the loss will make of a token, told while its logits are at hand: one gradient then serves several terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unisd import kernels
from unisd.kernels import Predict as Predict
from unisd.types import RolloutBatch, Signal, TokenScores

_OF_KERNELS = {
    Signal.DIVERGENCE: "divergence",
    Signal.STUDENT_LOGP: "student_logp",
    Signal.TEACHER_LOGP: "teacher_logp",
    Signal.STUDENT_ENTROPY: "student_entropy",
    Signal.TEACHER_ENTROPY: "teacher_entropy",
}


def foreseen(
    loss_of: Callable[[TokenScores], Float[Tensor, "n 1"]],
    *,
    batch: RolloutBatch,
    signals: Mapping[Signal, Tensor],
    scored_rows: Mapping[Signal, Tensor],
    divisors: Int[Tensor, " B"],
) -> Predict:
    """The weights of each token's divergence and log-probability in `loss_of`, over the divisor of its sequence.

    All are times the largest divisor, because they are told up to one factor: the gradient of a float16 head is rounded
    to float16 on a GPU, where one that is a thousand times smaller is off by 2 to 11 % (simulated).

    `loss_of` sees some of the valid tokens at a time, each as a sequence of its own. `signals`, (..., B, T), and
    `scored_rows` are what is known before the student is scored.
    """
    sequences = batch.mask.nonzero()[:, 0]
    ids, of_tokens, largest = batch.completion_ids[batch.mask], divisors[sequences], divisors.max()
    known = {signal: values[..., batch.mask] for signal, values in signals.items()}
    scored = {signal: values[sequences] for signal, values in scored_rows.items()}

    def predict(scores: kernels.TokenScores, tokens: slice) -> kernels.Weights:
        def loss_of_leaves(leaves: kernels.TokenScores) -> Tensor:
            found = {signal: getattr(leaves, name) for signal, name in _OF_KERNELS.items()}
            found = {signal: values[:, None] for signal, values in found.items() if values is not None}
            of_chunk = TokenScores(
                mask=torch.ones_like(ids[tokens, None], dtype=torch.bool),
                completion_ids=ids[tokens, None],
                signals={**found, **{signal: values[..., tokens, None] for signal, values in known.items()}},
                scored_rows={signal: values[tokens] for signal, values in scored.items()},
                counts=batch.counts,
            )
            return loss_of(of_chunk)[:, 0] / of_tokens[tokens] * largest

        return kernels.weights_in(loss_of_leaves, scores)[0]

    return predict
