"""Calls in two lines each: read strictly, compared strictly."""

from __future__ import annotations

import pytest

from tests.tasks.published import DATA, TOOL_ALPACA, needs_data, turns, write_rows
from unisd.tasks.source import DataSource
from unisd.tasks.tool_alpaca import ToolAlpacaTask
from unisd.tasks.tool_call import ToolCall, UnreadableCalls, grade_calls, read_calls, write_calls

OSLO = ToolCall("get-forecast", {"city": "Oslo", "days": 1, "units": "", "hours": [6, 18], "now": True})
ROME = ToolCall("getMap", {})
BOTH = write_calls([OSLO, ROME])
DAYS = '"days": 1'


@pytest.mark.parametrize(
    "reply",
    [
        BOTH,
        f"\n{BOTH}  \n",
        BOTH.replace("Action Input", "Action_Input"),
        BOTH.replace(": {", ":{"),
        BOTH.replace("}\nAction:", "}\n\nAction:"),
        BOTH.replace(", ", ",\n  "),
        f"Thought: first Oslo,\nwhich is in Norway\n{write_calls([OSLO])}\nThought: then Rome\n{write_calls([ROME])}",
        f"<think>Action: nothing</think>\n{BOTH}",
        'Action: get-forecast\nAction Input: {"now": true, "hours": [6, 18], "units": "", "days": 1.0, '
        '"city": "Oslo"}\nAction: getMap\nAction Input: {}',
    ],
)
def test_the_right_calls_are_right_however_they_are_spaced(reply):
    assert grade_calls(reply, [OSLO, ROME]).correct


@pytest.mark.parametrize(
    ("reply", "note"),
    [
        (write_calls([OSLO]), "1 calls, not 2"),
        (write_calls([OSLO, ROME, ROME]), "3 calls, not 2"),
        (write_calls([ROME, OSLO]), "call 1 is getMap, not get-forecast"),
        (BOTH.replace("getMap", "getmap"), "call 2 is getmap"),
        (BOTH.replace("Oslo", "oslo"), "call 1: "),
        (BOTH.replace(DAYS, '"days": "1"'), "call 1: "),
        (BOTH.replace(DAYS, '"days": true'), "call 1: "),
        (BOTH.replace('"now": true', '"now": 1'), "call 1: "),
        (BOTH.replace('"units": "", ', ""), "call 1: "),
        (BOTH.replace(DAYS, '"days": 1, "more": null'), "call 1: "),
        (BOTH.replace("[6, 18]", "[18, 6]"), "call 1: "),
        (BOTH.replace("{}", '{"city": "Rome"}'), "call 2: "),
    ],
)
def test_another_call_or_order_or_argument_or_type_is_well_formed_and_wrong(reply, note):
    grade = grade_calls(reply, [OSLO, ROME])
    assert not grade.correct
    assert grade.is_well_formed
    assert grade.note.startswith(note)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I would call getMap.",
        "Action: getMap",
        "Action: getMap\nAction Input:",
        "Action: getMap\nAction Input: none",
        "Action: getMap\nAction Input: []",
        'Action: getMap\nAction Input: "{}"',
        "Action: getMap\nAction Input: {'city': 'Rome'}",
        'Action: getMap\nAction Input: {"city": "Rome"',
        'Action: getMap\nAction Input: {"city": "Rome", "city": "Rome"}',
        'Action: getMap\nAction Input: {"days": NaN}',
        "Action: getMap\nAction Input: " + '{"a":' * 100_000,
        "Action: getMap\nAction Input: {} and so on",
        "Action: getMap\nAction Input: {}\nObservation: a map",
        "Action: getMap\nAction Input: {} Action: getMap\nAction Input: {}",
        "Action: get Map\nAction Input: {}",
        "Sure!\nAction: getMap\nAction Input: {}",
        "```\nAction: getMap\nAction Input: {}\n```",
        "Action Input: {}\nAction: getMap",
        "Thought: a map",
    ],
)
def test_anything_but_calls_is_unreadable(reply):
    with pytest.raises(UnreadableCalls):
        read_calls(reply)
    grade = grade_calls(reply, [ROME])
    assert (grade.correct, grade.is_well_formed) == (False, False)


def test_the_api_is_shown_once_and_the_calls_nowhere(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [TOOL_ALPACA])
    task = ToolAlpacaTask(train=DataSource(path))
    (example,) = task.train_examples()
    system, *shot, request = turns(example.prompt)
    assert system["content"].endswith(TOOL_ALPACA["functions"])
    assert [turn["role"] for turn in shot] == ["user", "assistant"]
    assert request["content"] == TOOL_ALPACA["instruction"]
    assert example.teacher_prompt == [system, request]
    # The second call is marked as optional in the published answer; here it is a call like any other.
    expected = [
        ToolCall("getForecast", {"city": "Oslo", "days": 1}),
        ToolCall("getForecast", {"city": "Rome", "days": 1}),
    ]
    assert task.grade(example, write_calls(expected)).correct
    assert not task.grade(example, write_calls(expected[:1])).correct
    assert turns(task.negative_request(example))[-1]["content"] == example.answer


def test_rows_with_a_prompt_and_a_written_response_are_read_as_well(tmp_path):
    response = ["I look it up.\nAction: getMap\nAction Input: {}"]
    row = {"instruction": "Map?", "prompt": "Functions: getMap. Map?", "golden_response": response, "name": "Maps"}
    empty = {**row, "golden_response": [""], "golden_answer": [{"Action": "getMap", "Action_Input": "{}"}]}
    for given in (row, empty):
        path = write_rows(tmp_path / "rows.jsonl", [given])
        (example,) = ToolAlpacaTask(eval=DataSource(path)).eval_examples()
        assert example.prompt == [{"role": "user", "content": "Functions: getMap. Map?"}]
        assert example.answer == "Action: getMap\nAction Input: {}"
        assert example.fields["api"] == "Maps"


def test_a_row_without_functions_or_without_an_answer_is_refused(tmp_path):
    path = write_rows(tmp_path / "text.jsonl", [{**TOOL_ALPACA, "golden_answer": "[]"}])
    with pytest.raises(ValueError, match=r"row 0: golden_answer: must be a list of calls, got '\[\]'"):
        ToolAlpacaTask(eval=DataSource(path)).eval_examples()
    for missing in ("functions", "golden_answer"):
        row = {key: value for key, value in TOOL_ALPACA.items() if key != missing}
        path = write_rows(tmp_path / "rows.jsonl", [row])
        with pytest.raises(ValueError, match=f"row 0: {missing}: is missing, and so is "):
            ToolAlpacaTask(train=DataSource(path)).train_examples()


@needs_data
@pytest.mark.parametrize(("file", "rows", "unreadable"), [("eval_simulated", 100, 30), ("eval_real", 114, 4)])
def test_every_published_answer_that_parses_is_right_and_the_others_are_counted(file, rows, unreadable, caplog):
    task = ToolAlpacaTask(eval=DataSource(str(DATA / "toolalpaca" / f"{file}.jsonl")))
    with caplog.at_level("INFO", "unisd"):
        examples = task.eval_examples()
    assert len(examples) == rows - unreadable
    assert f"{unreadable} of {rows} rows left out: {unreadable} whose published answer does not parse" in caplog.text
    for example in examples:
        assert task.grade(example, example.answer).correct
        assert example.answer not in str(example.prompt)
        assert not task.grade(example, f"{example.answer}\n{ROME}").correct
