"""From a row of a data set to an `Example`: columns are checked here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unisd.types import Example, Message, Prompt

COLUMNS = (
    "prompt",
    "privileged_context",
    "teacher_prompt",
    "auxiliary_contexts",
    "negative_context",
    "completion",
    "answer",
)
"""What a row may hold; every other column goes into `Example.fields`. Only `prompt` is required."""

_PROMPT_FORMS = 'text, or a list of messages such as {"role": "user", "content": "..."}'


def as_example(row: Example | Mapping[str, Any]) -> Example:
    """The row as an `Example`; `None` in a column means that the row has none. An `Example` is returned as it is."""
    if isinstance(row, Example):
        return row
    if row.get("prompt") is None:
        raise ValueError(
            f"prompt: missing. Columns of the row: {', '.join(row) or 'none'}. "
            "Add a `prompt` column, rename one, or set data.prompt_template."
        )
    prompt = _request("prompt", row["prompt"])
    teacher_prompt = row.get("teacher_prompt")
    if teacher_prompt is not None:
        teacher_prompt = _request("teacher_prompt", teacher_prompt)
        if isinstance(teacher_prompt, str) != isinstance(prompt, str):
            raise ValueError(
                f"teacher_prompt: is {_kind(teacher_prompt)} but prompt is {_kind(prompt)}. "
                "Give both in one form, so that both end in the same generation prompt."
            )
    return Example(
        prompt=prompt,
        privileged_context=_context("privileged_context", row.get("privileged_context")),
        teacher_prompt=teacher_prompt,
        completion=_completion(row.get("completion")),
        auxiliary_contexts=_auxiliary(row.get("auxiliary_contexts")),
        negative_context=_context("negative_context", row.get("negative_context")),
        answer=row.get("answer"),
        fields={name: value for name, value in row.items() if name not in COLUMNS},
    )


def _request(column: str, value: object) -> Prompt:
    request = _prompt(column, value)
    if not isinstance(request, str) and request[-1]["role"] != "user":
        raise ValueError(
            f"{column}: the last message has the role {request[-1]['role']!r}; it must be 'user'. "
            "An answer belongs into privileged_context or completion."
        )
    return request


def _context(column: str, value: object) -> Prompt | None:
    return None if value is None else _prompt(column, value)


def _auxiliary(value: object) -> tuple[Prompt, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"auxiliary_contexts: must be a list, got {_kind(value)}. Allowed per entry: {_PROMPT_FORMS}.")
    return tuple(_prompt(f"auxiliary_contexts[{index}]", context) for index, context in enumerate(value))


def _completion(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    messages = _prompt("completion", value)
    assert not isinstance(messages, str)
    if messages[-1]["role"] != "assistant":
        raise ValueError(
            f"completion: the last message has the role {messages[-1]['role']!r}; it must be 'assistant'. "
            "Give the completion as text, or as messages that end with the assistant's."
        )
    return messages[-1]["content"]


def _prompt(column: str, value: object) -> Prompt:
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f"{column}: is empty. Fill it, or leave it out (null) if the column is optional.")
        return value
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{column}: got {_kind(value)}, {value!r}. Allowed: {_PROMPT_FORMS}.")
    if not value:
        raise ValueError(f"{column}: is an empty list. Fill it, or leave it out (null) if the column is optional.")
    return [_message(f"{column}[{index}]", message) for index, message in enumerate(value)]


def _message(where: str, value: object) -> Message:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: got {_kind(value)}, {value!r}. Allowed: {_PROMPT_FORMS}.")
    # Tables give every message the keys of every other one; an absent one is null.
    message = {str(key): text for key, text in value.items() if text is not None}
    for key in ("role", "content"):
        if key not in message:
            keys = ", ".join(message) or "none"
            raise ValueError(f"{where}: has no {key!r}; its keys: {keys}. Allowed: {_PROMPT_FORMS}.")
    for key, text in message.items():
        if not isinstance(text, str):
            raise ValueError(f"{where}.{key}: got {_kind(text)}, {text!r}. Allowed: text.")
    return message


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, (list, tuple)) else f"{type(value).__name__}"
