"""The `cmd` task: turn a request into one command of an assistant. Synthetic, seeded, needs no download."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unisd.tasks import cmd_values
from unisd.tasks.cmd_call import grade_call, write_call
from unisd.tasks.task import Grade, check_limit
from unisd.types import Example, Message, Prompt

Values = tuple[str, ...] | tuple[int, ...]
"""What one parameter of a tool may be."""

LARGEST_SPLIT = 2000
"""Examples per split; beyond this the generator runs short of requests that differ."""

SYSTEM: Message = {"role": "system", "content": "Reply with one command only."}
EXAMPLE_TURNS: tuple[Message, Message] = (
    {"role": "user", "content": "Commands: play_music(artist, volume), find_hotel(city)\nPlay Adele at volume 5."},
    {"role": "assistant", "content": "play_music(artist='Adele', volume=5)"},
)
ALTERED_TURNS: tuple[Message, ...] = (
    {"role": "system", "content": "Change one detail of the command."},
    {"role": "user", "content": "play_music(artist='Adele', volume=5)"},
    {"role": "assistant", "content": "play_music(artist='Adele', volume=7)"},
    {"role": "user", "content": "find_hotel(city='Rome')"},
    {"role": "assistant", "content": "find_hotel(city='Milan')"},
)


@dataclass(frozen=True)
class Tool:
    """A command, the ways people ask for it, and what its parameters may be in either split."""

    name: str
    phrasings: tuple[str, str, str, str]
    """The last one occurs in evaluation only."""
    train_values: Mapping[str, Values]
    """By parameter, in the order of the signature."""
    eval_values: Mapping[str, Values]

    @property
    def signature(self) -> str:
        """As a prompt offers it: `get_weather(city, day)`."""
        return f"{self.name}({', '.join(self.train_values)})"


def _halves(values: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Every other value: fixed, so that a model trained with one seed has not seen the evaluation values of another."""
    return values[::2], values[1::2]


def _tool(name: str, phrasings: tuple[str, str, str, str], **values: tuple[Values, Values]) -> Tool:
    train = {parameter: halves[0] for parameter, halves in values.items()}
    evaluation = {parameter: halves[1] for parameter, halves in values.items()}
    return Tool(name, phrasings, train, evaluation)


def _both(first: int, last: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(range(first, last + 1)), tuple(range(first, last + 1))


# A timer has no text to tell the splits apart, so its minutes do: in pairs, which leaves round numbers on both sides.
_MINUTES = tuple(range(2, 122))
_TIMER_MINUTES = (
    tuple(minutes for minutes in _MINUTES if minutes // 2 % 2 == 0),
    tuple(minutes for minutes in _MINUTES if minutes // 2 % 2 == 1),
)

TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        _tool(
            "set_timer",
            (
                "Set a timer for {minutes} minutes.",
                "Start a {minutes} minute timer, please.",
                "Wake me up in {minutes} minutes.",
                "I need a countdown of {minutes} minutes.",
            ),
            minutes=_TIMER_MINUTES,
        ),
        _tool(
            "set_heating",
            (
                "Set the heating in the {room} to {celsius} degrees.",
                "Heat the {room} to {celsius} degrees, please.",
                "Make it {celsius} degrees in the {room}.",
                "I would like the {room} at {celsius} degrees.",
            ),
            room=_halves(cmd_values.HEATED_ROOMS),
            celsius=_both(14, 26),
        ),
        _tool(
            "send_message",
            (
                "Send {to} a message: {text}.",
                "Text {to}: {text}.",
                "Write to {to}: {text}.",
                "Let {to} know: {text}.",
            ),
            to=_halves(cmd_values.NAMES),
            text=_halves(cmd_values.MESSAGES),
        ),
        _tool(
            "get_weather",
            (
                "Forecast for {city} {day}, please.",
                "What is the weather in {city} {day}?",
                "Will it rain in {city} {day}?",
                "How warm will it be in {city} {day}?",
            ),
            city=_halves(cmd_values.CITIES),
            day=_halves(cmd_values.DAYS),
        ),
        _tool(
            "add_item",
            (
                "Add {quantity} {item} to the shopping list.",
                "Put {quantity} {item} on my list.",
                "We need {quantity} {item}, add them to the list.",
                "Remind me to buy {quantity} {item}.",
            ),
            item=_halves(cmd_values.ITEMS),
            quantity=_both(2, 12),
        ),
        _tool(
            "book_room",
            (
                "Book room {room} at {hour}:00.",
                "Reserve room {room} for {hour}:00, please.",
                "Is room {room} free at {hour}:00? Book it.",
                "We want to meet in room {room} at {hour}:00.",
            ),
            room=_halves(cmd_values.MEETING_ROOMS),
            hour=_both(8, 19),
        ),
    )
}
"""The commands by name. The text values of the two splits are disjoint, so no call occurs in both."""

SIGNATURES: dict[str, tuple[str, ...]] = {name: tuple(tool.train_values) for name, tool in TOOLS.items()}
"""Parameters of each command, in order."""


@dataclass(frozen=True)
class CmdTask:
    """Six commands, two offered per prompt; the answer is one Python-style call.

    Evaluation asks for values that training never showed, and one request in four in a wording that it never showed.
    """

    seed: int = 0
    """Draws the examples; the values of each split do not depend on it."""
    num_train: int = 400
    num_eval: int = 400
    name: ClassVar[str] = "cmd"

    def __post_init__(self) -> None:
        for key in ("num_train", "num_eval"):
            if not 1 <= getattr(self, key) <= LARGEST_SPLIT:
                raise ValueError(f"cmd: {key} must be between 1 and {LARGEST_SPLIT}, got {getattr(self, key)}.")

    def train_examples(self, limit: int | None = None) -> list[Example]:
        """Requests in three wordings; no request occurs twice."""
        check_limit(limit)
        return self._draw("train", min(self.num_train, limit or self.num_train))

    def eval_examples(self, limit: int | None = None) -> list[Example]:
        """Requests in all four wordings with values of their own; no request occurs twice."""
        check_limit(limit)
        return self._draw("eval", min(self.num_eval, limit or self.num_eval))

    def grade(self, example: Example, completion: str) -> Grade:
        """Right if the call has the command and the arguments of `example.answer`; nothing may stand around it."""
        return grade_call(completion, example.answer, SIGNATURES)

    def negative_request(self, example: Example) -> Prompt:
        """The right command, to be changed in one detail, after two commands where that was done.

        Asked for a wrong command in words, SmolLM2-135M leaves the format (22 % usable); shown how, it keeps the
        command and changes an argument (47 %), on 32 prompts at temperature 1; at 0.7 they are alike (44 and 41 %).
        """
        return [*ALTERED_TURNS, {"role": "user", "content": example.answer}]

    def _draw(self, split: str, num_examples: int) -> list[Example]:
        # One generator per split, so that neither the size nor the use of one split changes the other.
        rng = random.Random(f"cmd/{self.seed}/{split}")
        examples: dict[str, Example] = {}
        while len(examples) < num_examples:
            request, example = _draw_example(rng, is_eval=split == "eval")
            examples.setdefault(request, example)
        return list(examples.values())


def _draw_example(rng: random.Random, *, is_eval: bool) -> tuple[str, Example]:
    tool, other = rng.sample(list(TOOLS.values()), 2)
    values = tool.eval_values if is_eval else tool.train_values
    phrasing = rng.randrange(4 if is_eval else 3)
    arguments: dict[str, Any] = {parameter: rng.choice(choices) for parameter, choices in values.items()}
    request = tool.phrasings[phrasing].format(**arguments)
    offered = ", ".join(rng.sample([tool.signature, other.signature], 2))
    call = write_call(tool.name, arguments)
    example = Example(
        prompt=[SYSTEM, *EXAMPLE_TURNS, {"role": "user", "content": f"Commands: {offered}\n{request}"}],
        privileged_context=call,
        teacher_prompt=[SYSTEM, {"role": "user", "content": request}],
        completion=call,
        answer=call,
        # The wrong call is no column of its own: a run has a negative view only where its configuration asks for one.
        fields={
            "tool": tool.name,
            "is_new_phrasing": phrasing == 3,
            "negative_call": _draw_wrong_call(tool, values, arguments, rng),
        },
    )
    return request, example


def _draw_wrong_call(tool: Tool, values: Mapping[str, Values], arguments: dict[str, Any], rng: random.Random) -> str:
    """The call with one argument replaced by another value of the same split: a mistake that one has to look for."""
    parameter = rng.choice(list(arguments))
    others = [value for value in values[parameter] if value != arguments[parameter]]
    return write_call(tool.name, {**arguments, parameter: rng.choice(others)})
