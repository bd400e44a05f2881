"""Calls in the form `Action: name`, `Action Input: {...}`: written, read and compared, name, arguments and types."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unisd.tasks.graders import same_json
from unisd.tasks.task import Grade, visible_part

_HEAD = re.compile(
    r"(?:Thought:[^\n]*\n(?:(?!Action:)[^\n]*\n)*)?Action:[ \t]*(?P<name>\S+)[ \t]*\nAction[ _]Input:[ \t]*"
)


class UnreadableCalls(ValueError):
    """The text is not a sequence of calls and nothing else."""


@dataclass(frozen=True)
class ToolCall:
    """One call of a function with named arguments, as JSON values."""

    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return f"Action: {self.name}\nAction Input: {json.dumps(self.arguments, ensure_ascii=False)}"


def write_calls(calls: Sequence[ToolCall]) -> str:
    """The calls as a reply has them, two lines each."""
    return "\n".join(map(str, calls))


def read_calls(text: str) -> list[ToolCall]:
    """The calls of a reply in their order; `UnreadableCalls` where anything else stands in it.

    Each is `Action: name` and on the next line `Action Input:` with one JSON object, which may go over several lines;
    before it may stand a thought, from `Thought:` at the start of a line on. Nothing else may: no other words, no code
    fence, no observation. What a model thinks up to `</think>` is not part of the reply.
    """
    text = visible_part(text).strip()
    calls: list[ToolCall] = []
    position = 0
    while position < len(text) or not calls:
        head = _HEAD.match(text, position)
        if head is None:
            raise UnreadableCalls("something else than calls" if calls else "no call at its start")
        arguments, position = _read_object(text, head.end())
        calls.append(ToolCall(head["name"], arguments))
        gap = re.compile(r"[ \t]*(?:\n\s*|$)").match(text, position)
        if gap is None:
            raise UnreadableCalls("text after the arguments")
        position = gap.end()
    return calls


def read_arguments(text: str) -> dict[str, Any]:
    """The arguments of one call from JSON text that holds nothing else."""
    arguments, end = _read_object(text.strip(), 0)
    if end < len(text.strip()):
        raise UnreadableCalls("text after the arguments")
    return arguments


def grade_calls(completion: str, expected: Sequence[ToolCall]) -> Grade:
    """Right if the reply has exactly these calls in this order; every argument counts, an empty one too.

    Values are compared as JSON: 1 is not "1" and not true, the order of keys does not count, text counts as it is.
    """
    try:
        given = read_calls(completion)
    except UnreadableCalls as error:
        return Grade(False, is_well_formed=False, note=str(error))
    if len(given) != len(expected):
        return Grade(False, note=f"{len(given)} calls, not {len(expected)}")
    for number, (mine, right) in enumerate(zip(given, expected, strict=True), start=1):
        if mine.name != right.name:
            return Grade(False, note=f"call {number} is {mine.name}, not {right.name}")
        if not same_json(mine.arguments, right.arguments):
            return Grade(False, note=f"call {number}: {json.dumps(mine.arguments)}, not {json.dumps(right.arguments)}")
    return Grade(True)


def _read_object(text: str, start: int) -> tuple[dict[str, Any], int]:
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
    try:
        arguments, end = decoder.raw_decode(text, start)
    # A model that keeps opening brackets exceeds the parser's depth.
    except (ValueError, RecursionError) as error:
        raise UnreadableCalls(f"arguments that are not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise UnreadableCalls("arguments that are not a JSON object")
    return arguments, end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name stands twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
