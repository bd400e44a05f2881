"""How a builder of contexts has a model write: the generating itself stands above this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from unisd.types import Prompt


@dataclass(frozen=True)
class Written:
    """One answer of the model."""

    text: str
    """Without special tokens, as the grader of a task reads it."""
    is_finished: bool
    """It ended by itself rather than at the length limit."""


@runtime_checkable
class Writer(Protocol):
    """A model with its sampling options and a seed."""

    def __call__(self, prompts: Sequence[Prompt], purpose: str) -> list[Written]:
        """One answer per prompt, in order; the purpose goes into the seed and names the progress."""
        ...

    def key(self, prompts: Sequence[Prompt]) -> str:
        """A content hash of the model, the options, the seed and the prompts as the model reads them."""
        ...
