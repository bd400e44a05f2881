"""Instructions inferred from demonstrations: what counts as one, who gets which, and how often it is tried."""

from __future__ import annotations

import pytest

from tests.contexts.scripted import ScriptedWriter, chat_example
from unisd.contexts.auxiliary import AuxiliaryContexts
from unisd.contexts.demonstration import in_front
from unisd.contexts.induction import ATTEMPTS, fault, holds_answer, induce, induction_context, pick, tidied
from unisd.contexts.pool import ShotPool
from unisd.types import Example

COLOURS = [chat_example(f"Colour of thing {number}?", f"colour-{number}") for number in range(8)]
POOL = ShotPool(COLOURS)
SECTION = AuxiliaryContexts(type="induction")
GOOD = "Reply with one hyphenated label and its number {}."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Name the hue as one lower-case word.", None),
        ("Name the hue, i.e. one word in lower case.", None),
        ("colour-3", "too short"),
        ("Name the hue. " * 50, "too long"),
        ("I'm sorry, that is more than a model should say.", "refusal"),
        ("As an AI model one should name the hue.", "refusal"),
        ("I name the hue as one lower-case word.", "refusal"),
        ("Which hue does the object have, please?", "no instruction"),
        ("Here is how to name the hue:", "no instruction"),
        ("Colour of thing 1? The colour-1.", "echo"),
        ("Explain how to answer requests like these, and what the answer must contain.", "echo"),
    ],
)
def test_what_is_no_instruction_is_named(text, reason):
    assert fault(text, COLOURS[:2]) == reason


def test_an_answer_counts_where_it_stands_as_whole_words():
    assert holds_answer("Always say Colour-1.", COLOURS[1])
    assert not holds_answer("Always say colour-12.", COLOURS[1])
    assert not holds_answer("Begin with a verb.", chat_example("Letter?", "A"))
    assert holds_answer("Answer A.", chat_example("Letter?", "A"))
    messages = [{"role": "user", "content": "Hue?"}, {"role": "assistant", "content": "deep blue"}]
    assert holds_answer("Say deep blue first.", Example("Hue?", privileged_context=messages))
    assert holds_answer("Say 42 now.", Example("Hue?", answer="42"))


def test_only_the_instruction_itself_is_kept():
    assert tidied(' Instruction: "Name the hue."\n\nFor example: blue', is_finished=True) == "Name the hue."
    assert tidied("**Instruction**: Name the hue. Use one w", is_finished=False) == "Name the hue."
    assert tidied("Name the hue in one", is_finished=False) == ""
    # The first paragraph is whole, whatever comes after it.
    assert tidied("Name the hue\n\nFor exam", is_finished=False) == "Name the hue"


def test_a_group_is_tried_again_until_its_instruction_is_sound_and_failures_are_counted():
    write = ScriptedWriter("no", "Sorry, that cannot be done.", "Use a label, number {}, in the wo...", GOOD)
    induced = induce(COLOURS, POOL, SECTION, write)
    assert [len(prompts) for prompts in write.asked] == [8, 8, 8, 8]
    assert (induced.num_groups, induced.failures) == (8, {})
    assert all(len(set(one)) == 2 for one in induced.instructions)
    with pytest.raises(ValueError, match=r"row 0 has 0 usable instructions, count is 2.*8 groups.*8 too short"):
        induce(COLOURS, POOL, SECTION, ScriptedWriter(*["no"] * ATTEMPTS))


def test_the_instructions_of_an_example_come_from_others_and_hold_its_answer_nowhere():
    bank = {(index,): {"text": f"Say number {index}."} for index in range(8)}
    bank[(7,)] = {"failure": "echo"}
    for index, example in enumerate(POOL.examples):
        bank[(0,)] = {"text": f"Say {example.answer} and nothing else."}
        chosen = pick(example, preferred=[], bank=bank, pool=POOL, section=AuxiliaryContexts(count=8))
        expected = {f"Say number {other}." for other in range(1, 7) if other != index}
        assert set(chosen) == expected


def test_the_views_of_an_example_rest_on_disjoint_demonstrations():
    bank = {(0, 1): {"text": "First."}, (1, 2): {"text": "Second."}, (2, 3): {"text": "Third."}}
    asking = chat_example("Colour of the sky?", "unknown")
    section = AuxiliaryContexts(count=3)
    assert pick(asking, preferred=[(0, 1), (1, 2)], bank=bank, pool=POOL, section=section) == ["First.", "Third."]


def test_choices_are_the_same_in_any_order_of_the_data_and_come_from_the_cache():
    first, again = ScriptedWriter(GOOD), ScriptedWriter(GOOD)
    induced = induce(COLOURS, POOL, SECTION, first)
    repeated = induce(COLOURS[::-1], ShotPool(COLOURS[::-1]), SECTION, again)
    assert repeated.instructions == induced.instructions[::-1]
    assert again.asked == []
    assert [one.is_new for one in repeated.built] == [False]
    other = induce(COLOURS, POOL, AuxiliaryContexts(type="induction", seed=1), ScriptedWriter(GOOD))
    assert other.instructions != induced.instructions


def test_with_retrieval_an_example_gets_the_instructions_of_its_neighbours():
    pytest.importorskip("bm25s")
    section = AuxiliaryContexts(type="induction", select="retrieval", retriever="bm25")
    things = [chat_example(f"{kind} {kind} {n}?", f"{kind}-{n}") for kind in ("bird", "train") for n in range(4)]
    pool = ShotPool(things)
    write = ScriptedWriter("Reply with the right word for {} things.")
    induced = induce(things, pool, section, write)
    asked = [str(prompt) for prompt in write.asked[0]]
    for example, chosen in zip(things, induced.instructions, strict=True):
        sources = [asked[int(text.split()[-2])] for text in chosen]
        assert all(example.answer.split("-")[0] in source for source in sources)
        assert not any(example.answer in source for source in sources)


def test_the_model_is_shown_the_demonstrations_in_the_form_of_the_data():
    write = ScriptedWriter(GOOD)
    induce(COLOURS, POOL, AuxiliaryContexts(type="induction", num_shots=2), write)
    (message,) = write.asked[0][0]
    assert message["role"] == "user"
    assert message["content"].count("Request: Colour of thing") == message["content"].count("Answer: colour-") == 2
    texts = [Example(f"Q{number}:", privileged_context=f"word-{number}") for number in range(8)]
    write = ScriptedWriter(GOOD)
    induce(texts, ShotPool(texts), SECTION, write)
    assert str(write.asked[0][0]).endswith("\n\nInstruction:")


def test_the_instruction_stands_right_before_the_request():
    own = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    view = in_front(prompt, induction_context("Add the numbers.", own))
    assert view == [prompt[0], *own, {"role": "user", "content": "Add the numbers.\n\n2 + 2?"}]
    assert in_front("2 + 2 =", induction_context("Add the numbers.", [])) == "Add the numbers.\n\n2 + 2 ="
