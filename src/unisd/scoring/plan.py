"""From needs to forward passes; nothing that no component asked for is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_

from unisd.options import Gate
from unisd.types import Need, Signal

TEACHER_SIGNALS = Signal.DIVERGENCE | Signal.TEACHER_LOGP | Signal.TEACHER_ENTROPY
"""Signals that a pass of the teacher over its privileged view yields."""
STUDENT_SIGNALS = Signal.STUDENT_LOGP | Signal.DIVERGENCE | Signal.STUDENT_ENTROPY


@dataclass(frozen=True)
class Pass:
    """One forward pass over a micro-batch, or several alike."""

    weights: str
    """`student` or `teacher`."""
    context: str
    """The view it reads."""
    has_grad: bool
    yields: tuple[str, ...]
    count: int = 1
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """The passes of one micro-batch."""

    passes: tuple[Pass, ...]
    need: Need
    """The union of all needs."""

    @property
    def signals(self) -> Signal:
        """What scoring the student's and the privileged view computes."""
        return self.need.signals & (STUDENT_SIGNALS | TEACHER_SIGNALS)

    @property
    def layers(self) -> frozenset[int]:
        """Hidden states to keep, of student and teacher."""
        return self.need.hidden_layers

    @property
    def contexts(self) -> frozenset[str]:
        """The teacher's views that are scored: `privileged`, `auxiliary`, `negative`."""
        scored = {"privileged": self.has_teacher, "auxiliary": self.has_auxiliary, "negative": self.has_negative}
        return frozenset(name for name, is_scored in scored.items() if is_scored)

    @property
    def has_teacher(self) -> bool:
        """Whether the privileged view is scored at all."""
        return bool(self.need.signals & TEACHER_SIGNALS) or bool(self.layers)

    @property
    def has_auxiliary(self) -> bool:
        """Whether the auxiliary views are scored."""
        return Signal.AUXILIARY_LOGP in self.need.signals

    @property
    def has_negative(self) -> bool:
        """Whether the negative view is scored."""
        return Signal.NEGATIVE_LOGP in self.need.signals

    def text(self) -> str:
        """A table, one kind of pass a line."""
        rows, number = [("pass", "weights", "context", "grad", "yields")], 1
        for one in self.passes:
            numbers = str(number) if one.count == 1 else f"{number}-{number + one.count - 1}"
            context = one.context if one.count == 1 else f"{one.context} x{one.count}"
            yields = ", ".join(one.yields) + (f"  ({one.note})" if one.note else "")
            rows.append((numbers, one.weights, context, "yes" if one.has_grad else "no", yields))
            number += one.count
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
            for row in rows
        )


def plan_passes(
    needs: Iterable[Need],
    *,
    num_auxiliary: int = 0,
    gates: Mapping[str, Gate] | None = None,
    privileged_twice: bool = False,
) -> Plan:
    """The passes that yield the union of `needs`; `num_auxiliary` views, of which `gates` let a share through.

    `privileged_twice`: the mean weight of the step needs the teacher's log-probabilities ahead.
    """
    need = reduce(or_, needs, Need())
    gates = gates or {}
    hidden = tuple(f"hidden[{layer}]" for layer in sorted(need.hidden_layers))
    passes = [Pass("student", "prompt", True, (*_names(need.signals & STUDENT_SIGNALS), *hidden))]
    plan = Plan((), need)
    if privileged_twice:
        passes.append(Pass("teacher", "privileged", False, ("teacher_logp",), note="ahead, for the mean weight"))
    if plan.has_teacher:
        passes.append(Pass("teacher", "privileged", False, (*_names(need.signals & TEACHER_SIGNALS), *hidden)))
    if plan.has_auxiliary:
        note = _gate_note(gates.get("auxiliary"))
        passes.append(Pass("teacher", "auxiliary", False, ("auxiliary_logp",), count=num_auxiliary, note=note))
    if plan.has_negative:
        passes.append(Pass("teacher", "negative", False, ("negative_logp",), note=_gate_note(gates.get("negative"))))
    return Plan(tuple(passes), need)


def _gate_note(gate: Gate | None) -> str:
    return "" if gate is None else f"{100 * gate.fraction:g} % of the sequences: gate {gate.signal}"


def _names(signals: Signal) -> tuple[str, ...]:
    return tuple(str(signal.name).lower() for signal in signals.members())
