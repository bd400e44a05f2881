"""A real, tiny model writes contexts: from seeds of its own, and under a key that tells models apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unisd.options import RolloutOptions
from unisd.rollout.context_writer import ContextWriter, fingerprint

PROMPTS = ["one", "a much longer prompt", "three", "two"]


@pytest.fixture
def writer(tiny_model, tiny_tokenizer) -> ContextWriter:
    options = RolloutOptions(max_completion_length=6, temperature=1.0, generation_batch_size=2)
    return ContextWriter(tiny_model(), tiny_tokenizer, options, {}, torch.device("cpu"))


def texts(writer: ContextWriter, purpose: str = "first") -> list[str]:
    return [written.text for written in writer(PROMPTS, purpose)]


def test_writing_depends_on_seed_and_purpose_and_on_nothing_global(writer):
    state = torch.random.get_rng_state()
    first = texts(writer)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(7)
    assert texts(writer) == first
    assert texts(writer, "second") != first
    assert texts(replace(writer, seed=1)) != first


def test_answers_come_in_the_order_of_the_prompts(writer):
    greedy = replace(writer, options=replace(writer.options, temperature=0.0))
    together = texts(greedy)
    assert together == [greedy([prompt], "first")[0].text for prompt in PROMPTS]
    assert len(set(together)) > 1
    assert not any(written.is_finished for written in greedy(PROMPTS, "first"))


def test_the_key_tells_models_options_seeds_and_prompts_apart(writer, tiny_model):
    keys = [
        writer.key(PROMPTS),
        writer.key(PROMPTS[:3]),
        replace(writer, seed=1).key(PROMPTS),
        replace(writer, options=replace(writer.options, temperature=0.5)).key(PROMPTS),
        replace(writer, model=tiny_model(seed=1)).key(PROMPTS),
        replace(writer, model=tiny_model().to(torch.bfloat16)).key(PROMPTS),
    ]
    assert len(set(keys)) == len(keys)
    assert replace(writer, model=tiny_model()).key(PROMPTS) == keys[0]
    chat = [[{"role": "user", "content": "Hi"}]]
    assert writer.key(chat) != replace(writer, chat_kwargs={"enable_thinking": False}).key(chat)


def test_one_step_of_training_changes_the_fingerprint(tiny_model):
    model = tiny_model()
    before = fingerprint(model)
    model(torch.tensor([[5, 6, 7]])).logits.square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert fingerprint(model) != before
