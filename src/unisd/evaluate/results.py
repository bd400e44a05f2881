"""`results.json`: what one evaluation measured, item by item, so that two results can be paired. Without torch."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unisd.stats import mcnemar_exact

SCHEMA_VERSION = 1
"""Of the file; raised whenever a field changes its name or its meaning."""
RESULTS_FILE = "results.json"
"""What the file is called where nothing else is said."""
CONFIDENCE = 0.95
"""Of every interval in the file."""

Interval = tuple[float, float]
"""Wilson, `CONFIDENCE`: the noise of the items, not of seeds."""


@dataclass(frozen=True)
class Item:
    """The greedy answer to one held-out prompt, graded."""

    id: str
    """Hash of the prompt, so that the same prompt has the same id in every run; repeats get `-2`, `-3` ..."""
    correct: bool
    well_formed: bool
    """The grader could read an answer in it, right or wrong."""
    num_tokens: int
    """Of the completion, its end-of-sequence token included."""
    truncated: bool
    """It ran into the length limit."""
    completion: str
    """Decoded without special tokens."""
    note: str
    """Why it is wrong, for a person; empty when it is right."""
    teacher_correct: bool | None
    """The greedy answer under the privileged view; null where it was not asked for."""
    num_correct_samples: int | None
    """Of `generation.num_samples` sampled answers; null without sampling."""
    request: str = ""
    """What was asked: the last turn of the prompt; empty in files from before it was kept."""


@dataclass(frozen=True)
class TeacherCeiling:
    """The same model under the privileged view, over the items that have one."""

    num_items: int
    accuracy: float
    accuracy_interval: Interval


@dataclass(frozen=True)
class TaskMeasurement:
    """What one task says about the model; shares and accuracies lie between 0 and 1."""

    name: str
    num_items: int
    num_dropped: int
    """Rows over the prompt budget (`data.on_overflow: drop`), which are no items."""
    accuracy: float
    """Greedy, under the student's own prompt."""
    accuracy_interval: Interval
    well_formed_share: float
    mean_num_tokens: float
    """Length of the completions."""
    truncated_share: float
    gold_perplexity: float | None
    """exp of the mean over all gold tokens (end of sequence included) of -logp under the student's prompt, at
    temperature 1; null without gold completions, or where it is not finite."""
    privileged_overlap: float | None
    """Mean share of a completion's token 4-grams that only the privileged view has; null without such views."""
    teacher: TeacherCeiling | None
    """Null where it was not asked for, or no item has a privileged context."""
    pass_at_k: dict[int, float] | None
    """By k: mean over items of 1 - C(n-c, k) / C(n, k), c of n sampled answers right; null without sampling."""
    items: tuple[Item, ...]
    """In the order of the task."""

    @property
    def correct_by_id(self) -> dict[str, bool]:
        """Whether the greedy answer is right, by item."""
        return {item.id: item.correct for item in self.items}

    def discordant(self, other: TaskMeasurement) -> tuple[int, int]:
        """Items that only this measurement has right, and items that only `other` has right."""
        mine, theirs = self.correct_by_id, other.correct_by_id
        if mine.keys() != theirs.keys():
            raise ValueError(
                f"{self.name}: the two results are not of the same items, {len(mine.keys() - theirs.keys())} are only "
                f"in the first and {len(theirs.keys() - mine.keys())} only in the second. Evaluate both on one file "
                "and one limit."
            )
        gained = sum(mine[key] and not theirs[key] for key in mine)
        lost = sum(theirs[key] and not mine[key] for key in mine)
        return gained, lost

    def mcnemar(self, other: TaskMeasurement) -> float:
        """Exact paired p-value that this model and `other`, on the same items, are equally good."""
        return mcnemar_exact(*self.discordant(other))


@dataclass(frozen=True)
class Drift:
    """Two models over one set of completions; means over all tokens of the set, in nats, at temperature 1."""

    num_tokens: int
    jsd: float | None
    """Jensen-Shannon divergence over the whole vocabulary, 0 for equal models and ln 2 at most."""
    base_logp: float | None
    """Mean log-probability of the tokens under the base model."""
    tuned_logp: float | None
    """The same under the evaluated model."""


@dataclass(frozen=True)
class PromptDrift:
    """How far the model has moved on one set of prompts, with greedy completions of either model."""

    name: str
    """A task's name, or that of a file of prompts."""
    num_prompts: int
    tuned_completions: Drift
    """What the evaluated model writes, scored by both."""
    base_completions: Drift
    """What the base model writes, scored by both."""


@dataclass(frozen=True)
class TextPerplexity:
    """Perplexity of plain text, cut into consecutive windows; all tokens but the first of the file are scored once.

    A token is predicted from those before it in its window and from the last one before the window.
    """

    file: str
    num_tokens: int
    window: int
    """Tokens scored per window."""
    perplexity: float | None
    """Of the evaluated model; null where it is not finite."""
    base_perplexity: float | None
    """Of the base model; null without retention."""


@dataclass(frozen=True)
class Retention:
    """How much of its base the model still is."""

    base: str
    """Name or path of the base model."""
    prompts: tuple[PromptDrift, ...]


@dataclass(frozen=True)
class ModelFacts:
    """Which weights were evaluated, and on what."""

    name_or_path: str
    """Hub id or folder; of the base, where an adapter is on it."""
    adapter: str | None
    """Folder of the adapter, loaded without merging; null for a model without one, or a live one."""
    description: str
    """For people."""
    dtype: str
    device: str


@dataclass(frozen=True)
class Generation:
    """How the answers were written. Sampling options are those of `--samples`; the greedy pass has none of them."""

    max_completion_length: int
    batch_size: int
    repetition_penalty: float
    max_prompt_length: int
    max_teacher_prompt_length: int
    student_chat_kwargs: dict[str, Any]
    teacher_chat_kwargs: dict[str, Any]
    demonstration: dict[str, Any]
    """How the privileged context is shown to the teacher."""
    num_samples: int
    """Per prompt; 0 without sampling."""
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None


@dataclass(frozen=True)
class Results:
    """One evaluation. Run twice on one machine, everything but `created` is the same."""

    schema_version: int
    created: str
    """Time, ISO 8601, UTC."""
    model: ModelFacts
    config_hash: str | None
    """Of the resolved configuration, see `unisd.config.dump`; null for a live model without one."""
    seed: int
    """Of the sampled answers."""
    limit: int | None
    """Items per task at most."""
    versions: dict[str, str]
    """Of python, unisd, torch, transformers and peft."""
    git_hash: str | None
    """Commit of the checkout that unisd runs from, with `-dirty` where files differ from it; null when installed."""
    generation: Generation
    tasks: tuple[TaskMeasurement, ...]
    general_text: TextPerplexity | None
    retention: Retention | None
    harness: dict[str, dict[str, float]] | None = None
    """Metrics by task of lm-eval, under its names; null where none was asked for."""

    def task(self, name: str) -> TaskMeasurement:
        """The measurement of one task."""
        for measurement in self.tasks:
            if measurement.name == name:
                return measurement
        names = ", ".join(measurement.name for measurement in self.tasks) or "none"
        raise ValueError(f"These results have no task {name!r}. Tasks: {names}.")

    def save(self, path: str | Path) -> None:
        """Write the file as a whole or not at all."""
        path = Path(path)
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False, allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(f"{text}\n", encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read the file back; a `ValueError` says what is wrong with one that is corrupt or of another version."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot be read ({error}). Give a file that unisd eval wrote.") from None
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {error.lineno}: not JSON ({error.msg}). It is cut off or was edited: evaluate again."
            ) from None
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: schema_version is {version!r}, but this unisd reads {SCHEMA_VERSION}. "
                "Evaluate again, or read the file with the unisd that wrote it (see `versions` in it)."
            )
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{path}: {place}: {first['msg']}. It was edited: evaluate again.") from None
