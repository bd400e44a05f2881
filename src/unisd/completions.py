"""What the completions of a run look like: length statistics under TRL's names, and a few of them in print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from unisd.metrics import Metrics
from unisd.options import RolloutOptions
from unisd.types import RolloutBatch

COMPLETIONS_FILE = "completions.jsonl"


class CompletionLog:
    """Collects length statistics, and the last completions when `log_completions` is on."""

    def __init__(self, options: RolloutOptions, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._last: RolloutBatch | None = None

    def record(self, metrics: Metrics, batch: RolloutBatch, *, is_training: bool) -> None:
        """Add a micro-batch."""
        lengths = batch.completion_mask.sum(-1)
        is_finished = torch.tensor([completion.is_finished for completion in batch.completions], device=lengths.device)
        metrics.add("completions/mean_length", lengths)
        metrics.add("completions/min_length", lengths, fold="min")
        metrics.add("completions/max_length", lengths, fold="max")
        metrics.add("completions/mean_terminated_length", lengths, is_finished)
        metrics.add("completions/clipped_ratio", (~is_finished).float())
        metrics.add("completions/on_policy_ratio", [float(one.is_on_policy) for one in batch.completions])
        if batch.privileged_overlap is not None:
            metrics.add("completions/privileged_overlap", batch.privileged_overlap)
        metrics.add("num_tokens", batch.mask.sum(), fold="sum")
        if is_training:
            self._last = batch

    def show(self, tokenizer: PreTrainedTokenizerBase, step: int) -> None:
        """Print the last few and append them to `completions.jsonl`."""
        if not self._options.log_completions or self._last is None:
            return
        batch, num = self._last, self._options.num_completions_to_print
        prompts = _decode(tokenizer, batch.views["prompt"].ids[:num], batch.views["prompt"].mask[:num])
        texts = _decode(tokenizer, batch.completion_ids[:num], batch.completion_mask[:num])
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / COMPLETIONS_FILE).open("a", encoding="utf-8") as file:
            for prompt, text in zip(prompts, texts, strict=True):
                print(f"step {step}\n--- prompt\n{prompt}\n--- completion\n{text}", flush=True)
                file.write(json.dumps({"step": step, "prompt": prompt, "completion": text}) + "\n")


def _decode(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, mask: torch.Tensor) -> Sequence[str]:
    return [str(tokenizer.decode(row[keep].tolist())) for row, keep in zip(ids, mask, strict=True)]
