"""Perplexities against each sequence alone, and the windows of a text counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from unisd.evaluate.likelihood import Sequences, perplexity, perplexity_of, read_text, text_windows


@torch.no_grad()
def log_probs(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Log-probabilities over the vocabulary at every token of the completion, (T, V)."""
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
    return logits[len(prompt) - 1 : -1].double().log_softmax(-1)


def test_perplexity_is_the_exponential_of_the_mean_over_all_tokens(tiny_model, tiny_tokenizer):
    model = tiny_model()
    prompts = [[5 + index, 6, 7][: 1 + index % 3] for index in range(11)]
    completions = [[10, 11, 12, 13][: 1 + index % 4] for index in range(11)]
    found = [
        log_probs(model, prompt, ids)[range(len(ids)), ids].sum().item()
        for prompt, ids in zip(prompts, completions, strict=True)
    ]
    expected = math.exp(-sum(found) / sum(map(len, completions)))
    measured = perplexity(model, tiny_tokenizer, Sequences(prompts, completions), label="x")
    assert measured == pytest.approx(expected, rel=1e-5)


def test_every_token_of_a_text_but_the_first_is_scored_once(tiny_tokenizer):
    a, b, c, d, e, f, g, h = tiny_tokenizer("abcdefgh")["input_ids"]
    windows = text_windows(tiny_tokenizer, "abcdefgh", window=3)
    assert windows == Sequences([[a], [d], [g]], [[b, c, d], [e, f, g], [h]])
    assert windows.num_tokens == 7
    # A window that ends with the text leaves no empty one behind.
    assert text_windows(tiny_tokenizer, "abcdefg", window=3).completions == [[b, c, d], [e, f, g]]


def test_a_perplexity_without_a_number_is_none():
    assert perplexity_of(-2 * math.log(3), 2) == pytest.approx(3)
    assert perplexity_of(0.0, 0) is None
    assert perplexity_of(-math.inf, 3) is None
    assert perplexity_of(math.nan, 3) is None
    assert perplexity_of(-1e6, 1) is None


def test_a_text_that_cannot_be_used_is_refused(tmp_path, tiny_tokenizer):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="holds no text"):
        read_text(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match="latin.txt: cannot be read as UTF-8"):
        read_text(tmp_path / "latin.txt")
    with pytest.raises(ValueError, match="missing.txt"):
        read_text(tmp_path / "missing.txt")
    with pytest.raises(ValueError, match="a single token"):
        text_windows(tiny_tokenizer, "a")
