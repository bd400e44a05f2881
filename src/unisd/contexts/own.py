"""Contexts that the user brings: in a column of the data, or from a function of theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unisd.tasks.rows import as_example
from unisd.types import Example, Prompt


def auxiliary_from(name: str, function: Callable[[Example], Any], examples: Sequence[Example], count: int) -> list[Any]:
    """The `count` contexts that the function returns for each example, checked as those of a column are."""
    filled = []
    for row, example in enumerate(examples):
        contexts = _checked(name, row, example, "auxiliary_contexts", function(example)).auxiliary_contexts
        if len(contexts) != count:
            raise ValueError(
                f"{name}, row {row}: returned {len(contexts)} contexts, but contexts.auxiliary.count is {count}. "
                f"Return a list of {count}, or change count."
            )
        filled.append(contexts)
    return filled


def negatives_from(name: str, function: Callable[[Example], Any], examples: Sequence[Example]) -> list[Prompt | None]:
    """The wrong demonstration that the function returns for each example; `None` leaves a row without."""
    return [
        _checked(name, row, example, "negative_context", function(example)).negative_context
        for row, example in enumerate(examples)
    ]


def check_auxiliary_column(split: str, examples: Sequence[Example], count: int) -> None:
    """Every row has `count` contexts."""
    for row, example in enumerate(examples):
        given = len(example.auxiliary_contexts)
        if given != count:
            has = f"has {given} auxiliary_contexts" if given else "has no auxiliary_contexts"
            raise ValueError(
                f"{split} data, row {row}: {has}, but contexts.auxiliary.type is column and count is {count}. "
                "Fill the column with that many per row, or change count or type."
            )


def refuse_filled(split: str, context: str, type_: str, examples: Sequence[Example]) -> None:
    """A column that a builder would overwrite is a contradiction."""
    column = {"auxiliary": "auxiliary_contexts", "negative": "negative_context"}[context]
    for row, example in enumerate(examples):
        if {"auxiliary": example.auxiliary_contexts, "negative": example.negative_context}[context]:
            raise ValueError(
                f"{split} data, row {row}: has {column}, which contexts.{context}.type: {type_} would replace. "
                f"Set contexts.{context}.type: column, or remove the column."
            )


def _checked(name: str, row: int, example: Example, column: str, value: Any) -> Example:
    try:
        return as_example({"prompt": example.prompt, column: value})
    except ValueError as error:
        raise ValueError(f"{name}, row {row}: returned what cannot be shown: {error}") from error
