"""Whatever gradient the scores are handed in the backward pass, the states and the head get theirs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unisd.kernels import TokenScores, Weights, chunk, token_loss, token_scores

N, D, V = 12, 8, 50


def leaves(*, is_trainable: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    states, head = (torch.randn(num, D, generator=generator) for num in (N, V))
    return [states.requires_grad_(), head.requires_grad_(is_trainable)]


def teacher_and_ids() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, D, generator=generator), torch.randint(V, (N,), generator=generator)


def stored_or_cached(states: Tensor, head: Tensor, **options) -> Tensor:
    teacher, ids = teacher_and_ids()
    return token_scores(states, head, teacher, ids=ids, chunk_rows=5, **options).divergence


def predicted(states: Tensor, head: Tensor, **options) -> Tensor:
    return stored_or_cached(
        states, head, predict=lambda scores, tokens: Weights(torch.ones_like(scores.student_logp), None), **options
    )


def told(states: Tensor, head: Tensor, **options) -> Tensor:
    teacher, ids = teacher_and_ids()

    def fn(scores: TokenScores) -> Tensor:
        return scores.divergence

    return token_loss(states, head, teacher, ids=ids, chunk_rows=5, fn=fn, **options)[0]


@pytest.mark.parametrize("impl", ["c", "torch"])
@pytest.mark.parametrize("make", [stored_or_cached, predicted, told])
def test_a_plain_sum_over_all_tokens_has_the_gradient_of_plain_autograd(
    make, impl, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a mask or a weight autograd hands over one number, expanded to all tokens.
    monkeypatch.setattr(chunk, "CACHE_BYTES", 0)
    states, head = leaves()
    teacher = (teacher_and_ids()[0] @ head.detach().T).log_softmax(-1)
    true = (teacher.exp() * (teacher - (states @ head.T).log_softmax(-1))).sum()
    mine = make(states, head, impl=impl).sum()
    for got, expected in zip(*(torch.autograd.grad(each, [states, head]) for each in (mine, true)), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("num_broken", [1, N])
@pytest.mark.parametrize("is_trainable", [False, True], ids=["frozen", "trainable"])
@pytest.mark.parametrize("make", [stored_or_cached, predicted, told])
def test_a_weight_that_is_no_number_reaches_every_gradient(make, is_trainable: bool, num_broken: int, number) -> None:
    # A loss scaler skips the step for it, a user sees it; a finite gradient would hide it.
    states, head = leaves(is_trainable=is_trainable)
    weights = torch.ones(N)
    weights[:num_broken] = number
    wanted = [leaf for leaf in (states, head) if leaf.requires_grad]
    gradients = torch.autograd.grad((weights * make(states, head)).sum(), wanted)
    assert not gradients[0][:num_broken].isfinite().any()
    assert not gradients[-1].isfinite().all()


class Cut(torch.autograd.Function):
    """Passes values on, and no gradient back."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx, upstream: Tensor) -> None:
        return None


@pytest.mark.parametrize("make", [stored_or_cached, predicted, told])
def test_a_score_whose_gradient_is_cut_off_later_gives_none(make) -> None:
    states, head = leaves()
    gradients = torch.autograd.grad(Cut.apply(make(states, head)).sum(), [states, head], materialize_grads=True)
    assert not any(gradient.any() for gradient in gradients)
