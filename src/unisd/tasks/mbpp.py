"""MBPP: short Python functions from a sentence, in the version that people have checked."""

from __future__ import annotations

from typing import ClassVar

from unisd.tasks.benchmark import Role, Row, integer_in, text_in, texts_in
from unisd.tasks.code import CodeTask, code_example, defined_names, in_fence, read_names
from unisd.tasks.source import DataSource
from unisd.types import Example, Message

TEST_IDS = range(11, 511)
"""Task ids of the published test split; 1 to 10 are for prompts, 511 to 974 are validation and training."""
SHOT: tuple[Message, Message] = (
    {
        "role": "user",
        "content": "Write a function to double a number.\nIt must pass this test:\nassert double(4) == 8",
    },
    {"role": "assistant", "content": in_fence("def double(number):\n    return 2 * number")},
)


class MBPPTask(CodeTask):
    """Short Python functions, graded by hidden tests. Source: arXiv:2108.07732.

    The request is the sentence and the first of the tests, without which nobody could know the function's name; the
    published harness shows all of them. Splits go by the task id, so that one file may hold them all: 11 to 510 are
    evaluated on, 511 to 974 (validation and train) trained on.
    """

    name: ClassVar[str] = "mbpp"
    hub_train: ClassVar[DataSource | None] = DataSource(
        "google-research-datasets/mbpp", name="sanitized", split="train+validation"
    )
    hub_eval: ClassVar[DataSource] = DataSource("google-research-datasets/mbpp", name="sanitized", split="test")
    columns: ClassVar[tuple[str, ...]] = ("task_id", "prompt", "code", "test_imports", "test_list")

    def exclusion(self, row: Row, role: Role) -> str | None:
        """Rows whose task id belongs to another split."""
        identifier = integer_in(row, "task_id")
        is_kept = identifier in TEST_IDS if role == "eval" else identifier >= TEST_IDS.stop
        return None if is_kept else "of another split by their task_id"

    def example(self, row: Row) -> Example:
        """One function, which both the reference solution defines and the tests call."""
        solution = text_in(row, "code")
        tests = texts_in(row, "test_list")
        functions = defined_names(solution) & {name for test in tests for name in read_names(test)}
        if len(functions) != 1:
            raise ValueError(
                f"task_id {row['task_id']}: the tests must call one function of the solution, they call "
                f"{sorted(functions) or 'none'}. Correct the row, or remove it."
            )
        request = f"{text_in(row, 'prompt')}\nIt must pass this test:\n{tests[0]}"
        return code_example(
            request,
            solution,
            function=functions.pop(),
            tests=tests,
            test_setup="\n".join(texts_in(row, "test_imports")),
            shot=SHOT,
            identifier=row["task_id"],
        )
