"""Writing code: which part of a reply is the code, and a grade by tests in the sandbox."""

from __future__ import annotations

import ast
import re
import threading
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from unisd.tasks.benchmark import Benchmark, Row
from unisd.tasks.sandbox import check_available, run_tests
from unisd.tasks.task import Grade, visible_part
from unisd.types import Example, Message, Prompt

LONGEST_CODE = 20_000
"""Characters; longer code is not read."""
LANGUAGES = ("", "py", "python", "python3")
"""What may stand after the opening fence of a block of code; other blocks are not read."""
SYSTEM: Message = {"role": "system", "content": "Reply with the Python code only, in one Markdown code block."}
NEGATIVE_TURNS: tuple[Message, ...] = (
    {"role": "system", "content": "Put one small mistake into the function. Reply with the code block only."},
    {"role": "user", "content": "```python\ndef largest(numbers):\n    return max(numbers)\n```"},
    {"role": "assistant", "content": "```python\ndef largest(numbers):\n    return min(numbers)\n```"},
    {"role": "user", "content": "```python\ndef count_to(n):\n    return list(range(1, n + 1))\n```"},
    {"role": "assistant", "content": "```python\ndef count_to(n):\n    return list(range(1, n))\n```"},
)

_PARSING = threading.Lock()
_FENCE = re.compile(r"(?P<indent> {0,3})```[ \t]*(?P<language>[\w+-]*)[ \t]*")


class UnreadableCode(ValueError):
    """The reply does not hold the function that was asked for, or holds it more than once."""


@dataclass(frozen=True)
class CodeTask(Benchmark):
    """A benchmark whose grader runs what the model wrote, in the sandbox; several grades may run at once."""

    allow_code_execution: bool = False
    """Grade at all: that runs code which a model wrote, on this machine."""

    @abstractmethod
    def example(self, row: Row) -> Example:
        """The row as `code_example` makes it."""

    def eval_examples(self, limit: int | None = None) -> list[Example]:
        """The evaluation split; refused where its answers could not be graded."""
        self._check_allowed()
        check_available()
        return super().eval_examples(limit)

    def grade(self, example: Example, completion: str) -> Grade:
        """Right if the code that `read_code` finds passes all tests of the row."""
        self._check_allowed()
        fields = example.fields
        try:
            code = read_code(completion, fields["function"])
        except UnreadableCode as error:
            return Grade(False, is_well_formed=False, note=str(error))
        result = run_tests(code, fields["tests"], given_code=fields["given_code"], setup=fields["test_setup"])
        return Grade(result.passed, note="" if result.passed else result.reason)

    def negative_request(self, example: Example) -> Prompt:
        """The reference solution, to be changed in one place, after two functions where that was done.

        All of 8 replies of SmolLM2-135M to rows of MBPP at temperature 0.7 were readable and wrong.
        """
        return [*NEGATIVE_TURNS, {"role": "user", "content": example.answer}]

    def _check_allowed(self) -> None:
        if not self.allow_code_execution:
            raise ValueError(execution_refused(self.name))


def execution_refused(name: str) -> str:
    """What is said to somebody who has not agreed to run model-written code."""
    return (
        f"{name} grades by running code that the model writes, on this machine. It runs in a sandbox without network, "
        "files or your environment, but no sandbox is perfect. To agree, set data.allow_code_execution: true, or give "
        "`unisd eval` --allow-code-execution."
    )


def code_example(
    request: str,
    solution: str,
    *,
    function: str,
    tests: list[str],
    test_setup: str = "",
    given_code: str = "",
    shot: tuple[Message, ...] = (),
    identifier: object = None,
) -> Example:
    """The request with its reference solution in one code block; the tests are in `fields` and not in the prompt."""
    answer = in_fence(solution)
    turn: Message = {"role": "user", "content": request}
    return Example(
        prompt=[SYSTEM, *shot, turn],
        privileged_context=answer,
        teacher_prompt=[SYSTEM, turn],
        completion=answer,
        answer=answer,
        fields={
            "id": identifier,
            "function": function,
            "tests": tests,
            "test_setup": test_setup,
            "given_code": given_code,
        },
    )


def in_fence(code: str) -> str:
    """The code as one Markdown block, the form of every answer."""
    return f"```python\n{code.strip()}\n```"


def read_code(completion: str, function: str) -> str:
    """The code of the reply that defines `function`; `UnreadableCode` where there is none or more than one.

    In a reply with Markdown fences it is the one fenced block, marked as Python or not at all, that is valid Python and
    defines the function at its top level; words around the block and further blocks without the function (a usage
    example) do not count. Two blocks that define it, a fence that is not closed, and a fence with text on its line make
    the reply unreadable. A reply without fences must be valid Python as a whole. What a model thinks up to `</think>`
    is not part of the reply.
    """
    text = visible_part(completion)
    if len(text) > LONGEST_CODE:
        raise UnreadableCode(f"longer than {LONGEST_CODE} characters")
    blocks = list(_blocks(text)) if "```" in text else [text.strip("\n")]
    found = [block for block in blocks if function in defined_names(block)]
    if len(found) != 1:
        raise UnreadableCode(f"{'no' if not found else 'more than one'} piece of valid code defines {function}")
    return found[0]


def defined_names(code: str) -> set[str]:
    """What the code defines at its top level: functions, classes and assigned names; nothing where it is not Python."""
    tree = _tree(code)
    return set() if tree is None else {name for node in tree.body for name in _defined_by(node)}


def read_names(code: str) -> set[str]:
    """The names that the code mentions; nothing where it is not Python."""
    tree = _tree(code)
    return set() if tree is None else {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _tree(code: str) -> ast.Module | None:
    try:
        # One at a time: the filters of warnings belong to the process, and grades run in several threads.
        with _PARSING, warnings.catch_warnings():
            # A model that writes an odd escape is no reason to warn the user about their code.
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _defined_by(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _blocks(text: str) -> Iterator[str]:
    """The contents of the fenced blocks that may be Python."""
    language, indent, inside = None, 0, []
    for line in text.splitlines():
        fence = _FENCE.fullmatch(line)
        if "```" in line and (fence is None or (language is not None and fence["language"])):
            raise UnreadableCode("a fence of a code block stands among other text")
        if fence is None:
            # An indented fence, as in a list, indents its contents.
            inside.append(line[min(indent, len(line) - len(line.lstrip(" "))) :])
        elif language is None:
            language, indent, inside = fence["language"].lower(), len(fence["indent"]), []
        else:
            if language in LANGUAGES:
                yield "\n".join(inside)
            language = None
    if language is not None:
        raise UnreadableCode("a code block is not closed")
