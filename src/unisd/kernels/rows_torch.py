"""Rows in plain PyTorch: any device, float32 and float64, a few rows at a time so that temporaries stay small.

With s and p the probabilities of student and teacher, d = log s/p and m = beta p + rest s, rest = 1 - beta:

    forward_kl   D = sum p (e^d - 1 - d)                       U = s - p
    reverse_kl   D = sum p - s + s d                           U = s d
    jsd          D = sum beta p log(p/m) + rest s log(s/m)     U = rest s log(s/m)

and dD/dx = U - s sum U. The summands of the KLs are the usual ones plus s - p or its negative, which sum to nothing:
all terms are then second order in d, and a rounding error common to all d of a row does not reach D. sum U is 0 for
forward_kl in exact arithmetic, and is subtracted for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unisd.kernels.rows import AfterHead, PairScores, RowSpec, RowStatistics
from unisd.kernels.series import NEAR, near_series

_BLOCK_BYTES = {"cpu": 2**20}
"""Size of one temporary by device type; a block holds about ten of them."""
_OTHER_BLOCK_BYTES = 2**25


class _Normalised(NamedTuple):
    factor: float  # logits are factor * row
    maximum: Tensor  # (rows, 1), float64 where the device has it
    log_total: Tensor  # log-normaliser less the maximum; the same
    shifted: Tensor
    probabilities: Tensor
    logp: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class TorchRows:
    """The rows that need nothing but PyTorch."""

    def statistics(self, logits: Tensor, ids: Tensor, *, after: AfterHead, inverse_temperature: float) -> RowStatistics:
        """Realised log-probability and entropy; `logits` are left capped."""
        logp, entropy = (logits.new_empty(len(logits)) for _ in range(2))
        for rows in _blocks(logits):
            of = _normalise(logits[rows], ids[rows], after, inverse_temperature)
            logp[rows], entropy[rows] = of.logp, of.entropy
        return RowStatistics(logp, entropy)

    def pair(
        self, student_logits: Tensor, teacher_logits: Tensor | None, ids: Tensor, spec: RowSpec, *, has_gradient: bool
    ) -> PairScores:
        """Everything about each row; the buffers keep dx/dz times s and U for `gradient`."""
        scores = [student_logits.new_empty(len(student_logits)) for _ in range(5)]
        context = student_logits.new_empty(len(student_logits), 2)
        for rows in _blocks(student_logits):
            x, some_ids = student_logits[rows], ids[rows]
            student = _normalise(x, some_ids, spec.student, spec.inverse_temperature)
            slope = _slope(x, spec)
            context[rows, 1] = _realised(slope, some_ids) if isinstance(slope, Tensor) else slope
            scores[1][rows], scores[3][rows] = student.logp, student.entropy
            if teacher_logits is not None:
                y = teacher_logits[rows]
                teacher = _normalise(y, some_ids, spec.teacher, spec.inverse_temperature)
                scores[2][rows], scores[4][rows] = teacher.logp, teacher.entropy
                d = _log_ratio(x, y, student, teacher)
                values, slopes = _summands(student.probabilities, teacher.probabilities, d, spec)
                scores[0][rows], context[rows, 0] = values.sum(-1), slopes.sum(-1)
                if has_gradient:
                    torch.mul(slopes, slope, out=y)
            if has_gradient:
                torch.mul(student.probabilities, slope, out=x)
        if teacher_logits is None:
            return PairScores(None, scores[1], None, scores[3], None, (context,))
        return PairScores(*scores, context=(context,))

    def gradient(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        ids: Tensor,
        spec: RowSpec,
        scores: PairScores,
        *,
        divergence_weight: Tensor | None,
        logp_weight: Tensor | None,
        out: Tensor,
    ) -> None:
        """From the two buffers, without any transcendental function."""
        mean, slope = scores.context[0].unbind(-1)
        of_logp = torch.zeros_like(mean) if logp_weight is None else logp_weight
        if divergence_weight is None:
            torch.mul(student_logits, -of_logp[:, None], out=out)
            has_weight = of_logp != 0
        else:
            assert teacher_logits is not None, "without a teacher there is no divergence to weight"
            of_student = -divergence_weight * mean - of_logp
            for rows in _blocks(out):
                of_teacher = teacher_logits[rows] * divergence_weight[rows, None]
                torch.addcmul(of_teacher, student_logits[rows], of_student[rows, None], out=out[rows])
            has_weight = (of_logp != 0) | (divergence_weight != 0)
        out.scatter_add_(1, ids[:, None], (of_logp * slope)[:, None])
        # A token without weight has no gradient, however infinite its divergence.
        out.masked_fill_(~has_weight[:, None], 0.0)


def _blocks(logits: Tensor) -> Iterator[slice]:
    num_bytes = _BLOCK_BYTES.get(logits.device.type, _OTHER_BLOCK_BYTES)
    size = max(1, num_bytes // (logits.shape[1] * logits.element_size()))
    return (slice(start, start + size) for start in range(0, len(logits), size))


def _normalise(x: Tensor, ids: Tensor, after: AfterHead, inverse_temperature: float) -> _Normalised:
    """Applies a soft cap in place; a plain factor is left to be applied to differences, which rounds less."""
    factor = after.scale * inverse_temperature
    if after.softcap is not None:
        x.mul_(after.scale / after.softcap).tanh_().mul_(after.softcap * inverse_temperature)
        factor = 1.0
    maximum = x.amax(-1, keepdim=True)
    shifted = (x - maximum).mul_(factor)
    probabilities = shifted.exp()
    total = probabilities.sum(-1, keepdim=True)
    log_total = _wide(total).log()
    logp = (_wide(_realised(shifted, ids)) - log_total[:, 0]).to(x.dtype)
    # -inf * 0 is NaN, but a token without probability adds nothing.
    moment = shifted.clamp(min=torch.finfo(x.dtype).min).mul_(probabilities).sum(-1, keepdim=True)
    entropy = (log_total - _wide(moment / total))[:, 0].to(x.dtype)
    return _Normalised(factor, _wide(maximum) * factor, log_total, shifted, probabilities.div_(total), logp, entropy)


def _log_ratio(x: Tensor, y: Tensor, student: _Normalised, teacher: _Normalised) -> Tensor:
    """d = log s/p. Neighbours are subtracted without rounding, which decides where student and teacher are close."""
    log_totals = student.log_total - teacher.log_total
    if student.factor != teacher.factor:
        return student.shifted - teacher.shifted - log_totals.to(x.dtype)
    return (x - y).mul_(student.factor) - (student.maximum - teacher.maximum + log_totals).to(x.dtype)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "mps" else tensor.double()


def _realised(rows: Tensor, ids: Tensor) -> Tensor:
    return rows.gather(-1, ids[:, None])[:, 0]


def _slope(x: Tensor, spec: RowSpec) -> Tensor | float:
    """d logit / dz where the logit is `x`."""
    factor = spec.student.scale * spec.inverse_temperature
    if spec.student.softcap is None:
        return factor
    return (1.0 - (x / (spec.student.softcap * spec.inverse_temperature)).square_()).mul_(factor)


def _summands(s: Tensor, p: Tensor, d: Tensor, spec: RowSpec) -> tuple[Tensor, Tensor]:
    """The summands of D, and U."""
    far_values, far_slopes = _far_summands(s, p, d, spec)
    of_values, of_slopes = near_series(spec.divergence, spec.beta)
    is_near = d.abs() < NEAR[str(d.dtype).removeprefix("torch.")]
    near_values = _polynomial(of_values, d).mul_(d).mul_(d).mul_(p)
    near_slopes = _polynomial(of_slopes, d).mul_(d).mul_(s)
    return torch.where(is_near, near_values, far_values), torch.where(is_near, near_slopes, far_slopes)


def _far_summands(s: Tensor, p: Tensor, d: Tensor, spec: RowSpec) -> tuple[Tensor, Tensor]:
    if spec.divergence == "forward_kl":
        slopes = s - p
        return slopes - _product(p, d), slopes
    if spec.divergence == "reverse_kl":
        slopes = _product(s, d)
        return (p - s).add_(slopes), slopes
    ours, theirs = (1.0 - spec.beta) * s, spec.beta * p
    is_ours = ours > theirs
    high, low = torch.maximum(ours, theirs), torch.minimum(ours, theirs)
    # Anchored on the heavier component, log1p stays exact for beta next to 0 and 1.
    more = (low / high.clamp(min=torch.finfo(s.dtype).tiny)).log1p_()
    log_weights = s.new_tensor([math.log(spec.beta), math.log1p(-spec.beta)])
    log_heavier = -(torch.where(is_ours, log_weights[1], log_weights[0]) + more)
    slopes = _product(ours, torch.where(is_ours, log_heavier, log_heavier + d))
    return slopes + _product(theirs, torch.where(is_ours, log_heavier - d, log_heavier)), slopes


def _product(weights: Tensor, logs: Tensor) -> Tensor:
    """0 times an infinite logarithm is 0."""
    return (weights * logs).masked_fill_(weights == 0, 0.0)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value.mul_(x).add_(coefficient)
    return value
