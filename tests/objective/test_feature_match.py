"""Distances between hidden states of student and teacher."""

from __future__ import annotations

import dataclasses
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.objective.hand import MASK, scores_of
from unisd.objective.divergence import Divergence
from unisd.objective.feature_match import DISTANCES, FeatureMatch
from unisd.scoring.plan import plan_passes
from unisd.step import Step
from unisd.teacher import LiveTeacher
from unisd.types import Need

# Two features; the last place of the first row is padding.
STUDENT = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [9.0, 9.0]], [[0.0, 2.0], [1.0, 1.0], [-1.0, 0.0]]])
TEACHER = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [0.0, 9.0]], [[0.0, 1.0], [1.0, -1.0], [2.0, 0.0]]])
# (s - t)^2: 0 4 | 0 0 || 0 1 | 0 4 | 9 0, and t^2: 1 4 | 9 16 || 0 1 | 1 1 | 4 0
MSE = [2.0, 0.0, 0.5, 2.0, 4.5]


def scores(student: Tensor, teacher: Tensor, **layers: tuple[Tensor, Tensor]) -> Any:
    """Layer -1 as given, and further ones by number: `scores(s, t, **{"3": (s3, t3)})`."""
    further = {int(layer): pair for layer, pair in layers.items()}
    return scores_of(
        student_hidden={-1: student, **{layer: pair[0] for layer, pair in further.items()}},
        teacher_hidden={-1: teacher, **{layer: pair[1] for layer, pair in further.items()}},
    )


@pytest.mark.parametrize(
    ("distance", "want"),
    [
        ("mse", MSE),
        ("normalized_mse", [4 / 5, 0.0, 1.0, 2.0, 9 / 4]),
        ("cosine", [1 - 1 / sqrt(5), 0.0, 0.0, 1.0, 2.0]),
    ],
)
def test_the_distance_equals_the_hand_sum(distance: Any, want: list[float]) -> None:
    values = FeatureMatch(distance=distance)(scores(STUDENT, TEACHER))
    torch.testing.assert_close(values[MASK], torch.tensor(want), atol=1e-6, rtol=1e-6)


def test_every_distance_has_its_hand_sum_above() -> None:
    assert set(DISTANCES) == {"mse", "normalized_mse", "cosine"}


def test_several_layers_count_by_their_mean() -> None:
    values = FeatureMatch(layers=(-1, 3))(scores(STUDENT, TEACHER, **{"3": (STUDENT, STUDENT + 2.0)}))
    torch.testing.assert_close(values[MASK], (torch.tensor(MSE) + 4.0) / 2)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_distance_is_positive_zero_between_equal_states_and_finite_for_a_teacher_at_zero(distance: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 8, generator=generator)
    match = FeatureMatch(distance=distance)
    assert (match(scores(student, teacher)) > 1e-3).all()
    torch.testing.assert_close(match(scores(student, student)), torch.zeros(2, 3), atol=1e-6, rtol=0)
    at_zero = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(match(scores(at_zero, torch.zeros_like(teacher))).sum(), at_zero)
    assert gradient.isfinite().all()


def test_the_scale_of_the_states_matters_to_mse_only() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 8, generator=generator)

    def grown(distance: Any) -> float:
        match = FeatureMatch(distance=distance)
        larger, plain = match(scores(10 * student, 10 * teacher)), match(scores(student, teacher))
        return float((larger / plain).mean())

    assert [grown(distance) for distance in ("cosine", "mse", "normalized_mse")] == pytest.approx([1, 100, 1])


@pytest.mark.parametrize("distance", DISTANCES)
def test_what_stands_at_the_padding_changes_neither_the_loss_nor_its_gradient(distance: Any) -> None:
    results = []
    for garbage in (0.0, 1e6):
        student = torch.where(MASK[..., None], STUDENT, garbage).requires_grad_()
        teacher = torch.where(MASK[..., None], TEACHER, -garbage)
        step = Step(
            plan_passes([]), LiveTeacher(), Divergence("none"), {"feature_match": FeatureMatch((-1,), distance)}
        )
        given = scores(student, teacher)
        loss = step.reduce(step.token_losses(given, lambda *_, **__: None), given)
        results.append((loss, torch.autograd.grad(loss, student)[0]))
    assert results[0][0] > 0
    for dirty in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], dirty, strict=True))


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_gradient_reaches_the_student_only_and_pulls_it_to_the_teacher(distance: Any) -> None:
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    match = FeatureMatch(distance=distance)
    values = match(scores(student, teacher))[MASK]
    mine, theirs = torch.autograd.grad(values.sum(), [student, teacher], allow_unused=True)
    assert theirs is None
    assert not mine[0, 2].any()
    nearer = match(scores(student - 0.01 * mine, teacher))[MASK]
    assert (nearer <= values + 1e-6).all()
    assert nearer.sum() < values.sum()


def test_low_precision_states_are_compared_in_float32() -> None:
    student, teacher = torch.full((2, 3, 64), 1.0).bfloat16(), torch.full((2, 3, 64), 1.0078125).bfloat16()
    values = FeatureMatch()(scores(student, teacher))
    assert values.dtype == torch.float32
    assert values.unique().tolist() == [0.0078125**2]
    wide = FeatureMatch()(scores(student.double(), teacher.double()))
    assert wide.dtype == torch.float64


def test_every_knob_moves_the_distance_and_the_layers_are_what_it_needs() -> None:
    # `coefficient` and `weighted` are applied by the step (test_terms.py).
    names = {field.name for field in dataclasses.fields(FeatureMatch)}
    assert names == {"layers", "distance", "coefficient", "weighted"}
    given = scores(STUDENT, TEACHER, **{"0": (STUDENT, TEACHER.flip(0))})
    default = FeatureMatch()(given)
    for turned in (FeatureMatch(layers=(0,)), FeatureMatch(distance="cosine")):
        assert (turned(given) - default)[MASK].abs().max() > 0.1
    assert FeatureMatch(layers=(-1, 5)).needs == Need.hidden(-1, 5)


def test_no_layer_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"feature_match.layers is empty. Give layers: \[-1\], the final state"):
        FeatureMatch(layers=())
