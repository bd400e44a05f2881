"""How a privileged context becomes part of the teacher's view."""

from __future__ import annotations

import pytest

from unisd.contexts.demonstration import Demonstration, build_views, in_front
from unisd.types import Example

SYSTEM = {"role": "system", "content": "Be brief."}
EARLIER = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
REQUEST = {"role": "user", "content": "2 + 2?"}
ANSWER = {"role": "assistant", "content": "4"}


def test_turns_put_the_answered_request_before_the_request_and_after_everything_else():
    once = Demonstration(repeats=1).apply([SYSTEM, *EARLIER, REQUEST], "4")
    assert once == [SYSTEM, *EARLIER, REQUEST, ANSWER, REQUEST]


def test_turns_are_shown_twice_unless_told_otherwise():
    assert Demonstration().apply([REQUEST], "4") == [REQUEST, ANSWER, REQUEST, ANSWER, REQUEST]


def test_messages_of_the_data_are_shown_once_as_they_are():
    shown = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    assert Demonstration(repeats=3).apply([SYSTEM, REQUEST], shown) == [SYSTEM, *shown, REQUEST]


def test_a_message_holds_question_and_demonstration_in_the_last_turn():
    demonstration = Demonstration("message", template="Q {question} D {demonstration} {{}}")
    view = demonstration.apply([SYSTEM, {"role": "user", "content": "{a}?"}], "{b}!")
    assert view == [SYSTEM, {"role": "user", "content": "Q {a}? D {b}! {}"}]
    default = str(Demonstration("message").apply("How?", "So."))
    assert default.startswith("How?\n")
    assert "\n\nSo.\n\n" in default


def test_plain_text_is_joined_as_text():
    assert Demonstration().apply("Q: 2+2\nA:", "4") == "Q: 2+2\nA: 4\n\nQ: 2+2\nA: 4\n\nQ: 2+2\nA:"
    assert Demonstration(repeats=1).apply("A:\n", "4") == "A:\n4\n\nA:\n"


def test_the_teacher_is_asked_its_own_prompt_where_the_row_has_one():
    own = {"role": "user", "content": "Two plus two?"}
    example = Example([SYSTEM, REQUEST], privileged_context="4", teacher_prompt=[own])
    views = build_views(example, Demonstration(repeats=1))
    assert views == {"prompt": [SYSTEM, REQUEST], "privileged": [own, ANSWER, own]}


def test_auxiliary_messages_stand_before_the_request_whatever_the_style():
    shot = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    example = Example([SYSTEM, REQUEST], privileged_context="4", auxiliary_contexts=(shot, "5"), negative_context="3")
    views = build_views(example, Demonstration("message", template="{question} {demonstration}"))
    assert views["auxiliary_0"] == [SYSTEM, *shot, REQUEST]
    assert views["auxiliary_1"] == [SYSTEM, {"role": "user", "content": "2 + 2? 5"}]
    assert list(views) == ["prompt", "privileged", "auxiliary_0", "auxiliary_1", "negative"]
    assert views["negative"][-1]["content"] == "2 + 2? 3"


@pytest.mark.parametrize("style", ["turns", "message"])
def test_negative_messages_are_shown_as_auxiliary_ones_are(style):
    hint = [{"role": "user", "content": "Answer with the wrong number."}]
    example = Example([SYSTEM, REQUEST], auxiliary_contexts=(hint,), negative_context=hint)
    views = build_views(example, Demonstration(style))
    joined = {"role": "user", "content": "Answer with the wrong number.\n\n2 + 2?"}
    assert views["negative"] == views["auxiliary_0"] == [SYSTEM, joined]


def test_turns_in_front_of_plain_text_are_text_with_an_empty_line_after_every_answer():
    shot = [{"role": "user", "content": "Q: 1+1\nA:"}, {"role": "assistant", "content": "2"}]
    assert in_front("Q: 2+2\nA:", shot * 2) == "Q: 1+1\nA: 2\n\nQ: 1+1\nA: 2\n\nQ: 2+2\nA:"
    rule = {"role": "system", "content": "Add."}
    assert in_front("2+2=", [rule, *shot]) == "Add.\n\nQ: 1+1\nA: 2\n\n2+2="


def test_a_user_turn_in_front_joins_the_request_so_that_roles_alternate():
    assert in_front([SYSTEM, REQUEST], [{"role": "user", "content": "Add."}]) == [
        SYSTEM,
        {"role": "user", "content": "Add.\n\n2 + 2?"},
    ]
    assert in_front([SYSTEM, REQUEST], []) == [SYSTEM, REQUEST]


def test_without_a_privileged_context_there_is_no_teacher_view():
    assert build_views(Example("2+2="), Demonstration()) == {"prompt": "2+2="}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"template": "{question} {demonstration}"}, "template is for style: message, got style: turns"),
        ({"style": "message", "repeats": 3}, "repeats is for style: turns, got 3 with style: message"),
        ({"style": "message", "template": "{question}"}, "{demonstration} is missing"),
        ({"style": "message", "template": "{question} {demonstration} {hint}"}, "unknown placeholder 'hint'"),
        ({"style": "message", "template": "{question} {demonstration} {"}, "is not a template"),
        ({"style": "message", "template": "{question} {demonstration[0]}"}, "must be plain names"),
    ],
)
def test_a_contradictory_section_is_refused(keywords, message):
    with pytest.raises(ValueError, match="contexts.privileged") as refusal:
        Demonstration(**keywords)
    assert message in str(refusal.value)


def test_forms_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="list of messages but the prompt is plain text"):
        Demonstration().apply("2+2=", [ANSWER])
    with pytest.raises(ValueError, match="needs privileged_context as text, got 1 messages"):
        Demonstration("message").apply([REQUEST], [ANSWER])
    with pytest.raises(ValueError, match="role 'assistant'; it must be 'user'"):
        Demonstration().apply([REQUEST, ANSWER], "4")
