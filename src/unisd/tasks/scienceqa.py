"""ScienceQA: science questions of school books with two to five options; those without an image."""

from __future__ import annotations

from typing import ClassVar

from unisd.tasks.benchmark import Role, Row, integer_in, text_in, texts_in
from unisd.tasks.choice import ChoiceTask, choice_example
from unisd.tasks.source import DataSource
from unisd.types import Example

FIELDS = ("grade", "subject", "topic", "category", "skill", "lecture", "solution")
"""Columns that an example keeps, for templates and for contexts of your own; none is in a prompt."""


class ScienceQATask(ChoiceTask):
    """School science with two to five options, the rows without an image. Source: arXiv:2209.09513."""

    name: ClassVar[str] = "scienceqa"
    hub_train: ClassVar[DataSource | None] = DataSource("derek-thomas/ScienceQA", split="train")
    hub_eval: ClassVar[DataSource] = DataSource("derek-thomas/ScienceQA", split="test")
    columns: ClassVar[tuple[str, ...]] = ("question", "choices", "answer")

    def exclusion(self, row: Row, role: Role) -> str | None:
        """Rows whose question is about an image."""
        return None if row.get("image") is None else "with an image"

    def example(self, row: Row) -> Example:
        """The hint, which holds what a question is about, stands before the question."""
        fields = {name: row[name] for name in FIELDS if name in row}
        context = (row.get("hint") or "").strip()
        options, right = texts_in(row, "choices"), integer_in(row, "answer")
        return choice_example(text_in(row, "question"), options, right, context=context, fields=fields)
