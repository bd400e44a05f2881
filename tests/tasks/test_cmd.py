"""The generated `cmd` task: nothing to memorise, and the calls are read strictly."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from unisd.tasks import TASKS
from unisd.tasks.cmd import SIGNATURES, TOOLS, CmdTask
from unisd.tasks.cmd_call import UnreadableCall, grade_call, read_call
from unisd.types import Example, Message, Prompt

TASK = CmdTask(num_train=2000, num_eval=2000)
ANSWER = "send_message(to='Anna', text='I am running late')"


def turns(prompt: Prompt | None) -> list[Message]:
    assert isinstance(prompt, list)
    return prompt


def request(example: Example) -> str:
    return turns(example.teacher_prompt)[-1]["content"]


def text_values(examples: list[Example]) -> dict[str, set[str]]:
    values = defaultdict(set)
    for example in examples:
        for parameter, value in read_call(example.answer)[2].items():
            if isinstance(value, str):
                values[parameter].add(value)
    return values


@pytest.fixture(scope="module")
def train() -> list[Example]:
    return TASK.train_examples()


@pytest.fixture(scope="module")
def evaluation() -> list[Example]:
    return TASK.eval_examples()


def is_right(completion: str, answer: str = ANSWER) -> bool:
    return grade_call(completion, answer, SIGNATURES).correct


def test_the_student_sees_an_example_and_two_commands_and_the_teacher_the_bare_request(evaluation):
    example = evaluation[0]
    system, shot, answer, last = turns(example.prompt)
    assert [turn["role"] for turn in turns(example.prompt)] == ["system", "user", "assistant", "user"]
    assert system["content"] == "Reply with one command only."
    assert shot["content"] == "Commands: play_music(artist, volume), find_hotel(city)\nPlay Adele at volume 5."
    assert answer["content"] == "play_music(artist='Adele', volume=5)"
    assert re.fullmatch(r"Commands: \w+\([\w, ]+\), \w+\([\w, ]+\)\n.+", last["content"])
    assert last["content"].endswith("\n" + request(example))
    assert example.teacher_prompt == [system, {"role": "user", "content": request(example)}]
    assert example.privileged_context == example.completion == example.answer


def test_no_text_value_and_no_call_occurs_in_both_splits(train, evaluation):
    seen, new = text_values(train), text_values(evaluation)
    assert seen.keys() == new.keys() == {"room", "to", "text", "city", "day", "item"}
    for parameter in seen:
        assert not seen[parameter] & new[parameter], parameter
        assert min(len(seen[parameter]), len(new[parameter])) >= 18, parameter
    assert not {example.answer for example in train} & {example.answer for example in evaluation}
    assert len({request(example) for example in evaluation}) == len(evaluation)


def test_the_splits_share_no_value_across_seeds_either(train, evaluation):
    other = CmdTask(seed=1, num_eval=1000).eval_examples()
    assert other[:50] != evaluation[:50]
    seen, new = text_values(train), text_values(other)
    assert not any(seen[parameter] & new[parameter] for parameter in seen)


def test_one_wording_in_four_is_kept_for_evaluation(train, evaluation):
    assert not any(example.fields["is_new_phrasing"] for example in train)
    share = sum(example.fields["is_new_phrasing"] for example in evaluation) / 2000
    assert 0.2 < share < 0.3
    known = {phrasing for tool in TOOLS.values() for phrasing in tool.phrasings[:3]}
    assert not known & {tool.phrasings[3] for tool in TOOLS.values()}


def test_the_answered_command_is_offered_and_either_place_is_as_likely(train):
    num_first = 0
    for example in train:
        offered = turns(example.prompt)[-1]["content"].split("\n")[0]
        tool = TOOLS[example.fields["tool"]]
        assert tool.signature in offered
        num_first += offered.startswith(f"Commands: {tool.name}(")
    assert 0.45 < num_first / 2000 < 0.55


def test_a_seed_gives_the_same_examples_and_a_limit_the_first_of_them(train):
    small = CmdTask(num_train=10, num_eval=10)
    assert small.train_examples() == TASK.train_examples(limit=10) == train[:10]
    assert small.eval_examples() == TASK.eval_examples(limit=10)
    assert CmdTask(seed=1).train_examples(limit=10) != small.train_examples()
    assert len(CmdTask().train_examples()) == len(CmdTask().eval_examples()) == 400


def test_gold_is_right_and_the_wrong_call_is_readable_and_wrong(train, evaluation):
    for example in [*train[:300], *evaluation[:300]]:
        assert TASK.grade(example, example.answer).correct
        grade = TASK.grade(example, example.fields["negative_call"])
        assert not grade.correct
        assert grade.is_well_formed
        assert example.negative_context is None


@pytest.mark.parametrize(
    "completion",
    [
        " send_message(to='Anna', text='I am running late')\n",
        "`send_message(to='Anna', text='I am running late')`",
        'send_message(text="i am  running late.", to="ANNA")',
        "send_message('Anna', 'I am running late!')",
        "send_message('Anna', text=' I am running late ')",
        "<think>send_message(to='Ben')?</think>\nsend_message(to='Anna', text='I am running late')",
    ],
)
def test_case_spaces_outer_punctuation_and_argument_style_do_not_count(completion):
    assert is_right(completion)


@pytest.mark.parametrize(
    "completion",
    [
        "send_message(to='Anna', text='I am late')",
        "send_message(to='Anna')",
        "send_message(to='Anna', text='I am running late', day='today')",
        "send_message('Anna', 'I am running late', 3)",
        "send_message('Anna', to='Anna', text='I am running late')",
        "call(to='Anna', text='I am running late')",
        "send_message(to='Anna', text=['I am running late'])",
    ],
)
def test_a_call_with_another_command_or_other_arguments_is_well_formed_and_wrong(completion):
    grade = grade_call(completion, ANSWER, SIGNATURES)
    assert not grade.correct
    assert grade.is_well_formed
    assert grade.note


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "Sure! set_timer(minutes=5)",
        "set_timer(minutes=5) # done",
        "<think>set_timer(minutes=5)",
        "set_timer(minutes=5)</think>",
        "(set_timer(minutes=5))",
        "``set_timer(minutes=5)``",
        "set_timer(minutes=5)\nset_timer(minutes=5)",
        "set_timer(minutes=5",
        "set_timer(minutes=5, minutes=5)",
        "set_timer(**{'minutes': 5})",
        "set_timer(minutes=int('5'))",
        "set_timer(minutes=minutes)",
        "self.set_timer(minutes=5)",
        "set_timer",
        "(" * 900,
        "set_timer(minutes=" + "-" * 900 + "5)",
        "set_timer(minutes=\0)",
        "set_timer(minutes='\ud800')",
        "set_timer(minutes='" + "5" * 1000 + "')",
    ],
)
def test_anything_but_one_call_with_literals_is_not_well_formed(completion):
    grade = grade_call(completion, "set_timer(minutes=5)", SIGNATURES)
    assert not grade.correct
    assert not grade.is_well_formed


def test_numbers_are_compared_exactly():
    assert is_right("set_timer(minutes=1)", "set_timer(minutes=1)")
    assert is_right("set_timer(1)", "set_timer(minutes=1)")
    for wrong in ("'1'", "1.0", "True", "-1", "10"):
        assert not is_right(f"set_timer(minutes={wrong})", "set_timer(minutes=1)")


def test_nothing_a_model_writes_is_run(tmp_path):
    witness = tmp_path / "ran"
    with pytest.raises(UnreadableCall):
        read_call(f"set_timer(minutes=open({str(witness)!r}, 'w'))")
    assert not witness.exists()


def test_a_negative_is_asked_for_by_showing_how_a_command_is_changed_in_one_detail(train):
    *shown, request = turns(TASK.negative_request(train[0]))
    assert request == {"role": "user", "content": train[0].answer}
    commands = [turn["content"] for turn in shown if turn["role"] != "system"]
    for right, wrong in zip(commands[::2], commands[1::2], strict=True):
        (name, _, arguments), (same, _, others) = read_call(right), read_call(wrong)
        assert name == same
        assert arguments.keys() == others.keys()
        assert sum(arguments[key] != others[key] for key in arguments) == 1


def test_sizes_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="num_eval must be between 1 and 2000, got 2001"):
        CmdTask(num_eval=2001)
    with pytest.raises(ValueError, match="limit must be at least 1, got -1"):
        CmdTask().train_examples(limit=-1)
    assert TASKS["cmd"]().name == "cmd"
