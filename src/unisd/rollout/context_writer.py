"""The model before training, as the builders of contexts have it write."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from unisd.contexts.cache import content_hash
from unisd.contexts.generation import Written
from unisd.contexts.template import render
from unisd.options import RolloutOptions
from unisd.rollout.hf import HFRollout
from unisd.rollout.seeds import purpose_seed
from unisd.types import Prompt

VALUES_PER_TENSOR = 256
"""How many values of each weight tensor the fingerprint reads."""


@dataclass(frozen=True)
class ContextWriter:
    """Samples answers from a model, on `device`, which it is moved to when it first writes."""

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    options: RolloutOptions
    """Of these answers, apart from those of the training rollouts."""
    chat_kwargs: Mapping[str, Any]
    """Switches of the chat template."""
    device: torch.device
    seed: int = 0

    def __call__(self, prompts: Sequence[Prompt], purpose: str) -> list[Written]:
        """One answer per prompt, in order, from a seed of their own."""
        self.model.to(self.device)
        rendered = self._rendered(prompts)
        order = sorted(range(len(rendered)), key=lambda index: len(rendered[index]))
        size = self.options.generation_batch_size
        rollout, answers = HFRollout(self.options), {}
        with tqdm(total=len(prompts), desc=purpose) as progress:
            for start in range(0, len(order), size):
                chunk = order[start : start + size]
                seed = purpose_seed(self.seed, purpose, start)
                written = rollout(self.model, self.tokenizer, [rendered[index] for index in chunk], seed=seed)
                answers.update(zip(chunk, written, strict=True))
                progress.update(len(chunk))
        return [
            Written(str(self.tokenizer.decode(one.ids, skip_special_tokens=True)), one.is_finished)
            for _, one in sorted(answers.items())
        ]

    def key(self, prompts: Sequence[Prompt]) -> str:
        """A content hash of model, options, seed and the token ids of the prompts."""
        return content_hash(fingerprint(self.model), asdict(self.options), self.seed, self._rendered(prompts))

    def _rendered(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [render(self.tokenizer, prompt, self.chat_kwargs) for prompt in prompts]


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of names, shapes, types and a sample of the values of all weights; the same on every device.

    Training changes every tensor everywhere, so a sample is enough, and costs milliseconds.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        values = tensor.detach().flatten()
        sample = values[:: max(1, len(values) // VALUES_PER_TENSOR)][:VALUES_PER_TENSOR].double().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
