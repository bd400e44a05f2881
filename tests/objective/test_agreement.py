"""Weights from how far the teacher's views of the same completion lie apart."""

from __future__ import annotations

import dataclasses
from math import exp
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.objective.hand import MASK, PADDING, loss_of, scores_of
from unisd.objective.agreement import DEFAULT_FLOORS, Agreement
from unisd.objective.divergence import Divergence
from unisd.scoring.plan import plan_passes
from unisd.step import Step
from unisd.teacher import LiveTeacher
from unisd.types import Need, Signal

# Apart by 0 2 | 2 0 1 nats; the means of the sequences by 1 | 1/3.
VIEWS = torch.tensor([[[-1.0, -2.0, PADDING], [-3.0, -1.0, -5.0]], [[-1.0, -4.0, PADDING], [-5.0, -1.0, -4.0]]])
PRIVILEGED = torch.tensor([[-4.0, -2.0, PADDING], [-3.0, -1.0, -5.0]])
DIVERGENCE = torch.tensor([[1.0, 2.0, PADDING], [3.0, 4.0, 5.0]])


def weights_of(agreement: Agreement, views: Tensor = VIEWS, mask: Tensor = MASK, **scores: Any) -> Tensor:
    """Weights of the valid tokens."""
    scores = {"teacher_logp": PRIVILEGED, **scores}
    loss = loss_of(torch.zeros(mask.shape))
    return agreement(loss, scores_of(mask=mask, auxiliary_logp=views, **scores)).weights[mask]


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, [1, 1 / 2, 1 / 2, 1, 4 / 5]),  # 1 / (1 + variance): 0 1 | 1 0 1/4
        ({"strength": 3.0}, [1, 1 / 4, 1 / 4, 1, 4 / 7]),
        ({"statistic": "range"}, [1, 1 / 3, 1 / 3, 1, 1 / 2]),
        ({"granularity": "sequence"}, [exp(-1 / 4)] * 2 + [exp(-1 / 36)] * 3),
        ({"granularity": "sequence", "statistic": "range", "strength": 2.0}, [exp(-2)] * 2 + [exp(-2 / 3)] * 3),
        ({"floor": 0.6}, [1, 0.6, 0.6, 1, 0.8]),
        # The 0.95 quantile of 0 0 1 2 2 is 2: 0 1 | 1 0 1/2.
        ({"statistic": "range", "scale": "quantile"}, [1, 1 / 2, 1 / 2, 1, 2 / 3]),
        # A third view joins, -4 -2 | -3 -1 -5: variances 2 8/9 | 8/9 0 2/9.
        ({"include_primary": True}, [1 / 3, 9 / 17, 9 / 17, 1, 9 / 11]),
    ],
    ids=lambda one: "-".join(map(str, one.values())) or "default" if isinstance(one, dict) else "",
)
def test_the_weights_equal_the_hand_sums(options: dict[str, Any], want: list[float]) -> None:
    torch.testing.assert_close(weights_of(Agreement(**options)), torch.tensor(want))


def test_the_weights_multiply_into_those_that_are_there() -> None:
    loss = loss_of(DIVERGENCE, torch.full((2, 3), 0.5))
    after = Agreement()(loss, scores_of(auxiliary_logp=VIEWS))
    torch.testing.assert_close(after.weights[MASK], torch.tensor([1 / 2, 1 / 4, 1 / 4, 1 / 2, 2 / 5]))
    assert after.values is loss.values


@pytest.mark.parametrize("granularity", DEFAULT_FLOORS)
def test_no_weight_falls_below_the_floor_of_its_granularity(granularity: Any) -> None:
    apart = torch.stack([torch.zeros(2, 3), torch.full((2, 3), -1000.0)])
    assert weights_of(Agreement(granularity=granularity), apart).unique().tolist() == pytest.approx(
        [{"token": 0.01, "sequence": 1e-6}[granularity]]
    )


def test_the_variance_is_that_of_the_population() -> None:
    views = torch.tensor([-1.0, -2.0, -6.0])[:, None, None].expand(3, 1, 1)
    # Mean -3; (4 + 1 + 9) / 3 = 14/3, not 14/2.
    weights = weights_of(Agreement(), views, torch.ones(1, 1, dtype=torch.bool), teacher_logp=torch.zeros(1, 1))
    assert weights.tolist() == pytest.approx([3 / 17])


def test_the_quantile_scale_has_a_cap_a_smallest_divisor_and_sees_all_processes() -> None:
    quantile = Agreement(statistic="range", scale="quantile")
    spreads = torch.tensor([[0.1] * 40 + [5.0]])
    row = {"mask": torch.ones(1, 41, dtype=torch.bool), "teacher_logp": torch.zeros(1, 41)}
    # The quantile lies at place 38 of 0..40, so the last token is 50 times as wide: capped at 10.
    weights = weights_of(quantile, torch.stack([torch.zeros(1, 41), -spreads]), **row)
    assert weights.tolist() == pytest.approx([1 / 2] * 40 + [1 / 11])
    assert weights_of(quantile, torch.zeros(2, 1, 41), **row).tolist() == [1.0] * 41
    # Three more spreads of 4 on another process: the quantile of 0 0 1 2 2 4 4 4 is 4.
    gathered = weights_of(quantile, gather=lambda mine: torch.cat([mine, torch.full((3,), 4.0)]))
    torch.testing.assert_close(gathered, torch.tensor([1, 2 / 3, 2 / 3, 1, 4 / 5]))


def test_a_sequence_that_the_gate_left_out_keeps_weight_one_and_stays_out_of_the_quantile() -> None:
    # Its log-probabilities are zeros then, in every auxiliary view.
    views = torch.where(torch.tensor([[False], [True]]), VIEWS, 0.0)
    rows = {Signal.AUXILIARY_LOGP: torch.tensor([False, True])}
    for options in ({}, {"include_primary": True}, {"granularity": "sequence"}):
        weights = weights_of(Agreement(**options), views, scored_rows=rows)
        assert weights[:2].tolist() == [1.0, 1.0]
        assert torch.equal(weights[2:], weights_of(Agreement(**options))[2:])
    # The quantile of 2 0 1 is 1.9, of 0 0 2 0 1 it would be 1.8, and 3.7 with the privileged view of the other row.
    options = {"statistic": "range", "scale": "quantile"}
    want = [1, 1, 19 / 39, 1, 19 / 29]
    assert weights_of(Agreement(**options), views, scored_rows=rows).tolist() == pytest.approx(want)
    joined = weights_of(Agreement(**options, include_primary=True), views, scored_rows=rows)
    assert joined.tolist() == pytest.approx(want)


@pytest.mark.parametrize("granularity", DEFAULT_FLOORS)
def test_weights_lie_in_0_1_fall_with_the_spread_and_ignore_order_and_common_shifts(granularity: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    row = {"mask": torch.rand(6, 5, generator=generator) < 0.7, "teacher_logp": torch.zeros(6, 5)}
    agreement = Agreement(granularity=granularity)
    weights = weights_of(agreement, views, **row)
    assert (weights > 0).all()
    assert (weights < 1).all()
    assert (weights_of(agreement, 2 * views, **row) < weights).all()
    torch.testing.assert_close(weights_of(agreement, views.flip(0), **row), weights)
    torch.testing.assert_close(weights_of(agreement, views - torch.rand(6, 5), **row), weights, rtol=1e-5, atol=1e-5)
    assert weights_of(agreement, views[:1].expand(4, 6, 5), **row).unique().tolist() == pytest.approx([1.0])


def loss_and_gradient(agreement: Agreement, views: Tensor, **objective: Any) -> tuple[float, Tensor]:
    """Through the transform and the reduction, as a step does it; the gradient by token value."""
    divergence = torch.where(MASK, DIVERGENCE, 0.0).requires_grad_()
    step = Step(plan_passes([]), LiveTeacher(), Divergence(**objective), {"agreement": agreement})
    scores = scores_of(divergence=divergence, auxiliary_logp=views)
    loss = step.reduce(step.token_losses(scores, lambda *_, **__: None), scores)
    return loss.item(), torch.autograd.grad(loss, divergence)[0]


AGREEING = VIEWS[:1].expand(2, 2, 3)
REDUCTIONS: list[dict[str, Any]] = [{"reduction": "token_mean"}, {"reduction": "sequence_mean"}]


@pytest.mark.parametrize("objective", REDUCTIONS, ids=lambda one: one["reduction"])
@pytest.mark.parametrize("granularity", DEFAULT_FLOORS)
def test_where_the_views_disagree_the_loss_and_its_gradient_are_smaller(
    granularity: Any, objective: dict[str, Any]
) -> None:
    agreement = Agreement(granularity=granularity)
    loss, gradient = loss_and_gradient(agreement, AGREEING, **objective)
    smaller_loss, smaller_gradient = loss_and_gradient(agreement, VIEWS, **objective)
    assert smaller_loss < 0.95 * loss
    assert smaller_gradient.norm() < 0.95 * gradient.norm()
    # Not only where they disagree by chance: every token apart.
    apart = torch.stack([VIEWS[0], VIEWS[0] - 3.0])
    _, smallest_gradient = loss_and_gradient(agreement, apart, **objective)
    assert (smallest_gradient[MASK] < 0.5 * gradient[MASK]).all()


def test_the_published_reduction_divides_the_weights_of_sequences_out_again() -> None:
    # Why docs/deviations.md has it: two sets of contexts that disagree to different degrees give the same numbers.
    agreement = Agreement(granularity="sequence")
    loss, gradient = loss_and_gradient(agreement, AGREEING, reference=True)
    same_loss, same_gradient = loss_and_gradient(agreement, VIEWS, reference=True)
    assert same_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(same_gradient, gradient)


@pytest.mark.parametrize("granularity", DEFAULT_FLOORS)
@pytest.mark.parametrize("scale", ["absolute", "quantile"])
def test_garbage_at_the_padding_changes_neither_the_loss_nor_its_gradient(granularity: Any, scale: Any) -> None:
    results = []
    for garbage in (0.0, torch.nan, torch.inf):
        divergence = torch.where(MASK, DIVERGENCE, garbage).requires_grad_()
        privileged = torch.where(MASK, PRIVILEGED, garbage)
        scores = scores_of(
            divergence=divergence, auxiliary_logp=torch.where(MASK, VIEWS, garbage), teacher_logp=privileged
        )
        agreement = Agreement(granularity=granularity, scale=scale, include_primary=True)
        step = Step(plan_passes([]), LiveTeacher(), Divergence(), {"agreement": agreement})
        loss = step.reduce(step.token_losses(scores, lambda *_, **__: None), scores)
        results.append((loss, torch.autograd.grad(loss, divergence)[0]))
    assert results[0][0] > 0
    for dirty in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], dirty, strict=True))


def test_the_gradient_reaches_the_student_only() -> None:
    views, privileged = VIEWS.clone().requires_grad_(), PRIVILEGED.clone().requires_grad_()
    loss = loss_of(DIVERGENCE.clone().requires_grad_())
    after = Agreement(include_primary=True)(loss, scores_of(auxiliary_logp=views, teacher_logp=privileged))
    assert not after.weights.requires_grad
    (after.values * after.weights)[MASK].sum().backward()
    assert views.grad is None
    assert privileged.grad is None
    assert loss.values.grad is not None
    assert torch.equal(loss.values.grad[MASK], after.weights[MASK])


def test_an_empty_sequence_and_a_batch_without_valid_tokens_are_harmless() -> None:
    mask = torch.tensor([[True, True, True], [False, False, False]])
    for options in ({}, {"granularity": "sequence"}, {"scale": "quantile"}):
        loss = loss_of(torch.ones(2, 3))
        for row in (mask, torch.zeros(2, 3, dtype=torch.bool)):
            assert (
                Agreement(**options)(loss, scores_of(mask=row, auxiliary_logp=VIEWS.nan_to_num()))
                .weights.isfinite()
                .all()
            )


def test_it_logs_how_many_weights_it_lowered() -> None:
    scores, before, agreement = scores_of(auxiliary_logp=VIEWS), loss_of(torch.ones(2, 3)), Agreement()
    below = agreement.metrics(before, agreement(before, scores), scores)["below_0.99"]
    assert below[MASK].tolist() == [0.0, 1.0, 1.0, 0.0, 1.0]


TURNED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"granularity": "sequence"}),
    ({}, {"statistic": "range"}),
    ({}, {"strength": 0.5}),
    ({}, {"floor": 0.7}),
    ({"statistic": "range"}, {"scale": "quantile"}),
    ({}, {"include_primary": True}),
]


@pytest.mark.parametrize(("base", "turned"), TURNED, ids=lambda options: "-".join(options) or "default")
def test_turning_the_knob_moves_the_weights(base: dict[str, Any], turned: dict[str, Any]) -> None:
    before, after = weights_of(Agreement(**base)), weights_of(Agreement(**{**base, **turned}))
    assert (before - after).abs().max() > 1e-2


def test_every_knob_is_turned_and_strength_zero_switches_it_off() -> None:
    assert {name for _, turned in TURNED for name in turned} == {field.name for field in dataclasses.fields(Agreement)}
    assert weights_of(Agreement(strength=0.0)).tolist() == [1.0] * 5


def test_it_needs_the_privileged_view_only_when_that_counts() -> None:
    assert Agreement().needs == Need.AUXILIARY_LOGP
    assert Agreement(include_primary=True).needs == Need.AUXILIARY_LOGP | Need.TEACHER_LOGP


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "agreement.strength must be 0 or positive, got -1.0"),
        ({"strength": float("nan")}, "got nan"),
        ({"floor": 0.0}, r"agreement.floor must lie in \(0, 1\], got 0.0"),
        ({"floor": 1.5}, "got 1.5"),
    ],
)
def test_an_option_outside_its_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Agreement(**options)
