"""How likely given texts are to a model: passes over prompts and completions that nobody trains on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from unisd.modes import evaluation_mode
from unisd.options import RolloutOptions
from unisd.rollout.collate import Row, collate
from unisd.scoring.forward import run_pass
from unisd.scoring.fused import token_logp
from unisd.scoring.head import head_of
from unisd.types import Completion, Example, RolloutBatch, StepCounts

ROWS_PER_PASS = 8
WINDOW = 512
"""Tokens of plain text that are scored together, each seen from those before it in the window."""


@dataclass(frozen=True)
class Sequences:
    """Prompts with a completion each, as token ids."""

    prompts: list[list[int]]
    completions: list[list[int]]

    @property
    def num_tokens(self) -> int:
        """Of the completions."""
        return sum(map(len, self.completions))

    def batches(self, tokenizer: PreTrainedTokenizerBase, device: torch.device, label: str) -> Iterator[RolloutBatch]:
        """In padded micro-batches of like length, under a progress bar; their order says nothing."""
        # Any id would do: padding is masked everywhere.
        given: Any = tokenizer.pad_token_id
        pad: int = 0 if given is None else given
        rows = [
            Row(Example(prompt=""), {"prompt": prompt}, Completion(ids, None, is_finished=True))
            for prompt, ids in zip(self.prompts, self.completions, strict=True)
        ]
        rows.sort(key=lambda row: len(row.views["prompt"]) + len(row.completion.ids))
        starts = range(0, len(rows), ROWS_PER_PASS)
        for start in tqdm(starts, desc=label, leave=False, disable=len(starts) == 1):
            chunk = rows[start : start + ROWS_PER_PASS]
            yield collate(chunk, pad=pad, options=RolloutOptions(), counts=StepCounts(0, 0)).to(device)


@torch.no_grad()
def perplexity(model: Any, tokenizer: PreTrainedTokenizerBase, sequences: Sequences, *, label: str) -> float | None:
    """exp of the mean of -logp over all completion tokens at temperature 1; `None` where it is not finite."""
    whole_logits = head_of(model) is None
    total = 0.0
    with evaluation_mode(model):
        for batch in sequences.batches(tokenizer, next(model.parameters()).device, label):
            output = run_pass(model, batch.views["prompt"], batch, whole_logits=whole_logits)
            total += token_logp(output, ids=batch.completion_ids, mask=batch.mask).double().sum().item()
    return perplexity_of(total, sequences.num_tokens)


def perplexity_of(total_logp: float, num_tokens: int) -> float | None:
    """exp(-total / number), or `None` without tokens and where the number is not finite: JSON has no infinity."""
    if not num_tokens or not math.isfinite(total_logp):
        return None
    try:
        return math.exp(-total_logp / num_tokens)
    except OverflowError:
        return None


def read_text(path: str | Path) -> str:
    """Plain text, UTF-8; a `ValueError` says why it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as UTF-8 text ({error}). Give a plain text file.") from None
    if not text.strip():
        raise ValueError(f"{path}: holds no text. Give a plain text file of some thousand words.")
    return text


def text_windows(tokenizer: PreTrainedTokenizerBase, text: str, *, window: int = WINDOW) -> Sequences:
    """The text in consecutive windows; every token but the very first stands in exactly one completion.

    The prompt of a window is the token before it, and the first one has the special tokens that the tokenizer adds in
    front of any text.
    """
    # `verbose` would warn that a whole file is longer than the model reads at once, which the windows see to.
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]  # pyright: ignore[reportAssignmentType]
    if len(ids) < 2:
        raise ValueError("The general text is a single token, so there is nothing to predict. Give a longer text.")
    starts = range(1, len(ids), window)
    return Sequences(
        prompts=[[ids[start - 1]] for start in starts], completions=[ids[start : start + window] for start in starts]
    )
