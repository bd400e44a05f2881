"""CoS-E: everyday questions of CommonsenseQA with three options, and why people chose the right one."""

from __future__ import annotations

from typing import ClassVar

from unisd.tasks.benchmark import Row, text_in, texts_in
from unisd.tasks.choice import ChoiceTask, choice_example
from unisd.tasks.source import DataSource
from unisd.types import Example


class CosETask(ChoiceTask):
    """Everyday questions with three options. Source: arXiv:1906.02361."""

    name: ClassVar[str] = "cos_e"
    hub_train: ClassVar[DataSource | None] = DataSource("Salesforce/cos_e", name="v1.0", split="train")
    hub_eval: ClassVar[DataSource] = DataSource("Salesforce/cos_e", name="v1.0", split="validation")
    columns: ClassVar[tuple[str, ...]] = ("question", "choices", "answer")

    def example(self, row: Row) -> Example:
        """The human explanation is in `fields` and in no prompt."""
        options, answer = texts_in(row, "choices"), text_in(row, "answer")
        if answer not in options:
            raise ValueError(f"answer: {answer!r} is none of the choices {options!r}. Correct the row, or remove it.")
        fields = {"id": row.get("id"), "explanation": row.get("abstractive_explanation")}
        return choice_example(text_in(row, "question"), options, options.index(answer), fields=fields)
