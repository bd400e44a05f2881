"""Options that the YAML sections and `SelfDistillConfig` share; without torch, so that config errors come fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class PromptOptions:
    """How prompts are rendered and bounded. Section `data` of the YAML; the same names in `SelfDistillConfig`."""

    max_prompt_length: int = 1024
    """Tokens the student's prompt may have, the generation prompt included."""
    max_teacher_prompt_length: int = 3072
    """Tokens a teacher view may have; it holds the demonstration as well."""
    on_overflow: Literal["error", "drop", "truncate_privileged"] = "error"
    """What happens to an example over budget; the question and the generation prompt are never cut."""
    student_chat_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to the chat template for the student's view, such as `enable_thinking: false`."""
    teacher_chat_kwargs: dict[str, Any] = field(default_factory=dict)
    """The same for the teacher's views; empty means the student's."""

    def __post_init__(self) -> None:
        _require(self.max_prompt_length >= 1, "max_prompt_length", "at least 1", self.max_prompt_length)
        given = self.max_teacher_prompt_length
        _require(given >= 1, "max_teacher_prompt_length", "at least 1", given)


@dataclass
class RolloutOptions:
    """Who writes the completions and how. Section `rollout` of the YAML; the same names in `SelfDistillConfig`."""

    backend: Literal["hf", "dataset"] = "hf"
    """`hf`: the student samples with `generate`. `dataset`: the `completion` column is used."""
    on_policy_fraction: float = 1.0
    """Share of sequences the student writes; the others take the `completion` column (GKD's mixture)."""
    num_generations: int = 1
    """Completions per prompt."""
    max_completion_length: int = 256
    """Tokens after which a completion is cut."""
    temperature: float = 0.7
    """Of sampling; the objective has its own. 0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling; 1.0 keeps everything."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps everything."""
    min_p: float | None = None
    """Drop tokens less likely than this fraction of the likeliest."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens already seen; 1.0 is off."""
    generation_batch_size: int = 32
    """Sequences per `generate` call; one optimizer step takes as many calls as that needs."""
    mask_truncated_completions: bool = False
    """Leave completions that hit `max_completion_length` out of the loss."""
    num_loss_tokens_to_skip: int = 0
    """Leave the first tokens of every completion out of the loss and of every statistic."""
    log_completions: bool = False
    """Print a few prompts and completions at every log, and keep them in `completions.jsonl`."""
    num_completions_to_print: int = 4
    """How many of them."""

    def __post_init__(self) -> None:
        _require(0 <= self.on_policy_fraction <= 1, "on_policy_fraction", "between 0 and 1", self.on_policy_fraction)
        for name in ("num_generations", "max_completion_length", "generation_batch_size", "num_completions_to_print"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(self.temperature >= 0, "temperature", "0 (greedy) or positive", self.temperature)
        _require(0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        _require(self.top_k >= 0, "top_k", "0 (off) or positive", self.top_k)
        _require(self.min_p is None or 0 <= self.min_p <= 1, "min_p", "between 0 and 1", self.min_p)
        _require(self.repetition_penalty > 0, "repetition_penalty", "positive", self.repetition_penalty)
        skip = self.num_loss_tokens_to_skip
        _require(skip >= 0, "num_loss_tokens_to_skip", "0 or positive", skip)


@dataclass(frozen=True)
class Gate:
    """Score extra teacher views for the most uncertain sequences only: `contexts.auxiliary.gate`, `.negative.gate`.

    The others keep agreement weight 1 and hinge 0. Source: the cost remedy that UniSD (arXiv:2605.06597) suggests.
    """

    signal: Literal["sampler_nll", "student_entropy"] = "sampler_nll"
    """Mean over a sequence's valid tokens of the sampler's negative log-probability, or of the student's entropy."""
    fraction: float = 0.25
    """Share of sequences let through: of the optimizer step's per process, or of the micro-batch's for the entropy."""

    def __post_init__(self) -> None:
        _require(0 < self.fraction <= 1, "gate.fraction", "in (0, 1]", self.fraction)


def _require(ok: bool, name: str, allowed: str, given: object) -> None:
    if not ok:
        raise ValueError(f"{name} must be {allowed}, got {given!r}.")
