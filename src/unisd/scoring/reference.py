"""The oracle: the same scores from whole logits, written plainly from the formulas; float64 in, float64 out."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unisd.objective.divergence import Divergence
from unisd.types import Signal


def token_scores(
    student_logits: Float[Tensor, "B T V"],
    teacher_logits: Float[Tensor, "B T V"],
    *,
    ids: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    objective: Divergence,
) -> dict[Signal, Tensor]:
    """Every signal a pair of passes yields, (B, T), 0 outside the mask."""
    student = torch.softmax(student_logits / objective.temperature, -1)
    teacher = torch.softmax(teacher_logits.detach() / objective.temperature, -1)
    student_logp = student.gather(-1, ids[..., None])[..., 0].log()
    teacher_logp = teacher.gather(-1, ids[..., None])[..., 0].log()
    scores = {
        Signal.STUDENT_LOGP: student_logp,
        Signal.TEACHER_LOGP: teacher_logp,
        Signal.STUDENT_ENTROPY: -torch.xlogy(student, student).sum(-1).detach(),
        Signal.TEACHER_ENTROPY: -torch.xlogy(teacher, teacher).sum(-1),
    }
    if objective.support == "sampled":
        gap = (student_logp - teacher_logp).detach()
        scores[Signal.DIVERGENCE] = gap + gap * (student_logp - student_logp.detach())
    elif objective.divergence != "none":
        scores[Signal.DIVERGENCE] = _divergence(*_on_support(student, teacher, objective), objective)
    return {signal: torch.where(mask, value, 0.0) for signal, value in scores.items()}


def _on_support(student: Tensor, teacher: Tensor, objective: Divergence) -> tuple[Tensor, Tensor]:
    if objective.support == "full" or (objective.k or 0) >= teacher.shape[-1]:
        return student, teacher
    assert objective.k is not None
    ids = teacher.topk(objective.k, -1).indices
    student_top, teacher_top = student.gather(-1, ids), teacher.gather(-1, ids)
    student_sum, teacher_sum = student_top.sum(-1, keepdim=True), teacher_top.sum(-1, keepdim=True)
    if objective.tail is False:
        return student_top / student_sum, teacher_top / teacher_sum
    return torch.cat([student_top, 1 - student_sum], -1), torch.cat([teacher_top, 1 - teacher_sum], -1)


def _divergence(student: Tensor, teacher: Tensor, objective: Divergence) -> Tensor:
    if objective.divergence == "forward_kl":
        return _kl(teacher, student)
    if objective.divergence == "reverse_kl":
        return _kl(student, teacher)
    beta = 0.5 if objective.beta is None else objective.beta
    mixture = beta * teacher + (1 - beta) * student
    value = beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)
    return value / (beta * (1 - beta)) if objective.scaled else value


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)
