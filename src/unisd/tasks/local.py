"""The `local` task: own rows, as they are or through templates, with a grader by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unisd.tasks.graders import GRADERS, load_grader
from unisd.tasks.placeholders import placeholders
from unisd.tasks.rows import as_example
from unisd.tasks.source import DataSource
from unisd.tasks.task import Grade, ask_for_wrong_answer, check_limit
from unisd.types import Example, Prompt

__all__ = ["DataSource", "LocalTask"]


@dataclass(frozen=True)
class LocalTask:
    """Rows from files or the hub. Rows count from 0 in its errors, which come at load time."""

    train: DataSource | None = None
    eval: DataSource | None = None
    prompt_template: str | None = None
    """Makes the prompt of rows without a `prompt` column: text with the other columns as placeholders."""
    privileged_template: str | None = None
    """The same for `privileged_context`."""
    name: ClassVar[str] = "local"

    def __post_init__(self) -> None:
        for _, template, option in self._templates():
            placeholders(option, template)
        for source in (self.train, self.eval):
            if source and source.grader:
                load_grader(source.grader)

    @property
    def has_grader(self) -> bool:
        """Whether completions can be graded: one of the sources names a grader."""
        return self.grader is not None

    @property
    def grader(self) -> str | None:
        """The grader that the evaluation source names, else the training source."""
        return next((source.grader for source in (self.eval, self.train) if source and source.grader), None)

    def train_examples(self, limit: int | None = None) -> list[Example]:
        """The rows of `train`, in their order."""
        return self._examples(self.train, "train", self.train.grader if self.train else None, limit)

    def eval_examples(self, limit: int | None = None) -> list[Example]:
        """The rows of `eval`, in their order."""
        return self._examples(self.eval, "eval", self.grader, limit)

    def grade(self, example: Example, completion: str) -> Grade:
        """The verdict of `grader`."""
        return load_grader(self.checked_grader())(completion, example.answer)

    def checked_grader(self) -> str:
        """`grader`, or a `ValueError` where there is none."""
        if self.grader is None:
            raise ValueError(
                f"data.eval.grader is missing, so completions cannot be graded. Graders: {', '.join(GRADERS)}, "
                "or an import path such as my_graders:grade."
            )
        return self.grader

    def negative_request(self, example: Example) -> Prompt:
        """The conversation with the right answer given, and a user who wants another one with a mistake in it.

        On SmolLM2-135M and tool calls 44 % of the replies are usable so, and 12 % where the last turn only asks for
        something wrong (of 16 and 24 prompts). Plain text, and rows without an answer, are asked in the latter way.
        """
        answers = (example.privileged_context, example.completion, example.answer)
        answer = next((text for text in answers if isinstance(text, str)), None)
        if isinstance(example.prompt, str) or answer is None:
            return ask_for_wrong_answer(example.prompt, "Give an answer that looks right but is wrong.")
        request = "That is right. Now give an answer of the same form with a mistake in it."
        return [*example.prompt, {"role": "assistant", "content": answer}, {"role": "user", "content": request}]

    def _templates(self) -> list[tuple[str, str, str]]:
        options = (
            ("prompt", self.prompt_template, "data.prompt_template"),
            ("privileged_context", self.privileged_template, "data.privileged_template"),
        )
        return [(column, template, option) for column, template, option in options if template is not None]

    def _examples(self, source: DataSource | None, role: str, grader: str | None, limit: int | None) -> list[Example]:
        check_limit(limit)
        if source is None:
            raise ValueError(f"data.{role} is missing. Give a task name, or a path to your rows.")
        rows = source.load(limit)
        self._check_columns(source, list(rows[0]))
        examples = []
        for index, row in enumerate(rows):
            try:
                example = as_example(self._filled(row))
                if grader in GRADERS:
                    _check_answer(grader, example)
            except ValueError as error:
                raise ValueError(f"{source.path}, row {index}: {error}") from error
            examples.append(example)
        return examples

    def _check_columns(self, source: DataSource, columns: list[str]) -> None:
        for column, template, option in self._templates():
            if column in columns:
                raise ValueError(f"{option}: {source.path} has a column {column!r} already. Remove one of the two.")
            missing = sorted(placeholders(option, template) - set(columns))
            if missing:
                raise ValueError(
                    f"{option}: {source.path} has no column {', '.join(map(repr, missing))}. "
                    f"Columns: {', '.join(columns)}."
                )

    def _filled(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with the columns that the templates make."""
        made = {}
        for column, template, option in self._templates():
            absent = sorted(name for name in placeholders(option, template) if row[name] is None)
            if absent:
                raise ValueError(f"{option}: column {absent[0]!r} is null here. Fill it, or remove the row.")
            made[column] = template.format_map(row)
        return {**row, **made}


def _check_answer(grader: str, example: Example) -> None:
    if example.answer is None:
        raise ValueError(f"answer: missing, but grader {grader} compares with it. Fill the `answer` column.")
    # An answer that the grader cannot use would otherwise stop the run at its first evaluation.
    GRADERS[grader]("", example.answer)
