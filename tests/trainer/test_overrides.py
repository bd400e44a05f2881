"""The points where a subclass may step in, and what it must declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.trainer.build import build, gradients, logged, rows
from unisd.objective.divergence import Divergence
from unisd.trainer import SelfDistillTrainer
from unisd.types import Completion, Example, Need, Prompt, TokenLoss, TokenScores, UndeclaredNeed

BY_ONE: dict[str, Any] = {"learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
FIXED: dict[str, Any] = {"backend": "dataset", **BY_ONE}


class Likely(SelfDistillTrainer):
    """Adds half the negative log-probability of the completion."""

    needs: ClassVar[Need] = Need.STUDENT_LOGP

    def compute_token_losses(self, scores: TokenScores) -> dict[str, TokenLoss]:
        losses = super().compute_token_losses(scores)
        values = -0.5 * scores.student_logp
        return {**losses, "likely": TokenLoss(values, torch.ones_like(values))}


class LikelyWhereSure(Likely):
    """Weights that by the teacher's certainty."""

    needs: ClassVar[Need] = Need.TEACHER_ENTROPY

    def compute_token_losses(self, scores: TokenScores) -> dict[str, TokenLoss]:
        losses = super().compute_token_losses(scores)
        losses["likely"] = losses["likely"].reweighted(torch.exp(-scores.teacher_entropy))
        return losses


class Undeclared(Likely):
    """Reads what nobody in its chain declares."""

    def compute_token_losses(self, scores: TokenScores) -> dict[str, TokenLoss]:
        return {"entropy": TokenLoss(scores.teacher_entropy, torch.ones_like(scores.teacher_entropy))}


def test_a_loss_written_by_subclassing_is_added_logged_and_reduced(tmp_path):
    trainer = build(tmp_path, cls=Likely, **FIXED)
    trainer.train()
    (loss,) = logged(trainer, "loss")
    (divergence,), (likely,) = logged(trainer, "loss/divergence"), logged(trainer, "loss/likely")
    assert likely > 1.0
    assert loss == pytest.approx(divergence + likely, rel=1e-5)


def test_a_loss_of_its_own_needs_no_divergence_and_no_component(tmp_path):
    keywords = {"objective": Divergence("none"), "components": []}
    trainer = build(tmp_path, cls=Likely, keywords=keywords, train=[Example("Say red", completion="red")], **FIXED)
    assert not trainer.plan.has_teacher
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx(logged(trainer, "loss/likely"))
    with pytest.raises(ValueError, match="nothing to train on"):
        build(tmp_path, keywords=keywords)


def test_the_needs_of_a_chain_of_subclasses_are_united(tmp_path):
    trainer = build(tmp_path, cls=LikelyWhereSure, **FIXED)
    yields = {one.weights: one.yields for one in trainer.plan.passes}
    assert "student_logp" in yields["student"]
    assert "teacher_entropy" in yields["teacher"]
    trainer.train()
    assert logged(trainer, "teacher_entropy")[0] > 0.1
    plain = build(tmp_path, **FIXED)
    assert "student_logp" not in plain.plan.passes[0].yields


def test_reading_what_is_not_declared_says_what_to_add(tmp_path):
    trainer = build(tmp_path, cls=Undeclared, **FIXED)
    with pytest.raises(
        UndeclaredNeed, match=r"reads teacher_entropy but does not declare it\. Add Need.TEACHER_ENTROPY"
    ):
        trainer.train()


class Shouted(SelfDistillTrainer):
    """The teacher alone sees the prompt in capitals."""

    def build_views(self, example: Example) -> dict[str, Prompt]:
        return {"prompt": example.prompt, "privileged": str(example.prompt).upper()}


def test_the_views_can_be_built_otherwise(tmp_path):
    # Nothing but the override makes a teacher's view of these rows.
    trainer = build(tmp_path, cls=Shouted, train=[Example("Say red", completion="red")], **FIXED)
    (batch,), _ = trainer.get_batch_samples(iter([trainer.train_dataset]), 1, trainer.args.device)
    decoded = {name: trainer.processing_class.decode(view.ids[0]) for name, view in batch.views.items()}
    assert decoded == {"prompt": "Say red", "privileged": "SAY RED"}
    trainer.train()
    assert logged(trainer, "loss")[0] > 0.01


class Parrot(SelfDistillTrainer):
    """Every completion repeats the first three ids of its prompt."""

    def generate(self, prompts: list[list[int]], *, seed: int, greedy: bool = False) -> list[Completion]:
        return [Completion(prompt[:3], [-1.0] * 3, is_finished=False) for prompt in prompts]


def test_completions_can_be_sampled_otherwise(tmp_path):
    trainer = build(tmp_path, cls=Parrot, keywords={"eval_dataset": rows(2)})
    trainer.train()
    assert logged(trainer, "completions/mean_length") == [3.0]
    assert logged(trainer, "sampler_logp") == [-1.0]
    assert trainer.evaluate()["eval_completions/mean_length"] == 3.0


class Doubled(SelfDistillTrainer):
    """Twice the loss, and the divergence of the first token as a metric of its own."""

    def reduce(self, token_losses: Mapping[str, TokenLoss], scores: TokenScores) -> Tensor:
        return 2 * super().reduce(token_losses, scores)

    def log_metric(self, name: str, values: Tensor, mask: Tensor | None, **keywords: Any) -> None:
        super().log_metric(name, values, mask, **keywords)
        if name == "divergence" and mask is not None:
            super().log_metric("first_divergence", values[:, :1], mask[:, :1], **keywords)


def test_the_reduction_and_the_metrics_can_be_changed(tmp_path):
    plain, doubled = build(tmp_path, **FIXED), build(tmp_path, cls=Doubled, **FIXED)
    once, twice = gradients(plain), gradients(doubled)
    assert logged(doubled, "loss") == pytest.approx([2 * loss for loss in logged(plain, "loss")])
    for name, gradient in once.items():
        torch.testing.assert_close(twice[name], 2 * gradient, rtol=1e-4, atol=1e-6)
    assert logged(doubled, "divergence") == logged(plain, "divergence")
    assert logged(doubled, "first_divergence") != logged(doubled, "divergence")
