"""Graders of own data: strict, and clear about an answer they cannot use."""

from __future__ import annotations

import sys

import pytest

from unisd.tasks.graders import GRADERS, contains, exact_match, json_equal, load_grader, numeric, regex


@pytest.mark.parametrize(
    ("grader", "completion", "answer", "correct"),
    [
        ("exact_match", " Paris\n", "Paris", True),
        ("exact_match", "paris", "Paris", False),
        ("exact_match", "7", 7, True),
        ("exact_match_ignore_case", "PARIS ", "Paris", True),
        ("exact_match_ignore_case", "Paris, France", "Paris", False),
        ("contains", "It is Paris, of course.", "Paris", True),
        ("contains", "It is paris.", "Paris", False),
        ("regex", " 12 apples ", r"\d+ apples?", True),
        ("regex", "12 apples and more", r"\d+ apples?", False),
        ("numeric", "First 3, then 12.", 12, True),
        ("numeric", "12, not 3", 12, False),
        ("numeric", "It costs $1,234.50.", "1234.5", True),
        ("numeric", "1,2345", 2345, True),
        ("numeric", "pages 3-4", 4, True),
        ("numeric", "x = -4", -4, True),
        ("numeric", "x = \u22124", "-4", True),
        ("numeric", "2.5e-3", 0.0025, True),
        ("numeric", "about .5", 0.5, True),
        ("numeric", "It is...5", 5, True),
        ("numeric", "1000000.9", 1000000, True),
        ("numeric", "1000002", 1000000, False),
        ("numeric", "5 (see v2)", 5, True),
        ("numeric", "72", "48/2 = <<48/2=24>>24, and 48.\n#### 72", True),
        ("numeric", "24", "48/2 = <<48/2=24>>24, and 48.\n#### 72", False),
        ("numeric", "1234.5", "$1,234.50 in all", True),
        ("numeric", "see 1.2.3", 1.2, True),
        ("json", '{"b": [1, 2.0], "a": null}', '{"a": null, "b": [1, 2]}', True),
        ("json", '{"a": 1}', {"a": 1}, True),
        ("json", '{"a": true}', {"a": 1}, False),
        ("json", '{"a": 1, "b": 2}', {"a": 1}, False),
        ("json", "[1, 2]", [2, 1], False),
    ],
)
def test_the_verdict(grader, completion, answer, correct):
    grade = GRADERS[grader](completion, answer)
    assert grade.correct is correct
    assert grade.is_well_formed
    assert (grade.note == "") is correct


@pytest.mark.parametrize(
    ("grader", "completion", "answer"),
    [
        (numeric, "no idea", 5),
        (numeric, "", 5),
        (json_equal, "```json\n1\n```", 1),
        (json_equal, '{"a": 1', {"a": 1}),
        (json_equal, "[" * 100_000, 1),
    ],
)
def test_what_cannot_be_read_is_not_well_formed(grader, completion, answer):
    grade = grader(completion, answer)
    assert not grade.correct
    assert not grade.is_well_formed


@pytest.mark.parametrize(
    ("grader", "answer", "message"),
    [
        (contains, " ", "the answer is empty"),
        (regex, "(", "is not a regular expression"),
        (numeric, "many", "must hold one number"),
        (numeric, True, "must hold one number"),
        (numeric, "1/2", "must hold one number"),
        (numeric, "10^3", "must hold one number"),
        (numeric, "1,5", "must hold one number"),
        (numeric, "1 000 000", "must hold one number"),
        (numeric, "2024-05-01", "must hold one number"),
        (numeric, "1.2.3", "must hold one number"),
        (numeric, "24 #### 1/2", "must hold one number"),
        (exact_match, None, "the answer is missing"),
        (contains, None, "the answer is missing"),
        (json_equal, "{", "is not JSON"),
    ],
)
def test_an_answer_the_grader_cannot_use_is_refused(grader, answer, message):
    with pytest.raises(ValueError, match=message):
        grader("anything", answer)


def test_letter_case_counts_unless_told():
    assert not exact_match("a", "A").correct
    assert exact_match("a", "A", ignore_case=True).correct


def test_a_grader_of_ones_own_is_found_in_the_working_directory(tmp_path, monkeypatch):
    functions = ["is_long = lambda completion, answer: len(completion) > answer", "bad = lambda a, b: 1", "LIMIT = 3"]
    (tmp_path / "own_graders_of_this_test.py").write_text("\n".join(functions))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    grader = load_grader("own_graders_of_this_test:is_long")
    assert grader("four", 3).correct
    assert not grader("two", 3).correct
    with pytest.raises(ValueError, match="has no 'is_short'"):
        load_grader("own_graders_of_this_test:is_short")
    with pytest.raises(ValueError, match="a value, not a function, named 'LIMIT'"):
        load_grader("own_graders_of_this_test:LIMIT")
    with pytest.raises(ValueError, match="must return .* or a bool, got 1"):
        load_grader("own_graders_of_this_test:bad")("a", "b")


def test_a_grader_that_is_not_there_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'exactmatch' is not a grader. Graders: contains, exact_match"):
        load_grader("exactmatch")
    with pytest.raises(ValueError, match="'no_such_module_here' of 'no_such_module_here:grade' cannot be imported"):
        load_grader("no_such_module_here:grade")
    (tmp_path / "broken_grader_of_this_test.py").write_text("def grade(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ValueError, match="cannot be imported .*broken_grader_of_this_test.py, line 1"):
        load_grader("broken_grader_of_this_test:grade")
