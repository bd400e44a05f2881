"""Multiple choice: lettered options in an order that follows from the question, and a strict reading of the reply."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from unisd.tasks.benchmark import Benchmark
from unisd.tasks.task import Grade, visible_part
from unisd.types import Example, Message, Prompt

LETTERS = string.ascii_uppercase
SYSTEM: Message = {"role": "system", "content": "Reply with one option only."}
EXAMPLE_TURNS: tuple[Message, Message] = (
    {"role": "user", "content": "Where do fish live?\nA. in the desert\nB. on a shelf\nC. in water"},
    {"role": "assistant", "content": "C. in water"},
)
NEGATIVE_TURNS: tuple[Message, ...] = (
    {"role": "system", "content": "Repeat the answer."},
    {"role": "user", "content": "Answer: C. in water"},
    {"role": "assistant", "content": "C. in water"},
    {"role": "user", "content": "Answer: A. at night"},
    {"role": "assistant", "content": "A. at night"},
)

# A letter counts where it cannot be a word: in brackets, before a mark, or as a capital that is the whole line.
_LETTERED = re.compile(
    r"(?:(?:option|choice)\s+)?"
    r"(?:[(\[](?P<bracketed>[a-z])[)\]][.:]?|(?P<marked>[a-z])[.:)]|(?P<bare>(?-i:[A-Z]))(?=$))\s*(?P<text>.*)",
    re.IGNORECASE | re.ASCII,
)
_ADJECTIVE = r"(?:(?:final|correct|right|best)\s+)?"
_MARKER = re.compile(
    rf"(?P<negation>\b(?:wrong|incorrect|false|not|\w+n['\u2019]t)\s+(?:(?:the|my|an?)\s+)?{_ADJECTIVE})?"
    rf"(?:\b(?:the|my)\s+{_ADJECTIVE}answer\s+is\b:?|\banswer\s*:)",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^(?:[-\u2022>#]+\s+)+")


class UnreadableChoice(ValueError):
    """The reply names no option, or more than one."""


class ChoiceTask(Benchmark):
    """A benchmark of questions with options; a subclass says where a row has them."""

    def grade(self, example: Example, completion: str) -> Grade:
        """Right if the one option that the reply names is that of `example.answer`; `read_choice` has the rule."""
        options = example.fields["options"]
        try:
            chosen = read_choice(completion, options)
        except UnreadableChoice as error:
            return Grade(False, is_well_formed=False, note=str(error))
        given = written_choice(options, chosen)
        return Grade(True) if given == example.answer else Grade(False, note=f"{given}, not {example.answer}")

    def negative_request(self, example: Example) -> Prompt:
        """A wrong option, to be repeated, after two options where that was done.

        Of 48 replies of SmolLM2-135M on CoS-E at temperature 0.7, 46 are usable so, 37 where the question stands before
        the option, and 10 where the reply is asked for below all options, which the model then mixes.
        """
        return [*NEGATIVE_TURNS, {"role": "user", "content": f"Answer: {example.fields['negative_answer']}"}]


def choice_example(
    question: str, options: Sequence[str], right: int, *, context: str = "", fields: Mapping[str, Any] | None = None
) -> Example:
    """The question with its options shuffled and lettered; `right` counts `options` from 0, `context` comes first.

    The order follows from the words of question and options, so it is the same in every run and on every machine, and
    the answer's place says nothing. Options lose their line breaks. The teacher is asked without the options: with them
    SmolLM2-135M replays 33 % of the demonstrated answers of CoS-E, without them 94 % (48 questions, greedy).
    """
    options = [" ".join(option.split()) for option in options]
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"there must be 2 to {len(LETTERS)} options, got {len(options)}: {options!r}. Remove the row.")
    if not all(options):
        raise ValueError(f"an option is empty: {options!r}. Correct the row, or remove it.")
    if not 0 <= right < len(options):
        raise ValueError(f"the answer is option {right} of {len(options)}, counted from 0. Correct the row.")
    rng = random.Random("choice/" + "\n".join([question, *options]))
    order = rng.sample(range(len(options)), len(options))
    shuffled = [options[index] for index in order]
    position = order.index(right)
    wrong = rng.choice([index for index in range(len(options)) if index != position])
    asked = f"{context}\n{question}".strip()
    lettered = "\n".join(written_choice(shuffled, index) for index in range(len(shuffled)))
    answer = written_choice(shuffled, position)
    return Example(
        prompt=[SYSTEM, *EXAMPLE_TURNS, {"role": "user", "content": f"{asked}\n{lettered}"}],
        privileged_context=answer,
        teacher_prompt=[SYSTEM, {"role": "user", "content": asked}],
        completion=answer,
        answer=answer,
        # The wrong answer is no column of its own: a run has a negative view only where its configuration asks for one.
        fields={
            **(fields or {}),
            "options": shuffled,
            "negative_answer": written_choice(shuffled, wrong),
        },
    )


def written_choice(options: Sequence[str], index: int) -> str:
    """The form of every answer: `B. dark place`. Letter and text, because small models copy words more surely."""
    return f"{LETTERS[index]}. {options[index]}"


def read_choice(completion: str, options: Sequence[str]) -> int:
    """The option that the reply names, counted from 0; `UnreadableChoice` where it names none or several.

    A line names an option by its letter (`B`, `B.`, `b)`, `(B)`, `[b]`), by its whole text, or by both; `Option` or
    `Choice` may stand before the letter. Bold and code marks, bullets, quotation marks, letter case of a text and the
    full stop after it do not count. Where text and letter belong to different options the reply is unreadable, and so
    it is where a lone letter is also the text of another option. Any further word makes a line name nothing.

    A reply of one such line is that option. Otherwise, where the reply has a marker (`Answer:`, `The answer is`, `My
    final answer is` ...), what follows the last one counts, on the same line or else the next, and nothing before it;
    `Wrong answer:` and `not the answer:` are no markers.
    Without a marker all lines that name an option must name the same one. What a model thinks up to `</think>` is not
    part of the reply.
    """
    lines = [line for line in map(_cleaned, visible_part(completion).splitlines()) if line]
    if not lines:
        raise UnreadableChoice("empty")
    named = _named(lines[0], options) if len(lines) == 1 else set()
    if not named:
        marked = _after_last_marker(lines)
        relevant = lines if marked is None else [marked]
        named = {index for line in relevant for index in _named(line, options)}
    if len(named) != 1:
        raise UnreadableChoice("no option is named" if not named else "several options are named")
    return named.pop()


def _after_last_marker(lines: Sequence[str]) -> str | None:
    for position in reversed(range(len(lines))):
        matches = [match for match in _MARKER.finditer(lines[position]) if not match["negation"]]
        if matches:
            rest = _cleaned(lines[position][matches[-1].end() :])
            return rest or "".join(lines[position + 1 : position + 2])
    return None


def _named(line: str, options: Sequence[str]) -> set[int]:
    by_text = _with_text(line, options)
    match = _LETTERED.fullmatch(line)
    if match is None:
        return by_text
    letter = (match["bracketed"] or match["marked"] or match["bare"]).upper()
    index = LETTERS.index(letter)
    if not match["text"]:
        return by_text | ({index} if index < len(options) else set())
    told = _with_text(match["text"], options)
    if told and index not in told:
        raise UnreadableChoice(f"{letter} is not {match['text']!r}")
    return by_text | ({index} if told else set())


def _with_text(text: str, options: Sequence[str]) -> set[int]:
    """The options of this text; letter case tells options apart where some differ in nothing else."""
    given = _core(text)
    exact = {index for index, option in enumerate(options) if _core(option) == given}
    return exact or {index for index, option in enumerate(options) if _core(option).casefold() == given.casefold()}


def _cleaned(line: str) -> str:
    line = " ".join(line.replace("*", "").replace("`", "").split())
    return _BULLET.sub("", line).strip("\"'\u201c\u201d ")


def _core(text: str) -> str:
    return _cleaned(text).rstrip(".,;:!\"'\u201d ")
