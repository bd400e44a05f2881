"""Python-style calls such as `set_timer(minutes=5)`: written, read without running them, compared."""

from __future__ import annotations

import ast
import string
import warnings
from collections.abc import Mapping
from typing import Any

from unisd.tasks.task import Grade, visible_part

LONGEST_CALL = 1000
"""Characters; a longer completion is not read."""


class UnreadableCall(ValueError):
    """The text is not one call with literal arguments and nothing else."""


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """The call with keyword arguments, in the given order."""
    return f"{name}({', '.join(f'{parameter}={value!r}' for parameter, value in arguments.items())})"


def read_call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name, positional and keyword arguments. Outer whitespace and one pair of backticks may stand around the call."""
    text = text.strip()
    if len(text) > 2 and text[0] == text[-1] == "`":
        text = text[1:-1].strip()
    if len(text) > LONGEST_CALL:
        raise UnreadableCall(f"longer than {LONGEST_CALL} characters")
    try:
        with warnings.catch_warnings():
            # A model that writes an odd escape is no reason to warn the user about their code.
            warnings.simplefilter("ignore")
            call = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableCall("not a Python expression") from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise UnreadableCall("not a call of one command")
    # The parser skips outer brackets and comments, which are text around the call all the same.
    if ast.get_source_segment(text, call) != text:
        raise UnreadableCall("text around the call")
    keywords = [keyword.arg for keyword in call.keywords]
    if None in keywords or len(set(keywords)) < len(keywords):
        raise UnreadableCall("unpacked or repeated keyword")
    try:
        positional = [ast.literal_eval(argument) for argument in call.args]
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UnreadableCall("an argument is not a literal") from error
    return call.func.id, positional, named


def grade_call(completion: str, answer: str, signatures: Mapping[str, tuple[str, ...]]) -> Grade:
    """Right if command and arguments are those of `answer`; text counts up to case, spaces and outer punctuation.

    What a model thinks up to `</think>` is not part of the completion.
    """
    expected_name, _, expected = read_call(answer)
    try:
        name, positional, named = read_call(visible_part(completion))
    except UnreadableCall as error:
        return Grade(False, is_well_formed=False, note=str(error))
    if name != expected_name:
        return Grade(False, note=f"command {name}, not {expected_name}")
    parameters = signatures[name]
    if len(positional) > len(parameters) or any(parameter in named for parameter in parameters[: len(positional)]):
        return Grade(False, note="too many arguments")
    arguments = {**dict(zip(parameters, positional, strict=False)), **named}
    if arguments.keys() != expected.keys():
        return Grade(False, note=f"arguments {', '.join(arguments) or 'none'}, not {', '.join(expected)}")
    for parameter, value in expected.items():
        if _comparable(arguments[parameter]) != _comparable(value):
            return Grade(False, note=f"{parameter} is {arguments[parameter]!r}, not {value!r}")
    return Grade(True)


def _comparable(value: Any) -> tuple[type, Any]:
    if isinstance(value, str):
        return str, " ".join(value.casefold().split()).strip(string.punctuation + " ")
    # With the type, for 1 == True == 1.0.
    return type(value), value
