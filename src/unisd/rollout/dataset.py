"""Completions that come with the data set."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from unisd.types import Completion, Example


def dataset_completion(
    example: Example, tokenizer: PreTrainedTokenizerBase, *, end_of_sequence: int | None, max_length: int
) -> Completion:
    """The reference completion up to its first `end_of_sequence`, or ended by one; cut at `max_length` tokens."""
    if example.completion is None:
        raise ValueError(
            "A row has no completion, but the rollout takes completions from the data set (backend: dataset, or "
            "on_policy_fraction below 1). Add a `completion` column or set backend: hf, on_policy_fraction: 1.0."
        )
    ids: list[int] = tokenizer.encode(example.completion, add_special_tokens=False)
    if end_of_sequence is not None:
        ids = [*ids, end_of_sequence]
        ids = ids[: ids.index(end_of_sequence) + 1]
    is_finished = len(ids) <= max_length
    return Completion(ids=ids[:max_length], sampler_logp=None, is_finished=is_finished, is_on_policy=False)
