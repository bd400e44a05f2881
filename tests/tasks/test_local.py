"""Own files as a task: what loads, and one readable error for what does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from unisd.tasks.local import DataSource, LocalTask
from unisd.types import Example

ROWS = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": "4"}, {"prompt": "3+3=", "answer": "6"}]


def written(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompts(task: LocalTask, limit: int | None = None) -> list:
    return [example.prompt for example in task.train_examples(limit)]


def test_every_format_gives_the_same_rows(tmp_path):
    written(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    Dataset.from_list(ROWS).to_csv(tmp_path / "rows.csv")
    Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    folder = tmp_path / "folder"
    folder.mkdir()
    written(folder / "train.jsonl", ROWS)
    for name in ("rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "folder"):
        assert prompts(LocalTask(train=DataSource(str(tmp_path / name)))) == ["1+1=", "2+2=", "3+3="], name


def test_splits_slices_files_and_limits_choose_rows(tmp_path):
    written(tmp_path / "train.jsonl", ROWS)
    written(tmp_path / "test.jsonl", ROWS[2:])
    path = str(tmp_path / "train.jsonl")
    assert prompts(LocalTask(train=DataSource(path, split="train[1:]"))) == ["2+2=", "3+3="]
    assert prompts(LocalTask(train=DataSource(path)), limit=1) == ["1+1="]
    assert prompts(LocalTask(train=DataSource(path)), limit=9) == ["1+1=", "2+2=", "3+3="]
    assert prompts(LocalTask(train=DataSource(str(tmp_path), split="test"))) == ["3+3="]
    assert prompts(LocalTask(train=DataSource(str(tmp_path), data_files="test.jsonl"))) == ["3+3="]


def test_json_comes_through_as_it_is_written(tmp_path):
    said = [{"role": "user", "content": "2024-05-01"}]
    answers = ["2024-05-01", None, "2024-05-01T10:00:00Z", "2024-05-01 10:00:00"]
    rows = [{"prompt": "1+1=", "answer": answer, "said": said, "n": 1} for answer in answers]
    objects = [{"prompt": "1+1=", "answer": {"a": 1}}, {"prompt": "1+1=", "answer": {"b": [1, "x"]}}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for path in (written(tmp_path / "rows.jsonl", rows), str(tmp_path / "rows.json")):
        assert DataSource(path).load() == rows
        assert DataSource(path, split="train[2:3]").load() == rows[2:3]
    assert DataSource(written(tmp_path / "objects.jsonl", objects)).load() == objects


def test_conversations_come_through_as_messages(tmp_path):
    request = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    path = written(tmp_path / "rows.jsonl", [{"prompt": request, "privileged_context": "Ho", "level": 3}])
    example = LocalTask(train=DataSource(path)).train_examples()[0]
    assert (example.prompt, example.privileged_context, example.fields) == (request, "Ho", {"level": 3})


def test_templates_make_the_prompt_and_the_privileged_context(tmp_path):
    path = written(tmp_path / "rows.jsonl", [{"question": "{2+2}?", "solution": "4", "n": 7}])
    task = LocalTask(train=DataSource(path), prompt_template="{n}: {question}", privileged_template="It is {solution}.")
    example = task.train_examples()[0]
    assert (example.prompt, example.privileged_context) == ("7: {2+2}?", "It is 4.")
    assert example.fields == {"question": "{2+2}?", "solution": "4", "n": 7}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"prompt_template": "{qestion}"}, "data.prompt_template: .* has no column 'qestion'. Columns: question, hint"),
        ({"prompt_template": "{question} {hint}"}, "row 1: data.prompt_template: column 'hint' is null here"),
        ({"prompt_template": "{question"}, "data.prompt_template: .* is not a template"),
        ({"prompt_template": "{0}"}, "data.prompt_template: placeholders must be plain names"),
        (
            {"prompt_template": "{question}", "privileged_template": "{hint}"},
            "row 1: data.privileged_template: column 'hint' is null",
        ),
        ({}, "row 0: prompt: missing. Columns of the row: question, hint"),
    ],
)
def test_a_template_that_the_rows_cannot_fill_is_refused(tmp_path, keywords, message):
    path = written(tmp_path / "rows.jsonl", [{"question": "2+2", "hint": "even"}, {"question": "1+1", "hint": None}])
    with pytest.raises(ValueError, match=message):
        LocalTask(train=DataSource(path), **keywords).train_examples()


def test_a_template_and_its_column_together_are_refused(tmp_path):
    path = written(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(ValueError, match="has a column 'prompt' already"):
        LocalTask(train=DataSource(path), prompt_template="{answer}").train_examples()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "rows.jsonl, line 2: not JSON, Expecting value at column 12"),
        ("rows.json", b'[{"prompt": "a"},\n {"prompt"}]', "rows.json, line 2: not JSON"),
        ("rows.jsonl", b'{"prompt": "a"}\n"b"\n', "rows.jsonl, line 2: not a JSON object but 'b'"),
        ("rows.jsonl", b'{"prompt": "a"}\n{"prompt": "\xe9"}\n', "rows.jsonl, line 2: not UTF-8 text"),
        ("rows.jsonl", b"", "rows.jsonl: no rows in split 'train'"),
        ("rows.jsonl", b"\n\n", "rows.jsonl: no rows in split 'train'"),
        ("rows.csv", b"prompt,answer\n", "rows.csv: no rows in split 'train'"),
        ("rows.csv", b"prompt,answer\na,b\na,b,c\n", "rows.csv: cannot be read .*line 3"),
        ("rows.parquet", b"garbage", "rows.parquet: cannot be read"),
        ("rows.txt", b"a", "rows.txt: the ending '.txt' cannot be read. Allowed: .csv, .json, .jsonl, .parquet"),
        ("rows.jsonl", b'{"prompt": "a"}\n{"prompt": ""}\n', "rows.jsonl, row 1: prompt: is empty"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        LocalTask(train=DataSource(str(tmp_path / name))).train_examples()


def test_what_is_not_there_is_refused_by_name(tmp_path):
    for path in ("nothing.jsonl", "./nothing", str(tmp_path / "nothing")):
        with pytest.raises(ValueError, match="no such file or folder"):
            LocalTask(train=DataSource(path)).train_examples()
    with pytest.raises(ValueError, match="^nobody/nothing: neither a file or folder here nor a data set"):
        LocalTask(train=DataSource("nobody/nothing")).train_examples()
    with pytest.raises(ValueError, match="Unknown split \"test\".*'train'"):
        LocalTask(train=DataSource(written(tmp_path / "rows.jsonl", ROWS), split="test")).train_examples()
    with pytest.raises(ValueError, match="data.eval is missing"):
        LocalTask(train=DataSource("rows.jsonl")).eval_examples()
    with pytest.raises(ValueError, match="name: rows.jsonl is one file"):
        DataSource("rows.jsonl", name="main")
    with pytest.raises(ValueError, match="path: is empty"):
        DataSource(" ")


def test_completions_are_graded_by_the_evaluation_sources_grader(tmp_path):
    path = written(tmp_path / "rows.jsonl", ROWS)
    task = LocalTask(DataSource(path, grader="exact_match"), DataSource(path, grader="numeric"))
    example = task.eval_examples()[1]
    assert task.has_grader
    assert task.grade(example, "That makes 4.0").correct
    assert not LocalTask(DataSource(path, grader="exact_match")).grade(example, "That makes 4.0").correct
    assert not LocalTask(DataSource(path)).has_grader
    with pytest.raises(ValueError, match="data.eval.grader is missing.*contains, exact_match"):
        LocalTask(DataSource(path)).grade(example, "4")


def test_answers_that_the_grader_cannot_use_are_found_when_the_rows_are_loaded(tmp_path):
    path = written(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "4+4=", "answer": "eight"}, {"prompt": "5+5="}])
    with pytest.raises(ValueError, match="row 3: grader numeric: the answer 'eight' must hold one number"):
        LocalTask(eval=DataSource(path, grader="numeric")).eval_examples()
    with pytest.raises(ValueError, match="row 4: answer: missing, but grader exact_match"):
        LocalTask(eval=DataSource(path, grader="exact_match")).eval_examples()
    # The grader that will be used, also where only the training rows name it.
    graded = LocalTask(DataSource(path, grader="exact_match"), DataSource(path))
    with pytest.raises(ValueError, match="row 4: answer: missing, but grader exact_match"):
        graded.eval_examples()
    assert len(LocalTask(DataSource(path), DataSource(path, grader="exact_match")).train_examples()) == 5
    with pytest.raises(ValueError, match="'numberic' is not a grader"):
        LocalTask(eval=DataSource(path, grader="numberic"))


def test_a_negative_is_asked_for_after_the_right_answer_or_at_the_end_of_plain_text():
    task = LocalTask()
    asked = task.negative_request(Example("1+1=", answer="2"))
    assert str(asked).startswith("1+1=\n\n")
    assert "wrong" in asked
    prompt = [{"role": "user", "content": "1+1?"}]
    *given, request = task.negative_request(Example(prompt, privileged_context="two", answer="2"))
    assert given == [*prompt, {"role": "assistant", "content": "two"}]
    assert (request["role"], "mistake" in request["content"]) == ("user", True)
    (unanswered,) = task.negative_request(Example(prompt))
    assert unanswered["content"].startswith("1+1?\n\n")
