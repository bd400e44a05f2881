"""The Triton rows against the oracle in float64; `test_triton_interpret` runs this file where Triton interprets."""

from __future__ import annotations

import torch
from torch import Tensor

from unisd.kernels.rows import AfterHead, RowSpec
from unisd.kernels.rows_triton import TritonRows
from unisd.objective.divergence import Divergence
from unisd.scoring import reference
from unisd.types import Signal

# 64 logits a block: two whole blocks and a part of one, then a part alone, then blocks without a rest.
ROWS = TritonRows(lanes=16)
SIZES = [151, 37, 128]
KINDS = [
    ("forward_kl", 0.5),
    ("reverse_kl", 0.5),
    ("jsd", 0.5),
    ("jsd", 1e-6),
    ("jsd", 1e-3),
    ("jsd", 0.9),
    ("jsd", 1 - 1e-6),
]
SIGNALS = (
    Signal.DIVERGENCE,
    Signal.STUDENT_LOGP,
    Signal.TEACHER_LOGP,
    Signal.STUDENT_ENTROPY,
    Signal.TEACHER_ENTROPY,
)
AFTER = AfterHead(scale=0.8)
CAPPED = AfterHead(scale=0.8, softcap=20.0)


def padded(logits: Tensor) -> Tensor:
    """The same in rows of a multiple of 16, with NaN behind them."""
    rows = torch.full((len(logits), -(-logits.shape[1] // 16) * 16), torch.nan)
    rows[:, : logits.shape[1]] = logits
    return rows[:, : logits.shape[1]]


def draw(vocabulary: int, gap: float = 1.0, num_rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher, and realised tokens."""
    generator = torch.Generator().manual_seed(vocabulary)
    student = 3 * torch.randn(num_rows, vocabulary, generator=generator)
    teacher = student + gap * torch.randn(num_rows, vocabulary, generator=generator)
    return padded(student), padded(teacher), torch.randint(vocabulary, (num_rows,), generator=generator)


def oracle(student: Tensor, teacher: Tensor, ids: Tensor, spec: RowSpec) -> list[Tensor]:
    """The five scores in float64, with gradient."""

    def after_head(logits: Tensor, after: AfterHead) -> Tensor:
        logits = logits.double() * after.scale
        return logits if after.softcap is None else after.softcap * torch.tanh(logits / after.softcap)

    objective = Divergence(
        spec.divergence,
        beta=spec.beta if spec.divergence == "jsd" else None,
        temperature=1.0 / spec.inverse_temperature,
    )
    scores = reference.token_scores(
        after_head(student, spec.student)[None],
        after_head(teacher, spec.teacher)[None],
        ids=ids[None],
        mask=torch.ones_like(ids[None], dtype=torch.bool),
        objective=objective,
    )
    return [scores[signal][0] for signal in SIGNALS]


def error(found: Tensor | None, expected: Tensor) -> float:
    """Relative norm."""
    assert found is not None
    return float((found.double() - expected.detach()).norm() / expected.detach().norm())


def worst_errors(student: Tensor, teacher: Tensor, ids: Tensor, spec: RowSpec) -> tuple[float, float, float]:
    """Of the divergence, the other scores, and the gradient of a weighted sum of divergence and log-probability."""
    leaf = student.double().requires_grad_()
    expected = oracle(leaf, teacher, ids, spec)
    scores = ROWS.pair(student, teacher, ids, spec, has_gradient=True)
    weights = torch.linspace(0.5, 1.5, len(ids)), torch.linspace(-0.2, 0.3, len(ids))
    (sum((w.double() * s).sum() for w, s in zip(weights, expected, strict=False))).backward()  # type: ignore[union-attr]
    assert leaf.grad is not None
    ROWS.gradient(
        student, teacher, ids, spec, scores, divergence_weight=weights[0], logp_weight=weights[1], out=student
    )
    others = max(error(found, value) for found, value in zip(scores[1:5], expected[1:], strict=True))
    return error(scores.divergence, expected[0]), others, error(student, leaf.grad)
