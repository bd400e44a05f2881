"""ToolAlpaca: requests to an API that is described in words; the answer is one call or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from unisd.tasks.benchmark import Benchmark, Role, Row, text_in
from unisd.tasks.source import DataSource
from unisd.tasks.task import Grade
from unisd.tasks.tool_call import (
    ToolCall,
    UnreadableCalls,
    grade_calls,
    read_arguments,
    read_calls,
    write_calls,
)
from unisd.types import Example, Message, Prompt

INSTRUCTION = """\
Call functions of this API to do what the user asks. Reply with the calls only, in the order in which they are made:
Action: the name of the function
Action Input: its arguments as a JSON object

getDetails: Ask the user for missing information
Parameters: {"Question": "Required. string. What the user is asked."}"""
SHOT: tuple[Message, Message] = (
    {"role": "user", "content": "(as an example, with a function playMusic) Play Adele at volume 5."},
    {"role": "assistant", "content": 'Action: playMusic\nAction Input: {"artist": "Adele", "volume": 5}'},
)
NEGATIVE_TURNS: tuple[Message, ...] = (
    {"role": "system", "content": "Change one detail of the calls."},
    {"role": "user", "content": 'Action: playMusic\nAction Input: {"artist": "Adele", "volume": 5}'},
    {"role": "assistant", "content": 'Action: playMusic\nAction Input: {"artist": "Adele", "volume": 7}'},
    {"role": "user", "content": 'Action: getHotel\nAction Input: {"city": "Rome"}'},
    {"role": "assistant", "content": 'Action: getHotel\nAction Input: {"city": "Milan"}'},
    {"role": "user", "content": "Action: listOffers\nAction Input: {}"},
    {"role": "assistant", "content": "Action: listOrders\nAction Input: {}"},
)
OPTIONAL = "[Optional]"
"""Stands before some names in the published answers; such a call is asked for like any other."""


class ToolAlpacaTask(Benchmark):
    """Calls of APIs that are described in words, compared strictly. Source: arXiv:2306.05301."""

    name: ClassVar[str] = "tool_alpaca"
    hub_train: ClassVar[DataSource | None] = DataSource("Ahren09/ToolAlpaca", split="train")
    hub_eval: ClassVar[DataSource] = DataSource("Ahren09/ToolAlpaca", split="test")
    columns: ClassVar[tuple[str, ...]] = ("instruction",)

    def exclusion(self, row: Row, role: Role) -> str | None:
        """A published answer may hold words where a value should be (`${animeId from searchAnime}`)."""
        try:
            gold_calls(row)
        except UnreadableCalls:
            return "whose published answer does not parse"
        return None

    def example(self, row: Row) -> Example:
        """The API stands in the system message, so that a demonstration repeats the request alone.

        Rows of the published hub set bring a whole prompt of their own, which is used as it is.
        """
        calls = gold_calls(row)
        answer = write_calls(calls)
        if row.get("functions") is not None:
            system: Message = {"role": "system", "content": f"{INSTRUCTION}\n\n{text_in(row, 'functions')}"}
            request: Message = {"role": "user", "content": text_in(row, "instruction")}
            prompt, teacher_prompt = [system, *SHOT, request], [system, request]
        elif row.get("prompt") is not None:
            prompt = teacher_prompt = [{"role": "user", "content": text_in(row, "prompt")}]
        else:
            raise ValueError("functions: is missing, and so is prompt: nothing says which functions there are.")
        return Example(
            prompt=prompt,
            privileged_context=answer,
            teacher_prompt=teacher_prompt,
            completion=answer,
            answer=answer,
            fields={"id": row.get("id"), "api": row.get("api", row.get("name")), "num_calls": len(calls)},
        )

    def grade(self, example: Example, completion: str) -> Grade:
        """Right if the reply has all calls of the answer, in order, and nothing else: see `grade_calls`."""
        return grade_calls(completion, read_calls(example.answer))

    def negative_request(self, example: Example) -> Prompt:
        """The right calls, to be changed in one detail, after three calls where that was done.

        Of 16 replies of SmolLM2-135M at temperature 0.7, 7 are readable and wrong; 3 are the right calls, unchanged.
        """
        return [*NEGATIVE_TURNS, {"role": "user", "content": example.answer}]


def gold_calls(row: Row) -> list[ToolCall]:
    """The calls of `golden_answer` (a list of `Action` and `Action_Input`), or those written in `golden_response`."""
    answer = row.get("golden_answer")
    if answer:
        if not isinstance(answer, list) or not all(isinstance(call, Mapping) for call in answer):
            raise ValueError(f"golden_answer: must be a list of calls, got {answer!r}. Correct the row, or remove it.")
        return [_gold_call(call) for call in answer]
    response = row.get("golden_response")
    text = "\n".join(response) if isinstance(response, list) else response
    if not isinstance(text, str) or not text.strip():
        raise ValueError("golden_answer: is missing, and so is golden_response. Correct the row, or remove it.")
    # Its thoughts stand without the word `Thought:`.
    return read_calls(text[max(0, text.find("Action:")) :])


def _gold_call(call: Mapping[str, Any]) -> ToolCall:
    name, arguments = call.get("Action"), call.get("Action_Input")
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise ValueError(f"golden_answer: a call needs Action and Action_Input as text, got {call!r}.")
    return ToolCall(name.removeprefix(OPTIONAL).strip(), read_arguments(arguments))
