"""How far a model has moved, against the sums over the vocabulary of each sequence alone."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.evaluate.scene import options_in
from tests.evaluate.test_likelihood import log_probs
from unisd.evaluate.likelihood import Sequences
from unisd.evaluate.retention import MAX_PROMPTS, BaseModel, drift, prompt_drift
from unisd.evaluate.run import evaluate

SEQUENCES = Sequences([[5, 6, 7], [4], [9, 9]], [[10, 11, 12], [13], [14, 15]])


def adapted(model):
    """The model with an adapter that changes it."""
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj", "v_proj"]))


def test_a_model_has_not_moved_from_itself(tiny_model, tiny_tokenizer):
    measured = drift(tiny_model(), tiny_tokenizer, BaseModel("same", tiny_model()), SEQUENCES, label="x")
    assert measured.num_tokens == 6
    assert measured.jsd == pytest.approx(0, abs=1e-7)
    assert measured.base_logp == measured.tuned_logp


def test_drift_equals_the_means_by_hand(tiny_model, tiny_tokenizer):
    tuned, base = tiny_model(seed=0), tiny_model(seed=1)
    rows = [(log_probs(tuned, *pair), log_probs(base, *pair), pair[1]) for pair in pairs(SEQUENCES)]
    halves = [(mine, theirs, torch.logaddexp(mine, theirs) - math.log(2)) for mine, theirs, _ in rows]
    jsd = torch.cat(
        [(m.exp() * (m - mid) + t.exp() * (t - mid)).sum(-1) / 2 for m, t, mid in halves]  # (T,) each
    )
    measured = drift(tuned, tiny_tokenizer, BaseModel("other", base), SEQUENCES, label="x")
    assert measured.jsd == pytest.approx(jsd.mean().item(), rel=1e-5)
    assert 0.05 < measured.jsd < math.log(2)
    for place, value in ((0, measured.tuned_logp), (1, measured.base_logp)):
        logp = torch.cat([row[place][range(len(row[2])), row[2]] for row in rows])
        assert value == pytest.approx(logp.mean().item(), rel=1e-5)


def pairs(sequences: Sequences) -> list[tuple[list[int], list[int]]]:
    return list(zip(sequences.prompts, sequences.completions, strict=True))


def test_the_adapter_switched_off_is_the_base_and_comes_back_as_it_was(tiny_model, tiny_tokenizer, tmp_path):
    model = adapted(tiny_model())
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    options = options_in(tmp_path)
    written = Sequences([[5, 6, 7], [4, 4]], [[10, 11], [12]])
    by_switch = prompt_drift(model, tiny_tokenizer, BaseModel("off"), "p", tuned=written, options=options)
    by_copy = prompt_drift(model, tiny_tokenizer, BaseModel("c", tiny_model()), "p", tuned=written, options=options)
    for one, other in (
        (by_switch.tuned_completions, by_copy.tuned_completions),
        (by_switch.base_completions, by_copy.base_completions),
    ):
        assert asdict(one) == pytest.approx(asdict(other), rel=1e-6)
    assert by_switch.tuned_completions.jsd > 0.001
    assert by_switch.tuned_completions.num_tokens == 3
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trainable


def test_the_base_scores_its_own_completions_higher(tiny_model, tiny_tokenizer, tmp_path):
    tuned = Sequences([[5, 6, 7], [4, 4]], [[10, 11], [12]])
    base = BaseModel("other", tiny_model(seed=1))
    measured = prompt_drift(tiny_model(), tiny_tokenizer, base, "p", tuned=tuned, options=options_in(tmp_path))
    assert (measured.name, measured.num_prompts) == ("p", 2)
    assert measured.base_completions.num_tokens > 2
    assert measured.base_completions.base_logp > measured.base_completions.tuned_logp


def test_models_of_two_precisions_are_compared(tiny_model, tiny_tokenizer):
    base = BaseModel("half", tiny_model().to(torch.bfloat16))
    measured = drift(tiny_model(), tiny_tokenizer, base, SEQUENCES, label="x")
    assert 0 < measured.jsd < 0.05


def test_a_model_without_adapter_needs_a_base(tiny_model, tiny_tokenizer):
    with pytest.raises(ValueError, match="no adapter to switch off"):
        drift(tiny_model(), tiny_tokenizer, BaseModel("off"), SEQUENCES, label="x")


def test_of_many_further_prompts_only_those_that_are_compared_are_answered(tiny_model, tiny_tokenizer, tmp_path):
    model, rows = tiny_model(), []
    model.register_forward_pre_hook(lambda _, args, given: rows.append(len(given["input_ids"])), with_kwargs=True)
    options = options_in(tmp_path, max_completion_length=1, generation_batch_size=64)
    base, prompts = BaseModel("other", tiny_model(seed=1)), {"many": ["Say red."] * (MAX_PROMPTS + 30)}
    measured = evaluate(model, tiny_tokenizer, [], options=options, base=base, prompts=prompts)
    assert measured.retention is not None
    assert measured.retention.prompts[0].num_prompts == MAX_PROMPTS
    # One token is one pass: writing it, then scoring it, and scoring the base's.
    assert sum(rows) == 3 * MAX_PROMPTS
