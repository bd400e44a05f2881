"""The hinge between a right and a wrong view of the teacher."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.objective.hand import MASK, PADDING, scores_of
from unisd.objective.contrastive import Contrastive
from unisd.objective.divergence import Divergence
from unisd.scoring.plan import plan_passes
from unisd.step import Step
from unisd.teacher import LiveTeacher
from unisd.types import Need, Signal

FORMS = ["paper", "directional"]
# The right view at -1 and the wrong one at -3, then the other way round, then both alike.
TEACHER = torch.tensor([[-1.0, -1.0, PADDING], [-1.0, -3.0, -2.0]])
NEGATIVE = torch.tensor([[-3.0, -3.0, PADDING], [-3.0, -1.0, -2.0]])
# Between the views; near the right one; beyond the wrong one; between; anywhere.
STUDENT = torch.tensor([[-2.75, -1.25, PADDING], [-4.0, -2.0, -5.0]])


def hinge(contrastive: Contrastive, student: Tensor = STUDENT, **scores: Any) -> tuple[Tensor, Tensor]:
    """Values of the valid tokens, and their gradient by the student's log-probability."""
    student = student.clone().requires_grad_()
    scores = {"teacher_logp": TEACHER, "negative_logp": NEGATIVE, **scores}
    values = contrastive(scores_of(student_logp=student, **scores))[MASK]
    return values.detach(), torch.autograd.grad(values.sum(), student)[0][MASK]


@pytest.mark.parametrize(
    ("options", "values", "gradients"),
    [
        # 1/2 + |s - p| - |s - n|: 1/2 + 7/4 - 1/4 | 1/2 + 1/4 - 7/4 | 1/2 + 3 - 1 | 1/2 + 1 - 1 | 1/2 + 3 - 3
        ({}, [2.0, 0.0, 2.5, 0.5, 0.5], [-2, 0, 0, 2, 0]),
        ({"margin": 2.0}, [3.5, 0.5, 4.0, 2.0, 2.0], [-2, -2, 0, 2, 0]),
        # 1/2 -+ (s - n), and nothing where the views do not differ
        ({"form": "directional"}, [0.25, 0.0, 1.5, 0.0, 0.0], [-1, 0, -1, 0, 0]),
        # The views are 2 apart, so a margin of 9 asks for no more than that.
        ({"form": "directional", "margin": 9.0}, [1.75, 0.25, 3.0, 1.0, 0.0], [-1, -1, -1, 1, 0]),
    ],
)
def test_the_hinge_and_its_gradient_equal_the_hand_sums(
    options: dict[str, Any], values: list[float], gradients: list[int]
) -> None:
    got, gradient = hinge(Contrastive(**options))
    assert got.tolist() == values
    assert gradient.tolist() == gradients


def many_tokens() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("student_logp", "teacher_logp", "negative_logp")
    return {name: -4 * torch.rand(20, 25, generator=generator, dtype=torch.float64) for name in names}


def test_the_published_form_moves_the_student_only_between_the_two_views() -> None:
    tokens = many_tokens()
    student, teacher, negative = tokens.values()
    student.requires_grad_()
    values = Contrastive()(scores_of(mask=torch.ones(20, 25, dtype=torch.bool), **tokens))
    (gradient,) = torch.autograd.grad(values.sum(), student)
    is_between = (student - teacher).sign() * (student - negative).sign() < 0
    assert torch.equal(gradient != 0, is_between & (values > 0))
    # A good part of the positive hinges moves nothing, which is what the directional form is for.
    assert ((values > 0) & (gradient == 0)).sum() > 100
    assert torch.equal(gradient[gradient != 0].sign(), (negative - teacher)[gradient != 0].sign())


def test_the_directional_form_moves_the_student_wherever_it_is_positive_and_to_the_right_view() -> None:
    tokens = many_tokens()
    student, teacher, negative = tokens.values()
    student.requires_grad_()
    values = Contrastive(form="directional")(scores_of(mask=torch.ones(20, 25, dtype=torch.bool), **tokens))
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert 100 < (values > 0).sum() < 400
    assert torch.equal(gradient, torch.where(values > 0, (negative - teacher).sign(), 0.0))
    # Half a nat on the right side of the wrong view is enough, and so is the right view itself.
    side = (teacher - negative).sign() * (student - negative)
    assert torch.equal(values == 0, (side >= 0.5) | (side >= (teacher - negative).abs()))


@pytest.mark.parametrize("form", FORMS)
def test_it_logs_where_the_hinge_is_positive_and_where_it_moves_the_student(form: Any) -> None:
    tokens = many_tokens()
    # The borders as well: on the right view, on the wrong one, all alike.
    tokens["student_logp"][0] = tokens["teacher_logp"][0]
    tokens["student_logp"][1] = tokens["negative_logp"][1]
    tokens["student_logp"][2] = tokens["teacher_logp"][2] = tokens["negative_logp"][2]
    tokens["student_logp"].requires_grad_()
    scores = scores_of(mask=torch.ones(20, 25, dtype=torch.bool), **tokens)
    contrastive = Contrastive(form=form)
    values = contrastive(scores)
    (gradient,) = torch.autograd.grad(values.sum(), tokens["student_logp"])
    metrics = contrastive.metrics(values, scores)
    assert torch.equal(metrics["active"], (values > 0).double())
    assert torch.equal(metrics["gradient"], (gradient != 0).double())


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_without_a_scored_negative_has_hinge_zero_and_no_gradient(form: Any) -> None:
    rows = {Signal.NEGATIVE_LOGP: torch.tensor([False, True])}
    # What was not scored is 0, far from everything.
    negative = torch.where(torch.tensor([[False], [True]]), NEGATIVE, 0.0)
    contrastive = Contrastive(form=form, margin=9.0)
    values, gradient = hinge(contrastive, negative_logp=negative, scored_rows=rows)
    assert values[:2].tolist() == gradient[:2].tolist() == [0.0, 0.0]
    everywhere, _ = hinge(contrastive)
    assert torch.equal(values[2:], everywhere[2:])
    assert everywhere[:2].min() > 0


@pytest.mark.parametrize("form", FORMS)
def test_what_stands_at_the_padding_changes_neither_the_loss_nor_its_gradient(form: Any) -> None:
    results = []
    for garbage in (0.0, 1e6, -torch.inf):
        student = torch.where(MASK, STUDENT, garbage).requires_grad_()
        others = {name: torch.where(MASK, values, garbage / 2) for name, values in
                  (("teacher_logp", TEACHER), ("negative_logp", NEGATIVE))}  # fmt: skip
        step = Step(plan_passes([]), LiveTeacher(), Divergence("none"), {"contrastive": Contrastive(form=form)})
        scores = scores_of(student_logp=student, **others)
        loss = step.reduce(step.token_losses(scores, lambda *_, **__: None), scores)
        results.append((loss, torch.autograd.grad(loss, student)[0]))
    assert results[0][0] > 0
    for dirty in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], dirty, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_reaches_the_student_only(form: Any) -> None:
    tensors = [values.clone().requires_grad_() for values in (STUDENT, TEACHER, NEGATIVE)]
    names = ("student_logp", "teacher_logp", "negative_logp")
    values = Contrastive(form=form)(scores_of(**dict(zip(names, tensors, strict=True))))
    student, teacher, negative = torch.autograd.grad(values[MASK].sum(), tensors, allow_unused=True)
    assert student.abs().max() > 0
    assert teacher is None
    assert negative is None


def test_every_knob_moves_the_hinge() -> None:
    # `coefficient` and `weighted` are applied by the step (test_terms.py).
    assert {field.name for field in dataclasses.fields(Contrastive)} == {"margin", "form", "coefficient", "weighted"}
    default, _ = hinge(Contrastive())
    for turned in (Contrastive(margin=0.25), Contrastive(form="directional")):
        assert (hinge(turned)[0] - default).abs().max() > 0.1
    assert Contrastive.needs == Need.STUDENT_LOGP | Need.TEACHER_LOGP | Need.NEGATIVE_LOGP


@pytest.mark.parametrize("margin", [-0.5, float("nan")])
def test_a_negative_margin_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=f"contrastive.margin must be 0 or positive, got {margin}"):
        Contrastive(margin=margin)
