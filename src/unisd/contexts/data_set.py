"""A data set as a trainer is given it, checked and cut to its budgets before training."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from datasets import IterableDataset
from transformers import PreTrainedTokenizerBase

from unisd.contexts.rows import as_example
from unisd.contexts.template import PromptOverflow, ViewBuilder, fit_examples, render_views
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
    needed: Collection[str],
) -> tuple[list[Example], ViewReport]:
    """The rows as examples that fit and have the `needed` views; a `ValueError` names the data set, row and remedy."""
    examples = []
    for index, row in enumerate(rows):
        try:
            examples.append(as_example(row))
        except ValueError as error:
            raise ValueError(f"{name} data, row {index}: {error}") from error
    _check_views(name, [set(build_views(example)) for example in examples], needed)
    try:
        return fit_examples(examples, tokenizer, options, build_views)
    except ValueError as error:
        raise ValueError(f"{name} data: {error}") from error


def fitting_stream(
    rows: IterableDataset, tokenizer: PreTrainedTokenizerBase, options: PromptOptions, build_views: ViewBuilder
) -> IterableDataset:
    """The stream without the rows over budget, where the policy is to drop them; they are left out as they come."""

    def fits(row: Mapping[str, Any]) -> bool:
        try:
            render_views(as_example(row), tokenizer, options, build_views)
        except PromptOverflow:
            return False
        return True

    return rows.filter(fits) if options.on_overflow == "drop" else rows


def _check_views(name: str, views: Sequence[set[str]], needed: Collection[str]) -> None:
    without = [row for row, names in enumerate(views) if "privileged" not in names]
    if "privileged" in needed and without:
        raise ValueError(
            f"{name} data: {len(without)} of {len(views)} rows have no privileged_context (the first is row "
            f"{without[0]}), but the teacher scores under it. Add the column (an answer or demonstration that only the "
            "teacher sees), or set objective.divergence: none."
        )
    counts = [sum(view.startswith("auxiliary") for view in names) for names in views]
    if "auxiliary" in needed and (min(counts) < 2 or min(counts) != max(counts)):
        row = counts.index(min(counts))
        raise ValueError(
            f"{name} data: every row needs the same number of auxiliary contexts, at least 2, but row {row} has "
            f"{counts[row]} and the most is {max(counts)}. Fill the column auxiliary_contexts, or set "
            "contexts.auxiliary.type: few_shot."
        )
    # Some rows may lack a negative, where no verified wrong answer was found; all of them would make the loss inert.
    if "negative" in needed and not any("negative" in names for names in views):
        raise ValueError(
            f"{name} data: no row has a negative_context, but a component reads negative_logp. Fill the column, set "
            "contexts.negative.type: verified, or drop the component."
        )
