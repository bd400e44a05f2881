"""What is kept of a few completions: answers before and after training, and every token's numbers. Without torch."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

EXAMPLES_FILE = "examples.json"
"""In the output folder of a run."""
SCHEMA_VERSION = 1
"""Of the file; raised whenever a field changes its name or its meaning."""

Candidate = tuple[str, float]
"""A token and its probability."""


@dataclass(frozen=True)
class Measure:
    """One number per token, under the name that the training log has for its mean."""

    name: str
    """`divergence`, `agreement/weight_mean`, `loss/contrastive` ..."""
    kind: Literal["value", "weight", "flag", "logp"]
    """Nats or whatever a loss measures; a factor; yes or no; a log-probability."""
    values: tuple[float | None, ...]
    """Null where the number is not finite; without meaning where the token is not counted."""


@dataclass(frozen=True)
class TokenMap:
    """One completion, token by token."""

    tokens: tuple[str, ...]
    """Decoded one at a time; bytes that are a part of a character as `\\xe7`."""
    is_counted: tuple[bool, ...]
    """Whether the loss reads the token."""
    measures: tuple[Measure, ...]
    """Only what the components of the run compute."""
    student_top: tuple[tuple[Candidate, ...], ...]
    """By token: the likeliest ones under the student, best first; none where its logits are not finite."""
    teacher_top: tuple[tuple[Candidate, ...], ...]
    """The same under the teacher's privileged view; empty without a teacher."""
    num_left_out: int = 0
    """Tokens after the last one kept."""

    def measure(self, name: str) -> Measure:
        """The measure of that name."""
        for measure in self.measures:
            if measure.name == name:
                return measure
        names = ", ".join(measure.name for measure in self.measures)
        raise ValueError(f"This completion has no measure {name!r}. Measures: {names}.")


@dataclass(frozen=True)
class Answer:
    """A greedy completion of the student's prompt."""

    text: str
    """Decoded without special tokens."""
    is_correct: bool | None
    """Null where no task grades it."""
    note: str = ""
    """Why it is wrong, for a person."""


@dataclass(frozen=True)
class KeptExample:
    """One prompt before and after training."""

    request: str
    """The last turn of the student's prompt, for people."""
    prompt: str
    """As the student reads it, special tokens included."""
    privileged: str | None
    """The teacher's view; null without a privileged context."""
    before: Answer
    after: Answer
    token_map: TokenMap
    """Of the answer after training."""


@dataclass(frozen=True)
class KeptExamples:
    """The file `examples.json`."""

    schema_version: int
    source: Literal["held-out", "training"]
    """Which prompts they are: held-out ones where the run has some."""
    num_steps: int
    """Optimizer steps between before and after."""
    temperature: float
    """Of the objective: all log-probabilities and probabilities are taken at it."""
    coefficients: dict[str, float]
    """Of the added losses, by name; they are multiplied into `loss/<name>`."""
    examples: tuple[KeptExample, ...]

    def save(self, folder: Path) -> None:
        """Write the file as a whole or not at all."""
        path = folder / EXAMPLES_FILE
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(asdict(self), allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def load(cls, folder: Path) -> KeptExamples:
        """Read the file back; a `ValueError` says what is wrong with one that is corrupt or of another version."""
        path = folder / EXAMPLES_FILE
        try:
            kept = TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ValueError(
                f"{path}: cannot be read ({' '.join(str(error).split())[:200]}). Remove the file to go on without it."
            ) from None
        if kept.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: schema_version is {kept.schema_version}, but this unisd reads {SCHEMA_VERSION}. "
                "Use the unisd that wrote it, or remove the file to go on without it."
            )
        return kept
