"""The training examples that may be shown to other examples, and the rule that none is ever shown to itself."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from unisd.contexts.cache import content_hash
from unisd.contexts.demonstration import answered
from unisd.types import Example, Message, Prompt


class ShotPool:
    """Solved examples, one per request, in an order that follows from their content alone."""

    def __init__(self, examples: Iterable[Example]) -> None:
        unique: dict[str, Example] = {}
        for example in examples:
            if gold_of(example) is not None:
                unique.setdefault(request_text(example), example)
        self.examples = sorted(unique.values(), key=example_key)
        """What `draw` and `may_show` count from 0."""
        self._prompts = [content_hash(example.prompt) for example in self.examples]
        self._requests = [request_text(example) for example in self.examples]
        self._golds = [content_hash(gold_of(example)) for example in self.examples]
        counts = Counter(self._golds)
        self.has_labels = len(counts) <= len(self.examples) / 2
        """Few answers stand on many rows; to leave out those with the right label would give it away."""

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def requests(self) -> Sequence[str]:
        """What each example asks."""
        return self._requests

    def may_show(self, index: int, example: Example) -> bool:
        """Whether pool example `index` is another example than this one, and does not hold its answer.

        The same request under another system message counts as the same. Where answers are labels, which many
        examples share, an equal answer does not count.
        """
        if self._requests[index] == request_text(example) or self._prompts[index] == content_hash(example.prompt):
            return False
        return self.has_labels or self._golds[index] != content_hash(gold_of(example))

    def draw(self, example: Example, num: int, *, seed: int) -> list[int]:
        """`num` pool examples to show, drawn at random from the seed and the example's content."""
        return self._first(self._shuffled(f"{seed}/{example_key(example)}"), example, num)

    def nearest(self, ranking: Iterable[int], example: Example, num: int) -> list[int]:
        """The first `num` of the ranking that may be shown."""
        return self._first(ranking, example, num)

    def groups(self, num: int, size: int, *, seed: int) -> list[tuple[int, ...]]:
        """At most `num` different groups of `size` pool examples; all are drawn once before any is drawn again."""
        per_round = len(self) // size
        groups: dict[tuple[int, ...], None] = {}
        for turn in range(-(-num // per_round) if per_round else 0):
            order = list(self._shuffled(f"{seed}/groups/{turn}"))
            starts = range(0, per_round * size, size)
            groups.update(dict.fromkeys(tuple(sorted(order[start : start + size])) for start in starts))
        return list(groups)[:num]

    def turns(self, indices: Iterable[int]) -> list[Message]:
        """The pool examples as solved turns of a chat."""
        return [turn for index in indices for turn in shot_turns(self.examples[index])]

    def _shuffled(self, seed: str) -> Iterator[int]:
        # A new permutation costs as much as the pool is large; few examples of it are looked at.
        rng, moved = random.Random(seed), {}
        for last in range(len(self) - 1, -1, -1):
            chosen = rng.randint(0, last)
            yield moved.get(chosen, chosen)
            moved[chosen] = moved.get(last, last)

    def _first(self, candidates: Iterable[int], example: Example, num: int) -> list[int]:
        chosen: list[int] = []
        for index in candidates:
            if self.may_show(index, example):
                chosen.append(index)
            if len(chosen) == num:
                return chosen
        raise ValueError(
            f"contexts.auxiliary: {num} other training examples with an answer are needed per example "
            f"(count x num_shots), but of {len(self)} different ones only {len(chosen)} may be shown to the example "
            f"{request_text(example)[:60]!r}. Give more training examples, or lower count or num_shots."
        )


def shot_turns(example: Example) -> list[Message]:
    """A solved example as turns: its own messages where its demonstration is messages, else request and answer."""
    gold = gold_of(example)
    assert gold is not None
    if not isinstance(gold, str):
        return gold
    return answered(_request(example), gold)


def request_text(example: Example) -> str:
    """What an example asks: the last turn of the prompt that the teacher sees."""
    request = _request(example)
    return request if isinstance(request, str) else request[-1]["content"]


def gold_of(example: Example) -> Prompt | None:
    """The right answer of an example as it would be shown; `None` where it has none."""
    return example.completion if example.privileged_context is None else example.privileged_context


def example_key(example: Example) -> str:
    """A hash of what an example asks and answers."""
    return content_hash(example.prompt, request_text(example), gold_of(example))


def _request(example: Example) -> Prompt:
    return example.prompt if example.teacher_prompt is None else example.teacher_prompt
