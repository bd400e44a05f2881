"""Auxiliary contexts: further demonstrations, under which the teacher's views of a completion are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unisd.contexts.retrieval import DEFAULT_ENCODER
from unisd.options import Gate

BUILT_IN = ("column", "few_shot", "induction")


@dataclass(frozen=True)
class AuxiliaryContexts:
    """Section `contexts.auxiliary`: where the K >= 2 auxiliary views come from. Never the example itself."""

    type: str = "few_shot"
    """`few_shot`: other examples with their answers. `induction`: an instruction the model writes from those.
    `column`: the data's `auxiliary_contexts`. Or `pkg.module:function`: called with the example, returns K contexts."""
    select: Literal["random", "retrieval"] = "random"
    """Which other examples: drawn at random, or the most similar requests (needs the extra `retrieval`)."""
    retriever: str = DEFAULT_ENCODER
    """Of `select: retrieval`: a sentence-transformers model (hub id or folder), or `bm25` for shared words."""
    count: int = 2
    """Number of views, K."""
    num_shots: int = 1
    """Other examples per view."""
    include_privileged: bool = False
    """Show the example's own privileged context too, after the others; without it no auxiliary view has the answer."""
    seed: int = 0
    """Draws the examples and samples the instructions. Apart from `training.seed`, so that runs share one cache."""
    gate: Gate | None = None
    """Score the views for the most uncertain sequences only; left out, for all."""

    def __post_init__(self) -> None:
        if self.type not in BUILT_IN and ":" not in self.type:
            raise ValueError(
                f"contexts.auxiliary.type must be one of {', '.join(BUILT_IN)} or pkg.module:function, "
                f"got {self.type!r}."
            )
        if self.count < 2:
            raise ValueError(
                f"contexts.auxiliary.count must be at least 2, got {self.count}: one view has no spread to measure."
            )
        if self.num_shots < 1:
            raise ValueError(f"contexts.auxiliary.num_shots must be at least 1, got {self.num_shots}.")
        if self.retriever != DEFAULT_ENCODER and self.select != "retrieval":
            raise ValueError(
                f"contexts.auxiliary.retriever is for select: retrieval, got select: {self.select}. Remove it."
            )
        uses_examples = self.type in ("few_shot", "induction")
        for name, is_set in (
            ("select", self.select != "random"),
            ("num_shots", self.num_shots != 1),
            ("include_privileged", self.include_privileged),
            ("seed", self.seed != 0),
        ):
            if is_set and not uses_examples:
                raise ValueError(
                    f"contexts.auxiliary.{name} is for type: few_shot or induction, got type: {self.type}. Remove it."
                )
