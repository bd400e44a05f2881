"""What a task is: examples to train on, examples to evaluate on, a grade, and how to ask for a wrong answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from unisd.types import Example, Prompt


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion."""

    correct: bool
    is_well_formed: bool = True
    """The grader could read an answer in it, right or wrong."""
    note: str = ""
    """Why it is wrong, for a person; empty when it is right."""


@runtime_checkable
class Task(Protocol):
    """Prompts with their demonstrations, and a grader. The two splits share nothing that could be memorised."""

    name: ClassVar[str]
    """The key in `TASKS`, or `local`."""

    def train_examples(self, limit: int | None = None) -> list[Example]:
        """The training split, or its first `limit` examples."""
        ...

    def eval_examples(self, limit: int | None = None) -> list[Example]:
        """The evaluation split, or its first `limit` examples."""
        ...

    def grade(self, example: Example, completion: str) -> Grade:
        """Whether the completion, decoded without special tokens, answers the example."""
        ...

    def negative_request(self, example: Example) -> Prompt:
        """A prompt that asks a model for a plausible wrong answer; the grader then checks that it is wrong."""
        ...


def check_limit(limit: int | None) -> None:
    """Refuse a limit that would leave nothing, or that Python would count from the end."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}. For all examples, leave it out.")


def visible_part(completion: str) -> str:
    """The completion without what stands between `<think>` and `</think>`: after the last end, up to a new start."""
    return completion.rpartition("</think>")[2].partition("<think>")[0]


def last_turn(prompt: Prompt) -> str:
    """What was asked: the text of the last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def ask_for_wrong_answer(prompt: Prompt, instruction: str) -> Prompt:
    """The prompt with `instruction` at the end of the last turn."""
    if isinstance(prompt, str):
        return f"{prompt}\n\n{instruction}\n\n"
    last = prompt[-1]
    return [*prompt[:-1], {**last, "content": f"{last['content']}\n\n{instruction}"}]
