"""fused = reference in float64: values, and gradients to the states and the head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unisd.objective.divergence import Divergence
from unisd.scoring import fused, reference
from unisd.scoring.forward import PassOutput
from unisd.scoring.head import Head
from unisd.types import Signal

ALL = Signal.STUDENT_LOGP | Signal.TEACHER_LOGP | Signal.STUDENT_ENTROPY | Signal.TEACHER_ENTROPY | Signal.DIVERGENCE
OBJECTIVES = [
    Divergence("forward_kl"),
    Divergence("reverse_kl", temperature=0.7),
    Divergence("jsd"),
    Divergence("jsd", beta=0.1, scaled=True),
    Divergence("forward_kl", support="topk", k=5),
    Divergence("jsd", support="topk", k=5, tail=False),
    Divergence("reverse_kl", support="topk", k=100),
    Divergence("reverse_kl", support="sampled"),
]
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "softcap": {"softcap": 2.0},
    "scaled": {"scale": 0.25, "bias": True, "softcap": 3.0},
}
B, T, D, V = 3, 7, 6, 23


def make(seed: int, *, bias: bool = False, **options: float) -> tuple[Tensor, Tensor, Tensor | None, Head]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(B, T, D, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(V, D, dtype=torch.float64, generator=generator, requires_grad=True)
    offset = torch.randn(V, dtype=torch.float64, generator=generator, requires_grad=True) if bias else None
    return states, weight, offset, Head(weight, offset, **options)


def weighted_sum(scores: dict[Signal, Tensor]) -> Tensor:
    """A different positive weight per signal and token, so that no gradient can hide behind a symmetry."""
    weights = torch.linspace(0.1, 1.7, B * T, dtype=torch.float64).view(B, T)
    return sum(  # pyright: ignore[reportReturnType]
        ((position + 1) * weights * scores[signal]).sum()
        for position, signal in enumerate((Signal.DIVERGENCE, Signal.STUDENT_LOGP))
    )


@pytest.mark.parametrize("rows_per_chunk", [1, 4, 1000])
@pytest.mark.parametrize("head_options", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: f"{one.divergence}-{one.support}")
def test_fused_equals_the_reference_in_values_and_gradients(
    objective: Divergence, head_options: dict[str, float], rows_per_chunk: int
) -> None:
    mask = torch.tensor([[True] * 7, [False, True, True, False, True, False, False], [False] * 7])
    ids = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(9))
    states, weight, bias, head = make(0, **head_options)
    teacher_states, _, _, teacher_head = make(1, **head_options)
    leaves = [states, weight] + ([bias] if bias is not None else [])

    got = fused.token_scores(
        PassOutput(states, head),
        PassOutput(teacher_states.detach(), teacher_head.detached()),
        ids=ids,
        mask=mask,
        objective=objective,
        signals=ALL,
        rows_per_chunk=rows_per_chunk,
    )
    want = reference.token_scores(
        head.logits(states), teacher_head.logits(teacher_states).detach(), ids=ids, mask=mask, objective=objective
    )

    for signal in ALL.members():
        torch.testing.assert_close(got[signal], want[signal], rtol=1e-10, atol=1e-12, msg=str(signal))
    got_gradients = torch.autograd.grad(weighted_sum(got), leaves)
    want_gradients = torch.autograd.grad(weighted_sum(want), leaves)
    for mine, theirs in zip(got_gradients, want_gradients, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_a_tied_head_gets_the_gradient_of_both_its_uses() -> None:
    embedding = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(V, (B, T))
    mask = torch.ones(B, T, dtype=torch.bool)
    teacher = PassOutput(torch.randn(B, T, D, dtype=torch.float64), Head(torch.randn(V, D, dtype=torch.float64)))

    def loss_of(score) -> Tensor:
        return score(torch.tanh(embedding[ids]))[Signal.DIVERGENCE].sum()

    chunked = loss_of(
        lambda states: fused.token_scores(
            PassOutput(states, Head(embedding)), teacher, ids=ids, mask=mask,
            objective=Divergence(), signals=Signal.DIVERGENCE, rows_per_chunk=2,
        )
    )  # fmt: skip
    whole = loss_of(
        lambda states: reference.token_scores(
            states @ embedding.T, teacher.head.logits(teacher.states), ids=ids, mask=mask, objective=Divergence()
        )
    )
    (mine,), (theirs,) = torch.autograd.grad(chunked, embedding), torch.autograd.grad(whole, embedding)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 0), (2, 3)], ids=["N = 0", "all masked"])
def test_no_valid_token_gives_zeros_and_a_zero_gradient(shape: tuple[int, int]) -> None:
    states = torch.randn(*shape, D, requires_grad=True)
    weight = torch.randn(V, D, requires_grad=True)
    scores = fused.token_scores(
        PassOutput(states, Head(weight)),
        PassOutput(torch.randn(*shape, D), Head(torch.randn(V, D))),
        ids=torch.zeros(shape, dtype=torch.long),
        mask=torch.zeros(shape, dtype=torch.bool),
        objective=Divergence(),
        signals=ALL,
    )
    assert all(scores[signal].shape == shape and not scores[signal].any() for signal in ALL.members())
    gradients = torch.autograd.grad(scores[Signal.DIVERGENCE].sum(), [states, weight])
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


def test_a_token_the_teacher_rules_out_adds_nothing_and_no_nan() -> None:
    student = torch.randn(1, 2, V, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(1, 2, V, dtype=torch.float64)
    teacher[..., :5] = -torch.inf
    scores = fused.token_scores(
        PassOutput(student, Head(None)), PassOutput(teacher, Head(None)), ids=torch.full((1, 2), 7),
        mask=torch.ones(1, 2, dtype=torch.bool), objective=Divergence(), signals=ALL,
    )  # fmt: skip
    p, log_s = teacher.softmax(-1)[..., 5:], student.log_softmax(-1)[..., 5:]
    torch.testing.assert_close(scores[Signal.DIVERGENCE], (p * (p.log() - log_s)).sum(-1))
    assert scores[Signal.TEACHER_ENTROPY].isfinite().all()
    (gradient,) = torch.autograd.grad(scores[Signal.DIVERGENCE].sum(), student)
    torch.testing.assert_close(gradient, student.softmax(-1) - teacher.softmax(-1))


def test_a_bfloat16_head_gives_float32_logits() -> None:
    states, weight = torch.randn(4, 64).bfloat16(), torch.randn(9000, 64).bfloat16()
    want = states.double() @ weight.double().T
    for head in (Head(weight), Head(weight.clone().requires_grad_())):
        logits = head.logits(states)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits.double(), want, rtol=1e-5, atol=1e-4)


def test_teacher_and_student_must_share_a_vocabulary() -> None:
    states = torch.randn(1, 2, D)
    with pytest.raises(ValueError, match="share a vocabulary, got 9 and 23"):
        fused.token_scores(
            PassOutput(states, Head(torch.randn(23, D))), PassOutput(states, Head(torch.randn(9, D))),
            ids=torch.zeros(1, 2, dtype=torch.long), mask=torch.ones(1, 2, dtype=torch.bool),
            objective=Divergence(), signals=ALL,
        )  # fmt: skip
