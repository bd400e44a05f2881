"""Results of a task, with numbers that can be counted by hand."""

from __future__ import annotations

import pytest

from unisd.tasks.accuracy import TaskResult, grade_all, task_result
from unisd.tasks.cmd import CmdTask


def result(*correct: int) -> TaskResult:
    return TaskResult("t", [bool(one) for one in correct], [True] * len(correct), [""] * len(correct))


def test_right_wrong_and_unreadable_answers_are_counted_apart():
    task = CmdTask()
    examples = task.eval_examples(4)
    right = [example.answer for example in examples]
    measured = task_result(task, examples, [right[0], right[1], "set_timer(minutes=-1)", "I am sorry, but"])
    assert measured.task == "cmd"
    assert measured.correct == [True, True, False, False]
    assert measured.well_formed == [True, True, True, False]
    assert (measured.n, measured.accuracy, measured.well_formed_fraction) == (4, 0.5, 0.75)
    # The interval of 2 in 4, worked out by hand in test_stats.
    assert measured.text() == "50.0 % [15.0, 85.0]"


def test_pairing_counts_the_items_on_which_two_results_differ():
    first, second = result(1, 1, 1, 1, 0, 0), result(1, 0, 0, 0, 1, 0)
    assert first.discordant(second) == (3, 1)
    # 3 : 1 -> 2 * (1 + 4) / 16
    assert first.mcnemar(second) == pytest.approx(0.625)


def test_results_on_different_items_are_not_paired():
    with pytest.raises(ValueError, match=r"same items, got 2 and 3"):
        result(1, 0).mcnemar(result(1, 0, 1))


def test_a_missing_completion_is_refused():
    task = CmdTask()
    with pytest.raises(ValueError, match="2 examples but 1 completions"):
        grade_all(task, task.eval_examples(2), ["x"])


def test_no_items_are_no_knowledge():
    assert result().accuracy == 0.0
    assert result().interval() == (0.0, 1.0)
