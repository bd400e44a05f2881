"""Scores and losses from hidden states = plain autograd over whole logits in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from unisd.kernels import TokenScores, Weights, chunk, token_logp, token_loss, token_scores
from unisd.objective.divergence import Divergence
from unisd.scoring import reference
from unisd.types import Signal

B, T, D, E, V = 3, 13, 24, 17, 1003
BOTH = ("divergence", "student_logp")


@dataclass(frozen=True)
class Problem:
    """Leaves in float64; `in_dtype` gives the same numbers as leaves of another type."""

    student: Tensor
    head: Tensor
    bias: Tensor
    teacher: Tensor
    teacher_head: Tensor
    teacher_bias: Tensor
    ids: Tensor
    mask: Tensor
    divergence_weights: Tensor
    logp_weights: Tensor

    def in_dtype(self, dtype: torch.dtype) -> Problem:
        """New leaves, as trainable as these."""
        numbers = {name: value for name, value in vars(self).items() if value.is_floating_point()}
        return replace(
            self,
            **{
                name: value.detach().to(dtype, copy=True).requires_grad_(value.requires_grad)
                for name, value in numbers.items()
            },
        )

    @property
    def leaves(self) -> list[Tensor]:
        """What gets a gradient."""
        return [leaf for leaf in (self.student, self.head, self.bias) if leaf.requires_grad]


def problem(*, is_trainable: bool = False, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    mask = torch.rand(B, T, generator=generator) < 0.7
    mask[1] = False
    return Problem(
        student=normal(B, T, D).requires_grad_(),
        head=(0.5 * normal(V, D)).requires_grad_(is_trainable),
        bias=normal(V).requires_grad_(is_trainable),
        teacher=normal(B, T, E),
        teacher_head=0.5 * normal(V, E),
        teacher_bias=normal(V),
        ids=torch.randint(V, (B, T), generator=generator),
        mask=mask,
        divergence_weights=torch.rand(B, T, generator=generator, dtype=torch.float64),
        logp_weights=normal(B, T),
    )


def score(one: Problem, objective: Divergence, **options) -> TokenScores:
    return token_scores(
        one.student,
        one.head,
        one.teacher,
        one.teacher_head,
        ids=one.ids,
        mask=one.mask,
        divergence=objective.divergence,
        beta=objective.beta,
        temperature=objective.temperature,
        student_bias=one.bias,
        teacher_bias=one.teacher_bias,
        **{"softcap": 9.0, "scale": 0.8, **options},
    )


def whole(one: Problem, objective: Divergence) -> TokenScores:
    """The oracle's scores."""

    def capped(states: Tensor, head: Tensor, bias: Tensor) -> Tensor:
        return torch.tanh(0.8 * (states @ head.T + bias) / 9.0) * 9.0

    scores = reference.token_scores(
        capped(one.student, one.head, one.bias),
        capped(one.teacher, one.teacher_head, one.teacher_bias),
        ids=one.ids,
        mask=one.mask,
        objective=objective,
    )
    return TokenScores(*(scores[getattr(Signal, name.upper())] for name in TokenScores._fields))


def loss_of(scores: TokenScores, one: Problem) -> Tensor:
    assert scores.divergence is not None
    return (one.divergence_weights * scores.divergence + one.logp_weights * scores.student_logp).sum()


def assert_close(mine: list[Tensor], true: list[Tensor], tolerance: float) -> None:
    for got, expected in zip(mine, true, strict=True):
        assert expected.abs().max() > 0
        assert float((got.detach().double() - expected).norm() / expected.norm()) < tolerance


OBJECTIVES = [
    Divergence("forward_kl"),
    Divergence("reverse_kl", temperature=0.7),
    Divergence("jsd", temperature=1.4),
    Divergence("jsd", beta=0.1),
]
PRECISIONS = {
    "float64": (torch.float64, "torch", 1e-10),
    "c": (torch.float32, "c", 1e-6),
    "torch": (torch.float32, "torch", 1e-6),
}


@pytest.mark.parametrize(("dtype", "impl", "tolerance"), PRECISIONS.values(), ids=PRECISIONS.keys())
@pytest.mark.parametrize("chunk_rows", [1, 4, 1000])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: f"{one.divergence}-{one.temperature}")
@pytest.mark.parametrize("is_trainable", [False, True], ids=["frozen", "trainable"])
def test_scores_and_gradients_equal_whole_logits(
    is_trainable: bool, objective: Divergence, chunk_rows: int, dtype: torch.dtype, impl, tolerance: float
) -> None:
    one = problem(is_trainable=is_trainable)
    true = whole(one, objective)
    mine = one.in_dtype(dtype)

    got = score(mine, objective, differentiable=BOTH, impl=impl, chunk_rows=chunk_rows)

    assert_close([*got], [each.detach() for each in true], tolerance)
    assert all(values.dtype == dtype and not values[~one.mask].any() for values in got)
    assert_close(
        [*torch.autograd.grad(loss_of(got, mine), mine.leaves)],
        [*torch.autograd.grad(loss_of(true, one), one.leaves)],
        tolerance,
    )


@pytest.mark.parametrize("num_kept", [0, 1, 2, 3])
def test_logit_gradients_beyond_the_cache_are_made_again(num_kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one = problem(is_trainable=True)
    num_tokens = int(one.mask.sum())
    monkeypatch.setattr(chunk, "CACHE_BYTES", num_kept * -(-num_tokens // 3) * V * 8 * 2)
    expected = torch.autograd.grad(loss_of(whole(one, OBJECTIVES[2]), one), one.leaves)
    got = score(one, OBJECTIVES[2], differentiable=BOTH, chunk_rows=-(-num_tokens // 3))
    assert_close([*torch.autograd.grad(loss_of(got, one), one.leaves)], [*expected], 1e-10)


def right(one: Problem) -> Callable[[TokenScores, slice], Weights]:
    """The weights of `loss_of`, seven times as large."""

    def predict(scores: TokenScores, tokens: slice) -> Weights:
        packed = (one.divergence_weights[one.mask], one.logp_weights[one.mask])
        return Weights(*(7 * weights[tokens] for weights in packed))

    return predict


def wrong_for_some(one: Problem) -> Callable[[TokenScores, slice], Weights]:
    """Right but for the first token of each chunk, which has another ratio, and the second, which has no weight."""

    def predict(scores: TokenScores, tokens: slice) -> Weights:
        divergence, logp = right(one)(scores, tokens)
        assert divergence is not None
        assert logp is not None
        divergence[0] *= 3
        divergence[1:2] = logp[1:2] = 0
        return Weights(divergence, logp)

    return predict


def wrong_for_all(one: Problem) -> Callable[[TokenScores, slice], Weights]:
    return lambda scores, tokens: Weights(None, torch.ones_like(scores.student_logp))


@pytest.mark.parametrize("predict", [right, wrong_for_some, wrong_for_all])
@pytest.mark.parametrize("is_trainable", [False, True], ids=["frozen", "trainable"])
def test_a_prediction_never_changes_the_gradient(is_trainable: bool, predict) -> None:
    one = problem(is_trainable=is_trainable)
    expected = torch.autograd.grad(loss_of(whole(one, OBJECTIVES[2]), one), one.leaves)
    got = score(one, OBJECTIVES[2], differentiable=BOTH, predict=predict(one), chunk_rows=5)
    assert_close([*torch.autograd.grad(loss_of(got, one), one.leaves)], [*expected], 1e-10)


def test_a_right_prediction_needs_no_more_logits_in_the_backward_pass() -> None:
    one = problem(is_trainable=True)
    calls = []

    def counted(make) -> Callable[[TokenScores, slice], Weights]:
        def predict(scores: TokenScores, tokens: slice) -> Weights:
            calls.append(tokens)
            return make(one)(scores, tokens)

        return predict

    for make, num_repaired in ((right, 0), (wrong_for_all, int((one.logp_weights[one.mask] != 0).sum()))):
        got = score(one, OBJECTIVES[0], differentiable=BOTH, predict=counted(make), chunk_rows=5)
        assert loss_of(got, one).grad_fn is not None
        with torch.profiler.profile() as record:
            torch.autograd.grad(loss_of(got, one), one.leaves)
        num_softmaxes = sum(event.count for event in record.key_averages() if event.key == "aten::amax")
        assert (num_softmaxes > 1) == (num_repaired > 0)  # one of them looks for the largest predicted weight
    assert len(calls) == 2 * -(-int(one.mask.sum()) // 5)


def test_an_upstream_gradient_of_one_output_alone_and_of_both_add_up() -> None:
    one = problem()
    got = score(one, OBJECTIVES[1], differentiable=BOTH)
    assert got.divergence is not None
    parts = [
        torch.autograd.grad(part.sum(), one.student, retain_graph=True)[0]
        for part in (got.divergence, got.student_logp)
    ]
    (both,) = torch.autograd.grad((got.divergence + got.student_logp).sum(), one.student)
    torch.testing.assert_close(parts[0] + parts[1], both)
    only = score(one, OBJECTIVES[1])
    assert only.divergence is not None
    assert only.divergence.requires_grad
    assert not only.student_logp.requires_grad
    torch.testing.assert_close(torch.autograd.grad(only.divergence.sum(), one.student)[0], parts[0])


@pytest.mark.parametrize("is_trainable", [False, True], ids=["frozen", "trainable"])
def test_a_loss_of_its_own_token_alone_has_the_gradient_of_plain_autograd(is_trainable: bool) -> None:
    one = problem(is_trainable=is_trainable)

    def fn(scores: TokenScores, weights: Tensor, negative: Tensor) -> Tensor:
        assert scores.divergence is not None
        assert scores.teacher_logp is not None
        hinge = torch.relu(
            0.5 + (scores.student_logp - scores.teacher_logp).abs() - (scores.student_logp - negative).abs()
        )
        return weights * scores.divergence.clamp(max=2.0) + 0.3 * hinge

    objective, side = OBJECTIVES[2], (one.divergence_weights, -5 * one.logp_weights.abs())
    true = torch.where(one.mask, fn(whole(one, objective), *side), 0.0)
    later = torch.linspace(0.5, 2, B * T, dtype=torch.float64).view(B, T)  # what only the caller knows, by token
    got, scores = token_loss(
        one.student, one.head, one.teacher, one.teacher_head, ids=one.ids, mask=one.mask, fn=fn, side=side,
        divergence="jsd", temperature=1.4, student_bias=one.bias, teacher_bias=one.teacher_bias,
        softcap=9.0, scale=0.8, chunk_rows=4,
    )  # fmt: skip
    assert_close([got.detach(), *scores], [true.detach(), *(each.detach() for each in whole(one, objective))], 1e-10)
    for weights in (torch.ones(B, T, dtype=torch.float64), later):
        expected = torch.autograd.grad((weights * true).sum(), one.leaves, retain_graph=True)
        mine = torch.autograd.grad((weights * got).sum(), one.leaves, retain_graph=True)
        assert_close([*mine], [*expected], 1e-10)
    with torch.no_grad():
        again, _ = token_loss(
            one.student, one.head, one.teacher, one.teacher_head, ids=one.ids, mask=one.mask, fn=fn, side=side,
            divergence="jsd", temperature=1.4, student_bias=one.bias, teacher_bias=one.teacher_bias,
            softcap=9.0, scale=0.8,
        )  # fmt: skip
    torch.testing.assert_close(again, got.detach())


def test_one_head_for_both_is_the_same_as_two_equal_ones() -> None:
    one = problem()
    states, head = one.student, one.head
    kwargs = {"ids": one.ids, "mask": one.mask, "student_bias": one.bias}
    other = torch.randn(B, T, D, dtype=torch.float64)
    shared = token_scores(states, head, other, **kwargs)
    apart = token_scores(states, head, other, head.clone(), teacher_bias=one.bias.clone(), **kwargs)
    for mine, theirs in zip(shared, apart, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("divergence", ["forward_kl", "jsd"])
@pytest.mark.parametrize("is_trainable", [False, True], ids=["frozen", "trainable"])
@pytest.mark.parametrize("shape", [(2, 0), (2, 3)], ids=["N = 0", "all masked"])
def test_no_token_that_counts_gives_zeros_and_a_zero_gradient(
    shape: tuple[int, int], is_trainable: bool, divergence
) -> None:
    states = torch.randn(*shape, D, requires_grad=True)
    head = torch.randn(V, D, requires_grad=is_trainable)
    leaves = [states, head] if is_trainable else [states]
    ids, mask = torch.full(shape, -100), torch.zeros(shape, dtype=torch.bool)
    teacher = torch.randn(*shape, D)
    for predict in (None, wrong_for_all(problem())):
        scores = token_scores(states, head, teacher, ids=ids, mask=mask, divergence=divergence, predict=predict)
        assert all(values.shape == shape and not values.any() for values in scores if values is not None)
        assert scores.divergence is not None
        gradients = torch.autograd.grad(scores.divergence.sum(), leaves)
        assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)
    loss, _ = token_loss(states, head, teacher, ids=ids, mask=mask, fn=lambda scores: scores.divergence * 2)
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss.sum(), leaves))
    assert not token_logp(states, head, ids, mask=mask).logp.any()


def test_without_a_teacher_the_log_probability_can_be_trained_on() -> None:
    one = problem(is_trainable=True)
    scores = token_scores(
        one.student, one.head, None, ids=one.ids, mask=one.mask, divergence="none",
        differentiable=("student_logp",), student_bias=one.bias,
    )  # fmt: skip
    assert scores.divergence is None
    log_probs = (one.student @ one.head.T + one.bias).log_softmax(-1)
    true = torch.where(one.mask, log_probs.gather(-1, one.ids[..., None])[..., 0], 0.0)
    torch.testing.assert_close(scores.student_logp, true)
    loss, _ = token_loss(
        one.student, one.head, None, ids=one.ids.int(), mask=one.mask, divergence="none", student_bias=one.bias,
        fn=lambda scores, weights: weights * scores.student_logp, side=(one.logp_weights,),
    )  # fmt: skip
    expected = torch.autograd.grad((one.logp_weights * true).sum(), one.leaves)
    for mine in ((one.logp_weights * scores.student_logp).sum(), loss.sum()):
        assert_close([*torch.autograd.grad(mine, one.leaves)], [*expected], 1e-10)


def test_ids_of_any_integer_type_are_read() -> None:
    one = problem().in_dtype(torch.float32)
    plain, narrow = (token_logp(one.student, one.head, ids, mask=one.mask).logp for ids in (one.ids, one.ids.int()))
    assert torch.equal(plain, narrow)


def test_log_probabilities_of_one_view() -> None:
    one = problem().in_dtype(torch.float32)
    log_probs = (torch.tanh((one.student @ one.head.T + one.bias) / 9) * 9 / 0.7).log_softmax(-1)
    got = token_logp(one.student, one.head, one.ids, bias=one.bias, softcap=9.0, temperature=0.7, mask=one.mask)
    true = log_probs.gather(-1, one.ids[..., None])[..., 0]
    torch.testing.assert_close(got.logp, torch.where(one.mask, true, 0.0), rtol=1e-5, atol=1e-5)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    torch.testing.assert_close(got.entropy, torch.where(one.mask, entropy, 0.0), rtol=1e-5, atol=1e-5)
    assert not got.logp.requires_grad
    everywhere = token_logp(one.student, one.head, one.ids, bias=one.bias, softcap=9.0, temperature=0.7)
    torch.testing.assert_close(everywhere.logp, true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_trainable", [False, True], ids=["frozen", "trainable"])
def test_low_precision_states_and_heads_get_float32_logits(is_trainable: bool, dtype: torch.dtype) -> None:
    low = problem(is_trainable=is_trainable).in_dtype(dtype)
    exact = low.in_dtype(torch.float64)
    true = whole(exact, OBJECTIVES[2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = score(low, OBJECTIVES[2], differentiable=BOTH)
    # Rounded logits would be wrong in the third digit.
    assert_close([*got], [each.detach() for each in true], 1e-6)
    gradients = torch.autograd.grad(loss_of(got, low), low.leaves)
    assert [gradient.dtype for gradient in gradients] == [dtype] * len(low.leaves)
    expected = torch.autograd.grad(loss_of(true, exact), exact.leaves)
    # Rounded once on its way out, and once more where a trainable head keeps logit gradients in its own type.
    rounding = 2.0**-9 if dtype == torch.bfloat16 else 2.0**-12
    assert_close([*gradients], [*expected], (2 if is_trainable else 1) * rounding)


def test_garbage_outside_the_mask_changes_nothing() -> None:
    one = problem(is_trainable=True)
    dirty = replace(one, ids=one.ids.masked_fill(~one.mask, -100))
    with torch.no_grad():
        dirty = replace(
            dirty,
            student=torch.where(one.mask[..., None], one.student, torch.nan).requires_grad_(),
            teacher=torch.where(one.mask[..., None], one.teacher, torch.inf),
        )
    clean, got = (score(each, OBJECTIVES[0], differentiable=BOTH) for each in (one, dirty))
    for mine, theirs in zip(got, clean, strict=True):
        torch.testing.assert_close(mine, theirs)
    mine, theirs = (torch.autograd.grad(loss_of(each, one), of.leaves) for each, of in ((got, dirty), (clean, one)))
    for gradient, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_a_weight_that_changed_before_the_backward_pass_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk, "CACHE_BYTES", 0)
    one = problem(is_trainable=True)
    loss = loss_of(score(one, OBJECTIVES[0], differentiable=BOTH), one)
    with torch.no_grad():
        one.head.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
