"""Which sequences of an optimizer step keep their extra teacher views."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from unisd.options import Gate, RolloutOptions
from unisd.rollout.collate import Row, loss_mask


def gated(rows: Sequence[Row], gates: Mapping[str, Gate], options: RolloutOptions) -> list[Row]:
    """The rows, of which only the top ceil(fraction * B) by sampler negative log-probability keep the gated views.

    `gates` holds them by the start of the view's name; gates on the student's entropy act later, in the step.
    """
    for start, gate in gates.items():
        if gate.signal == "sampler_nll":
            kept = _most_uncertain(rows, gate.fraction, options)
            rows = [row if index in kept else _without(row, start) for index, row in enumerate(rows)]
    return list(rows)


def _most_uncertain(rows: Sequence[Row], fraction: float, options: RolloutOptions) -> set[int]:
    uncertainty = [_mean_nll(row, options) for row in rows]
    order = sorted(range(len(rows)), key=lambda index: -uncertainty[index])
    return set(order[: num_kept(len(rows), fraction)])


def num_kept(num: int, fraction: float) -> int:
    """ceil(fraction * num), not misled by a product such as 0.28 * 25 that comes out a little over 7."""
    return math.ceil(round(fraction * num, 6))


def _mean_nll(row: Row, options: RolloutOptions) -> float:
    """Over the tokens that count in the loss; 0 where none does, so that no pass goes to a sequence without loss."""
    logp = row.completion.sampler_logp
    if logp is None:
        raise ValueError(
            "A gate on sampler_nll needs sampled completions, but this one comes from the data set. "
            "Set rollout.backend: hf and on_policy_fraction: 1.0, or gate on student_entropy."
        )
    valid = [value for value, counts in zip(logp, loss_mask(row, options), strict=True) if counts]
    return -sum(valid) / max(len(valid), 1)


def _without(row: Row, start: str) -> Row:
    return replace(row, views={name: ids for name, ids in row.views.items() if not name.startswith(start)})
