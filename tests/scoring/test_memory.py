"""The memory of the loss grows with the chunk, not with tokens times vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.scoring.held import peak_bytes_of
from unisd.objective.divergence import Divergence
from unisd.scoring.forward import PassOutput
from unisd.scoring.fused import chunk_rows, token_scores
from unisd.scoring.head import Head
from unisd.types import Signal

T, V, D = 1024, 49152, 64
WHOLE = T * V * 4
"""Bytes of one float32 tensor of all tokens by the vocabulary, 192 MiB."""


def peak_bytes(folder: Path, *, rows_per_chunk: int | None, num_tokens: int = T, has_backward: bool = True) -> int:
    """The most that a forward and a backward pass of the loss holds at a time, its inputs not counted."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, num_tokens, D, generator=generator, requires_grad=True)
    weight = torch.randn(V, D, generator=generator) * 0.1  # a frozen head: its gradient would be no part of the chunk
    teacher = PassOutput(torch.randn(1, num_tokens, D, generator=generator), Head(weight))
    ids = torch.randint(V, (1, num_tokens), generator=generator)

    def score() -> None:
        scores = token_scores(
            PassOutput(states, Head(weight)),
            teacher,
            ids=ids,
            mask=torch.ones(1, num_tokens, dtype=torch.bool),
            objective=Divergence(),
            signals=Signal.DIVERGENCE | Signal.STUDENT_ENTROPY,
            rows_per_chunk=rows_per_chunk,
        )
        if has_backward:
            scores[Signal.DIVERGENCE].sum().backward()

    peak = peak_bytes_of(score, folder)
    assert (states.grad is not None) == has_backward
    return peak


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> int:
    return peak_bytes(tmp_path_factory.mktemp("chunked"), rows_per_chunk=None)


def test_the_loss_of_long_completions_holds_less_than_one_whole_logit_tensor(tmp_path: Path, chunked: int) -> None:
    assert chunked < WHOLE
    # The bound sees it when chunking is off, already in the forward pass: student's and teacher's logits.
    assert peak_bytes(tmp_path, rows_per_chunk=T, has_backward=False) > 2 * WHOLE


@pytest.mark.parametrize("part", [1, 4])
def test_the_memory_grows_with_the_chunk_and_not_with_the_tokens(part: int, tmp_path: Path, chunked: int) -> None:
    peak = peak_bytes(tmp_path, num_tokens=T // 4, rows_per_chunk=chunk_rows(V) // part)
    assert peak == pytest.approx(chunked / part, rel=0.1)


@pytest.mark.parametrize(
    ("vocabulary", "rows"),
    [
        (49152, 256),  # 96 MiB / 8 bytes / 49,152
        (151936, 128),  # 82 would fit, but fewer than 128 are slow
        (1000, 1024),  # 12,582 would fit
        (40000, 256),  # 314, down to a multiple of 64
    ],
)
def test_a_chunk_holds_as_many_rows_as_fit(vocabulary: int, rows: int) -> None:
    assert chunk_rows(vocabulary) == rows
