"""Auxiliary contexts of type `few_shot`: other training examples with their answers, as earlier turns of the chat."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from unisd.contexts.auxiliary import AuxiliaryContexts
from unisd.contexts.cache import Built, cached, content_hash
from unisd.contexts.demonstration import Demonstration
from unisd.contexts.pool import ShotPool, example_key, request_text
from unisd.contexts.retrieval import available_retriever, rankings
from unisd.types import Example, Message

logger = logging.getLogger(__name__)


def random_shots(examples: Sequence[Example], pool: ShotPool, section: AuxiliaryContexts) -> list[list[int]]:
    """For each example, `count` x `num_shots` other pool examples, drawn from the seed and the example's content."""
    num = section.count * section.num_shots
    return [pool.draw(example, num, seed=section.seed) for example in examples]


def retrieved_shots(
    examples: Sequence[Example], pool: ShotPool, section: AuxiliaryContexts
) -> tuple[list[list[int]], Built]:
    """For each example, the `count` x `num_shots` pool examples with the most similar requests, most similar first."""
    num = section.count * section.num_shots
    retriever = available_retriever(section.retriever)
    if retriever != section.retriever:
        logger.warning(
            "sentence-transformers is not installed: contexts.auxiliary retrieves by %s (shared words), not by %s.",
            retriever,
            section.retriever,
        )
    unique = {example_key(example): example for example in examples}
    ordered = sorted(unique)

    def build() -> list[list[int]]:
        queries = [unique[key] for key in ordered]
        ranked = rankings([request_text(query) for query in queries], pool.requests, retriever=retriever)
        return [pool.nearest(ranking, query, num) for ranking, query in zip(ranked, queries, strict=True)]

    pool_keys = [example_key(example) for example in pool.examples]
    built = cached("retrieval", content_hash("retrieval", retriever, num, pool_keys, ordered), build)
    shots = dict(zip(ordered, built.rows, strict=True))
    return [shots[example_key(example)] for example in examples], built


def views_of(shots: Sequence[int], section: AuxiliaryContexts) -> list[list[int]]:
    """The shots of one example, best first, dealt to its `count` views; in each the best stands nearest the request."""
    return [list(reversed(shots[view :: section.count])) for view in range(section.count)]


def few_shot_context(pool: ShotPool, shots: Sequence[int], own: Sequence[Message]) -> list[Message]:
    """The shots as turns, then the example's own demonstration where it is shown at all."""
    return [*pool.turns(shots), *own]


def own_turns(example: Example, section: AuxiliaryContexts, demonstration: Demonstration) -> list[Message]:
    """The example's own demonstration as the privileged view shows it; nothing unless `include_privileged`."""
    if not section.include_privileged:
        return []
    if example.privileged_context is None:
        raise ValueError(
            f"contexts.auxiliary.include_privileged: the example {request_text(example)[:60]!r} has no "
            "privileged_context. Fill the column, or drop the option."
        )
    request = example.prompt if example.teacher_prompt is None else example.teacher_prompt
    return demonstration.turns(request, example.privileged_context)
