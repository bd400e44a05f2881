"""HumanEval: Python functions from their signature and docstring; for evaluation only."""

from __future__ import annotations

import re
from typing import ClassVar

from unisd.tasks.benchmark import Row, text_in
from unisd.tasks.code import CodeTask, code_example, in_fence
from unisd.tasks.source import DataSource
from unisd.types import Example


class HumanEvalTask(CodeTask):
    """Python functions from signature and docstring. Source: arXiv:2107.03374.

    The model is asked for the whole function. What stands above it in the prompt, imports and helpers, is there whether
    the reply repeats it or not.
    """

    name: ClassVar[str] = "humaneval"
    hub_train: ClassVar[DataSource | None] = None
    hub_eval: ClassVar[DataSource] = DataSource("openai/openai_humaneval", split="test")
    columns: ClassVar[tuple[str, ...]] = ("task_id", "prompt", "entry_point", "canonical_solution", "test")

    def example(self, row: Row) -> Example:
        """The tests may use the helpers of the prompt as well."""
        prompt, function = text_in(row, "prompt"), text_in(row, "entry_point")
        heads = list(re.finditer(rf"^def {re.escape(function)}\(", prompt, re.MULTILINE))
        if len(heads) != 1:
            raise ValueError(f"{row['task_id']}: the prompt must have one `def {function}(`, it has {len(heads)}.")
        return code_example(
            f"Complete this function.\n{in_fence(prompt)}",
            f"{prompt}\n{row['canonical_solution']}",
            function=function,
            tests=[text_in(row, "test"), f"check({function})"],
            test_setup=prompt,
            given_code=prompt[: heads[0].start()],
            identifier=row["task_id"],
        )
