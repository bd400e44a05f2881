"""A data set as a trainer is given it, checked and cut to its budgets before training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from unisd.contexts.rows import as_example
from unisd.contexts.template import ViewBuilder, fit_examples
from unisd.contexts.view_report import ViewReport
from unisd.options import PromptOptions
from unisd.types import Example


def fit_rows(
    name: str,
    rows: Iterable[Example | Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    options: PromptOptions,
    build_views: ViewBuilder,
    *,
    needs_privileged: bool,
) -> tuple[list[Example], ViewReport]:
    """The rows as examples that fit; a `ValueError` names the data set, the row and what to do about it."""
    examples = []
    for index, row in enumerate(rows):
        try:
            examples.append(as_example(row))
        except ValueError as error:
            raise ValueError(f"{name} data, row {index}: {error}") from error
    without = [index for index, example in enumerate(examples) if "privileged" not in build_views(example)]
    if needs_privileged and without:
        raise ValueError(
            f"{name} data: {len(without)} of {len(examples)} rows have no privileged_context (the first is row "
            f"{without[0]}), but the teacher scores under it. Add the column (an answer or demonstration that only the "
            "teacher sees), or set objective.divergence: none."
        )
    try:
        return fit_examples(examples, tokenizer, options, build_views)
    except ValueError as error:
        raise ValueError(f"{name} data: {error}") from error
