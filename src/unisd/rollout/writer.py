"""From examples to scored micro-batches: views, completions, counts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from unisd.options import Gate, RolloutOptions
from unisd.rollout.collate import Row, collate, local_counts
from unisd.rollout.dataset import dataset_completion
from unisd.rollout.gate import gated
from unisd.rollout.seeds import purpose_seed
from unisd.types import Completion, Example, RolloutBatch, StepCounts

GenerateFn = Callable[[list[list[int]], int], list[Completion]]
"""`generate(prompts, seed)`: one completion per prompt of token ids."""


@dataclass(frozen=True)
class RolloutWriter:
    """Writes the completions of one optimizer step, all micro-batches at once, and pads them into batches."""

    options: RolloutOptions
    tokenizer: PreTrainedTokenizerBase
    render: Callable[[Example], Mapping[str, list[int]]]
    """Token ids of every view of an example."""
    generate: GenerateFn
    count: Callable[[StepCounts], StepCounts]
    """Sums counts over processes."""
    gates: Mapping[str, Gate] = field(default_factory=dict)
    """By the start of a view's name: which sequences keep the view."""

    def __call__(self, micro_batches: Sequence[Sequence[Example]], *, seed: int) -> list[RolloutBatch]:
        """One `RolloutBatch` per micro-batch; every example gives `num_generations` sequences."""
        repeats = self.options.num_generations
        examples = [example for batch in micro_batches for example in batch for _ in range(repeats)]
        rows = self._rows(examples, seed)
        rows = gated(rows, self.gates, self.options)
        counts = self.count(local_counts(rows, self.options))
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        batches, start = [], 0
        for batch in micro_batches:
            end = start + len(batch) * repeats
            batches.append(collate(rows[start:end], pad=pad, options=self.options, counts=counts))
            start = end
        return batches

    def _rows(self, examples: list[Example], seed: int) -> list[Row]:
        views = [self.render(example) for example in examples]
        is_written = self._draw_on_policy(len(examples), seed)
        prompts = [view["prompt"] for view, on_policy in zip(views, is_written, strict=True) if on_policy]
        written = iter(self.generate(prompts, purpose_seed(seed, "sample")) if prompts else [])
        return [
            Row(example, view, next(written) if on_policy else self._from_data_set(example))
            for example, view, on_policy in zip(examples, views, is_written, strict=True)
        ]

    def _draw_on_policy(self, num: int, seed: int) -> list[bool]:
        if self.options.backend == "dataset":
            return [False] * num
        draw = random.Random(purpose_seed(seed, "on_policy"))
        return [draw.random() < self.options.on_policy_fraction for _ in range(num)]

    def _from_data_set(self, example: Example) -> Completion:
        eos = self.tokenizer.eos_token_id
        assert eos is None or isinstance(eos, int)
        return dataset_completion(
            example, self.tokenizer, end_of_sequence=eos, max_length=self.options.max_completion_length
        )
