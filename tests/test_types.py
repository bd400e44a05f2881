"""The shared vocabulary: what may be read, how needs unite, and what the Trainer asks of a batch."""

from __future__ import annotations

import pytest
import torch

from unisd.types import (
    Completion,
    Example,
    Need,
    RolloutBatch,
    Signal,
    StepCounts,
    TokenScores,
    UndeclaredNeed,
    View,
)

MASK = torch.tensor([[True, True, False], [False, False, False]])


def all_scores(*, num_views: int = 2) -> TokenScores:
    """Every signal, filled with its own number."""
    signals = {signal: torch.full((2, 3), float(number)) for number, signal in enumerate(Signal)}
    signals[Signal.AUXILIARY_LOGP] = torch.full((num_views, 2, 3), float(list(Signal).index(Signal.AUXILIARY_LOGP)))
    hidden = {layer: torch.full((2, 3, 4), float(layer)) for layer in (-1, 5)}
    return TokenScores(
        mask=MASK,
        completion_ids=torch.zeros(2, 3, dtype=torch.long),
        signals=signals,
        student_hidden=hidden,
        teacher_hidden={layer: -states for layer, states in hidden.items()},
    )


@pytest.mark.parametrize("signal", Signal, ids=lambda signal: signal.name.lower())
def test_a_signal_is_read_where_it_is_declared_and_refused_elsewhere(signal: Signal) -> None:
    name = str(signal.name)
    declared = all_scores().read_by("mine", Need(signal))
    assert getattr(declared, name.lower()).flatten()[0] == list(Signal).index(signal)
    others = Need(~signal, frozenset({-1}))
    with pytest.raises(UndeclaredNeed, match=f"mine reads {name.lower()} but .* Add Need.{name} to its `needs`"):
        getattr(all_scores().read_by("mine", others), name.lower())


def test_hidden_states_are_read_by_the_layers_that_are_declared() -> None:
    readable = all_scores().read_by("mine", Need.hidden(5) | Need.STUDENT_LOGP)
    assert list(readable.student_hidden) == [5]
    assert readable.teacher_hidden[5][0, 0, 0] == -5
    with pytest.raises(UndeclaredNeed, match="mine reads hidden states .* Add Need.hidden"):
        _ = all_scores().read_by("mine", Need.STUDENT_LOGP).teacher_hidden


def test_a_signal_that_the_passes_do_not_hold_has_an_error_of_its_own() -> None:
    scores = TokenScores(mask=MASK, completion_ids=torch.zeros(2, 3, dtype=torch.long), signals={})
    with pytest.raises(UndeclaredNeed, match="this component reads student_logp .* Add Need.STUDENT_LOGP"):
        _ = scores.student_logp
    with pytest.raises(ValueError, match="mine reads sampler_logp, but nothing in this run yields it. .*backend: hf"):
        _ = scores.read_by("mine", Need.SAMPLER_LOGP).sampler_logp
    assert not scores.has(Need.STUDENT_LOGP)
    assert not scores.has(Need.hidden(-1))
    assert all_scores().has(Need.STUDENT_LOGP | Need.hidden(-1, 5))


def test_scores_count_their_own_tokens_unless_the_step_is_larger() -> None:
    assert all_scores().counts == StepCounts(num_tokens=2, num_sequences=1)
    assert all_scores().read_by("mine", Need()).counts == StepCounts(2, 1)


def test_needs_unite_and_contain_each_other() -> None:
    both = Need.STUDENT_LOGP | Need.hidden(-1) | Need.hidden(5)
    assert both == Need(Signal.STUDENT_LOGP, frozenset({-1, 5}))
    assert Need.STUDENT_LOGP in both
    assert Need.hidden(5) in both
    assert Need.hidden(5, 6) not in both
    assert Need.TEACHER_LOGP not in both
    assert not Need()
    assert Need.hidden(0)


def batch_of(*, sampler_logp: torch.Tensor | None) -> RolloutBatch:
    ids, mask, rows = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool), torch.arange(2)
    return RolloutBatch(
        views={"prompt": View(ids, mask, rows), "privileged": View(ids, mask, rows)},
        completion_ids=ids,
        completion_mask=mask,
        mask=mask,
        sampler_logp=sampler_logp,
        counts=StepCounts(6, 2),
        examples=[Example("a"), Example("b")],
        completions=[Completion([0, 0, 0], None, is_finished=False)] * 2,
        seconds=1.5,
    )


def test_a_batch_has_a_length_answers_in_and_is_not_a_mapping() -> None:
    batch = batch_of(sampler_logp=None)
    assert len(batch) == 2
    assert "input_ids" not in batch
    assert "views" not in batch


@pytest.mark.parametrize("sampler_logp", [None, torch.zeros(2, 3)], ids=["data set", "sampled"])
def test_a_batch_moves_every_tensor_it_holds(sampler_logp: torch.Tensor | None) -> None:
    batch = batch_of(sampler_logp=sampler_logp)
    moved = batch.to("meta")
    views = [tensor for view in moved.views.values() for tensor in (view.ids, view.mask, view.rows)]
    tensors = [*views, moved.completion_ids, moved.completion_mask, moved.mask, moved.sampler_logp]
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}
    assert (moved.sampler_logp is None) == (sampler_logp is None)
    assert list(moved.views) == ["prompt", "privileged"]
    assert (moved.counts, moved.examples, moved.completions, moved.seconds) == (
        batch.counts, batch.examples, batch.completions, 1.5,
    )  # fmt: skip
    assert batch.mask.device.type == "cpu"
