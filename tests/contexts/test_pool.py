"""Which training examples may be shown to an example: never itself, in any order of the data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contexts.scripted import chat_example
from unisd.contexts.auxiliary import AuxiliaryContexts
from unisd.contexts.demonstration import Demonstration
from unisd.contexts.few_shot import few_shot_context, own_turns, random_shots, views_of
from unisd.contexts.pool import ShotPool
from unisd.tasks.cmd import CmdTask
from unisd.types import Example

EXAMPLES = CmdTask().train_examples(30)
THREE_VIEWS = AuxiliaryContexts(count=3, num_shots=2)


def shown(
    examples: list[Example], pool: list[Example], section: AuxiliaryContexts = THREE_VIEWS
) -> list[list[Example]]:
    shots = random_shots(examples, ShotPool(pool), section)
    entries = ShotPool(pool).examples
    return [[entries[index] for index in one] for one in shots]


def test_the_shots_of_an_example_are_other_examples_and_all_different():
    for example, shots in zip(EXAMPLES, shown(EXAMPLES, EXAMPLES), strict=True):
        assert len(shots) == len({shot.answer for shot in shots}) == 6
        assert example.answer not in {shot.answer for shot in shots}


def test_draws_depend_on_content_and_seed_and_not_on_the_order_of_the_data():
    backwards = shown(EXAMPLES[::-1], EXAMPLES[::-1])
    assert backwards[::-1] == shown(EXAMPLES, EXAMPLES)
    assert shown(EXAMPLES[4:5], EXAMPLES[::2] + EXAMPLES[1::2]) == shown(EXAMPLES, EXAMPLES)[4:5]
    other = AuxiliaryContexts(count=3, num_shots=2, seed=1)
    assert shown(EXAMPLES, EXAMPLES, other) != shown(EXAMPLES, EXAMPLES)


def test_the_same_request_in_other_words_around_it_counts_as_the_same():
    example = chat_example("2 + 2?", "4")
    others = [chat_example(f"{n} + 1?", f"{n + 1} apples") for n in range(3)]
    pool = ShotPool([chat_example("2 + 2?", "four", system="Be loud."), replace(example, answer="4.0"), *others])
    # The request stands once in the pool, and it is not shown to itself.
    assert len(pool) == 4
    assert sorted(pool.requests[index] for index in pool.draw(example, 3, seed=0)) == ["0 + 1?", "1 + 1?", "2 + 1?"]


def test_an_example_with_the_same_answer_is_not_shown_unless_answers_are_labels():
    free = [chat_example(f"{n}?", f"answer {n}") for n in range(4)]
    asking = chat_example("What?", "answer 2")
    indices = ShotPool(free).draw(asking, 3, seed=0)
    assert {ShotPool(free).examples[index].answer for index in indices} == {"answer 0", "answer 1", "answer 3"}
    # Two labels on eight rows: without the rows that have the right one, the others would give it away.
    labelled = ShotPool([chat_example(f"{n}?", "yes" if n % 2 else "no") for n in range(8)])
    assert sum(labelled.may_show(index, chat_example("What?", "yes")) for index in range(8)) == 8


def test_too_few_other_examples_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match="6 other training examples .* of 6 different ones only 5 may be shown"):
        shown(EXAMPLES[:6], EXAMPLES[:6])
    without_answers = [Example("a"), Example("b")]
    with pytest.raises(ValueError, match="of 0 different ones only 0"):
        ShotPool(without_answers).draw(Example("c"), 1, seed=0)


def test_views_share_the_best_shots_and_show_the_best_last():
    assert views_of([10, 11, 12, 13, 14, 15], THREE_VIEWS) == [[13, 10], [14, 11], [15, 12]]


def test_groups_use_every_example_once_before_any_twice():
    pool = ShotPool([chat_example(f"{n}?", f"answer {n}") for n in range(6)])
    groups = pool.groups(5, 2, seed=0)
    assert sorted(index for group in groups[:3] for index in group) == list(range(6))
    assert len(set(groups)) == 5
    assert pool.groups(100, 2, seed=0)[:5] == groups
    assert len(pool.groups(100, 2, seed=0)) <= 15
    assert pool.groups(1, 7, seed=0) == []


def test_a_shot_is_its_last_turn_answered_and_the_own_demonstration_follows_as_it_is_shown():
    example = EXAMPLES[0]
    pool = ShotPool(EXAMPLES)
    shots = random_shots([example], pool, AuxiliaryContexts())[0][:1]
    section = AuxiliaryContexts(include_privileged=True)
    own = own_turns(example, section, Demonstration(repeats=2))
    bare = {"role": "user", "content": example.teacher_prompt[-1]["content"]}
    assert own == [bare, {"role": "assistant", "content": example.answer}] * 2
    other = pool.examples[shots[0]]
    context = few_shot_context(pool, shots, own)
    assert context == [other.teacher_prompt[-1], {"role": "assistant", "content": other.answer}, *own]
    assert own_turns(example, AuxiliaryContexts(), Demonstration()) == []
    with pytest.raises(ValueError, match="include_privileged: the example .* has no privileged_context"):
        own_turns(Example("2 + 2?"), section, Demonstration())


def test_demonstrations_that_are_messages_are_shown_as_they_are():
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    pool = ShotPool([Example([{"role": "user", "content": "What?"}], privileged_context=turns)])
    assert pool.turns([0]) == turns
