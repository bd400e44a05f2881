"""The sections of a run that no other dataclass declares. Torch stays out, so that errors come at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unisd.options import Gate, PromptOptions, RolloutOptions

if TYPE_CHECKING:
    from unisd.contexts.auxiliary import AuxiliaryContexts
    from unisd.contexts.demonstration import Demonstration
    from unisd.contexts.negative import NegativeContexts
    from unisd.objective.divergence import Divergence
    from unisd.tasks.source import DataSource
    from unisd.teacher import Teacher
    from unisd.types import Loss, Transform
else:
    # These modules import torch. `unisd.config.build` puts the classes in when it checks the fields.
    AuxiliaryContexts = NegativeContexts = DataSource = Demonstration = Divergence = Loss = Teacher = Transform = Any


@dataclass(frozen=True)
class ModelSection:
    """Section `model`: which weights, and how they are loaded."""

    name_or_path: str
    """Hub id (`owner/name`) or folder of the model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; `auto` takes what the checkpoint says."""
    attn_implementation: str | None = None
    """`eager`, `sdpa`, `flash_attention_2` ...; empty leaves the choice to transformers."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    gguf_file: str | None = None
    """Name of a GGUF file inside `name_or_path`, dequantised on loading."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""


@dataclass
class DataSection(PromptOptions):
    """Section `data`: what is trained and evaluated on, and how prompts are rendered and bounded."""

    train: str | DataSource | None = None
    """A task name, `{task, path}` of rows of a task's schema, or `{path, name, split, data_files}` of your own."""
    eval: str | DataSource | None = None
    """The same for the held-out examples; `{..., grader}` says how an answer is graded."""
    limit: int | None = None
    """Use this many training examples at most."""
    prompt_template: str | None = None
    """Builds `prompt` from the columns of a data set that has none: `"Question: {question}"`."""
    privileged_template: str | None = None
    """Builds `privileged_context` likewise."""
    allow_code_execution: bool = False
    """Let mbpp and humaneval run code that the model writes, in a sandbox on this machine; else they are refused."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_one("limit", self.limit)


@dataclass(frozen=True)
class ContextsSection:
    """Section `contexts`: what only the teacher sees."""

    privileged: Demonstration
    """How `privileged_context` is shown to the teacher."""
    auxiliary: AuxiliaryContexts | None = None
    """Further views whose agreement weighs the tokens."""
    negative: NegativeContexts | None = None
    """A wrong demonstration, for contrast."""

    @property
    def gates(self) -> dict[str, Gate]:
        """Of the views that have one, by the start of the view's name."""
        sections = {"auxiliary": self.auxiliary, "negative": self.negative}
        return {name: section.gate for name, section in sections.items() if section is not None and section.gate}


@dataclass(frozen=True)
class EvalSection:
    """Section `eval`: task accuracy during and after training."""

    tasks: tuple[str, ...] | None = None
    """Tasks to answer and grade; left out it is that of `data.eval` where it can grade, `[]` is none."""
    every: int | None = None
    """Optimizer steps between two evaluations; empty evaluates at the end only."""
    limit: int | None = None
    """Use this many evaluation examples per task at most."""
    examples: int = 4
    """Held-out prompts whose answers before and after training are kept for `unisd report`; 0 keeps none."""

    def __post_init__(self) -> None:
        _at_least_one("every", self.every)
        _at_least_one("limit", self.limit)
        if self.examples < 0:
            raise ValueError(f"examples must be 0 (none) or more, got {self.examples}.")

    @property
    def strategy(self) -> dict[str, Any]:
        """The training arguments that `every` stands for."""
        return {} if self.every is None else {"eval_strategy": "steps", "eval_steps": self.every}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run, checked: what `load_config` returns and the composition root builds from."""

    model: ModelSection
    """Which weights are trained."""
    peft: dict[str, Any] | None
    """Fields of `peft.LoraConfig`; leave it out to train all weights."""
    data: DataSection
    """What is trained and evaluated on."""
    contexts: ContextsSection
    """What only the teacher sees."""
    teacher: Teacher
    """Which weights score as the teacher: `kind`, and the options of that kind."""
    objective: Divergence
    """The main divergence and the reduction."""
    components: tuple[Loss | Transform, ...]
    """What changes the main term or adds to it; left out: `divergence_clip` at 10 nats."""
    rollout: RolloutOptions
    """Who writes the completions, and how."""
    training: dict[str, Any]
    """Fields of `transformers.TrainingArguments`."""
    eval: EvalSection
    """Task accuracy during and after training."""


SECTIONS_WITHOUT_TORCH: dict[str, type] = {
    "contexts": ContextsSection,
    "data": DataSection,
    "eval": EvalSection,
    "model": ModelSection,
    "rollout": RolloutOptions,
}
"""Their keys are checked before torch is imported."""

DEFAULT_COMPONENTS: tuple[dict[str, Any], ...] = ({"type": "divergence_clip", "ceiling": 10.0},)
"""What a run has that does not mention components."""


def _at_least_one(name: str, given: int | None) -> None:
    if given is not None and given < 1:
        raise ValueError(f"{name} must be at least 1, got {given}. Leave it out to switch it off.")
