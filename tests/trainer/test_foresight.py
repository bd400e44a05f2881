"""The trainer tells the kernels what its loss will make of each token: several terms then cost one gradient."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.build import build, gradients, lora, rows_in_contexts
from unisd.kernels import autograd
from unisd.objective import Agreement, Contrastive, CrossEntropy, DivergenceClip, TokenFilter
from unisd.objective.divergence import Divergence
from unisd.trainer import SelfDistillTrainer
from unisd.types import Loss, TokenLoss, TokenScores, Transform

STORED, CACHED, PREDICTED = "StoredGradients", "CachedGradients", "PredictedGradients"
CLIP, HINGE = DivergenceClip(ceiling=1.0), Contrastive(form="directional", coefficient=0.5)


class WithOwnLoss(SelfDistillTrainer):
    def compute_token_losses(self, scores: TokenScores) -> dict[str, TokenLoss]:
        losses = super().compute_token_losses(scores)
        return {name: TokenLoss(3 * loss.values, loss.weights) for name, loss in losses.items()}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each way to a gradient was taken, and how many predictions were wrong."""
    counts: Counter[str] = Counter()
    for name in (STORED, CACHED, PREDICTED):
        way, forward = getattr(autograd, name), getattr(autograd, name).forward

        def counted(*given: Any, name: str = name, forward: Any = forward) -> Any:
            counts[name] += 1
            return forward(*given)

        monkeypatch.setattr(way, "forward", staticmethod(counted))
    only = autograd.Work.only

    def counted_repair(work: Any, index: Any) -> Any:
        counts["repaired"] += len(index)
        return only(work, index)

    monkeypatch.setattr(autograd.Work, "only", counted_repair)
    return counts


@pytest.mark.parametrize(
    ("components", "has_adapter", "way"),
    [
        ([CLIP], True, STORED),
        ([CLIP, Agreement(strength=1.0), HINGE], True, PREDICTED),
        ([CLIP, CrossEntropy(weighted=True), Agreement(strength=1.0)], False, PREDICTED),
        ([DivergenceClip(quantile=0.7), HINGE], True, STORED),
        ([DivergenceClip(quantile=0.7), HINGE], False, CACHED),
        ([CLIP, HINGE, TokenFilter(fraction=0.5)], False, CACHED),
        ([CLIP, HINGE, Agreement("sequence")], False, CACHED),
    ],
)
@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
def test_the_cheapest_way_that_the_components_allow_is_taken(
    tmp_path: Path, taken: Counter[str], components: list[Loss | Transform], has_adapter: bool, way: str, reduction: Any
) -> None:
    keywords = {"components": components, "objective": Divergence(reduction=reduction)}
    keywords |= {"peft_config": lora()} if has_adapter else {}
    build(tmp_path, train=rows_in_contexts(4), keywords=keywords).train()
    assert taken == {way: 1}


def test_a_trainer_with_its_own_loss_is_not_foreseen_and_has_its_gradient(tmp_path: Path, taken: Counter[str]) -> None:
    keywords = {"components": [CLIP, HINGE]}
    once, thrice = (
        gradients(
            build(tmp_path / cls.__name__, train=rows_in_contexts(4), keywords=keywords, cls=cls, max_grad_norm=0)
        )
        for cls in (SelfDistillTrainer, WithOwnLoss)
    )
    assert taken == {PREDICTED: 1, CACHED: 1}
    for name, gradient in once.items():
        assert (thrice[name] - 3 * gradient).abs().max() < 1e-5 * (1 + gradient.abs().max())
