"""Only the most uncertain tokens of a sequence keep their weight."""

from __future__ import annotations

import pytest
import torch

from tests.objective.hand import PADDING, loss_of, scores_of
from unisd.objective.divergence import Divergence
from unisd.objective.reduce import reduce_tokens
from unisd.objective.token_filter import TokenFilter

ENTROPY = [[1.0, 2.0, PADDING], [3.0, 1.0, 2.0]]


@pytest.mark.parametrize(
    ("fraction", "kept"),
    [
        (1 / 3, [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),  # ceil(2/3) = 1 of 2, 1 of 3
        (0.5, [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]),  # 1 of 2, ceil(1.5) = 2 of 3
        (1.0, [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]),
    ],
)
def test_the_most_uncertain_tokens_of_each_sequence_keep_their_weight(fraction: float, kept: list[list[float]]) -> None:
    weights = TokenFilter(fraction)(loss_of(torch.ones(2, 3)), scores_of(student_entropy=ENTROPY)).weights
    assert weights.tolist() == kept


def test_the_filter_multiplies_into_the_weights_and_leaves_the_denominator() -> None:
    scores = scores_of(student_entropy=ENTROPY)
    loss = loss_of([[10.0, 20.0, PADDING], [30.0, 40.0, 50.0]], [[0.5, 0.5, PADDING], [0.5, 0.5, 0.5]])
    filtered = TokenFilter(0.5)(loss, scores)
    # (20 + 30 + 50) / 2 over N = 5, as without the filter
    assert reduce_tokens(filtered, scores.mask, objective=Divergence(), counts=scores.counts) == 10.0


def test_of_equally_uncertain_tokens_the_earlier_stay() -> None:
    mask = torch.ones(1, 40, dtype=torch.bool)
    mask[0, 25:] = False
    weights = TokenFilter(0.28)(
        loss_of(torch.ones(1, 40)), scores_of(mask=mask, student_entropy=torch.ones(1, 40))
    ).weights
    # 0.28 * 25 in floating point is a little over 7.
    assert weights[0].tolist() == [1.0] * 7 + [0.0] * 33


def test_the_filter_passes_no_gradient_to_the_entropy() -> None:
    entropy = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    values = torch.tensor([[1.0, 1.0, 1.0]], requires_grad=True)
    loss = TokenFilter(1 / 3)(
        loss_of(values), scores_of(mask=torch.ones(1, 3, dtype=torch.bool), student_entropy=entropy)
    )
    (loss.values * loss.weights).sum().backward()
    assert entropy.grad is None
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, 0.0, 1.0]]


def test_the_filter_logs_which_tokens_it_kept() -> None:
    scores, before = scores_of(student_entropy=ENTROPY), loss_of(torch.ones(2, 3))
    keep = TokenFilter(0.5)
    assert keep.metrics(before, keep(before, scores), scores)["kept"].tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]


@pytest.mark.parametrize("fraction", [0.0, 1.5, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"token_filter.fraction must lie in \\(0, 1\\], got {fraction}"):
        TokenFilter(fraction)
