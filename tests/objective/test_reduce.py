"""From token values to the loss of an optimizer step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.objective.hand import MASK, PADDING, loss_of
from unisd.objective.divergence import Divergence
from unisd.objective.reduce import reduce_tokens
from unisd.types import StepCounts, TokenLoss

VALUES = [[1.0, 2.0, PADDING], [3.0, 4.0, 5.0]]
WEIGHTS = [[1.0, 0.5, PADDING], [0.5, 0.5, 0.0]]
FORMS: dict[str, dict[str, Any]] = {
    "token_mean": {},
    "sequence_mean": {"reduction": "sequence_mean"},
    "reference": {"reference": True},
}


def reduced(loss: TokenLoss, mask: Tensor = MASK, *, tokens: int = 5, sequences: int = 2, **options: Any) -> Tensor:
    counts = StepCounts(num_tokens=tokens, num_sequences=sequences)
    return reduce_tokens(loss, mask, objective=Divergence(**options), counts=counts)


@pytest.mark.parametrize(
    ("form", "want"),
    [
        ("token_mean", (2.0 + 3.5) / 5),  # row sums of w v over N
        ("sequence_mean", (2.0 / 2 + 3.5 / 3) / 2),  # over T_b, then over S
        ("reference", (2.0 / 1.5 + 3.5 / 1.0) / 2),  # over the sum of weights, at least 1
    ],
)
def test_the_reduction_equals_the_hand_sum(form: str, want: float) -> None:
    assert float(reduced(loss_of(VALUES, WEIGHTS), **FORMS[form])) == pytest.approx(want)


def test_the_reference_form_divides_by_one_where_the_weights_sum_to_less() -> None:
    loss = loss_of([[1.0, 2.0, 3.0]], [[0.2, 0.2, 0.2]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert float(reduced(loss, mask, sequences=1, reference=True)) == pytest.approx(1.2)


@pytest.mark.parametrize("form", FORMS)
def test_padding_gets_a_zero_gradient_and_gives_no_nan(form: str) -> None:
    values = torch.tensor(VALUES, requires_grad=True)
    reduced(loss_of(values, WEIGHTS), **FORMS[form]).backward()
    assert values.grad is not None
    assert values.grad[0, 2] == 0
    assert values.grad[1, 2] == 0  # weight 0
    assert values.grad[MASK].isfinite().all()
    assert values.grad[0, 0] > 0


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_row_adds_nothing_and_no_valid_token_gives_zero(form: str) -> None:
    empty = torch.zeros(1, 3, dtype=torch.bool)
    with_row = reduced(loss_of([*VALUES, [7.0] * 3], [*WEIGHTS, [1.0] * 3]), torch.cat([MASK, empty]), **FORMS[form])
    assert float(with_row) == pytest.approx(float(reduced(loss_of(VALUES, WEIGHTS), **FORMS[form])))
    values = torch.full((1, 3), PADDING, requires_grad=True)
    nothing = reduced(loss_of(values), empty, tokens=0, sequences=0, **FORMS[form])
    nothing.backward()
    assert nothing == 0
    assert values.grad is not None
    assert not values.grad.any()


@pytest.mark.parametrize("form", FORMS)
def test_micro_batches_sum_to_the_value_of_the_whole(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    values, weights = torch.rand(2, 8, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 0, 2, 4, 1, 5])[:, None]
    count = {"tokens": 21, "sequences": 7, **FORMS[form]}
    whole = reduced(TokenLoss(values, weights), mask, **count)
    for size in (1, 2, 4):
        parts = [
            reduced(TokenLoss(*part), part_mask, **count)
            for *part, part_mask in zip(values.split(size), weights.split(size), mask.split(size), strict=True)
        ]
        torch.testing.assert_close(torch.stack(parts).sum(), whole)
