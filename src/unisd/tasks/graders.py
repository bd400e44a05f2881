"""Graders for own data: `(completion, answer) -> Grade`, strict, by name or by import path."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from unisd.tasks.task import Grade

Grader: TypeAlias = Callable[[str, Any], Grade]
"""Compares a completion with the `answer` column of its row."""

# Not inside a word or a version (v2, 1.2.3), and a dot counts as the decimal point only where no other dot precedes it.
_NUMBER = re.compile(
    r"(?<!\w)(?<!\d\.)[-+]?(?:\d{1,3}(?:,\d{3})+|\d+|(?<!\.)(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\d)"
)
RELATIVE_TOLERANCE = 1e-6
"""Of `numeric`."""


def exact_match(completion: str, answer: Any, *, ignore_case: bool = False) -> Grade:
    """Equal after outer whitespace is stripped; letter case counts unless `ignore_case`."""
    given, expected = completion.strip(), _text("exact_match", answer).strip()
    if ignore_case:
        given, expected = given.casefold(), expected.casefold()
    return _verdict(given == expected, f"not {expected!r}")


def exact_match_ignore_case(completion: str, answer: Any) -> Grade:
    """Equal after outer whitespace is stripped and letter case is folded."""
    return exact_match(completion, answer, ignore_case=True)


def contains(completion: str, answer: Any) -> Grade:
    """The answer stands somewhere in the completion, in the same letter case; an empty answer is refused."""
    expected = _text("contains", answer).strip()
    if not expected:
        raise ValueError("grader contains: the answer is empty; every text contains that. Fill the `answer` column.")
    return _verdict(expected in completion, f"{expected!r} is not in it")


def regex(completion: str, answer: Any) -> Grade:
    """The answer is a pattern that matches the whole completion, outer whitespace aside (Python's `re.fullmatch`)."""
    try:
        pattern = re.compile(str(answer))
    except re.error as error:
        raise ValueError(
            f"grader regex: the answer {answer!r} is not a regular expression ({error}). Correct the `answer` column."
        ) from error
    return _verdict(pattern.fullmatch(completion.strip()) is not None, f"{answer!r} does not match")


def numeric(completion: str, answer: Any) -> Grade:
    """The last number of the completion equals the answer's, relative tolerance 1e-6; `1,234.5` and `1e3` are numbers.

    Without any number the completion is not well formed. An answer holds one number and no further digit, after the
    last `####` where it has one, as in GSM8K.
    """
    written = str(answer).rpartition("####")[2]
    expected, others = _last_number(written), _NUMBER.split(written)
    if expected is None or len(others) != 2 or re.search(r"\d", "".join(others)) or isinstance(answer, bool):
        raise ValueError(
            f"grader numeric: the answer {answer!r} must hold one number, such as 0.5 for 1/2. "
            "Correct the `answer` column."
        )
    given = _last_number(completion)
    if given is None:
        return Grade(False, is_well_formed=False, note="no number")
    return _verdict(math.isclose(given, expected, rel_tol=RELATIVE_TOLERANCE), f"{given:g}, not {expected:g}")


def json_equal(completion: str, answer: Any) -> Grade:
    """The completion, parsed as JSON, equals the answer (JSON text, or a value); key order does not count.

    What does not parse, a Markdown fence included, is not well formed.
    """
    try:
        expected = json.loads(answer) if isinstance(answer, str) else answer
    except ValueError as error:
        raise ValueError(
            f"grader json: the answer {answer!r} is not JSON ({error}). Correct the `answer` column."
        ) from error
    try:
        given = json.loads(completion)
    # A model that keeps opening brackets exceeds the parser's depth.
    except (ValueError, RecursionError) as error:
        return Grade(False, is_well_formed=False, note=f"not JSON: {error}")
    return _verdict(same_json(given, expected), f"not {json.dumps(expected)}")


GRADERS: dict[str, Grader] = {
    "contains": contains,
    "exact_match": exact_match,
    "exact_match_ignore_case": exact_match_ignore_case,
    "json": json_equal,
    "numeric": numeric,
    "regex": regex,
}


def load_grader(name: str) -> Grader:
    """A grader from `GRADERS`, or the function at an import path `pkg.module:function`.

    Modules in the working directory are found too. The function takes (completion, answer) and returns Grade or bool.
    """
    if name in GRADERS:
        return GRADERS[name]
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise ValueError(
            f"grader: {name!r} is not a grader. Graders: {', '.join(GRADERS)}, "
            "or an import path such as my_graders:grade."
        )
    # At the end, and for good: an installed package keeps its name, and the function may import its neighbours later.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise ValueError(
            f"grader: {module_name!r} of {name!r} cannot be imported ({error}). "
            "Start from the folder of the file, or install the package."
        ) from error
    function = vars(module).get(function_name)
    if not callable(function):
        found = "has no" if function is None else "has a value, not a function, named"
        raise ValueError(
            f"grader: {module.__name__} ({getattr(module, '__file__', None)}) {found} {function_name!r}. "
            f"Give {name!r} as module:function with a function (completion, answer)."
        )
    return _checked(name, function)


def _checked(name: str, function: Callable[[str, Any], object]) -> Grader:
    def grade(completion: str, answer: Any) -> Grade:
        verdict = function(completion, answer)
        if isinstance(verdict, Grade):
            return verdict
        if isinstance(verdict, bool):
            return Grade(verdict)
        raise ValueError(f"grader: {name} must return a unisd.tasks.task.Grade or a bool, got {verdict!r}.")

    return grade


def _text(grader: str, answer: Any) -> str:
    if answer is None:
        raise ValueError(f"grader {grader}: the answer is missing. Fill the `answer` column.")
    return str(answer)


def _verdict(correct: bool, note: str) -> Grade:
    return Grade(correct, note="" if correct else note)


def _last_number(text: str) -> float | None:
    numbers = _NUMBER.findall(text.replace("\u2212", "-"))
    return float(numbers[-1].replace(",", "")) if numbers else None


def same_json(given: Any, expected: Any) -> bool:
    """Equal as JSON: numbers by value, true is not 1, the order of keys does not count."""
    # Python takes True for 1; JSON does not.
    if isinstance(given, bool) or isinstance(expected, bool):
        return given is expected
    if isinstance(given, dict) and isinstance(expected, dict):
        return given.keys() == expected.keys() and all(same_json(given[key], expected[key]) for key in given)
    if isinstance(given, list) and isinstance(expected, list):
        return len(given) == len(expected) and all(map(same_json, given, expected))
    return given == expected
