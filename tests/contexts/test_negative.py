"""Verified negatives: the grader reads them and calls them wrong, or the row has none and is counted."""

from __future__ import annotations

import pytest

from tests.contexts.scripted import ScriptedWriter
from unisd.contexts.negative import NegativeContexts, verified_negatives
from unisd.tasks.cmd import CmdTask

TASK = CmdTask()
EXAMPLES = TASK.train_examples(6)
RIGHT = EXAMPLES[0].answer
WRONG = "set_timer(minutes=1)"


def verified(*texts: str, attempts: int = 4) -> tuple[list[str | None], dict[str, int], ScriptedWriter]:
    write = ScriptedWriter(*texts)
    result = verified_negatives(EXAMPLES[:1], TASK, "cmd", NegativeContexts(attempts=attempts), write)
    return result.answers, result.failures, write


def test_the_first_readable_wrong_answer_is_kept():
    answers, failures, write = verified(RIGHT, "Sure! Here it is.", f" {WRONG}\n")
    assert (answers, failures) == ([WRONG], {})
    assert len(write.asked) == 3
    grade = TASK.grade(EXAMPLES[0], answers[0])
    assert (grade.correct, grade.is_well_formed) == (False, True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [(RIGHT, "right"), ("Sure!", "unreadable"), (f"{WRONG}...", "cut off"), (" ", "empty")],
)
def test_a_row_without_a_wrong_answer_stays_without_and_is_counted(text, reason):
    answers, failures, write = verified(text, text, text, attempts=3)
    assert (answers, failures) == ([None], {reason: 1})
    assert len(write.asked) == 3


def test_the_tries_take_turns_between_the_tasks_request_and_the_students_prompt():
    _, _, write = verified(*["Sure!"] * 3, attempts=3)
    asked, prompt = TASK.negative_request(EXAMPLES[0]), EXAMPLES[0].prompt
    assert write.asked == [[asked], [prompt], [asked]]


def test_rows_in_another_order_are_found_in_the_cache():
    section = NegativeContexts(attempts=1)
    one_right = ScriptedWriter("set_timer(minutes={})")
    first = verified_negatives(EXAMPLES, TASK, "cmd", section, one_right)
    again = ScriptedWriter("set_timer(minutes={})")
    second = verified_negatives(EXAMPLES[::-1], TASK, "cmd", section, again)
    assert second.answers == first.answers[::-1]
    assert again.asked == []
    assert not second.built.is_new
    other_grader = ScriptedWriter("set_timer(minutes={})")
    assert verified_negatives(EXAMPLES, TASK, "strict", section, other_grader).built.is_new


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"type": "verifed"}, "type must be one of column, verified or pkg.module:function, got 'verifed'"),
        ({"attempts": 0}, "attempts must be at least 1, got 0"),
        ({"type": "column", "attempts": 3}, "attempts is for type: verified, got type: column"),
        ({"type": "a:b", "seed": 3}, "seed is for type: verified, got type: a:b"),
    ],
)
def test_a_contradictory_section_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        NegativeContexts(**keywords)
