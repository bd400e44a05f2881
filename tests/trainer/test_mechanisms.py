"""Agreement, contrast, feature matching and their gates in a trainer: what they change, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.build import build, gradients, logged, lora, parameters, rows_in_contexts, scored_sequences
from unisd.objective import Agreement, Contrastive, FeatureMatch
from unisd.objective.divergence import Divergence
from unisd.options import Gate
from unisd.teacher import TEACHERS

ONE_STEP: dict[str, Any] = {"learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
SIGNALS = ["sampler_nll", "student_entropy"]
COMPONENTS = {
    "agreement": Agreement(),
    "contrastive": Contrastive(form="directional", coefficient=0.5),
}


def trainer_of(folder: Any, components: list[Any], *, train: Any = None, **arguments: Any) -> Any:
    keywords = {"components": components, **arguments.pop("keywords", {})}
    return build(folder, train=train or rows_in_contexts(8), keywords=keywords, **arguments)


def norm(tensors: dict[str, Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors.values()]).norm())


# The last one waits for the student's pass, and then lets ceil(0.99 * 4) of 4 sequences through.
FOR_ALL = [Gate("sampler_nll", 1.0), Gate("student_entropy", 1.0), Gate("student_entropy", 0.99)]


@pytest.mark.parametrize("for_all", FOR_ALL, ids=str)
@pytest.mark.parametrize("name", COMPONENTS)
def test_a_gate_for_all_sequences_is_no_gate_bit_for_bit(name: str, for_all: Gate, tmp_path) -> None:
    ends = []
    for gate in (None, for_all):
        context = "auxiliary" if name == "agreement" else "negative"
        keywords = {"gates": {context: gate} if gate else {}}
        trainer = trainer_of(tmp_path, [COMPONENTS[name]], keywords=keywords, max_steps=2, learning_rate=0.5)
        # What is known before the student's pass may open a shorter way to its gradient: one way for both.
        trainer.step = replace(trainer.step, is_loss_known=for_all.fraction == 1)
        start = parameters(trainer)
        trainer.train()
        assert logged(trainer, f"{context}/passes_saved") == [0.0, 0.0]
        ends.append(parameters(trainer))
    assert any(not torch.equal(ends[0][one], start[one]) for one in start)
    assert all(torch.equal(ends[0][one], ends[1][one]) for one in start)


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_gate_at_a_quarter_scores_a_quarter_of_the_sequences_and_logs_what_it_saved(signal: Any, tmp_path) -> None:
    def extra_sequences(gates: dict[str, Gate], components: list[Any]) -> int:
        trainer = trainer_of(tmp_path, components, keywords={"gates": gates}, gradient_accumulation_steps=2)
        with scored_sequences(trainer) as sizes:
            trainer.train()
        for context in gates:
            assert logged(trainer, f"{context}/passes_saved") == [0.75]
        # Eight sequences of the student under its prompt, eight of the teacher under the privileged view.
        return sum(sizes) - 16

    quarter = Gate(signal, 0.25)
    agreement, contrastive = [COMPONENTS["agreement"]], [COMPONENTS["contrastive"]]
    assert extra_sequences({}, agreement) == 2 * 8
    assert extra_sequences({"auxiliary": quarter}, agreement) == 2 * 2
    assert extra_sequences({}, contrastive) == 8
    assert extra_sequences({"negative": quarter}, contrastive) == 2
    both = agreement + contrastive
    assert extra_sequences({"auxiliary": quarter, "negative": quarter}, both) == 3 * 2


@pytest.mark.parametrize("is_checkpointed", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_teacher_passes_after_the_students_leave_its_gradient_as_it_was(
    teacher: str, kind: str, is_checkpointed: bool, tmp_path
) -> None:
    options = {"decay": 0.5, "every": 1} if teacher == "ema" else {}
    ends = []
    # A strength of zero scores the views and makes every weight 1.
    for components in ([], [Agreement(strength=0.0)]):
        trainer = trainer_of(
            tmp_path,
            components,
            keywords={
                "teacher": TEACHERS[teacher](**options),
                "gates": {"auxiliary": Gate("student_entropy", 0.5)} if components else {},
                "peft_config": lora(lora_dropout=0.2) if kind == "lora" else None,
            },
            gradient_checkpointing=is_checkpointed,
            learning_rate=0.5,
            max_steps=2,
        )
        # One way to the gradient for both, as above.
        trainer.step = replace(trainer.step, is_loss_known=False)
        start = parameters(trainer)
        with scored_sequences(trainer) as sizes:
            trainer.train()
        ends.append((parameters(trainer), sizes))
    (plain, without), (scored, with_views) = ends
    # The last pass of every step is that of two sequences under two views.
    assert with_views[2::3] == [4, 4]
    assert with_views[0::3] + with_views[1::3] == without[0::2] + without[1::2] == [4] * 4
    assert any(not torch.equal(plain[name], start[name]) for name in start)
    assert all(torch.equal(plain[name], scored[name]) for name in start)


@pytest.mark.parametrize("granularity", ["token", "sequence"])
@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
def test_contexts_that_disagree_give_a_smaller_loss_and_gradient_than_contexts_that_agree(
    granularity: Any, reduction: Any, tmp_path
) -> None:
    measured = []
    for do_agree in (True, False):
        trainer = trainer_of(
            tmp_path,
            [Agreement(granularity=granularity, strength=5.0)],
            train=rows_in_contexts(4, do_agree=do_agree),
            keywords={"objective": Divergence(reduction=reduction)},
            backend="dataset",
            **ONE_STEP,
        )
        gradient = norm(gradients(trainer))
        measured.append((logged(trainer, "loss")[0], gradient))
    (agreeing_loss, agreeing_gradient), (loss, gradient) = measured
    assert 0 < loss < 0.99 * agreeing_loss
    assert 0 < gradient < 0.99 * agreeing_gradient


def test_the_published_reduction_gives_both_sets_of_contexts_the_same_loss_and_gradient(tmp_path) -> None:
    # Measured on the published code as well (docs/deviations.md): its agreement by sequence does nothing.
    measured = []
    for do_agree in (True, False):
        trainer = trainer_of(
            tmp_path,
            [Agreement(granularity="sequence", strength=5.0)],
            train=rows_in_contexts(4, do_agree=do_agree),
            keywords={"objective": Divergence(reference=True)},
            backend="dataset",
            **ONE_STEP,
        )
        measured.append((gradients(trainer), logged(trainer, "loss")[0], logged(trainer, "agreement/weight_min")[0]))
    (agreeing, agreeing_loss, one), (disagreeing, loss, weight) = measured
    assert weight < 0.99 * one
    assert loss == pytest.approx(agreeing_loss, rel=1e-5)
    difference = {name: agreeing[name] - disagreeing[name] for name in agreeing}
    assert norm(difference) < 1e-4 * norm(agreeing)


def test_a_row_without_a_negative_takes_part_in_the_rest_of_the_loss(tmp_path) -> None:
    train = rows_in_contexts(4)
    train[1] = replace(train[1], negative_context=None)
    components = [Contrastive(margin=9.0)]
    trainer = trainer_of(tmp_path, components, train=train, backend="dataset")
    with scored_sequences(trainer) as sizes:
        trainer.train()
    assert sizes == [4, 3, 4]
    assert logged(trainer, "negative/passes_saved") == [0.25]
    whole = trainer_of(tmp_path, components, train=rows_in_contexts(4), backend="dataset")
    whole.train()
    assert logged(trainer, "loss/divergence") == logged(whole, "loss/divergence")
    assert 0 < logged(trainer, "contrastive/active")[0] < logged(whole, "contrastive/active")[0] == 1.0


@pytest.mark.parametrize("layers", [(2,), (-1, -3)], ids=str)
def test_a_layer_that_the_model_does_not_have_is_refused_before_training(layers: tuple[int, ...], tmp_path) -> None:
    message = (
        f"feature_match.layers: there is no layer {min(layers, key=lambda one: -abs(one))}, the model has 2 blocks"
    )
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, [FeatureMatch(layers=layers)])
    trainer_of(tmp_path, [FeatureMatch(layers=(-1, 1))])
