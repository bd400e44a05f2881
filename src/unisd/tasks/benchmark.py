"""A published data set as a task: its rows come from the hub by id, or from files of the same schema."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from unisd.tasks.source import DataSource
from unisd.tasks.task import Grade, check_limit
from unisd.types import Example, Prompt

logger = logging.getLogger(__name__)

Role: TypeAlias = Literal["train", "eval"]
Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark(ABC):
    """Turns rows into examples one by one; a row that cannot be used is left out and counted, or refused by number."""

    train: DataSource | None = None
    """Rows to train on in place of the hub's."""
    eval: DataSource | None = None
    """Rows to evaluate on in place of the hub's."""
    name: ClassVar[str]
    hub_train: ClassVar[DataSource | None]
    """`None`: the data set is for evaluation only."""
    hub_eval: ClassVar[DataSource]
    columns: ClassVar[tuple[str, ...]]
    """What every row must have."""
    hub_note: ClassVar[str] = ""
    """What a user has to do before the hub gives the data; stands at the end of the error."""

    @abstractmethod
    def example(self, row: Row) -> Example:
        """The row as an example; a `ValueError` says what is wrong with the row."""

    @abstractmethod
    def grade(self, example: Example, completion: str) -> Grade:
        """Whether the completion answers the example."""

    @abstractmethod
    def negative_request(self, example: Example) -> Prompt:
        """A prompt that asks for a plausible wrong answer."""

    def exclusion(self, row: Row, role: Role) -> str | None:
        """Why the row is left out of this split; `None` keeps it."""
        return None

    def train_examples(self, limit: int | None = None) -> list[Example]:
        """The training split in its order; refused where the data set is for evaluation only."""
        if self.hub_train is None:
            raise ValueError(evaluation_only(self.name))
        return self._examples(self.train or self.hub_train, "train", limit)

    def eval_examples(self, limit: int | None = None) -> list[Example]:
        """The evaluation split in its order."""
        return self._examples(self.eval or self.hub_eval, "eval", limit)

    def _examples(self, source: DataSource, role: Role, limit: int | None) -> list[Example]:
        check_limit(limit)
        examples: list[Example] = []
        left_out: Counter[str] = Counter()
        for index, row in enumerate(self._rows(source)):
            if len(examples) == limit:
                break
            try:
                reason = self.exclusion(row, role)
                if reason is None:
                    examples.append(self.example(row))
                else:
                    left_out[reason] += 1
            except ValueError as error:
                raise ValueError(f"{source.path}, row {index}: {error}") from error
        self._report(source, role, len(examples), left_out)
        return examples

    def _rows(self, source: DataSource) -> Iterator[Row]:
        is_hub = source in (self.hub_train, self.hub_eval)
        try:
            for row in source.rows():
                missing = [column for column in self.columns if column not in row]
                if missing:
                    raise ValueError(
                        f"{source.path}: has no column {', '.join(map(repr, missing))}, which {self.name} needs. "
                        f"Columns: {', '.join(row)}. Give rows of the schema of {self.hub_eval.path}."
                    )
                yield row
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}{self._hint() if is_hub else ''}") from error

    def _hint(self) -> str:
        note = f" {self.hub_note}" if self.hub_note else ""
        return f"{note} Rows of your own copy are named as {{task: {self.name}, path: ...}}."

    def _report(self, source: DataSource, role: Role, num_kept: int, left_out: Counter[str]) -> None:
        reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        if not num_kept:
            raise ValueError(f"{source.path}: no row is left for data.{role} of {self.name} ({reasons}).")
        if left_out:
            total = num_kept + left_out.total()
            logger.warning(
                "%s (%s): %d of %d rows left out: %s.", self.name, source.path, left_out.total(), total, reasons
            )


def evaluation_only(name: str) -> str:
    """What is said to somebody who wants to train on such a task."""
    return f"data.train: {name} is for evaluation only. Name it under eval.tasks, and train on other data."


def integer_in(row: Row, column: str) -> int:
    """The whole number of a column."""
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{column}: must be a whole number, got {value!r}. Correct the row, or remove it.")
    return value


def texts_in(row: Row, column: str) -> list[str]:
    """The texts of a column of lists, their outer whitespace removed."""
    value = row.get(column)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(
            f"{column}: must be a list of texts, got {value!r}. Correct the row; a .csv cannot hold lists, "
            "give .jsonl or .parquet."
        )
    return [text.strip() for text in value]


def text_in(row: Row, column: str) -> str:
    """The text of a column, outer whitespace removed; refused where there is none."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{column}: must be text, got {value!r}. Correct the row, or remove it.")
    return value.strip()
