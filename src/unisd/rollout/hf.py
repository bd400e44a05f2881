"""The student writes completions with `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from unisd.modes import evaluation_mode
from unisd.options import RolloutOptions
from unisd.rollout.collate import left_pad
from unisd.rollout.seeds import forked_rng
from unisd.types import Completion


def end_of_sequence_ids(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every id that ends a completion: the generation config's (Gemma, Phi have several) and the tokenizer's."""
    configured: Any = model.generation_config.eos_token_id  # pyright: ignore[reportAttributeAccessIssue]
    ids = configured if isinstance(configured, list) else [configured]
    return {token for token in [*ids, tokenizer.eos_token_id] if token is not None}


class _SamplerLogp(LogitsProcessor):
    """Last in the chain: remembers the distribution each token is drawn from until the token is known."""

    def __init__(self) -> None:
        self.columns: list[Tensor] = []
        self._log_probs: Tensor | None = None

    def __call__(self, input_ids: Int[Tensor, "N L"], scores: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        self.take(input_ids[:, -1])
        self._log_probs = scores.float().log_softmax(-1)
        return scores

    def take(self, tokens: Int[Tensor, " N"]) -> None:
        if self._log_probs is not None:
            self.columns.append(self._log_probs.gather(-1, tokens[:, None])[:, 0])


@dataclass(frozen=True)
class HFRollout:
    """Samples with `model.generate`: sorted by length, left-padded, in eval mode, from a seed of its own.

    Every completion carries the log-probability of its tokens under the distribution they were drawn from (after
    temperature, top-k, top-p and the rest).
    """

    options: RolloutOptions

    def __call__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[list[int]],
        *,
        seed: int,
        greedy: bool = False,
        show_progress: bool = True,
    ) -> list[Completion]:
        """One completion per prompt (token ids), in the prompts' order."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        size = self.options.generation_batch_size
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        completions: dict[int, Completion] = {}
        device = next(model.parameters()).device
        eos = end_of_sequence_ids(model, tokenizer)
        with (
            torch.no_grad(),
            evaluation_mode(model),
            forked_rng(seed, device),
            _silenced(model.generation_config),  # pyright: ignore[reportArgumentType]
        ):
            for chunk in tqdm(chunks, desc="rollout", leave=False, disable=not show_progress or len(chunks) == 1):
                written = self._generate(model, tokenizer, [prompts[index] for index in chunk], eos, device, greedy)
                completions.update(zip(chunk, written, strict=True))
        return [completions[index] for index in range(len(prompts))]

    def _generate(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        prompts: list[list[int]],
        eos: set[int],
        device: torch.device,
        greedy: bool,
    ) -> list[Completion]:
        padding: Any = tokenizer.pad_token_id
        pad: int = min(eos, default=0) if padding is None else padding
        view = left_pad(prompts, pad)
        sampler = _SamplerLogp()
        is_greedy = greedy or self.options.temperature == 0
        output: Tensor = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=view.ids.to(device),
            attention_mask=view.mask.to(device).long(),
            generation_config=self._generation_config(pad, eos, do_sample=not is_greedy),
            logits_processor=self._processors(sampler, is_greedy),
        )
        tokens = output[:, view.ids.shape[1] :]
        if tokens.shape[1]:
            sampler.take(tokens[:, -1])
        logp = torch.stack(sampler.columns, dim=1).tolist() if sampler.columns else [[] for _ in prompts]
        return [_completion(row, row_logp, eos) for row, row_logp in zip(tokens.tolist(), logp, strict=True)]

    def _processors(self, sampler: _SamplerLogp, is_greedy: bool) -> LogitsProcessorList:
        # Handed over as processors, with the config's own switched off, so that `sampler` can come after them.
        options = self.options
        processors = LogitsProcessorList()
        if not is_greedy:
            if options.temperature != 1.0:
                processors.append(TemperatureLogitsWarper(float(options.temperature)))
            if options.top_k:
                processors.append(TopKLogitsWarper(options.top_k))
            if options.top_p < 1.0:
                processors.append(TopPLogitsWarper(options.top_p))
            if options.min_p is not None:
                processors.append(MinPLogitsWarper(options.min_p))
        processors.append(sampler)
        return processors

    def _generation_config(self, pad: int, eos: set[int], *, do_sample: bool) -> GenerationConfig:
        # Each named, because the library's defaults change (top_k was 50); a greedy config must not have them.
        off: dict[str, float] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if do_sample else {}
        return GenerationConfig(
            **off,  # pyright: ignore[reportArgumentType]
            max_new_tokens=self.options.max_completion_length,
            do_sample=do_sample,
            # Applied before the processors below, and only `generate` knows how to leave the padding out.
            repetition_penalty=float(self.options.repetition_penalty),
            num_beams=1,
            pad_token_id=pad,
            eos_token_id=sorted(eos) or None,
            use_cache=True,
        )


@contextmanager
def _silenced(config: GenerationConfig) -> Iterator[None]:
    """Inside, a model's own generation config says nothing: `generate` would fill the gaps of ours from it.

    A `min_p` or `no_repeat_ngram_size` that came in that way would not be in the sampler's log-probabilities.
    """
    own = dict(vars(config))
    vars(config).clear()
    vars(config).update(vars(GenerationConfig()))
    try:
        yield
    finally:
        vars(config).clear()
        vars(config).update(own)


def _completion(tokens: list[int], logp: list[float], eos: set[int]) -> Completion:
    end = next((position for position, token in enumerate(tokens) if token in eos), None)
    length = len(tokens) if end is None else end + 1
    return Completion(ids=tokens[:length], sampler_logp=logp[:length], is_finished=end is not None)
