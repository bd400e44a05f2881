"""Rows of a data set as examples."""

from __future__ import annotations

import pytest

from unisd.contexts.rows import as_example
from unisd.types import Example

REQUEST = [{"role": "user", "content": "2 + 2?"}]
ANSWER = [{"role": "assistant", "content": "4"}]


def test_columns_go_where_they_belong_and_the_others_into_fields():
    example = as_example(
        {
            "prompt": REQUEST,
            "privileged_context": "4",
            "teacher_prompt": REQUEST,
            "auxiliary_contexts": ["four", ANSWER],
            "negative_context": "5",
            "completion": [*REQUEST, *ANSWER],
            "answer": 4,
            "level": "easy",
        }
    )
    assert example == Example(
        prompt=REQUEST,
        privileged_context="4",
        teacher_prompt=REQUEST,
        completion="4",
        auxiliary_contexts=("four", ANSWER),
        negative_context="5",
        answer=4,
        fields={"level": "easy"},
    )
    assert as_example(example) is example


def test_null_means_absent_in_columns_and_in_messages():
    row = {"prompt": [{"role": "user", "content": "Hi", "name": None}], "privileged_context": None, "completion": None}
    assert as_example(row) == Example([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "prompt: missing. Columns of the row: none"),
        ({"question": "2+2", "prompt": None}, "prompt: missing. Columns of the row: question, prompt"),
        ({"prompt": "  "}, "prompt: is empty"),
        ({"prompt": []}, "prompt: is an empty list"),
        ({"prompt": 5}, "prompt: got int, 5. Allowed: text, or a list of messages"),
        ({"prompt": ["Hi"]}, "prompt[0]: got text, 'Hi'"),
        ({"prompt": [{"role": "user"}]}, "prompt[0]: has no 'content'; its keys: role"),
        ({"prompt": [{"role": "user", "content": ["Hi"]}]}, "prompt[0].content: got a list"),
        ({"prompt": [*REQUEST, *ANSWER]}, "prompt: the last message has the role 'assistant'; it must be 'user'"),
        ({"prompt": "Hi", "privileged_context": ""}, "privileged_context: is empty"),
        ({"prompt": "Hi", "privileged_context": {"a": 1}}, "privileged_context: got dict"),
        ({"prompt": "Hi", "teacher_prompt": REQUEST}, "teacher_prompt: is a list but prompt is text"),
        ({"prompt": "Hi", "auxiliary_contexts": "Ho"}, "auxiliary_contexts: must be a list, got text"),
        ({"prompt": "Hi", "auxiliary_contexts": ["Ho", 1]}, "auxiliary_contexts[1]: got int"),
        ({"prompt": "Hi", "negative_context": 1.5}, "negative_context: got float"),
        ({"prompt": "Hi", "completion": REQUEST}, "completion: the last message has the role 'user'"),
    ],
)
def test_a_row_that_cannot_be_an_example_is_refused_by_column(row, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the message is compared as text, brackets and all
        as_example(row)
    assert str(refusal.value).startswith(message)
