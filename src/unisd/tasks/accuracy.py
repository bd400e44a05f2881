"""Grading a whole task: what was right, with an interval. The caller generates; this file reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unisd.stats import mcnemar_exact, wilson
from unisd.tasks.task import Grade, Task
from unisd.types import Example


@dataclass(frozen=True)
class TaskResult:
    """The graded completions of one task, item by item, so that two results can be paired."""

    task: str
    correct: list[bool]
    well_formed: list[bool]
    completions: list[str]

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Share of correct items; 0 without items."""
        return sum(self.correct) / max(1, self.n)

    @property
    def well_formed_fraction(self) -> float:
        """Share of items the grader could read; 0 without items."""
        return sum(self.well_formed) / max(1, self.n)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson interval of the accuracy: the noise of the items, not of seeds."""
        return wilson(sum(self.correct), self.n, confidence)

    def text(self) -> str:
        """Percent correct and its interval, such as `97.5 % [93.7, 99.0]`."""
        low, high = self.interval()
        return f"{100 * self.accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"

    def discordant(self, other: TaskResult) -> tuple[int, int]:
        """Items only this result has right, and items only `other` has right."""
        if self.n != other.n:
            raise ValueError(
                f"Paired results need the same items, got {self.n} and {other.n}. Grade both on one list of examples."
            )
        pairs = list(zip(self.correct, other.correct, strict=True))
        return sum(mine and not theirs for mine, theirs in pairs), sum(theirs and not mine for mine, theirs in pairs)

    def mcnemar(self, other: TaskResult) -> float:
        """Exact paired p-value that this and `other`, on the same items, are equally good."""
        return mcnemar_exact(*self.discordant(other))


def grade_all(task: Task, examples: Sequence[Example], completions: Sequence[str]) -> list[Grade]:
    """One grade per completion, in order."""
    if len(examples) != len(completions):
        raise ValueError(f"grade_all: {len(examples)} examples but {len(completions)} completions; one each is needed.")
    return [task.grade(example, completion) for example, completion in zip(examples, completions, strict=True)]


def task_result(task: Task, examples: Sequence[Example], completions: Sequence[str]) -> TaskResult:
    """The graded completions with their statistics."""
    grades = grade_all(task, examples, completions)
    return TaskResult(
        task=task.name,
        correct=[grade.correct for grade in grades],
        well_formed=[grade.is_well_formed for grade in grades],
        completions=list(completions),
    )
