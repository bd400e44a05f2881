"""From views to token ids: the one render function, and the check that all views end in the same generation prompt."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

from transformers import PreTrainedTokenizerBase

from unisd.contexts.view_report import ViewReport
from unisd.options import PromptOptions
from unisd.types import Example, Prompt

ViewBuilder: TypeAlias = Callable[[Example], dict[str, Prompt]]
"""The views of an example: `build_views` with a demonstration, or a trainer's override of it."""

STUDENT_VIEW = "prompt"
"""Every other view is the teacher's."""

_RESERVED = (
    "add_generation_prompt",
    "continue_final_message",
    "conversation",
    "return_dict",
    "return_tensors",
    "tokenize",
)


def render(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, chat_kwargs: Mapping[str, Any], *, is_open: bool = True
) -> list[int]:
    """Token ids of the prompt; nothing else in the library turns a prompt into ids.

    Text is tokenized as it is, with the special tokens the tokenizer adds by default; a conversation goes through the
    chat template. `is_open` ends it with the generation prompt.
    """
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
        if not ids:
            raise ValueError(
                f"The prompt {prompt!r} has no token, and the tokenizer adds none to start from. "
                "Fill the `prompt` column, or drop the row."
            )
        return ids
    # Slow to import, and transformers itself needs it for chat templates only.
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ValueError(
            f"The prompt is a conversation, but the tokenizer {tokenizer.name_or_path!r} has no chat template. "
            "Use the instruct version of the model, set tokenizer.chat_template, or give prompts as plain text."
        )
    reserved = [key for key in _RESERVED if key in chat_kwargs]
    if reserved:
        raise ValueError(
            f"student_chat_kwargs / teacher_chat_kwargs: {reserved[0]!r} is set by the library. Remove it; "
            "allowed are the switches of the chat template, such as enable_thinking."
        )
    try:
        ids = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=is_open, tokenize=True, return_dict=False, **chat_kwargs
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in prompt)
        raise ValueError(
            f"The chat template refuses a conversation with the roles {roles}: {error}. "
            "Change the roles of the prompt or of its demonstration, or the style of contexts.privileged."
        ) from error
    return cast("list[int]", ids)


def chat_kwargs_of(view: str, options: PromptOptions) -> dict[str, Any]:
    """The chat template's switches for a view; without their own, the teacher's views take the student's."""
    if view == STUDENT_VIEW:
        return options.student_chat_kwargs
    return options.teacher_chat_kwargs or options.student_chat_kwargs


def generation_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, chat_kwargs: Mapping[str, Any]) -> list[int]:
    """The ids that open the assistant's turn at the end of the prompt; none after plain text."""
    if isinstance(prompt, str):
        return []
    opened = render(tokenizer, prompt, chat_kwargs)
    closed = render(tokenizer, prompt, chat_kwargs, is_open=False)
    num_common = 0
    for left, right in zip(opened, closed, strict=False):
        if left != right:
            break
        num_common += 1
    return opened[num_common:]


def assert_same_generation_prompt(
    tokenizer: PreTrainedTokenizerBase, views: Mapping[str, Prompt], options: PromptOptions
) -> list[int]:
    """The generation prompt that all views share; a `ValueError` shows two that differ.

    Where they differ, the teacher's first tokens answer another question than the student's.
    """
    ends = {view: generation_prompt(tokenizer, prompt, chat_kwargs_of(view, options)) for view, prompt in views.items()}
    expected = ends[STUDENT_VIEW]
    for view, end in ends.items():
        if end != expected:
            raise ValueError(
                f"The student's view ends in {tokenizer.decode(expected)!r} but the view {view!r} ends in "
                f"{tokenizer.decode(end)!r}; both must open the answer alike. "
                f"student_chat_kwargs: {options.student_chat_kwargs}, "
                f"teacher_chat_kwargs: {options.teacher_chat_kwargs}. "
                "Give both the same switches of the chat template, and both prompts in one form (text or messages)."
            )
    return expected


class PromptOverflow(ValueError):
    """A view has more tokens than its budget, and the policy does not allow or could not find a way to shorten it."""

    def __init__(self, message: str, *, view: str) -> None:
        super().__init__(message)
        self.view = view
        """The view over budget."""


def render_views(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: PromptOptions, build_views: ViewBuilder
) -> dict[str, list[int]]:
    """Token ids of all views of one example, each within its budget; else `PromptOverflow`, which a caller may drop.

    `truncate_privileged` shortens the text of the privileged context from its end; at least one token of it stays.
    """
    ids = _render_all(build_views(example), tokenizer, options)
    overflow = _overflow(ids, options)
    if overflow is None:
        return ids
    if not _may_shorten(overflow, options):
        raise overflow
    return _shortened(example, tokenizer, options, build_views)[1]


def measure_views(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, options: PromptOptions, build_views: ViewBuilder
) -> ViewReport:
    """The lengths of all views, whatever the policy; rows over budget are counted and nothing is changed."""
    lengths: dict[str, list[int]] = {}
    for _, ids in _render_rows(examples, tokenizer, options, build_views):
        for view in ids:
            lengths.setdefault(view, []).append(len(ids[view]))
    return ViewReport(lengths, {view: _budget(view, options)[1] for view in lengths})


def fit_examples(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, options: PromptOptions, build_views: ViewBuilder
) -> tuple[list[Example], ViewReport]:
    """The examples that fit, shortened where the policy says so, and the lengths that were found; for load time.

    Raises `PromptOverflow` for the first row that does not fit unless the policy is `drop`, and `ValueError` when no
    row is left or when the views of a row end in different generation prompts. Rows count from 0.
    """
    kept: list[Example] = []
    lengths: dict[str, list[int]] = {}
    unfit: list[tuple[int, PromptOverflow]] = []
    num_truncated = 0
    for index, (example, ids) in enumerate(_render_rows(examples, tokenizer, options, build_views)):
        for view in ids:
            lengths.setdefault(view, []).append(len(ids[view]))
        overflow = _overflow(ids, options)
        if overflow is not None and _may_shorten(overflow, options):
            try:
                example, overflow = _shortened(example, tokenizer, options, build_views)[0], None
                num_truncated += 1
            except PromptOverflow as still_over:
                overflow = still_over
        if overflow is None:
            kept.append(example)
        else:
            unfit.append((index, overflow))
    if unfit and options.on_overflow != "drop":
        index, overflow = unfit[0]
        raise PromptOverflow(
            f"row {index}: {overflow} Rows over budget: {len(unfit)} of {len(examples)}.", view=overflow.view
        )
    if not kept:
        raise ValueError(f"All {len(examples)} rows are over budget and were dropped. The first: {unfit[0][1]}")
    budgets = {view: _budget(view, options)[1] for view in lengths}
    return kept, ViewReport(lengths, budgets, num_dropped=len(unfit), num_truncated=num_truncated)


def _render_rows(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, options: PromptOptions, build_views: ViewBuilder
) -> Iterator[tuple[Example, dict[str, list[int]]]]:
    if not examples:
        raise ValueError("There are no examples to render. Check the data set and data.limit.")
    # A template opens the answer in one way per kind of prompt, so the first row of a kind is checked in full, and the
    # ids of every other row only have to end in the same tokens.
    known_ends: dict[bool, list[int]] = {}
    for index, example in enumerate(examples):
        try:
            views = build_views(example)
            ids = _render_all(views, tokenizer, options)
            is_text = isinstance(example.prompt, str)
            end = known_ends.get(is_text)
            if end is None:
                known_ends[is_text] = assert_same_generation_prompt(tokenizer, views, options)
            elif not all(_ends_in(ids[view], end) and isinstance(views[view], str) == is_text for view in views):
                assert_same_generation_prompt(tokenizer, views, options)
        except ValueError as error:
            raise ValueError(f"row {index}: {error}") from error
        yield example, ids


def _render_all(
    views: Mapping[str, Prompt], tokenizer: PreTrainedTokenizerBase, options: PromptOptions
) -> dict[str, list[int]]:
    return {view: render(tokenizer, prompt, chat_kwargs_of(view, options)) for view, prompt in views.items()}


def _ends_in(ids: list[int], end: list[int]) -> bool:
    return ids[len(ids) - len(end) :] == end


def _budget(view: str, options: PromptOptions) -> tuple[str, int]:
    name = "max_prompt_length" if view == STUDENT_VIEW else "max_teacher_prompt_length"
    return name, getattr(options, name)


def _overflow(ids: Mapping[str, list[int]], options: PromptOptions) -> PromptOverflow | None:
    """What to raise for the first view over budget, the student's before the teacher's."""
    for view in sorted(ids, key=lambda view: view != STUDENT_VIEW):
        name, budget = _budget(view, options)
        if len(ids[view]) > budget:
            policies = ["drop"] if view == STUDENT_VIEW else ["drop", "truncate_privileged"]
            others = [policy for policy in policies if policy != options.on_overflow]
            or_policy = f", or set on_overflow (now {options.on_overflow}) to {' or '.join(others)}" if others else ""
            return PromptOverflow(
                f"The view {view!r} has {len(ids[view])} tokens, but {name} is {budget}. "
                f"Raise {name} or shorten the row{or_policy}.",
                view=view,
            )
    return None


def _may_shorten(overflow: PromptOverflow, options: PromptOptions) -> bool:
    return options.on_overflow == "truncate_privileged" and overflow.view != STUDENT_VIEW


def _shortened(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: PromptOptions, build_views: ViewBuilder
) -> tuple[Example, dict[str, list[int]]]:
    """The example with the longest start of its privileged context that fits, and its views."""
    context = example.privileged_context
    cuts = _token_ends(tokenizer, context) if isinstance(context, str) else []

    def attempt(num_tokens: int) -> tuple[Example, dict[str, list[int]]]:
        assert isinstance(context, str)
        shorter = replace(example, privileged_context=context[: cuts[num_tokens - 1]])
        return shorter, _render_all(build_views(shorter), tokenizer, options)

    # The last cut is the whole text, which is known not to fit.
    counts = range(1, len(cuts))
    num_kept = bisect_left(counts, True, key=lambda count: _overflow(attempt(count)[1], options) is not None)
    if num_kept == 0:
        overflow = _overflow(_render_all(build_views(example), tokenizer, options), options)
        assert overflow is not None
        why = "not even one token of it fits" if isinstance(context, str) else "it is not text"
        raise PromptOverflow(f"{overflow} The privileged context cannot be shortened: {why}.", view=overflow.view)
    return attempt(num_kept)


def _token_ends(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Character positions at which the text can be cut: after every token, or every word without token positions."""
    if not tokenizer.is_fast:
        return [word.end() for word in re.finditer(r"\S+", text)]
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return sorted({end for _, end in offsets if end > 0})
