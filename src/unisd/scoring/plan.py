"""From needs to forward passes; nothing that no component asked for is computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import or_

from unisd.types import Need, Signal

TEACHER_SIGNALS = Signal.DIVERGENCE | Signal.TEACHER_LOGP | Signal.TEACHER_ENTROPY
"""Signals that a pass of the teacher over its privileged view yields."""
STUDENT_SIGNALS = Signal.STUDENT_LOGP | Signal.DIVERGENCE | Signal.STUDENT_ENTROPY


@dataclass(frozen=True)
class Pass:
    """One forward pass over a micro-batch."""

    weights: str
    """`student` or `teacher`."""
    context: str
    """The view it reads."""
    has_grad: bool
    yields: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The passes of one micro-batch, in the order they run on paper; teachers run first in a step."""

    passes: tuple[Pass, ...]
    signals: Signal
    """What the scoring of the privileged and the student pass computes."""

    @property
    def has_teacher(self) -> bool:
        """Whether the privileged view is scored at all."""
        return any(one.context == "privileged" for one in self.passes)

    def text(self) -> str:
        """A table, one pass a line."""
        rows = [("pass", "weights", "context", "grad", "yields")]
        for number, one in enumerate(self.passes, 1):
            grad = "yes" if one.has_grad else "no"
            rows.append((str(number), one.weights, one.context, grad, ", ".join(one.yields)))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
            for row in rows
        )


def plan_passes(needs: Iterable[Need]) -> Plan:
    """The passes that yield the union of `needs`."""
    need = reduce(or_, needs, Need())
    hidden = tuple(f"hidden[{layer}]" for layer in sorted(need.hidden_layers))
    passes = [Pass("student", "prompt", True, (*_names(need.signals & STUDENT_SIGNALS), *hidden))]
    if need.signals & TEACHER_SIGNALS or hidden:
        passes.append(Pass("teacher", "privileged", False, (*_names(need.signals & TEACHER_SIGNALS), *hidden)))
    return Plan(tuple(passes), need.signals & (STUDENT_SIGNALS | TEACHER_SIGNALS))


def _names(signals: Signal) -> tuple[str, ...]:
    return tuple(str(signal.name).lower() for signal in signals.members())
