"""The divergences by hand: values, directions, supports, settings."""

from __future__ import annotations

import dataclasses
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from unisd.objective.divergence import Divergence, forward_kl, jsd, reverse_kl, sampled_reverse_kl, top_k_support
from unisd.objective.reduce import reduce_tokens
from unisd.scoring.forward import PassOutput
from unisd.scoring.fused import token_scores
from unisd.scoring.head import Head
from unisd.types import Need, Signal, StepCounts, TokenLoss

HALVES = [1 / 2, 1 / 2]
QUARTERS = [1 / 4, 3 / 4]
# 2 x 3 tokens over a vocabulary of two: teacher and student differ, swap roles, agree.
TEACHER = torch.tensor([[HALVES, QUARTERS, HALVES], [QUARTERS, QUARTERS, HALVES]], dtype=torch.float64).log()
STUDENT = torch.tensor([[QUARTERS, HALVES, HALVES], [HALVES, QUARTERS, QUARTERS]], dtype=torch.float64).log()

KL_HALVES_QUARTERS = log(2) - log(3) / 2  # 1/2 ln 2 + 1/2 ln 2/3
KL_QUARTERS_HALVES = 3 / 4 * log(3) - log(2)  # 1/4 ln 1/2 + 3/4 ln 3/2


def table(teacher_halves: float, teacher_quarters: float) -> Tensor:
    a, b = teacher_halves, teacher_quarters
    return torch.tensor([[a, b, 0.0], [b, 0.0, a]], dtype=torch.float64)


def jsd_by_hand(p: list[float], s: list[float], beta: float) -> float:
    mixture = [beta * a + (1 - beta) * b for a, b in zip(p, s, strict=True)]
    return sum(
        beta * a * log(a / m) + (1 - beta) * b * log(b / m) for a, b, m in zip(p, s, mixture, strict=True)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("objective", "want"),
    [
        (Divergence("forward_kl"), table(KL_HALVES_QUARTERS, KL_QUARTERS_HALVES)),
        (Divergence("reverse_kl"), table(KL_QUARTERS_HALVES, KL_HALVES_QUARTERS)),
        # Symmetric at 1/2; m = (3/8, 5/8).
        (Divergence("jsd"), table(*[(log(4 / 3) + log(4 / 5) + log(2 / 3) / 2 + 3 / 2 * log(6 / 5)) / 4] * 2)),
        (
            Divergence("jsd", beta=0.25),
            table(jsd_by_hand(HALVES, QUARTERS, 0.25), jsd_by_hand(QUARTERS, HALVES, 0.25)),
        ),
        (
            Divergence("jsd", beta=0.25, scaled=True),
            table(*(jsd_by_hand(*pair, 0.25) * 16 / 3 for pair in ((HALVES, QUARTERS), (QUARTERS, HALVES)))),
        ),
    ],
    ids=["forward_kl", "reverse_kl", "jsd", "jsd beta 1/4", "jsd scaled"],
)
def test_the_divergence_equals_the_hand_sum(objective: Divergence, want: Tensor) -> None:
    torch.testing.assert_close(objective.per_token(STUDENT, TEACHER), want)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_a_divergence_is_positive_and_zero_only_where_both_agree(kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 50, 7, generator=generator).log_softmax(-1)
    assert (Divergence(kind).per_token(student, teacher) > 1e-3).all()
    torch.testing.assert_close(Divergence(kind).per_token(student, student), torch.zeros(50), rtol=0, atol=1e-7)


def test_the_scaled_jsd_tends_to_the_kls_and_the_plain_one_to_zero() -> None:
    for beta, kl in ((1e-5, forward_kl), (1 - 1e-5, reverse_kl)):
        scaled = Divergence("jsd", beta=beta, scaled=True).per_token(STUDENT, TEACHER)
        torch.testing.assert_close(scaled, kl(STUDENT, TEACHER), rtol=1e-4, atol=1e-9)
        assert jsd(STUDENT, TEACHER, beta=beta).max() < 1e-5


def test_the_top_k_support_equals_the_hand_sums_with_and_without_its_tail() -> None:
    teacher = torch.tensor([1 / 8, 1 / 2, 1 / 8, 1 / 4], dtype=torch.float64).log()
    student = torch.tensor([1 / 4, 1 / 8, 1 / 2, 1 / 8], dtype=torch.float64).log()

    def value(**options: Any) -> float:
        return float(Divergence("forward_kl", **options).per_token(student, teacher))

    # 1/2 ln 4 + 1/4 ln 2 + 1/8 ln 1/2 + 1/8 ln 1/4
    assert value() == pytest.approx(7 / 8 * log(2))
    # The rest in one bucket, 1/4 against 3/4: 1/2 ln 4 + 1/4 ln 2 + 1/4 ln 1/3
    assert value(support="topk", k=2) == pytest.approx(5 / 4 * log(2) - log(3) / 4)
    # Renormalised, (2/3, 1/3) against (1/2, 1/2)
    assert value(support="topk", k=2, tail=False) == pytest.approx(2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3))
    # k reaches the vocabulary: nothing is left for a tail
    assert value(support="topk", k=4) == value(support="topk", k=9, tail=False) == value()


def test_a_tail_without_probability_has_a_finite_value_and_gradient() -> None:
    logits = torch.tensor([[60.0, 0.0, -60.0]], requires_grad=True)
    student, teacher = top_k_support(logits.log_softmax(-1), logits.detach().log_softmax(-1), k=2, tail=True)
    forward_kl(student, teacher).sum().backward()
    assert student.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_sampled_estimate_has_the_mean_and_the_gradient_of_the_reverse_kl() -> None:
    logits = torch.tensor([0.3, -1.0, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    student = logits.log_softmax(-1)
    # Every token with its probability, so that the mean is exact.
    estimate = (student.exp().detach() * sampled_reverse_kl(student, teacher)).sum()
    exact = reverse_kl(student, teacher)
    torch.testing.assert_close(estimate, exact)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (estimate, exact))
    )


def test_the_gradient_of_the_sampled_estimate_is_the_gap_times_that_of_the_log_probability() -> None:
    student = torch.tensor([-1.0, -3.0], requires_grad=True)
    estimate = sampled_reverse_kl(student, torch.tensor([-1.5, -1.0]))
    estimate.sum().backward()
    assert estimate.tolist() == [0.5, -2.0]
    assert student.grad is not None
    assert student.grad.tolist() == [0.5, -2.0]


# From states to the loss: 2 x 3 tokens, D = 4, V = 6


def loss_on(
    objective: Divergence, *, garbage: float = 0.0, is_teacher_trained: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """The loss, and the student's and the teacher's states and heads; `garbage` stands at the padding."""
    generator = torch.Generator().manual_seed(3)
    tensors = [
        torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((2, 3, 4), (6, 4)) * 2
    ]  # fmt: skip
    mask = torch.tensor([[True, True, False], [True, True, True]])
    for states in tensors[::2]:
        states[~mask] = garbage
    for tensor in tensors[: 4 if is_teacher_trained else 2]:
        tensor.requires_grad_()
    ids = torch.tensor([[0, 1, 2], [3, 4, 5]])
    values = token_scores(
        PassOutput(tensors[0], Head(tensors[1])), PassOutput(tensors[2], Head(tensors[3])),
        ids=ids, mask=mask, objective=objective, signals=Signal.DIVERGENCE,
    )[Signal.DIVERGENCE]  # fmt: skip
    counts = StepCounts(num_tokens=5, num_sequences=2)
    return reduce_tokens(TokenLoss(values, torch.ones_like(values)), mask, objective=objective, counts=counts), tensors


OBJECTIVES = [
    Divergence("forward_kl"),
    Divergence("reverse_kl"),
    Divergence("jsd"),
    Divergence("forward_kl", support="topk", k=2),
    Divergence("reverse_kl", support="sampled"),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: f"{one.divergence}-{one.support}")
def test_garbage_at_the_padding_changes_neither_the_loss_nor_the_gradient(objective: Divergence) -> None:
    results = []
    for garbage in (0.0, torch.nan):
        loss, (states, head, _, _) = loss_on(objective, garbage=garbage)
        results.append((loss, *torch.autograd.grad(loss, [states, head])))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
    assert not results[1][1][0, 2].any()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: f"{one.divergence}-{one.support}")
def test_the_gradient_reaches_the_student_only(objective: Divergence) -> None:
    loss, tensors = loss_on(objective, is_teacher_trained=True)
    states, head, teacher_states, teacher_head = torch.autograd.grad(loss, tensors, allow_unused=True)
    assert states[0, :2].abs().min() > 0
    assert head.abs().max() > 0
    assert teacher_states is None
    assert teacher_head is None


TURNED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"divergence": "reverse_kl"}),
    ({"divergence": "jsd"}, {"beta": 0.3}),
    ({"divergence": "jsd"}, {"scaled": True}),
    ({"k": 2}, {"support": "topk"}),
    ({"divergence": "reverse_kl"}, {"support": "sampled"}),
    ({"support": "topk", "k": 2}, {"k": 3}),
    ({"support": "topk", "k": 2}, {"tail": False}),
    ({}, {"temperature": 0.5}),
    ({}, {"reduction": "sequence_mean"}),
    ({}, {"reference": True}),
]


@pytest.mark.parametrize(("base", "turned"), TURNED, ids=lambda options: "-".join(options) or "default")
def test_turning_the_knob_moves_the_loss(base: dict[str, Any], turned: dict[str, Any]) -> None:
    without = {} if turned.get("support") == "topk" else base
    before, _ = loss_on(Divergence(**without))
    after, _ = loss_on(Divergence(**{**base, **turned}))
    assert (before - after).abs() > 1e-4


def test_every_knob_is_turned() -> None:
    # impl chooses how logits are made, not what the loss is; the weights here are all 1 (tests/test_mean_weight.py).
    fields = {field.name for field in dataclasses.fields(Divergence)} - {"impl", "normalize_weights"}
    assert {name for _, turned in TURNED for name in turned} == fields


def test_no_main_term_needs_no_pass() -> None:
    assert Divergence().needs == Need.DIVERGENCE
    assert not Divergence("none").needs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"beta": 0.5},
            "objective.beta belongs to jsd, but divergence is forward_kl. Remove beta or set divergence: jsd.",
        ),
        ({"scaled": True}, "objective.scaled belongs to jsd"),
        (
            {"divergence": "jsd", "beta": 0.0},
            "beta must lie between 0 and 1, both excluded, got 0.0. .*forward_kl or reverse_kl",
        ),
        ({"divergence": "jsd", "beta": 1.0}, "got 1.0"),
        ({"divergence": "jsd", "beta": float("nan")}, "got nan"),
        ({"k": 5}, "objective.k belongs to support: topk, but support is full"),
        ({"tail": False}, "objective.tail belongs to support: topk"),
        ({"support": "topk"}, "objective.k must be at least 1 with support: topk, got None. Set k"),
        ({"support": "topk", "k": 0}, "got 0"),
        ({"support": "sampled"}, "sampled estimates the reverse KL only, but divergence is forward_kl"),
        ({"divergence": "none", "support": "topk", "k": 3}, "objective.support has no meaning with divergence: none"),
        ({"reference": True, "normalize_weights": True}, "normalize_weights would divide twice"),
        ({"temperature": 0.0}, "objective.temperature must be positive, got 0.0"),
        ({"temperature": float("inf")}, "got inf"),
    ],
)
def test_a_setting_without_meaning_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Divergence(**options)
