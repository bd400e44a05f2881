"""Extra teacher views of a micro-batch in few passes: only the log-probabilities of the realised tokens are kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unisd.scoring.forward import run_pass
from unisd.scoring.fused import token_logp
from unisd.types import RolloutBatch, View

MAX_PASS_TOKENS = 32768
"""Padded tokens of one pass over several views; without gradient nothing but the last layer's inputs stays alive."""


def realised_logp(
    model: nn.Module, views: Sequence[View], batch: RolloutBatch, *, whole_logits: bool, temperature: float = 1.0
) -> tuple[Float[Tensor, "K B T"], Bool[Tensor, " B"]]:
    """Log-probability of the completion tokens under each view, nats, 0 in rows no view covers; and the covered rows.

    Call it where `model` is the teacher, without gradient. (K, B, T, vocabulary) never exists.
    """
    # One row of zeros where no view is left, so that a spread over views stays defined.
    logp = torch.zeros(max(len(views), 1), *batch.mask.shape, device=batch.mask.device)
    # Whole logits are as large as the vocabulary: then no pass is larger than that of one view.
    max_rows = len(batch) if whole_logits else None
    for part, which in _passes(views, batch.completion_ids.shape[1], max_rows):
        output = run_pass(model, part, batch, whole_logits=whole_logits)
        ids, mask = batch.completion_ids[part.rows], batch.mask[part.rows]
        values = token_logp(output, ids=ids, mask=mask, temperature=temperature)
        logp = logp.to(values.dtype)
        logp[which, part.rows] = values
    is_scored = torch.zeros(len(batch), dtype=torch.bool, device=batch.mask.device)
    # A sequence counts when all of its views were scored; they are gated together.
    if views:
        is_scored[views[0].rows] = True
    return logp, is_scored


def _passes(views: Sequence[View], num_tokens: int, max_rows: int | None) -> list[tuple[View, Tensor]]:
    """The rows of all views in blocks of bounded size, and which view each row belongs to."""
    width = max((view.ids.shape[1] for view in views), default=0)
    ids = torch.cat([_widened(view.ids, width) for view in views]) if views else torch.zeros(0, 0)
    if not len(ids):
        return []
    mask = torch.cat([_widened(view.mask, width) for view in views])
    rows = torch.cat([view.rows for view in views])
    which = torch.cat([torch.full_like(view.rows, number) for number, view in enumerate(views)])
    size = max(1, MAX_PASS_TOKENS // (width + num_tokens))
    size = size if max_rows is None else min(size, max_rows)
    return [
        (View(some_ids, some_mask, some_rows), some_which)
        for some_ids, some_mask, some_rows, some_which in zip(
            ids.split(size), mask.split(size), rows.split(size), which.split(size), strict=True
        )
    ]


def _widened(tensor: Tensor, width: int) -> Tensor:
    """Padded on the left; what stands there is masked, so it may be any token."""
    return torch.nn.functional.pad(tensor, (width - tensor.shape[1], 0))
