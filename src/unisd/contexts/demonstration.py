"""The privileged context: how the teacher is shown an answer before it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unisd.tasks.placeholders import placeholders
from unisd.types import Example, Message, Prompt

DEFAULT_REPEATS = 2
DEFAULT_TEMPLATE = """\
{question}

Here is one good response to the request above, as an example:

{demonstration}

Use it to understand what is wanted, then give your own response to the request."""


@dataclass(frozen=True)
class Demonstration:
    """Section `contexts.privileged` of the YAML: the form in which the teacher sees the privileged context.

    The form decides what the teacher knows: on a 135M model one message gave a teacher of 0 %, two turns one of 97 %.
    """

    style: Literal["turns", "message"] = "turns"
    """`turns`: the request and its answer as earlier turns of the chat. `message`: both inside the last message."""
    repeats: int = DEFAULT_REPEATS
    """How often the turns are shown; for style `turns`. Messages of the data set are shown once, as they are."""
    template: str | None = None
    """Wording of the message, with {question} and {demonstration}; for style `message`. Omitted: `DEFAULT_TEMPLATE`."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(
                f"contexts.privileged.repeats must be at least 1, got {self.repeats}. "
                "For a teacher without a demonstration, leave privileged_context out of the data."
            )
        if self.style == "turns" and self.template is not None:
            raise ValueError(
                "contexts.privileged.template is for style: message, got style: turns. Remove it or change the style."
            )
        if self.style == "message" and self.repeats != DEFAULT_REPEATS:
            raise ValueError(
                f"contexts.privileged.repeats is for style: turns, got {self.repeats} with style: message. "
                "Remove it or change the style."
            )
        if self.template is not None:
            _check_template(self.template)

    def apply(self, example_prompt: Prompt, context: Prompt) -> Prompt:
        """The prompt with the context shown in it; the request stays last.

        Plain text is joined as text: prompt, context, an empty line, and the prompt again.
        """
        if isinstance(example_prompt, str):
            if not isinstance(context, str):
                raise ValueError(
                    "privileged_context is a list of messages but the prompt is plain text. "
                    "Give both as text or both as messages."
                )
            return self._in_text(example_prompt, context)
        if example_prompt[-1]["role"] != "user":
            raise ValueError(
                f"prompt: the last message has the role {example_prompt[-1]['role']!r}; it must be 'user', "
                "so that a demonstration can answer it."
            )
        before, request = example_prompt[:-1], example_prompt[-1]
        if self.style == "message":
            return [*before, {**request, "content": self._in_message(request["content"], context)}]
        return [*before, *self.turns(example_prompt, context), request]

    def turns(self, example_prompt: Prompt, context: Prompt) -> list[Message]:
        """The context as earlier turns of the chat: the request answered with it, or its own messages as they are."""
        if not isinstance(context, str):
            return context
        return answered(example_prompt, context) * self.repeats

    def _in_text(self, prompt: str, context: str) -> str:
        if self.style == "message":
            return self._in_message(prompt, context)
        return str(in_front(prompt, self.turns(prompt, context)))

    def _in_message(self, question: str, context: Prompt) -> str:
        if not isinstance(context, str):
            raise ValueError(
                f"contexts.privileged.style: message needs privileged_context as text, got {len(context)} messages. "
                "Use style: turns, or give the answer as text."
            )
        return (self.template or DEFAULT_TEMPLATE).format(question=question, demonstration=context)


def answered(example_prompt: Prompt, answer: str) -> list[Message]:
    """The request, which is the last turn of the prompt or the plain text, and its answer, as two turns."""
    request = {"role": "user", "content": example_prompt} if isinstance(example_prompt, str) else example_prompt[-1]
    return [request, {"role": "assistant", "content": answer}]


def in_front(example_prompt: Prompt, turns: Sequence[Message]) -> Prompt:
    """The prompt with the turns just before its request; a user turn at their end joins the request.

    Plain text is joined as text: after every answer, and between an instruction and what follows, is an empty line.
    """
    if isinstance(example_prompt, str):
        return _as_text(turns) + example_prompt
    before, request = example_prompt[:-1], example_prompt[-1]
    if turns and turns[-1]["role"] == "user":
        request = {**request, "content": f"{turns[-1]['content']}\n\n{request['content']}"}
        turns = turns[:-1]
    return [*before, *turns, request]


def build_views(example: Example, demonstration: Demonstration) -> dict[str, Prompt]:
    """`prompt` for the student; `privileged`, `auxiliary_0` ... and `negative` for the teacher, where the row has them.

    An auxiliary or negative context of messages is shown as turns, whatever the style.
    """
    request = example.prompt if example.teacher_prompt is None else example.teacher_prompt

    def shown(context: Prompt) -> Prompt:
        return demonstration.apply(request, context) if isinstance(context, str) else in_front(request, context)

    views = {"prompt": example.prompt}
    if example.privileged_context is not None:
        views["privileged"] = demonstration.apply(request, example.privileged_context)
    for number, context in enumerate(example.auxiliary_contexts):
        views[f"auxiliary_{number}"] = shown(context)
    if example.negative_context is not None:
        views["negative"] = shown(example.negative_context)
    return views


def _as_text(turns: Sequence[Message]) -> str:
    text = ""
    for number, turn in enumerate(turns):
        has_answer = turn["role"] == "user" and number + 1 < len(turns) and turns[number + 1]["role"] == "assistant"
        is_spaced = text[-1:].isspace() or turn["content"][:1].isspace()
        gap = "" if turn["role"] != "assistant" or is_spaced else " "
        text += f"{gap}{turn['content']}" + ("" if has_answer else "\n\n")
    return text


def _check_template(template: str) -> None:
    where = "contexts.privileged.template"
    names = placeholders(where, template)
    allowed = {"question", "demonstration"}
    unknown = sorted(names - allowed)
    if unknown:
        raise ValueError(f"{where}: unknown placeholder {unknown[0]!r}. Allowed: {{question}}, {{demonstration}}.")
    missing = sorted(allowed - names)
    if missing:
        raise ValueError(
            f"{where}: {{{missing[0]}}} is missing, got {template!r}. It needs {{question}} and {{demonstration}}."
        )
