"""The ceiling of the main term."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.objective.hand import MASK, PADDING, loss_of, scores_of
from unisd.objective.clip import DivergenceClip, check_clippable, default_components
from unisd.objective.divergence import Divergence

VALUES = [[0.0, 1.0, PADDING], [2.0, 3.0, 8.0]]
NO_SCORES = scores_of()


def clipped(clip: DivergenceClip, values: list[list[float]] | Tensor = VALUES, **scores: Any) -> Tensor:
    return clip(loss_of(values), scores_of(**scores)).values[MASK]


def test_a_ceiling_cuts_what_is_above_it() -> None:
    assert clipped(DivergenceClip(ceiling=2.5)).tolist() == [0.0, 1.0, 2.0, 2.5, 2.5]


@pytest.mark.parametrize(
    ("quantile", "ceiling"),
    # Sorted: 0 1 2 3 8, at the positions 0 1/4 2/4 3/4 1; between them, linear.
    [(0.5, 2.0), (0.875, 5.5), (0.1, 0.4)],
)
def test_a_quantile_is_taken_over_the_valid_tokens(quantile: float, ceiling: float) -> None:
    want = torch.tensor([0.0, 1.0, 2.0, 3.0, 8.0]).clamp(max=ceiling)
    torch.testing.assert_close(clipped(DivergenceClip(quantile=quantile)), want)


def test_a_quantile_sees_the_tokens_of_all_processes() -> None:
    # With 10 and 10 from elsewhere the median of seven is 3.
    values = clipped(DivergenceClip(quantile=0.5), gather=lambda mine: torch.cat([mine, torch.tensor([10.0, 10.0])]))
    assert values.tolist() == [0.0, 1.0, 2.0, 3.0, 3.0]


def test_a_quantile_never_cuts_below_a_millionth_of_a_nat() -> None:
    values = clipped(DivergenceClip(quantile=0.5), [[0.0, 0.0, PADDING], [0.0, 0.5, 0.5]])
    torch.testing.assert_close(values, torch.tensor([0.0, 0.0, 0.0, 1e-6, 1e-6]), rtol=1e-5, atol=0)


def test_without_a_valid_token_a_quantile_changes_nothing() -> None:
    loss = loss_of([[1.0, 2.0, 3.0]])
    scores = scores_of(mask=torch.zeros(1, 3, dtype=torch.bool))
    assert torch.equal(DivergenceClip(quantile=0.5)(loss, scores).values, loss.values)


@pytest.mark.parametrize(
    "clip", [DivergenceClip(ceiling=2.0), DivergenceClip(quantile=0.5)], ids=["ceiling", "quantile"]
)
def test_a_clipped_token_has_no_gradient_and_every_other_its_own(clip: DivergenceClip) -> None:
    # Both ceilings are 2: the token that equals it is not cut, and keeps all of its gradient.
    values = torch.tensor(VALUES, requires_grad=True)
    clipped(clip, values).sum().backward()
    assert values.grad is not None
    assert values.grad[MASK].tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_clipping_keeps_the_weights_and_logs_which_tokens_it_cut() -> None:
    clip = DivergenceClip(ceiling=2.5)
    before = loss_of(VALUES, torch.full((2, 3), 0.5))
    after = clip(before, NO_SCORES)
    assert torch.equal(after.weights, before.weights)
    assert clip.metrics(before, after, NO_SCORES)["clipped"][MASK].tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "divergence_clip takes one of ceiling and quantile, got neither. Set ceiling: 10"),
        ({"ceiling": 10.0, "quantile": 0.9}, "got both"),
        ({"ceiling": 0.0}, "ceiling must be positive, got 0.0. To switch clipping off, remove the component"),
        ({"ceiling": float("nan")}, "got nan"),
        ({"quantile": 1.0}, "quantile must lie between 0 and 1, got 1.0"),
        ({"quantile": 0.0}, "got 0.0"),
    ],
)
def test_a_ceiling_without_meaning_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DivergenceClip(**options)


def test_a_run_that_names_no_components_has_a_clip_where_there_are_divergences_to_clip() -> None:
    assert default_components(Divergence()) == [DivergenceClip(ceiling=10.0)]
    sampled = Divergence("reverse_kl", support="sampled")
    assert default_components(sampled) == default_components(Divergence("none")) == []
    with pytest.raises(ValueError, match="mine cannot clip objective.support: sampled"):
        check_clippable(sampled, {"mine": DivergenceClip(ceiling=1.0)})
