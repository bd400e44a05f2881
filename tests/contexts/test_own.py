"""Contexts of the user's own: from a function of theirs or a column, checked before anything is trained."""

from __future__ import annotations

import pytest

from tests.contexts.scripted import chat_example
from unisd.contexts.own import auxiliary_from, check_auxiliary_column, negatives_from, refuse_filled
from unisd.types import Example

EXAMPLES = [chat_example(f"{number} + 1?", f"{number + 1}") for number in range(3)]
TURNS = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]


def test_a_function_is_called_with_each_example_and_gives_text_or_messages():
    contexts = auxiliary_from("my:views", lambda example: [f"not {example.answer}", TURNS], EXAMPLES, 2)
    assert contexts == [(f"not {number + 1}", TURNS) for number in range(3)]
    assert negatives_from("my:wrong", lambda example: None if example.answer == "2" else "0", EXAMPLES) == [
        "0",
        None,
        "0",
    ]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (["one"], "my:views, row 0: returned 1 contexts, but contexts.auxiliary.count is 2"),
        ("one", "my:views, row 0: returned what cannot be shown: auxiliary_contexts: must be a list, got text"),
        (["one", ""], r"auxiliary_contexts\[1\]: is empty"),
        (["one", [{"content": "two"}]], "has no 'role'"),
    ],
)
def test_what_a_function_returns_is_checked(returned, message):
    with pytest.raises(ValueError, match=message):
        auxiliary_from("my:views", lambda example: returned, EXAMPLES, 2)


def test_an_error_inside_the_function_is_not_hidden():
    with pytest.raises(KeyError, match="no_such_column"):
        negatives_from("my:wrong", lambda example: example.fields["no_such_column"], EXAMPLES)


def test_a_column_has_the_count_that_was_promised():
    rows = [Example("a", auxiliary_contexts=("x", "y")), Example("b", auxiliary_contexts=("x",)), Example("c")]
    check_auxiliary_column("train", rows[:1], 2)
    with pytest.raises(ValueError, match="train data, row 1: has 1 auxiliary_contexts, .* count is 2"):
        check_auxiliary_column("train", rows, 2)
    with pytest.raises(ValueError, match="eval data, row 0: has no auxiliary_contexts"):
        check_auxiliary_column("eval", rows[2:], 2)


def test_a_column_is_not_overwritten():
    rows = [Example("a"), Example("b", auxiliary_contexts=("x", "y"), negative_context="z")]
    refuse_filled("train", "auxiliary", "few_shot", rows[:1])
    with pytest.raises(ValueError, match="row 1: has auxiliary_contexts, which contexts.auxiliary.type: few_shot"):
        refuse_filled("train", "auxiliary", "few_shot", rows)
    with pytest.raises(ValueError, match="row 1: has negative_context, .*Set contexts.negative.type: column"):
        refuse_filled("train", "negative", "verified", rows)
