"""Negative contexts: a wrong demonstration, which the contrastive loss pushes away from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unisd.contexts.cache import Built, cached, content_hash
from unisd.contexts.generation import Writer
from unisd.options import Gate
from unisd.tasks.task import Task
from unisd.types import Example, Prompt

BUILT_IN = ("column", "verified")


@dataclass(frozen=True)
class NegativeContexts:
    """Section `contexts.negative`: where wrong demonstrations come from."""

    type: str = "verified"
    """`verified`: the model is asked for a plausible wrong answer, and the task's grader confirms that it is wrong.
    `column`: the data's `negative_context`. Or `pkg.module:function`, called with the example."""
    attempts: int = 4
    """Tries per example of type `verified`; an example without a wrong answer has no negative view."""
    seed: int = 0
    """Samples the wrong answers. Apart from `training.seed`, so that runs of several seeds share one cache."""
    gate: Gate | None = None
    """Score the view for the most uncertain sequences only; left out, for all."""

    def __post_init__(self) -> None:
        if self.type not in BUILT_IN and ":" not in self.type:
            raise ValueError(
                f"contexts.negative.type must be one of {', '.join(BUILT_IN)} or pkg.module:function, "
                f"got {self.type!r}."
            )
        if self.attempts < 1:
            raise ValueError(f"contexts.negative.attempts must be at least 1, got {self.attempts}.")
        for name, is_set in (("attempts", self.attempts != 4), ("seed", self.seed != 0)):
            if is_set and self.type != "verified":
                raise ValueError(f"contexts.negative.{name} is for type: verified, got type: {self.type}. Remove it.")


@dataclass(frozen=True)
class Negatives:
    """The wrong answer of each example, and why some have none."""

    answers: list[str | None]
    failures: dict[str, int]
    """The last reason of each example without, with counts."""
    built: Built


def verified_negatives(
    examples: Sequence[Example], task: Task, grader: str, section: NegativeContexts, write: Writer
) -> Negatives:
    """For each example an answer that the task's grader can read and calls wrong, the model's own writing.

    The tries take turns: the task's request for a wrong answer, then the student's own prompt. The first works on
    models that can be told to be wrong, the second on those that are wrong by themselves, in the right format.
    `grader` is the grader's name, for the cache, which does not see what a grader of your own does inside.
    """
    unique = {_content(example): example for example in examples}
    ordered = sorted(unique)
    rows = [unique[content] for content in ordered]
    requests = [negative_requests(task, example) for example in rows]
    prompts = [prompt for both in requests for prompt in both]
    key = content_hash("negatives", write.key(prompts), ordered, grader, section.attempts)
    built = cached("negatives", key, lambda: _tried(rows, requests, task, section.attempts, write))
    entries = dict(zip(ordered, built.rows, strict=True))
    found = [entries[_content(example)] for example in examples]
    failures = Counter(entry["failure"] for entry in found if "failure" in entry)
    return Negatives([entry.get("text") for entry in found], dict(failures), built)


def negative_requests(task: Task, example: Example) -> tuple[Prompt, Prompt]:
    """What the model is asked in turn until one of its answers is verified to be wrong."""
    return task.negative_request(example), example.prompt


def _tried(
    examples: Sequence[Example],
    requests: Sequence[tuple[Prompt, Prompt]],
    task: Task,
    attempts: int,
    write: Writer,
) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = [{"failure": "not tried"} for _ in examples]
    for attempt in range(attempts):
        pending = [index for index, entry in enumerate(entries) if "text" not in entry]
        if not pending:
            break
        prompts = [requests[index][attempt % 2] for index in pending]
        for index, written in zip(pending, write(prompts, f"negatives, attempt {attempt + 1}"), strict=True):
            # Stripped before it is graded: what is shown is what was verified.
            text = written.text.strip()
            fault = _fault(task, examples[index], text, is_finished=written.is_finished)
            entries[index] = {"text": text} if fault is None else {"failure": fault}
    return entries


def _content(example: Example) -> str:
    # Everything that a grader may look at.
    return content_hash(repr(example))


def _fault(task: Task, example: Example, text: str, *, is_finished: bool) -> str | None:
    if not text:
        return "empty"
    if not is_finished:
        return "cut off"
    grade = task.grade(example, text)
    if grade.correct:
        return "right"
    # A wrong answer that is no answer argues for nothing.
    return None if grade.is_well_formed else "unreadable"
