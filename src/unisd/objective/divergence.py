"""The main term: divergences between teacher and student, per token, and their settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unisd.types import Need


@dataclass(frozen=True)
class Divergence:
    """Section `objective`: what pulls the student to the teacher, and how token values become one number."""

    divergence: Literal["forward_kl", "reverse_kl", "jsd", "none"] = "forward_kl"
    """`forward_kl` is KL(teacher || student); `none` drops the main term, and its teacher pass."""
    beta: float | None = None
    """Mixture weight of the teacher in `jsd`, between 0 and 1 exclusive; 0.5 when left out."""
    scaled: bool = False
    """Divide `jsd` by beta * (1 - beta), which then tends to the KLs at the ends."""
    support: Literal["full", "topk", "sampled"] = "full"
    """Vocabulary the divergence sums over: all of it, the teacher's top k, or the realised token (reverse KL only)."""
    k: int | None = None
    """Size of the `topk` support."""
    tail: bool | None = None
    """`topk`: true (its default) adds one bucket for the rest of the vocabulary, false renormalises over the k."""
    temperature: float = 1.0
    """Divides student, teacher and negative-view logits in the loss; sampling has its own."""
    reduction: Literal["token_mean", "sequence_mean"] = "token_mean"
    """Sum over tokens / N valid tokens of the step, or mean over sequences of the mean over tokens (the paper's)."""
    normalize_weights: bool = False
    """Divide the weights of the main term by their mean over the step, taken as `reduction` does; then token_mean is
    sum(w v) / sum(w). Needs weights that are known before the student's pass. Evaluation takes the mean by batch."""
    reference: bool = False
    """Reduce as the published code does, sum(w v) / max(sum(w), 1) per sequence, then the mean; for parity only."""
    impl: Literal["auto", "fused", "full"] = "auto"
    """`fused` projects in chunks; `full` takes whole logits from the model; `auto` picks."""

    def __post_init__(self) -> None:
        _check_literal("divergence", self.divergence, ("forward_kl", "reverse_kl", "jsd", "none"))
        _check_literal("support", self.support, ("full", "topk", "sampled"))
        _check_literal("reduction", self.reduction, ("token_mean", "sequence_mean"))
        _check_literal("impl", self.impl, ("auto", "fused", "full"))
        if self.divergence != "jsd" and (self.beta is not None or self.scaled):
            name = "beta" if self.beta is not None else "scaled"
            raise ValueError(
                f"objective.{name} belongs to jsd, but divergence is {self.divergence}. "
                f"Remove {name} or set divergence: jsd."
            )
        if self.beta is not None and not 0 < self.beta < 1:
            raise ValueError(
                f"objective.beta must lie between 0 and 1, both excluded, got {self.beta}. "
                "jsd tends to 0 at the ends; for a KL use divergence: forward_kl or reverse_kl."
            )
        if self.reference and self.normalize_weights:
            raise ValueError(
                "objective.reference divides every sequence by its own weights: normalize_weights would divide twice. "
                "Remove one of the two."
            )
        if self.support != "topk" and (self.k is not None or self.tail is not None):
            name = "k" if self.k is not None else "tail"
            raise ValueError(
                f"objective.{name} belongs to support: topk, but support is {self.support}. "
                f"Remove {name} or set support: topk."
            )
        if self.support == "topk" and (self.k is None or self.k < 1):
            raise ValueError(
                f"objective.k must be at least 1 with support: topk, got {self.k}. Set k, for example k: 100."
            )
        if self.support == "sampled" and self.divergence != "reverse_kl":
            raise ValueError(
                f"objective.support: sampled estimates the reverse KL only, but divergence is {self.divergence}. "
                "Set divergence: reverse_kl or support: full."
            )
        if self.divergence == "none" and self.support != "full":
            raise ValueError("objective.support has no meaning with divergence: none. Remove it.")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"objective.temperature must be positive, got {self.temperature}.")

    @property
    def needs(self) -> Need:
        """`DIVERGENCE`, or nothing when there is no main term."""
        return Need() if self.divergence == "none" else Need.DIVERGENCE

    @property
    def can_be_clipped(self) -> bool:
        """Whether token values are divergences; those of `sampled` are estimates with the score function's gradient."""
        return self.divergence != "none" and self.support != "sampled"

    @property
    def factor(self) -> float:
        """What the divergence is multiplied by: 1 / (beta (1 - beta)) for a scaled `jsd`, else 1."""
        beta = 0.5 if self.beta is None else self.beta
        return 1 / (beta * (1 - beta)) if self.scaled else 1.0

    def per_token(
        self, student_log_probs: Float[Tensor, "*rows V"], teacher_log_probs: Float[Tensor, "*rows V"]
    ) -> Float[Tensor, "*rows"]:
        """The divergence of each row in nats, over the full or the top-k support."""
        if self.support == "topk":
            assert self.k is not None
            student_log_probs, teacher_log_probs = top_k_support(
                student_log_probs, teacher_log_probs, k=self.k, tail=self.tail is not False
            )
        if self.divergence == "forward_kl":
            return forward_kl(student_log_probs, teacher_log_probs)
        if self.divergence == "reverse_kl":
            return reverse_kl(student_log_probs, teacher_log_probs)
        beta = 0.5 if self.beta is None else self.beta
        return jsd(student_log_probs, teacher_log_probs, beta=beta) * self.factor


def _check_literal(name: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ValueError(f"objective.{name} must be one of {', '.join(allowed)}, got {given!r}.")


def forward_kl(
    student_log_probs: Float[Tensor, "*rows V"], teacher_log_probs: Float[Tensor, "*rows V"]
) -> Float[Tensor, "*rows"]:
    """KL(teacher || student) in nats: sum of p (log p - log s); infinite where the student rules out one."""
    return _kl(teacher_log_probs, student_log_probs)


def reverse_kl(
    student_log_probs: Float[Tensor, "*rows V"], teacher_log_probs: Float[Tensor, "*rows V"]
) -> Float[Tensor, "*rows"]:
    """KL(student || teacher) in nats: sum over v of s (log s - log p)."""
    return _kl(student_log_probs, teacher_log_probs)


def jsd(
    student_log_probs: Float[Tensor, "*rows V"], teacher_log_probs: Float[Tensor, "*rows V"], *, beta: float
) -> Float[Tensor, "*rows"]:
    """Generalised Jensen-Shannon divergence in nats.

    beta KL(teacher || m) + (1 - beta) KL(student || m), with m = beta teacher + (1 - beta) student.
    Tends to 0 at both ends of beta, so it does not become either KL: use `forward_kl` or `reverse_kl` for those.
    Source: GKD, arXiv:2306.13649.
    """
    mixture = torch.logaddexp(teacher_log_probs + math.log(beta), student_log_probs + math.log1p(-beta))
    return beta * _kl(teacher_log_probs, mixture) + (1 - beta) * _kl(student_log_probs, mixture)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    # Tokens with p = 0 add nothing; their logs are replaced before the product, so that no gradient is NaN either.
    is_possible = log_p > -torch.inf
    safe_p = log_p.masked_fill(~is_possible, 0.0)
    safe_q = log_q.masked_fill(~is_possible, 0.0)
    return (safe_p.exp() * (safe_p - safe_q)).sum(-1)


def top_k_support(
    student_log_probs: Float[Tensor, "*rows V"], teacher_log_probs: Float[Tensor, "*rows V"], *, k: int, tail: bool
) -> tuple[Float[Tensor, "*rows S"], Float[Tensor, "*rows S"]]:
    """Both distributions on the teacher's k likeliest tokens.

    With `tail` one more entry holds the rest of the probability (S = k + 1, or V where k reaches the vocabulary);
    without it both are renormalised over the k.
    """
    if k >= teacher_log_probs.shape[-1]:
        return student_log_probs, teacher_log_probs
    ids = teacher_log_probs.topk(k, dim=-1).indices
    student_top, teacher_top = student_log_probs.gather(-1, ids), teacher_log_probs.gather(-1, ids)
    if not tail:
        return student_top.log_softmax(-1), teacher_top.log_softmax(-1)
    return _with_tail(student_top), _with_tail(teacher_top)


def _with_tail(top: Tensor) -> Tensor:
    kept = top.logsumexp(-1, keepdim=True)
    # The rest is 1 - sum: at most one rounding step below 1, so that its log is finite.
    rest = torch.log(-torch.expm1(kept.clamp(max=-torch.finfo(top.dtype).eps)))
    return torch.cat([top, rest], -1)


def sampled_reverse_kl(
    student_logp: Float[Tensor, "*rows"], teacher_logp: Float[Tensor, "*rows"]
) -> Float[Tensor, "*rows"]:
    """One-sample estimate of KL(student || teacher) from the realised token, in nats.

    d + d (l_s - stop_grad(l_s)) with d = stop_grad(l_s - l_p): the value is the estimate, the gradient the score
    function's. Unbiased only where the token was drawn from the student at this temperature.
    """
    gap = (student_logp - teacher_logp).detach()
    return gap + gap * (student_logp - student_logp.detach())
