"""GPQA: questions that experts wrote to be hard to look up; for evaluation only."""

from __future__ import annotations

from typing import ClassVar

from unisd.tasks.benchmark import Row, text_in
from unisd.tasks.choice import ChoiceTask, choice_example
from unisd.tasks.source import DataSource
from unisd.types import Example

OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class GPQATask(ChoiceTask):
    """Graduate science with four options, the diamond subset. Source: arXiv:2311.12022."""

    name: ClassVar[str] = "gpqa"
    hub_train: ClassVar[DataSource | None] = None
    hub_eval: ClassVar[DataSource] = DataSource("Idavidrein/gpqa", name="gpqa_diamond", split="train")
    columns: ClassVar[tuple[str, ...]] = ("Question", *OPTIONS)
    hub_note: ClassVar[str] = (
        "The data set is gated: accept its terms on its page on the hub, log in with `hf auth login`, and try again."
    )

    def example(self, row: Row) -> Example:
        """The subject is in `fields` and in no prompt."""
        fields = {"subject": row.get("Subdomain"), "id": row.get("Record ID")}
        options = [text_in(row, column) for column in OPTIONS]
        return choice_example(text_in(row, "Question"), options, 0, fields=fields)
