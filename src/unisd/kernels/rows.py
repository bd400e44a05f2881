"""What one row of logits yields, and the gradient with respect to it: the protocol that each backend implements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

DivergenceKind = Literal["forward_kl", "reverse_kl", "jsd", "none"]


@dataclass(frozen=True)
class AfterHead:
    """The path from a head's output z = W h + b to the logits of one model: soft cap of scale * z."""

    scale: float = 1.0
    """Multiplies z."""
    softcap: float | None = None
    """c tanh(. / c) of the scaled value."""


@dataclass(frozen=True)
class RowSpec:
    """Which numbers a pair of rows is asked for."""

    divergence: DivergenceKind = "forward_kl"
    """`none` where there is no teacher: student log-probability and entropy only."""
    beta: float = 0.5
    """Weight of the teacher in the mixture of `jsd`."""
    inverse_temperature: float = 1.0
    """Multiplies the logits of both."""
    student: AfterHead = AfterHead()
    """From z to the student's logits."""
    teacher: AfterHead = AfterHead()
    """From z to the teacher's logits."""


class RowStatistics(NamedTuple):
    """One model's view of the realised tokens, nats."""

    logp: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]


class PairScores(NamedTuple):
    """Student against teacher, nats; `context` is the backend's own and goes back into `gradient`."""

    divergence: Float[Tensor, " n"] | None
    student_logp: Float[Tensor, " n"]
    teacher_logp: Float[Tensor, " n"] | None
    student_entropy: Float[Tensor, " n"]
    teacher_entropy: Float[Tensor, " n"] | None
    context: tuple[Tensor, ...]


@runtime_checkable
class Rows(Protocol):
    """One backend. Logits are (n, V) in float32 (PyTorch rows: float64 too), before scale, softcap and temperature.

    Columns are contiguous, rows may be padded: the row stride is V or more, and is a multiple of 16 where the caller
    allocates. -inf is a logit like any other. Buffers are scratch: see `pair`.
    """

    def statistics(
        self, logits: Float[Tensor, "n V"], ids: Int[Tensor, " n"], *, after: AfterHead, inverse_temperature: float
    ) -> RowStatistics:
        """Realised log-probability and entropy; no gradient follows. `logits` may be overwritten."""
        ...

    def pair(
        self,
        student_logits: Float[Tensor, "n V"],
        teacher_logits: Float[Tensor, "n V"] | None,
        ids: Int[Tensor, " n"],
        spec: RowSpec,
        *,
        has_gradient: bool,
    ) -> PairScores:
        """Everything about each row. Both buffers may be overwritten, with what `gradient` needs where it follows.

        `teacher_logits` is None exactly where `spec.divergence` is `none`.
        """
        ...

    def gradient(
        self,
        student_logits: Float[Tensor, "n V"],
        teacher_logits: Float[Tensor, "n V"] | None,
        ids: Int[Tensor, " n"],
        spec: RowSpec,
        scores: PairScores,
        *,
        divergence_weight: Float[Tensor, " n"] | None,
        logp_weight: Float[Tensor, " n"] | None,
        out: Float[Tensor, "n V"],
    ) -> None:
        """d/dz_student of sum_i divergence_weight_i D_i + logp_weight_i logp_i, written over `out`.

        The buffers are those that `pair` left behind; `out` is one of them. None is a weight of 0 everywhere, and a row
        whose weights are 0 gets zeros, whatever its scores. With `out` the teacher's buffer a second call for
        `logp_weight` alone may follow, which therefore reads the student's buffer only.
        """
        ...
