"""Further teacher views of a micro-batch: the log-probabilities of plain passes, in few passes and little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.scoring.held import peak_bytes_of
from tests.scoring.test_families import tiny
from unisd.kernels import chunk
from unisd.scoring import views
from unisd.scoring.views import realised_logp
from unisd.types import RolloutBatch, StepCounts, View

B, T = 4, 5


def view_of(rows: list[int], length: int) -> View:
    """Random prompts for those rows, the first ones with some padding."""
    mask = torch.ones(len(rows), length, dtype=torch.bool)
    mask[0, : length // 2] = False
    return View(torch.randint(3, 61, mask.shape), mask, torch.tensor(rows))


def batch_of(num_rows: int = B, num_tokens: int = T, vocabulary: int = 61) -> RolloutBatch:
    """Completions of different lengths; one is empty, and the first token of every one is left out of the loss."""
    lengths = [num_tokens, 3, num_tokens, 0][:num_rows]
    completion_mask = torch.arange(num_tokens) < torch.tensor(lengths)[:, None]
    mask = completion_mask.clone()
    mask[:, 0] = False
    return RolloutBatch(
        views={}, completion_ids=torch.randint(3, vocabulary, (num_rows, num_tokens)), completion_mask=completion_mask,
        mask=mask, sampler_logp=None, counts=StepCounts(1, 1), examples=[], completions=[],
    )  # fmt: skip


def plain_logp(model: Any, view: View, batch: RolloutBatch, temperature: float = 1.0) -> Tensor:
    """(B, T): one view, one sequence a pass, without any padding; 0 where the mask or the view has nothing."""
    logp = torch.zeros(batch.mask.shape)
    for index, row in enumerate(view.rows.tolist()):
        prompt = view.ids[index][view.mask[index]]
        completion = batch.completion_ids[row][batch.completion_mask[row]]
        if not len(completion):
            continue
        logits = model(input_ids=torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        values = (logits / temperature).log_softmax(-1).gather(-1, completion[:, None])[:, 0]
        logp[row, : len(completion)] = values
    return torch.where(batch.mask, logp, 0.0)


@contextmanager
def passes_of(model: Any) -> Iterator[list[int]]:
    """The number of sequences of every forward call inside."""
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, inputs: sizes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    yield sizes
    hook.remove()


@torch.no_grad()
@pytest.mark.parametrize("whole_logits", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize(
    ("rows", "max_pass_tokens", "passes"),
    [
        # Padded to 9 + 5 tokens; whole logits hold no more rows at a time than the batch has.
        ([0, 1, 2, 3], 32768, [12]),
        ([0, 2, 3], 32768, [9]),
        ([0, 2, 3], 4 * 14, [4, 4, 1]),
        ([0, 2, 3], 4 * 14 - 1, [3, 3, 3]),
        ([2], 1, [1, 1, 1]),
        ([], 32768, []),
    ],
)
def test_the_views_get_the_log_probabilities_of_plain_passes_in_few_passes(
    family: str, whole_logits: bool, rows: list[int], max_pass_tokens: int, passes: list[int], monkeypatch
) -> None:
    monkeypatch.setattr(views, "MAX_PASS_TOKENS", max_pass_tokens)
    model = tiny(family)
    batch = batch_of()
    all_rows = [view_of([0, 1, 2, 3], length) for length in (6, 9, 3)]
    some = [view.only(torch.tensor([row in rows for row in range(B)])) for view in all_rows]
    with passes_of(model) as sizes:
        logp, is_scored = realised_logp(model, some, batch, whole_logits=whole_logits)
    if whole_logits:
        assert max(sizes, default=0) <= B
        assert sum(sizes) == sum(passes)
    else:
        assert sizes == passes
    assert is_scored.tolist() == [row in rows for row in range(B)]
    want = torch.stack([plain_logp(model, view, batch) for view in some])
    assert logp.shape == (3, B, T)
    torch.testing.assert_close(logp, want, rtol=1e-4, atol=1e-5)
    assert (logp[:, is_scored][:, batch.mask[is_scored]] < -0.1).all()
    assert not logp[:, ~batch.mask].any()


@torch.no_grad()
def test_the_temperature_divides_the_logits_and_float64_stays() -> None:
    model, batch, view = tiny("llama").double(), batch_of(), view_of([1, 2], 4)
    logp, is_scored = realised_logp(model, [view], batch, whole_logits=False, temperature=0.5)
    assert logp.dtype == torch.float64
    torch.testing.assert_close(logp[0].float(), plain_logp(model, view, batch, 0.5), rtol=1e-5, atol=1e-6)
    assert is_scored.tolist() == [False, True, True, False]


def test_a_view_that_no_sequence_has_leaves_zeros_and_marks_nothing_as_scored() -> None:
    model, batch = tiny("llama"), batch_of()
    with passes_of(model) as sizes:
        logp, is_scored = realised_logp(model, [], batch, whole_logits=False)
    # One row of zeros, over which a variance is still defined.
    assert torch.equal(logp, torch.zeros(1, B, T))
    assert not is_scored.any()
    assert sizes == []


def test_the_vocabulary_of_all_views_and_tokens_is_never_in_memory_at_once(tmp_path: Path, monkeypatch) -> None:
    num_views, num_rows, num_tokens, vocabulary = 4, 2, 256, 8192
    whole = num_views * num_rows * num_tokens * vocabulary * 4
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=1024,
    )  # fmt: skip
    model, batch = LlamaForCausalLM(config).eval(), batch_of(num_rows, num_tokens, vocabulary)
    batch.completion_mask.fill_(True)
    batch.mask.fill_(True)
    some = [view_of([0, 1], 4 + number) for number in range(num_views)]
    sizes: list[int] = []

    @torch.no_grad()
    def score() -> None:
        with passes_of(model) as counted:
            realised_logp(model, some, batch, whole_logits=False)
        sizes.extend(counted)

    monkeypatch.setattr(chunk, "chunk_rows", lambda *_, **__: 128)
    assert peak_bytes_of(score, tmp_path) < whole / 3
    # All of it is one pass: it is the chunks of the head that bound the memory, and the bound sees it without them.
    assert sizes == [num_views * num_rows]
    monkeypatch.setattr(chunk, "chunk_rows", lambda *_, **__: num_views * num_rows * num_tokens)
    assert peak_bytes_of(score, tmp_path) > whole
