"""What the other tests take for granted of the tiny tokenizer and model."""

from __future__ import annotations

import string

import pytest
import torch
from jaxtyping import TypeCheckError
from transformers import AutoModelForCausalLM, AutoTokenizer

from unisd.types import View


def test_the_tiny_tokenizer_gives_every_text_back_one_token_per_byte(tiny_tokenizer):
    text = string.printable + "\n\n  two  spaces, it 's . odd \u00e9\u4e2d"
    ids = tiny_tokenizer.encode(text)
    assert len(ids) == len(text.encode())
    assert tiny_tokenizer.decode(ids) == text


def test_the_tiny_chat_template_opens_the_answer_and_hears_its_keywords(tiny_tokenizer):
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "?"},
    ]
    text = tiny_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n<|im_start|>user\n?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tiny_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tiny_tokenizer.decode(ids) == text
    assert ids.count(tiny_tokenizer.eos_token_id) == 3
    quiet = tiny_tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert quiet == text + "<think>\n\n</think>\n\n"


def test_tiny_models_of_one_seed_are_equal_and_of_two_seeds_are_not(tiny_model, tiny_tokenizer):
    ids = torch.tensor([tiny_tokenizer.encode("self-distillation")])
    with torch.no_grad():
        first, again, other = (tiny_model(seed=seed)(input_ids=ids).logits.log_softmax(-1) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    divergence = (first.exp() * (first - other)).sum(-1)
    assert divergence.min() > 0.1


def test_the_tiny_checkpoint_loads_as_any_other(tiny_checkpoint, tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_model().parameters(), strict=True))
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.decode(tokenizer.encode("a b\n")) == "a b\n"


def test_shapes_are_checked_under_pytest():
    with pytest.raises(TypeCheckError):
        View(ids=torch.zeros(2, 3, dtype=torch.long), mask=torch.ones(2, 4, dtype=torch.bool), rows=torch.arange(2))
