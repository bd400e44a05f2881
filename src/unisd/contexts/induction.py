"""Auxiliary contexts of type `induction`: an instruction that the model itself infers from solved examples."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from unisd.contexts.auxiliary import AuxiliaryContexts
from unisd.contexts.cache import Built, cached, content_hash
from unisd.contexts.few_shot import retrieved_shots, views_of
from unisd.contexts.generation import Writer
from unisd.contexts.pool import ShotPool, example_key, gold_of, request_text
from unisd.types import Example, Message, Prompt

BANK_SIZE = 32
"""Groups of demonstrations that one instruction each is written from, shared by all examples (`select: random`)."""
ATTEMPTS = 4
"""Tries per group."""
MAX_INSTRUCTION_TOKENS = 96
MIN_WORDS = 4
MAX_CHARACTERS = 600
MAX_SHARED_WORDS = 0.8
"""What takes a larger share of its words from one demonstration, or from what the model was told, only repeats it."""

TASK = """\
Here are requests and the answers that were wanted:

{demonstrations}

Explain in one or two sentences how to answer requests like these: what the answer must contain, and in which form."""
"""No instruction for another task stands in it: small models repeat that one."""

_REFUSAL = re.compile(r"\b((?-i:I)|I'?m|as an AI|an AI assistant|sorry|unable to)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")

Entry = dict[str, str]
"""`{"text": ...}` for an instruction, `{"failure": ...}` with the reason where none was written."""


def induction_request(pool: ShotPool, group: Iterable[int]) -> Prompt:
    """What the model is asked for one group of demonstrations; plain text where the examples are plain text."""
    shown = "\n\n".join("\n".join(map(_labelled, pool.turns([index]))) for index in group)
    request = TASK.format(demonstrations=shown)
    if isinstance(pool.examples[0].prompt, str):
        return f"{request}\n\nInstruction:"
    return [{"role": "user", "content": request}]


@dataclass(frozen=True)
class Induced:
    """The instructions of each example, and how many groups of demonstrations gave one."""

    instructions: list[list[str]]
    """`count` per example."""
    num_groups: int
    failures: dict[str, int]
    """Why the other groups gave none, with counts."""
    built: tuple[Built, ...]


def induce(examples: Sequence[Example], pool: ShotPool, section: AuxiliaryContexts, write: Writer) -> Induced:
    """The instructions of every example, written by the model once per group of demonstrations.

    With `select: random` all examples share `BANK_SIZE` groups, so that the cost does not grow with the data; with
    `retrieval` each example has groups of its own, and falls back to those of others where they give none.
    """
    built: tuple[Built, ...] = ()
    own: list[list[tuple[int, ...]]] = [[] for _ in examples]
    groups = pool.groups(max(BANK_SIZE, 4 * section.count), section.num_shots, seed=section.seed)
    if section.select == "retrieval":
        shots, retrieval = retrieved_shots(examples, pool, section)
        own = [[tuple(sorted(view)) for view in views_of(one, section)] for one in shots]
        groups, built = sorted({group for views in own for group in views}), (retrieval,)
    requests = [induction_request(pool, group) for group in groups]
    shown = [[pool.examples[index] for index in group] for group in groups]
    bank = cached("induction", content_hash("induction", write.key(requests)), lambda: _bank(requests, shown, write))
    entries: dict[tuple[int, ...], Entry] = dict(zip(groups, bank.rows, strict=True))
    failures = Counter(entry["failure"] for entry in bank.rows if "failure" in entry)
    chosen = [
        pick(example, preferred=views, bank=entries, pool=pool, section=section)
        for example, views in zip(examples, own, strict=True)
    ]
    for row, instructions in enumerate(chosen):
        if len(instructions) < section.count:
            reasons = ", ".join(f"{number} {reason}" for reason, number in failures.items()) or "none failed"
            raise ValueError(
                f"contexts.auxiliary: row {row} has {len(instructions)} usable instructions, count is {section.count}. "
                f"The model was given {len(groups)} groups of {section.num_shots} demonstrations ({reasons}). "
                "Give more training examples, another num_shots or a larger model, or set type: few_shot."
            )
    return Induced(chosen, len(groups), dict(failures), (*built, bank))


def _bank(requests: Sequence[Prompt], shown: Sequence[Sequence[Example]], write: Writer) -> list[Entry]:
    """One entry per request: the first instruction in `ATTEMPTS` tries that `fault` finds nothing wrong with."""
    entries: list[Entry] = [{"failure": "not tried"} for _ in requests]
    for attempt in range(ATTEMPTS):
        pending = [index for index, entry in enumerate(entries) if "text" not in entry]
        if not pending:
            break
        answers = write([requests[index] for index in pending], f"instructions, attempt {attempt + 1}")
        for index, written in zip(pending, answers, strict=True):
            instruction = tidied(written.text, is_finished=written.is_finished)
            found = fault(instruction, shown[index])
            entries[index] = {"text": instruction} if found is None else {"failure": found}
    return entries


def tidied(text: str, *, is_finished: bool) -> str:
    """The first paragraph, without its label and quotes; cut back to its last whole sentence where it is unfinished."""
    text = text.strip()
    paragraph, _, rest = text.partition("\n\n")
    if not is_finished and not rest:
        ends = [match.end() for match in _SENTENCE_END.finditer(paragraph)]
        paragraph = paragraph[: ends[-1]] if ends else ""
    paragraph = re.sub(r"^(?:\W*instruction\W*:\W*)", "", paragraph.strip(), flags=re.IGNORECASE)
    return paragraph.strip().strip('"').strip()


def fault(instruction: str, shown: Sequence[Example]) -> str | None:
    """Why a text is no use as an instruction, in a word or two; `None` if it is."""
    words = _words(instruction)
    if len(words) < MIN_WORDS:
        return "too short"
    if len(instruction) > MAX_CHARACTERS:
        return "too long"
    if _REFUSAL.search(instruction):
        return "refusal"
    if instruction[-1] in ":?":
        return "no instruction"
    for text in [TASK, *(f"{request_text(example)} {_gold_text(example)}" for example in shown)]:
        known = set(_words(text))
        if sum(word in known for word in words) > MAX_SHARED_WORDS * len(words):
            return "echo"
    return None


def holds_answer(text: str, example: Example) -> bool:
    """Whether the right answer of the example stands in the text as whole words; case counts below 3 characters."""
    golds = [_gold_text(example), example.completion, example.answer]
    for answer in {one.strip() for one in golds if isinstance(one, str)}:
        ignore_case = re.IGNORECASE if len(answer) >= 3 else 0
        if answer and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, ignore_case):
            return True
    return False


def pick(
    example: Example,
    *,
    preferred: Sequence[tuple[int, ...]],
    bank: Mapping[tuple[int, ...], Entry],
    pool: ShotPool,
    section: AuxiliaryContexts,
) -> list[str]:
    """`count` different instructions for an example, or fewer where there are no more.

    They come from disjoint groups without the example, and hold its answer nowhere. The groups in `preferred` go first,
    the others follow at random by the seed and the example's content.
    """
    others = [group for group in bank if group not in preferred]
    random.Random(f"{section.seed}/induction/{example_key(example)}").shuffle(others)
    chosen: dict[str, None] = {}
    used: set[int] = set()
    for group in (*preferred, *others):
        text = bank[group].get("text")
        if text is None or text in chosen or used & set(group):
            continue
        # An instruction that lists the labels gives away none of them.
        if not pool.has_labels and holds_answer(text, example):
            continue
        if all(pool.may_show(index, example) for index in group):
            chosen[text] = None
            used |= set(group)
        if len(chosen) == section.count:
            break
    return list(chosen)


def induction_context(instruction: str, own: Sequence[Message]) -> list[Message]:
    """The example's own demonstration where it is shown at all, then the instruction, which joins the request."""
    return [*own, {"role": "user", "content": instruction}]


def _labelled(turn: Message) -> str:
    label = {"user": "Request: ", "assistant": "Answer: "}.get(turn["role"], "")
    return f"{label}{turn['content']}"


def _gold_text(example: Example) -> str:
    gold = gold_of(example)
    if gold is None or isinstance(gold, str):
        return gold or ""
    return gold[-1]["content"]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
