"""Negative contexts: a wrong demonstration, which the contrastive loss pushes away from."""

from __future__ import annotations

from dataclasses import dataclass

from unisd.options import Gate

BUILT_IN = ("column", "verified")


@dataclass(frozen=True)
class NegativeContexts:
    """Section `contexts.negative`: where wrong demonstrations come from."""

    type: str = "verified"
    """`verified`: the model is asked for a plausible wrong answer, and the task's grader confirms that it is wrong.
    `column`: the data's `negative_context`. Or `pkg.module:function`, called with the example."""
    attempts: int = 4
    """Tries per example of type `verified`; an example without a wrong answer has no negative view."""
    gate: Gate | None = None
    """Score the view for the most uncertain sequences only; left out, for all."""

    def __post_init__(self) -> None:
        if self.type not in BUILT_IN and ":" not in self.type:
            raise ValueError(
                f"contexts.negative.type must be one of {', '.join(BUILT_IN)} or pkg.module:function, "
                f"got {self.type!r}."
            )
        if self.attempts < 1:
            raise ValueError(f"contexts.negative.attempts must be at least 1, got {self.attempts}.")
        if self.attempts != 4 and self.type != "verified":
            raise ValueError(f"contexts.negative.attempts is for type: verified, got type: {self.type}. Remove it.")
