"""Examples and completions to padded micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unisd.diagnostics import ngram_overlap
from unisd.options import RolloutOptions
from unisd.types import Completion, Example, RolloutBatch, StepCounts, View


@dataclass(frozen=True)
class Row:
    """One sequence: the example, its views as token ids, and its completion."""

    example: Example
    views: Mapping[str, list[int]]
    completion: Completion


def left_pad(prompts: Sequence[list[int]], pad: int) -> View:
    """Token ids (B, P) with the padding on the left, and where they are real."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    return View(ids, mask, torch.arange(len(prompts)))


def loss_mask(row: Row, options: RolloutOptions) -> list[bool]:
    """Which tokens of the completion count in the loss."""
    length = len(row.completion.ids)
    if options.mask_truncated_completions and not row.completion.is_finished:
        return [False] * length
    return [position >= options.num_loss_tokens_to_skip for position in range(length)]


def local_counts(rows: Sequence[Row], options: RolloutOptions) -> StepCounts:
    """Valid tokens and non-empty sequences of these rows."""
    per_row = [sum(loss_mask(row, options)) for row in rows]
    return StepCounts(num_tokens=sum(per_row), num_sequences=sum(count > 0 for count in per_row))


def collate(rows: Sequence[Row], *, pad: int, options: RolloutOptions, counts: StepCounts) -> RolloutBatch:
    """One micro-batch; a view covers the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row.views)
    completions = [row.completion for row in rows]
    width = max(1, *(len(completion.ids) for completion in completions))
    has_logp = all(completion.sampler_logp is not None for completion in completions)
    return RolloutBatch(
        views={name: _view(name, rows, pad) for name in names},
        completion_ids=_right_pad([completion.ids for completion in completions], width, pad),
        completion_mask=_right_pad([[True] * len(completion.ids) for completion in completions], width, False),
        mask=_right_pad([loss_mask(row, options) for row in rows], width, False),
        sampler_logp=_right_pad([completion.sampler_logp or [] for completion in completions], width, 0.0)
        if has_logp
        else None,
        counts=counts,
        examples=[row.example for row in rows],
        completions=completions,
        privileged_overlap=_overlaps(rows),
    )


def _overlaps(rows: Sequence[Row]) -> Tensor | None:
    if not all("privileged" in row.views for row in rows):
        return None
    return torch.tensor(
        [ngram_overlap(row.completion.ids, row.views["privileged"], row.views["prompt"]) for row in rows]
    )


def _view(name: str, rows: Sequence[Row], pad: int) -> View:
    covered = [index for index, row in enumerate(rows) if name in row.views]
    return replace(left_pad([rows[index].views[name] for index in covered], pad), rows=torch.tensor(covered))


def _right_pad(rows: Sequence[Sequence[int | float | bool]], width: int, pad: int | float | bool) -> Tensor:
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
