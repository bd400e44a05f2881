"""`objective.normalize_weights`: the weights of the main term are divided by their mean over the optimizer step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.objective.hand import PADDING, scores_of
from tests.trainer.build import build, logged, rows_in_contexts, scored_sequences
from unisd.config.errors import ConfigError
from unisd.config.load import load_config
from unisd.mean_weight import check_weights_known
from unisd.objective import Agreement, Contrastive, CrossEntropy, DivergenceClip, TokenFilter
from unisd.objective.divergence import Divergence
from unisd.options import Gate
from unisd.scoring.plan import plan_passes
from unisd.step import Step
from unisd.teacher import LiveTeacher
from unisd.trainer import SelfDistillTrainer
from unisd.types import Need, StepCounts, TokenLoss, TokenScores, Transform

# Weights 1 1/2 | 1/2 1 4/5: their sum is 3.8, the sum of weight times divergence 1 + 1 | 1.5 + 4 + 4.
VIEWS = [[[-1.0, -2.0, PADDING], [-3.0, -1.0, -5.0]], [[-1.0, -4.0, PADDING], [-5.0, -1.0, -4.0]]]
DIVERGENCE = [[1.0, 2.0, PADDING], [3.0, 4.0, 5.0]]
LOGP = [[-1.0, -1.0, PADDING], [-1.0, -2.0, -1.0]]


def loss_of(reduction: Any, mean_weight: float | None, *added: Any) -> float:
    """Of the tokens above; the mean weight of their step is given."""
    counts = StepCounts(5, 2, None if mean_weight is None else torch.tensor(mean_weight))
    scores = scores_of(divergence=DIVERGENCE, auxiliary_logp=VIEWS, student_logp=LOGP, counts=counts)
    components = {"agreement": Agreement(), **{str(number): one for number, one in enumerate(added)}}
    step = Step(plan_passes([]), LiveTeacher(), Divergence(reduction=reduction), components)
    return float(step.reduce(step.token_losses(scores, lambda *_, **__: None), scores))


def test_the_loss_is_the_weighted_mean_of_the_tokens() -> None:
    assert loss_of("token_mean", None) == pytest.approx(11.5 / 5)
    assert loss_of("token_mean", 3.8 / 5) == pytest.approx(11.5 / 3.8)


def test_by_sequence_it_is_the_weighted_mean_of_tokens_that_count_by_the_length_of_their_sequence() -> None:
    # 1/T_b as in the reduction: values (2 / 2 + 9.5 / 3), weights (1.5 / 2 + 2.3 / 3).
    mean = (1.5 / 2 + 2.3 / 3) / 2
    assert loss_of("sequence_mean", mean) == pytest.approx((2 / 2 + 9.5 / 3) / (1.5 / 2 + 2.3 / 3))


def test_added_terms_are_divided_only_when_they_take_the_weights() -> None:
    main = 11.5 / 3.8
    assert loss_of("token_mean", 3.8 / 5, CrossEntropy()) == pytest.approx(main + 6 / 5)
    # 1 + 1/2 | 1/2 + 2 + 4/5
    assert loss_of("token_mean", 3.8 / 5, CrossEntropy(weighted=True)) == pytest.approx(main + 4.8 / 3.8)


def test_a_step_whose_weights_are_all_zero_has_loss_zero() -> None:
    @dataclass(frozen=True)
    class Nothing(Transform):
        needs: ClassVar[Need] = Need()

        def __call__(self, loss: TokenLoss, scores: TokenScores) -> TokenLoss:
            return loss.reweighted(torch.zeros_like(loss.weights))

    assert loss_of("token_mean", 0.0, Nothing()) == 0.0


class Watched(SelfDistillTrainer):
    """Keeps the divergence and the weights, not normalised, of every valid token, by micro-batch."""

    def compute_token_losses(self, scores: TokenScores) -> dict[str, TokenLoss]:
        if not hasattr(self, "seen"):
            self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        ones = torch.ones_like(scores.divergence)
        weights = self.step.transformed(TokenLoss(ones, ones), scores).weights
        self.seen.append((scores.divergence.detach(), weights, scores.mask))
        return super().compute_token_losses(scores)


def mean_by_hand(seen: list[tuple[Tensor, Tensor, Tensor]], reduction: str) -> float:
    top = bottom = 0.0
    for values, weights, mask in seen:
        for row in range(len(mask)):
            share = 1.0 if reduction == "token_mean" else 1.0 / max(int(mask[row].sum()), 1)
            top += share * float((weights[row] * values[row])[mask[row]].sum())
            bottom += share * float(weights[row][mask[row]].sum())
    return top / bottom


@pytest.mark.parametrize("include_primary", [False, True])
@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
def test_the_mean_is_that_of_all_micro_batches_and_known_before_the_students_pass(
    reduction: Any, include_primary: bool, tmp_path
) -> None:
    agreement = Agreement(strength=5.0, include_primary=include_primary)
    trainer: Any = build(
        tmp_path,
        cls=Watched,
        train=rows_in_contexts(8),
        keywords={
            "objective": Divergence(reduction=reduction, normalize_weights=True),
            "components": [agreement, DivergenceClip(quantile=0.999)],
            "eval_dataset": rows_in_contexts(4),
        },
        backend="dataset",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    with scored_sequences(trainer) as sizes:
        trainer.train()
    weights = torch.cat([weights[mask] for _, weights, mask in trainer.seen])
    assert weights.min() < 0.95
    # The quantile cuts less than a thousandth.
    assert logged(trainer, "loss")[0] == pytest.approx(mean_by_hand(trainer.seen, reduction), rel=2e-3)
    assert ("ahead, for the mean weight" in trainer.plan.text()) == include_primary
    # Each auxiliary sequence is scored once, ahead of all others; the privileged logp costs a pass of its own.
    ahead = [4, 2] if include_primary else [4]
    assert sizes == ahead * 4 + [2, 2] * 4

    trainer.seen.clear()
    evaluated = trainer.evaluate()["eval_loss"]
    assert evaluated == pytest.approx(mean_by_hand(trainer.seen, reduction), rel=2e-3)


def test_gated_sequences_count_with_weight_one_and_sampled_weights_may_be_used(tmp_path) -> None:
    @dataclass(frozen=True)
    class Surprising(Transform):
        """Twice the weight where the sampler was surprised."""

        needs: ClassVar[Need] = Need.SAMPLER_LOGP

        def __call__(self, loss: TokenLoss, scores: TokenScores) -> TokenLoss:
            return loss.reweighted(1.0 + (scores.sampler_logp < -5.0).float())

    trainer: Any = build(
        tmp_path,
        cls=Watched,
        train=rows_in_contexts(8),
        keywords={
            "objective": Divergence(normalize_weights=True),
            "components": [Agreement(strength=5.0, include_primary=True), Surprising()],
            "gates": {"auxiliary": Gate("sampler_nll", 0.25)},
        },
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        temperature=1.0,
    )
    trainer.train()
    weights = torch.cat([weights[mask] for _, weights, mask in trainer.seen])
    assert weights.max() == 2.0
    assert weights.min() < 1.0
    assert logged(trainer, "auxiliary/passes_saved") == [0.75]
    assert logged(trainer, "loss")[0] == pytest.approx(mean_by_hand(trainer.seen, "token_mean"), rel=1e-5)


@contextmanager
def refused(message: str) -> Iterator[None]:
    with pytest.raises(ValueError, match=message):
        yield


def test_weights_that_wait_for_the_student_and_weights_that_nobody_sets_are_refused() -> None:
    agreement = {"agreement": Agreement()}
    check_weights_known({**agreement, "divergence_clip": DivergenceClip(ceiling=1.0), "more": CrossEntropy()}, {})
    check_weights_known(agreement, {"auxiliary": Gate("sampler_nll"), "negative": Gate("student_entropy")})
    with refused("no component sets any. Remove it, or add a component such as agreement"):
        check_weights_known({"divergence_clip": DivergenceClip(ceiling=1.0), "contrastive": Contrastive()}, {})
    with refused("token_filter reads what only that pass yields; before it there are teacher_logp, auxiliary_logp"):
        check_weights_known({**agreement, "token_filter": TokenFilter(0.5)}, {})
    with refused("agreement reads auxiliary_logp, which contexts.auxiliary.gate.signal: student_entropy scores after"):
        check_weights_known(agreement, {"auxiliary": Gate("student_entropy")})


def test_the_refusals_come_from_the_file_and_from_the_trainer_before_a_model_is_looked_at(tmp_path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: {name_or_path: owner/name}\n"
        "objective: {normalize_weights: true}\n"
        "components: [{type: agreement}, {type: token_filter, fraction: 0.5}]\n"
        "contexts: {auxiliary: {type: column}}\n"
    )
    with pytest.raises(ConfigError, match=r"but components\[1\] \(token_filter\) reads what only that pass yields"):
        load_config(path)
    config = load_config(path, ["components=[{type: agreement}]"])
    assert config.objective.normalize_weights
    gated = ["components=[{type: agreement}]", "contexts.auxiliary.gate={signal: student_entropy}"]
    with pytest.raises(ConfigError, match=r"components\[0\] \(agreement\) reads auxiliary_logp, which contexts.aux"):
        load_config(path, gated)
    with refused("no component sets any"):
        build(tmp_path, keywords={"objective": config.objective, "components": []})


def test_nothing_is_scored_ahead_unless_weights_are_normalised(tmp_path) -> None:
    trainer: Any = build(tmp_path, train=rows_in_contexts(4), keywords={"components": [Agreement()]}, backend="dataset")
    (batch,), _ = trainer.get_batch_samples(iter([trainer.train_dataset]), 1, trainer.args.device)
    assert batch.counts.mean_weight is None
    assert batch.scored_ahead == {}
