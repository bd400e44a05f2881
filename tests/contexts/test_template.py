"""Views as token ids: lengths count by hand, since the tiny tokenizer has one token per byte.

A turn is `<|im_start|>`, its role, a line break, its content, `<|im_end|>` and a line break, so the user's "Hi" is
1 + 4 + 1 + 2 + 1 + 1 = 10 tokens, and an assistant's "yes" is 1 + 9 + 1 + 3 + 1 + 1 = 16. The generation prompt is 11.
"""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from tests.tiny import build_tiny_tokenizer
from unisd.contexts.demonstration import Demonstration, build_views
from unisd.contexts.template import (
    PromptOverflow,
    assert_same_generation_prompt,
    fit_examples,
    generation_prompt,
    measure_views,
    render,
    render_views,
)
from unisd.contexts.view_report import ViewReport
from unisd.options import PromptOptions
from unisd.types import Example, Prompt


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def shown_once(example: Example) -> dict[str, Prompt]:
    return build_views(example, Demonstration(repeats=1))


def row(context: str | None, prompt: str = "Hi") -> Example:
    """With the prompt "Hi": 10 + 11 = 21 tokens for the student; for the teacher 10 + (13 + len(context)) + 10 + 11."""
    return Example(user(prompt), privileged_context=context)


@pytest.fixture
def bare_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


def test_a_conversation_ends_in_the_generation_prompt_and_text_is_left_alone(tiny_tokenizer):
    ids = render(tiny_tokenizer, user("Hi"), {})
    assert len(ids) == 10 + 11
    assert tiny_tokenizer.decode(ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tiny_tokenizer.decode(generation_prompt(tiny_tokenizer, user("Hi"), {})) == "<|im_start|>assistant\n"
    assert tiny_tokenizer.decode(render(tiny_tokenizer, "Hi", {})) == "Hi"
    assert generation_prompt(tiny_tokenizer, "Hi", {}) == []


def test_a_prompt_without_a_token_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="The prompt '' has no token"):
        render(tiny_tokenizer, "", {})


def test_each_role_is_rendered_with_its_own_switches_and_the_teacher_inherits_the_students(tiny_tokenizer):
    quiet = {"enable_thinking": False}
    views = render_views(row("yes"), tiny_tokenizer, PromptOptions(student_chat_kwargs=quiet), shown_once)
    for ids in views.values():
        assert tiny_tokenizer.decode(ids).endswith("assistant\n<think>\n\n</think>\n\n")
    options = PromptOptions(student_chat_kwargs=quiet, teacher_chat_kwargs={"enable_thinking": True})
    views = render_views(row("yes"), tiny_tokenizer, options, shown_once)
    assert tiny_tokenizer.decode(views["privileged"]).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_views_that_open_the_answer_differently_are_refused_with_both_endings(tiny_tokenizer):
    options = PromptOptions(
        student_chat_kwargs={"enable_thinking": False}, teacher_chat_kwargs={"enable_thinking": True}
    )
    with pytest.raises(ValueError, match="student_chat_kwargs.*teacher_chat_kwargs") as refusal:
        fit_examples([row("yes")], tiny_tokenizer, options, shown_once)
    assert r"'<|im_start|>assistant\n<think>\n\n</think>\n\n'" in str(refusal.value)
    assert r"'privileged' ends in '<|im_start|>assistant\n'" in str(refusal.value)
    shared = assert_same_generation_prompt(tiny_tokenizer, shown_once(row("yes")), PromptOptions())
    assert tiny_tokenizer.decode(shared) == "<|im_start|>assistant\n"


def test_a_later_row_with_another_ending_is_found_too(tiny_tokenizer):
    def views(example: Example) -> dict[str, Prompt]:
        return {"prompt": example.prompt, "privileged": "plain" if example.prompt == user("odd") else example.prompt}

    with pytest.raises(ValueError, match="^row 1: .*both must open the answer alike"):
        fit_examples([row(None), row(None, "odd")], tiny_tokenizer, PromptOptions(), views)


def test_what_the_chat_template_cannot_render_is_said_in_words(tiny_tokenizer, bare_tokenizer):
    with pytest.raises(ValueError, match="is a conversation, but .* has no chat template"):
        render(bare_tokenizer, user("Hi"), {})
    with pytest.raises(ValueError, match="'tokenize' is set by the library"):
        render(tiny_tokenizer, user("Hi"), {"tokenize": False})
    bare_tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ValueError, match="refuses a conversation with the roles user: no system role"):
        render(bare_tokenizer, user("Hi"), {})


def test_each_view_has_its_own_budget(tiny_tokenizer):
    exact = PromptOptions(max_prompt_length=21, max_teacher_prompt_length=49)
    views = render_views(row("12345"), tiny_tokenizer, exact, shown_once)
    assert {view: len(ids) for view, ids in views.items()} == {"prompt": 21, "privileged": 49}
    with pytest.raises(PromptOverflow, match="'prompt' has 21 tokens, but max_prompt_length is 20") as overflow:
        render_views(row("12345"), tiny_tokenizer, PromptOptions(20, 49), shown_once)
    assert overflow.value.view == "prompt"
    with pytest.raises(PromptOverflow, match="'privileged' has 49 tokens, but max_teacher_prompt_length is 48"):
        render_views(row("12345"), tiny_tokenizer, PromptOptions(21, 48, on_overflow="drop"), shown_once)


def test_the_students_view_is_reported_first_whatever_the_order_of_the_views(tiny_tokenizer):
    def backwards(example: Example) -> dict[str, Prompt]:
        return dict(reversed(shown_once(example).items()))

    with pytest.raises(PromptOverflow, match="'prompt' has 21 tokens"):
        render_views(row("1"), tiny_tokenizer, PromptOptions(20, 20), backwards)


def test_truncation_keeps_as_much_of_the_demonstration_as_fits_and_all_of_the_question(tiny_tokenizer):
    options = PromptOptions(21, 47, on_overflow="truncate_privileged")
    views = render_views(row("12345"), tiny_tokenizer, options, shown_once)
    turn = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tiny_tokenizer.decode(views["privileged"]) == f"{turn}123<|im_end|>\n{turn}"
    # Shown twice: 44 + 23 tokens around the demonstration, and twice as many as are kept of it.
    twice = render_views(
        row("12345"),
        tiny_tokenizer,
        PromptOptions(21, 72, on_overflow="truncate_privileged"),
        lambda example: build_views(example, Demonstration()),
    )
    assert len(twice["privileged"]) == 44 + 23 + 2 * 2
    assert tiny_tokenizer.decode(twice["privileged"]).count("12<|im_end|>") == 2


def test_truncation_never_splits_a_character(tiny_tokenizer):
    # Two bytes, so two tokens, per character: three tokens have room for one.
    options = PromptOptions(21, 47, on_overflow="truncate_privileged")
    kept, _ = fit_examples([row("\u00e9\u00e9\u00e9")], tiny_tokenizer, options, shown_once)
    assert kept[0].privileged_context == "\u00e9"


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        (
            row("1"),
            PromptOptions(20, 99, on_overflow="truncate_privileged"),
            "'prompt' has 21 tokens(?!.*cannot be shortened)",
        ),
        (row("12345"), PromptOptions(21, 44, on_overflow="truncate_privileged"), "not even one token of it fits"),
        (
            Example(user("Hi"), privileged_context=[{"role": "assistant", "content": "12345"}]),
            PromptOptions(21, 30, on_overflow="truncate_privileged"),
            "it is not text",
        ),
    ],
)
def test_what_truncation_may_not_cut_is_still_an_overflow(tiny_tokenizer, example, options, message):
    with pytest.raises(PromptOverflow, match=message):
        render_views(example, tiny_tokenizer, options, shown_once)
    with pytest.raises(PromptOverflow, match=f"^row 0: .*{message}.* Rows over budget: 1 of 1"):
        fit_examples([example], tiny_tokenizer, options, shown_once)


def test_an_error_at_load_names_the_first_row_and_the_number_of_rows_over_budget(tiny_tokenizer):
    examples = [row("1"), row("12345"), row("1"), row("123456")]
    with pytest.raises(PromptOverflow, match="^row 1: .*'privileged' has 49 tokens.*Rows over budget: 2 of 4"):
        fit_examples(examples, tiny_tokenizer, PromptOptions(21, 47), shown_once)


def test_dropping_keeps_the_other_rows_and_counts(tiny_tokenizer):
    examples = [row("1"), row("12345"), row(None)]
    kept, report = fit_examples(examples, tiny_tokenizer, PromptOptions(21, 47, on_overflow="drop"), shown_once)
    assert kept == [examples[0], examples[2]]
    assert report.lengths == {"prompt": [21, 21, 21], "privileged": [45, 49]}
    assert report.num_over_budget == {"prompt": 0, "privileged": 1}
    assert (report.num_dropped, report.num_truncated) == (1, 0)
    assert measure_views(examples, tiny_tokenizer, PromptOptions(21, 47), shown_once).lengths == report.lengths


def test_shortened_rows_are_returned_shortened_and_fit_from_then_on(tiny_tokenizer):
    options = PromptOptions(21, 47, on_overflow="truncate_privileged")
    kept, report = fit_examples([row("1"), row("12345")], tiny_tokenizer, options, shown_once)
    assert [example.privileged_context for example in kept] == ["1", "123"]
    assert (report.num_dropped, report.num_truncated) == (0, 1)
    assert report.lengths["privileged"] == [45, 49]
    assert measure_views(kept, tiny_tokenizer, options, shown_once).lengths["privileged"] == [45, 47]


def test_a_data_set_of_which_nothing_is_left_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="All 2 rows are over budget and were dropped"):
        fit_examples([row("1"), row("2")], tiny_tokenizer, PromptOptions(20, 99, on_overflow="drop"), shown_once)
    with pytest.raises(ValueError, match="no examples to render"):
        fit_examples([], tiny_tokenizer, PromptOptions(), shown_once)


def test_the_histogram_shows_where_the_lengths_lie():
    report = ViewReport({"prompt": [10, 10, 11, 20, 29]}, {"prompt": 20}, num_dropped=1)
    # 20 lengths from 10 to 29 in five bins of 4; the fullest has the longest bar of 40.
    assert report.text().splitlines() == [
        "prompt: 5 rows, tokens min 10, median 11, 95 % 29, max 29; budget 20, 1 over",
        f"      10 - 13     {'#' * 40} 3",
        "      14 - 17      0",
        f"      18 - 21     {'#' * 14} 1",
        "      22 - 25      0",
        f"      26 - 29     {'#' * 14} 1",
        "1 rows dropped, 0 with a shortened demonstration",
    ]
