"""Writing code: which part of a reply is the code, and the grades of the sandbox."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.tasks.published import DATA, HUMANEVAL, MBPP, needs_data, turns, write_rows
from unisd.tasks.code import LONGEST_CODE, UnreadableCode, in_fence, read_code
from unisd.tasks.humaneval import HumanEvalTask
from unisd.tasks.mbpp import MBPPTask
from unisd.tasks.source import DataSource

# All reference solutions take a minute of one core, so that only CI runs them all.
EVERY = 1 if os.environ.get("CI") else 25
CODE = "def f(x):\n    return x + 1"
USE = "```python\nprint(f(1))\n```"
needs_sandbox = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


@pytest.mark.parametrize(
    "reply",
    [
        in_fence(CODE),
        f"```\n{CODE}\n```",
        f"```py\n{CODE}\n```\n",
        f"Here is the function:\n\n{in_fence(CODE)}\n\nIt adds one.",
        f"{in_fence(CODE)}\nUse it so:\n{USE}",
        f"```bash\npip install nothing\n```\n{in_fence(CODE)}",
        CODE,
        f"\n{CODE}\n",
        "1. Add one:\n   ```python\n   def f(x):\n       return x + 1\n   ```\n2. Done.",
        f"<think>\n{in_fence('def f(x): return 0')}\n</think>\n{in_fence(CODE)}",
    ],
)
def test_the_code_of_a_reply_is_the_one_piece_that_defines_the_function(reply):
    assert read_code(reply, "f") == CODE


@pytest.mark.parametrize("code", ["f = lambda x: x", "import math\nclass f:\n    pass", "def g(): ...\ndef f(x): ..."])
def test_a_name_is_defined_by_a_function_a_class_or_an_assignment(code):
    assert read_code(code, "f") == code


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I cannot write that.",
        "Sorry",
        f"Here it is:\n{CODE}",
        f"```python\n{CODE}",
        f"{in_fence(CODE)}\n```python",
        f"{in_fence(CODE)}\n{in_fence(CODE)}",
        f"```python {CODE}```",
        f"```ruby\n{CODE}\n```",
        in_fence("def g(x):\n    return x"),
        in_fence("class C:\n    def f(self): ..."),
        in_fence("def f(x):\nreturn x"),
        in_fence("def f(x):\n    return '\0'"),
        in_fence("x = " + "(" * 1000 + "\ndef f(x): ..."),
        f"{CODE}\n{'#' * LONGEST_CODE}",
    ],
)
def test_a_reply_without_the_function_or_with_two_of_them_is_unreadable(reply):
    with pytest.raises(UnreadableCode):
        read_code(reply, "f")


def mbpp(tmp_path, **changes):
    path = write_rows(tmp_path / "mbpp.jsonl", [{**MBPP, **changes}])
    return MBPPTask(DataSource(path), DataSource(path), allow_code_execution=True)


def test_the_request_of_mbpp_holds_the_sentence_and_the_first_test_only(tmp_path):
    (example,) = mbpp(tmp_path).train_examples()
    request = "Write a function to add one.\nIt must pass this test:\nassert add_one(1) == 2"
    assert turns(example.prompt)[-1]["content"] == request
    assert [turn["role"] for turn in turns(example.prompt)] == ["system", "user", "assistant", "user"]
    assert turns(example.teacher_prompt)[-1]["content"] == request
    assert example.privileged_context == example.completion == example.answer == in_fence(MBPP["code"])
    assert example.fields["function"] == "add_one"


def test_mbpp_is_split_by_task_id_whatever_the_file(tmp_path):
    ids = [10, 11, 510, 511, 600, 601, 974]
    source = DataSource(write_rows(tmp_path / "rows.jsonl", [{**MBPP, "task_id": number} for number in ids]))
    task = MBPPTask(source, source)
    assert [example.fields["id"] for example in task.train_examples()] == [511, 600, 601, 974]
    assert [example.fields["id"] for example in task.train_examples(limit=2)] == [511, 600]
    if sys.platform == "linux":
        task = MBPPTask(eval=source, allow_code_execution=True)
        assert [example.fields["id"] for example in task.eval_examples()] == [11, 510]


def test_a_row_of_mbpp_whose_tests_do_not_call_its_solution_is_refused(tmp_path):
    with pytest.raises(ValueError, match="row 0: task_id 602: the tests must call one function of the solution"):
        mbpp(tmp_path, test_list=["assert True"]).train_examples()


@pytest.mark.parametrize("column", ["task_id", "test_list", "test_imports"])
def test_a_row_of_mbpp_without_a_value_is_refused_by_number(tmp_path, column):
    with pytest.raises(ValueError, match=f"row 0: {column}: must be a .* got None"):
        mbpp(tmp_path, **{column: None}).train_examples()


def test_nothing_runs_unless_it_is_allowed(tmp_path):
    (example,) = mbpp(tmp_path).train_examples()
    message = "mbpp grades by running code that the model writes, .* set data.allow_code_execution: true"
    with pytest.raises(ValueError, match=message):
        MBPPTask().grade(example, example.answer)
    with pytest.raises(ValueError, match=message):
        MBPPTask().eval_examples()


@needs_sandbox
def test_mbpp_is_right_where_every_test_passes(tmp_path):
    task = mbpp(tmp_path)
    (example,) = task.train_examples()
    assert task.grade(example, example.answer).correct
    assert task.grade(example, "def add_one(x): return x + 1").correct
    only_shown = task.grade(example, in_fence("def add_one(x):\n    return 2"))
    assert not only_shown.correct
    assert only_shown.is_well_formed
    assert "assertion failed" in only_shown.note
    unreadable = task.grade(example, "def add_two(x): return x + 2")
    assert (unreadable.correct, unreadable.is_well_formed) == (False, False)
    assert unreadable.note == "no piece of valid code defines add_one"


@needs_sandbox
def test_humaneval_gives_the_code_above_the_function_and_tests_the_whole_function(tmp_path):
    source = DataSource(write_rows(tmp_path / "rows.jsonl", [HUMANEVAL]))
    task = HumanEvalTask(eval=source, allow_code_execution=True)
    (example,) = task.eval_examples()
    assert turns(example.prompt)[-1]["content"] == f"Complete this function.\n{in_fence(HUMANEVAL['prompt'])}"
    assert task.grade(example, example.answer).correct
    assert task.grade(example, in_fence("def quarter(x):\n    return half(half(x))")).correct
    assert not task.grade(example, in_fence("def quarter(x):\n    return half(x)")).correct
    future = task.grade(
        example, in_fence("from __future__ import annotations\n\ndef quarter(x):\n    return half(half(x))")
    )
    assert future.correct
    assert not task.grade(example, "    return half(half(x))").is_well_formed
    with pytest.raises(ValueError, match="humaneval is for evaluation only"):
        task.train_examples()


def test_the_negative_request_shows_the_reference_solution_last(tmp_path):
    task = mbpp(tmp_path)
    (example,) = task.train_examples()
    assert turns(task.negative_request(example))[-1] == {"role": "user", "content": example.answer}


@needs_data
@pytest.mark.parametrize(
    ("task", "file", "number"),
    [
        (MBPPTask(allow_code_execution=True), "mbpp/sanitized-mbpp.jsonl", 427),
        (HumanEvalTask(allow_code_execution=True), "humaneval/HumanEval.jsonl.gz", 164),
    ],
)
def test_every_reference_solution_is_readable_and_right(task, file, number):
    rows = DataSource(str(DATA / file)).load()
    examples = [task.example(row) for row in rows]
    assert len(examples) == number
    for example in examples:
        assert read_code(example.answer, example.fields["function"]) in example.answer
        assert example.fields["tests"][-1] not in str(example.prompt)
    if sys.platform == "linux":
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            grades = pool.map(lambda example: task.grade(example, example.answer), examples[::EVERY])
        assert [grade for grade in grades if not grade.correct] == []


@needs_data
def test_the_splits_of_mbpp_have_their_published_sizes():
    source = DataSource(str(DATA / "mbpp" / "sanitized-mbpp.jsonl"))
    assert len(MBPPTask(train=source).train_examples()) == 120 + 43
    if sys.platform == "linux":
        assert len(MBPPTask(eval=source, allow_code_execution=True).eval_examples()) == 257
