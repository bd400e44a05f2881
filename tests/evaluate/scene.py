"""A task whose right answers a test decides, and the options it is evaluated with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from unisd.args import SelfDistillConfig
from unisd.tasks.task import Grade
from unisd.types import Example, Prompt

QUESTIONS = ("Name a colour.", "And a number?", "What is the capital of the country south of here?", "Why?")


@dataclass
class KeyTask:
    """Right is what the key says about a question; anything that holds a `?` counts as unreadable."""

    key: dict[str, str] = field(default_factory=dict)
    questions: tuple[str, ...] = QUESTIONS
    context: str | None = "Blue, or 7."
    completion: str | None = "blue"
    name: ClassVar[str] = "key"

    def train_examples(self, limit: int | None = None) -> list[Example]:
        return self.eval_examples(limit)

    def eval_examples(self, limit: int | None = None) -> list[Example]:
        return [
            Example(prompt=question, privileged_context=self.context, completion=self.completion, answer="")
            for question in self.questions[:limit]
        ]

    def grade(self, example: Example, completion: str) -> Grade:
        assert isinstance(example.prompt, str)
        is_right = self.key.get(example.prompt) == completion
        return Grade(is_right, "?" not in completion, "" if is_right else "not what the key says")

    def negative_request(self, example: Example) -> Prompt:
        return example.prompt


def options_in(folder: Path, **changes: object) -> SelfDistillConfig:
    """Short completions on the CPU; one byte is one token for the tiny model."""
    given = {"max_completion_length": 6, "generation_batch_size": 3, "seed": 5, **changes}
    return SelfDistillConfig(str(folder), use_cpu=True, report_to="none", **given)
