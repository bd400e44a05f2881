"""Completions that a tiny model samples: from which distribution, how they end, and what they leave alone."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaForCausalLM

from tests.tiny import build_tiny_tokenizer
from unisd.options import RolloutOptions
from unisd.rollout.collate import left_pad
from unisd.rollout.hf import HFRollout, end_of_sequence_ids
from unisd.types import Completion

# Of different lengths, the longest first.
TEXTS = ["Repeat after me: one, two", "a", "What is this?", "Hi there"]


@pytest.fixture
def model(tiny_model) -> LlamaForCausalLM:
    return tiny_model()


@pytest.fixture
def prompts(tiny_tokenizer) -> list[list[int]]:
    return [tiny_tokenizer.encode(text) for text in TEXTS]


@pytest.fixture
def sample(model, tiny_tokenizer, prompts):
    """`sample(seed=..., temperature=...)`: completions of the tiny model, eight tokens at most."""

    def run(
        *,
        model: nn.Module = model,
        prompts: list[list[int]] = prompts,
        seed: int = 0,
        greedy: bool = False,
        **options: Any,
    ) -> list[Completion]:
        rollout = HFRollout(RolloutOptions(**{"max_completion_length": 8, "temperature": 1.0, **options}))
        return rollout(model, tiny_tokenizer, prompts, seed=seed, greedy=greedy, show_progress=False)

    return run


def ids(completions: list[Completion]) -> list[list[int]]:
    return [completion.ids for completion in completions]


def ordinary_logits(model: nn.Module, prompts: list[list[int]], completions: list[Completion]) -> list[Tensor]:
    """Logits at each completion token, (T, V) a row, from one forward of left-padded prompts and completions."""
    view = left_pad([prompt + completion.ids for prompt, completion in zip(prompts, completions, strict=True)], 0)
    positions = (view.mask.long().cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=view.ids, attention_mask=view.mask.long(), position_ids=positions).logits
    return [row[-len(completion.ids) - 1 : -1] for row, completion in zip(logits, completions, strict=True)]


def assert_sampled_from(log_probs: list[Tensor], completions: list[Completion]) -> None:
    """Every token was possible, and its log-probability is the one that was kept."""
    for row, completion in zip(log_probs, completions, strict=True):
        want = row.gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
        assert want.isfinite().all()
        torch.testing.assert_close(torch.tensor(completion.sampler_logp), want, rtol=1e-4, atol=1e-4)


def test_the_seed_decides_and_the_global_generator_neither_matters_nor_moves(sample) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sample(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert sample(seed=3) == first
    assert ids(sample(seed=4)) != ids(first)


def test_completions_come_in_the_order_of_their_prompts_whatever_the_batch(sample, prompts) -> None:
    alone = [ids(sample(prompts=[prompt], greedy=True))[0] for prompt in prompts]
    assert len({tuple(row) for row in alone}) == 4
    for size in (1, 3, 4):
        assert ids(sample(greedy=True, generation_batch_size=size)) == alone
    assert sample(prompts=[]) == []


def test_dropout_is_off_and_the_student_goes_on_training_as_before(sample, model) -> None:
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], lora_dropout=0.9, init_lora_weights=False))
    adapted.eval()
    expected = ids(sample(model=adapted, greedy=True))
    adapted.train()
    assert ids(sample(model=adapted, greedy=True)) == expected
    assert all(module.training for module in adapted.modules())


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
def test_the_sampler_logp_is_that_of_an_ordinary_forward_at_the_temperature(
    sample, model, prompts, temperature
) -> None:
    completions = sample(temperature=temperature, generation_batch_size=3)
    logits = ordinary_logits(model, prompts, completions)
    assert_sampled_from([(row / temperature).log_softmax(-1) for row in logits], completions)


def test_greedy_takes_the_likeliest_token_and_needs_no_seed(sample, model, prompts) -> None:
    completions = sample(temperature=0.0, seed=0)
    assert completions == sample(greedy=True, seed=1)
    logits = ordinary_logits(model, prompts, completions)
    assert [row.argmax(-1).tolist() for row in logits] == ids(completions)
    assert_sampled_from([row.log_softmax(-1) for row in logits], completions)


@pytest.mark.parametrize("greedy", [True, False])
def test_generation_warns_of_nothing(sample, greedy, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    sample(greedy=greedy)
    assert caplog.messages == []


def top_k(probabilities: Tensor) -> Tensor:
    return probabilities >= probabilities.topk(3).values[:, -1:]


def top_p(probabilities: Tensor) -> Tensor:
    # The smallest set of at least 0.4: a token stays while the likelier ones have less.
    likelier = probabilities[:, None, :] > probabilities[:, :, None]
    return (likelier * probabilities[:, None, :]).sum(-1) < 0.4


def min_p(probabilities: Tensor) -> Tensor:
    return probabilities >= 0.3 * probabilities.max(-1, keepdim=True).values


@pytest.mark.parametrize(
    ("options", "kept"),
    [({"top_k": 3}, top_k), ({"top_p": 0.4}, top_p), ({"min_p": 0.3}, min_p)],
    ids=lambda one: str(one),
)
def test_a_cut_of_the_distribution_acts_and_is_in_the_sampler_logp(sample, model, prompts, options, kept) -> None:
    completions = sample(temperature=0.8, **options)
    assert ids(completions) != ids(sample(temperature=0.8))
    expected = []
    for row in ordinary_logits(model, prompts, completions):
        whole = (row / 0.8).softmax(-1)
        is_kept = kept(whole)
        assert (~is_kept).any(-1).all()
        expected.append((whole * is_kept / (whole * is_kept).sum(-1, keepdim=True)).log())
    assert_sampled_from(expected, completions)


def test_the_repetition_penalty_acts_on_real_tokens_only_and_is_in_the_sampler_logp(sample, model, prompts) -> None:
    completions = sample(repetition_penalty=0.2)  # below 1 it invites repetition
    assert ids(completions) != ids(sample())
    expected = []
    for prompt, completion, row in zip(prompts, completions, ordinary_logits(model, prompts, completions), strict=True):
        for position in range(len(completion.ids)):
            # Not the padding: the penalty would otherwise depend on the longest prompt of the batch.
            seen = sorted({*prompt, *completion.ids[:position]})
            row[position, seen] = torch.where(
                row[position, seen] < 0, row[position, seen] * 0.2, row[position, seen] / 0.2
            )
        expected.append(row.log_softmax(-1))
    assert_sampled_from(expected, completions)


LEAKS: list[dict[str, Any]] = [
    {"do_sample": True, "temperature": 0.01},
    {"top_k": 1},
    {"top_p": 0.01},
    {"min_p": 0.99},
    {"typical_p": 0.01},
    {"repetition_penalty": 50.0},
    {"no_repeat_ngram_size": 1},
    {"suppress_tokens": list(range(3, 250))},
    {"min_new_tokens": 8, "eos_token_id": list(range(3, 259))},
    {"max_new_tokens": 2, "max_length": 3},
    {"num_return_sequences": 2, "do_sample": True},
    {"num_beams": 3},
    {"return_dict_in_generate": True, "output_scores": True},
    {"cache_implementation": "static"},
]


@pytest.mark.parametrize("own", LEAKS, ids=lambda own: next(iter(own)))
def test_the_models_own_generation_config_does_not_leak_in(sample, model, own) -> None:
    end = {"eos_token_id": own.get("eos_token_id", 2), "pad_token_id": 0}
    model.generation_config = GenerationConfig(**end)
    expected = sample()
    model.generation_config = GenerationConfig(**{**end, **own})
    before = model.generation_config.to_dict()
    assert sample() == expected
    assert model.generation_config.to_dict() == before


def test_with_an_adapter_neither_does_the_config_of_the_model_inside(sample, model) -> None:
    adapted = get_peft_model(
        model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    expected = sample(model=adapted)
    model.generation_config.min_p = 0.99
    assert sample(model=adapted) == expected
    assert model.generation_config.min_p == 0.99
    assert adapted.generation_config.min_p == 0.99


def test_every_end_of_sequence_id_ends_a_completion_and_stays_in_it(sample, model, tiny_tokenizer) -> None:
    model.generation_config.eos_token_id = list(range(100, 120))
    ends = end_of_sequence_ids(model, tiny_tokenizer)
    assert ends == {2, *range(100, 120)}  # and the tokenizer's own
    completions = [one for seed in range(3) for one in sample(seed=seed)]
    for completion in completions:
        assert not ends & set(completion.ids[:-1])
        assert completion.is_finished == (completion.ids[-1] in ends)
        assert completion.is_finished or len(completion.ids) == 8
        assert completion.sampler_logp is not None
        assert len(completion.sampler_logp) == len(completion.ids)
    assert {completion.is_finished for completion in completions} == {True, False}
    assert len({completion.ids[-1] for completion in completions if completion.is_finished}) > 3


def test_a_model_that_ends_at_once_writes_one_token(sample, model, prompts) -> None:
    model.generation_config.eos_token_id = list(range(259))
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    completions = sample(generation_batch_size=3)
    assert len(passes) == 2  # one a chunk
    assert [len(completion.ids) for completion in completions] == [1] * 4
    assert all(completion.is_finished and completion.is_on_policy for completion in completions)
    assert_sampled_from([row.log_softmax(-1) for row in ordinary_logits(model, prompts, completions)], completions)


def test_a_model_without_an_end_and_a_tokenizer_without_padding_still_sample(model, prompts) -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    rollout = HFRollout(RolloutOptions(max_completion_length=2))
    completions = rollout(model, tokenizer, prompts, seed=0)
    assert [len(completion.ids) for completion in completions] == [2] * 4
    assert not any(completion.is_finished for completion in completions)
