"""A writer that answers from a list, for rules about what a model writes; models write in tests/test_prepare.py."""

from __future__ import annotations

from collections.abc import Sequence

from unisd.contexts.cache import content_hash
from unisd.contexts.generation import Written
from unisd.types import Example, Prompt


class ScriptedWriter:
    """Answers every prompt of the n-th call with the n-th text, cut off where the text ends in `...`."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts
        self.asked: list[list[Prompt]] = []
        """The prompts of each call."""

    def __call__(self, prompts: Sequence[Prompt], purpose: str) -> list[Written]:
        text = self._texts[len(self.asked)]
        self.asked.append(list(prompts))
        is_finished = not text.endswith("...")
        return [Written(text.removesuffix("...").format(number), is_finished) for number in range(len(prompts))]

    def key(self, prompts: Sequence[Prompt]) -> str:
        return content_hash(list(self._texts), list(prompts))


def chat_example(question: str, answer: str, system: str = "Be brief.") -> Example:
    """A conversation with a system message."""
    prompt = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return Example(prompt, privileged_context=answer, answer=answer)
