"""Added losses, and how transforms, coefficients and weights compose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.objective.hand import MASK, PADDING, scores_of
from unisd.metrics import Fold
from unisd.objective import COMPONENTS
from unisd.objective.clip import DivergenceClip
from unisd.objective.cross_entropy import CrossEntropy
from unisd.objective.divergence import Divergence
from unisd.objective.token_filter import TokenFilter
from unisd.scoring.plan import plan_passes
from unisd.step import Step
from unisd.teacher import LiveTeacher
from unisd.types import Loss, Need, Signal, TokenScores, Transform, UndeclaredNeed

LOGP = [[-1.0, -2.0, PADDING], [-3.0, -4.0, -5.0]]
DIVERGENCE = [[0.5, 1.0, PADDING], [1.5, 2.0, 2.5]]
ENTROPY = [[1.0, 2.0, PADDING], [3.0, 1.0, 2.0]]


def step_of(components: Mapping[str, Loss | Transform], objective: Divergence | None = None) -> Step:
    return Step(plan_passes([]), LiveTeacher(), objective or Divergence(), components)


def compose(step: Step, scores: TokenScores) -> tuple[dict[str, list[float]], float, dict[str, float]]:
    """Weighted values of the valid tokens per term, the loss, and what was logged."""
    logged: dict[str, float] = {}

    def log(name: str, values: Tensor, mask: Tensor | None, *, fold: Fold = "mean") -> None:
        valid = values if mask is None else values[mask]
        logged[name] = float({"mean": valid.mean, "sum": valid.sum, "min": valid.min, "max": valid.max}[fold]())

    losses = step.token_losses(scores, log)
    terms = {name: (loss.values * loss.weights)[MASK].tolist() for name, loss in losses.items()}
    return terms, float(step.reduce(losses, scores)), logged


def hand_scores() -> TokenScores:
    return scores_of(divergence=DIVERGENCE, student_logp=LOGP, student_entropy=ENTROPY)


def test_cross_entropy_is_the_negative_log_probability_and_pulls_it_up() -> None:
    logp = torch.tensor(LOGP, requires_grad=True)
    values = CrossEntropy()(scores_of(student_logp=logp))
    assert values[MASK].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    values[MASK].sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == [[-1.0, -1.0, 0.0], [-1.0, -1.0, -1.0]]


def test_a_coefficient_scales_its_term_and_the_terms_add_up() -> None:
    terms, loss, _ = compose(step_of({"cross_entropy": CrossEntropy(coefficient=0.1)}), hand_scores())
    assert terms["divergence"] == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert terms["cross_entropy"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert loss == pytest.approx((7.5 + 1.5) / 5)


def test_an_added_term_takes_the_weights_of_the_main_term_only_when_told() -> None:
    def weights_of(*, weighted: bool) -> list[float]:
        components = {"cross_entropy": CrossEntropy(weighted=weighted), "token_filter": TokenFilter(0.5)}
        return compose(step_of(components), hand_scores())[0]["cross_entropy"]

    assert weights_of(weighted=False) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert weights_of(weighted=True) == [0.0, 2.0, 3.0, 0.0, 5.0]


def test_transforms_change_the_main_term_in_their_order_and_log_what_they_did() -> None:
    components = {"divergence_clip": DivergenceClip(ceiling=2.0), "token_filter": TokenFilter(0.5)}
    terms, loss, logged = compose(step_of(components), hand_scores())
    assert terms == {"divergence": [0.0, 1.0, 1.5, 0.0, 2.0]}
    assert loss == pytest.approx(4.5 / 5)
    assert logged == pytest.approx(
        {
            "divergence_clip/changed": 1 / 5,
            "divergence_clip/clipped": 1 / 5,
            "token_filter/changed": 2 / 5,
            "token_filter/kept": 3 / 5,
            "token_filter/weight_mean": 3 / 5,
            "token_filter/weight_min": 0.0,
            "token_filter/weight_max": 1.0,
        }
    )

    @dataclass(frozen=True)
    class Double(Transform):
        needs: ClassVar[Need] = Need()

        def __call__(self, loss, scores):
            return loss.with_values(loss.values * 2)

    clip = DivergenceClip(ceiling=2.0)
    last, first = step_of({"double": Double(), "clip": clip}), step_of({"clip": clip, "double": Double()})
    assert compose(last, hand_scores())[0]["divergence"] == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert compose(first, hand_scores())[0]["divergence"] == [1.0, 2.0, 3.0, 4.0, 4.0]


def test_without_a_main_term_the_added_ones_are_the_loss() -> None:
    step = step_of({"cross_entropy": CrossEntropy()}, Divergence("none"))
    terms, loss, _ = compose(step, scores_of(student_logp=LOGP))
    assert list(terms) == ["cross_entropy"]
    assert loss == 3.0


@pytest.mark.parametrize(
    "component", [CrossEntropy(), DivergenceClip(ceiling=1.0), DivergenceClip(quantile=0.5), TokenFilter(0.4)]
)
def test_garbage_at_the_padding_changes_no_component(component: Loss | Transform) -> None:
    results = []
    for garbage in (0.0, torch.nan, torch.inf):
        divergence, logp, entropy = (
            torch.where(MASK, torch.tensor(values), garbage).requires_grad_() for values in (DIVERGENCE, LOGP, ENTROPY)
        )
        scores = scores_of(divergence=divergence, student_logp=logp, student_entropy=entropy)
        step = step_of({"component": component})
        loss = step.reduce(step.token_losses(scores, lambda *_, **__: None), scores)
        gradients = torch.autograd.grad(loss, [divergence, logp, entropy], allow_unused=True)
        results.append([loss, *(gradient for gradient in gradients if gradient is not None)])
    assert results[0][0] > 0
    for dirty in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], dirty, strict=True))


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_reads_no_more_than_it_declares(name: str) -> None:
    required: dict[str, dict[str, Any]] = {"divergence_clip": {"quantile": 0.5}, "token_filter": {"fraction": 0.5}}
    component = COMPONENTS[name](**required.get(name, {}))
    signals = {signal: torch.rand(2, 3) for signal in Signal}
    signals[Signal.AUXILIARY_LOGP] = torch.rand(2, 2, 3)
    hidden = {-1: torch.rand(2, 3, 4)}
    scores = TokenScores(
        mask=MASK,
        completion_ids=torch.zeros(2, 3, dtype=torch.long),
        signals=signals,
        student_hidden=hidden,
        teacher_hidden=hidden,
    )
    terms, _, _ = compose(step_of({name: component}), scores)
    assert (name in terms) == isinstance(component, Loss)


def test_a_component_that_reads_what_it_did_not_declare_is_told_what_to_add() -> None:
    @dataclass(frozen=True)
    class Greedy(Loss):
        needs: ClassVar[Need] = Need.STUDENT_LOGP

        def __call__(self, scores):
            return scores.student_entropy

    with pytest.raises(
        UndeclaredNeed,
        match="greedy reads student_entropy but does not declare it. Add Need.STUDENT_ENTROPY to its `needs`.",
    ):
        compose(step_of({"greedy": Greedy()}), hand_scores())
