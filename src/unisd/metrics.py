"""Masked means, minima and maxima of a run, kept on the device until they are logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Fold: TypeAlias = Literal["mean", "sum", "min", "max"]
"""How values between two logs become one."""

_FOLDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": torch.add,
    "sum": torch.add,
    "min": torch.minimum,
    "max": torch.maximum,
}


class Metrics:
    """Collects values between two logs; one gather over processes and one device sync per log."""

    def __init__(self) -> None:
        self._folded: dict[tuple[str, str], Tensor] = {}  # (name, fold) -> (2,): folded values, count

    @torch.no_grad()
    def add(
        self,
        name: str,
        values: Tensor | list[float] | float,
        mask: Tensor | None = None,
        *,
        fold: Fold = "mean",
    ) -> None:
        """Fold in all values, or those where `mask` is true; garbage elsewhere does not count."""
        values = torch.as_tensor(values).detach()
        # Apple's GPUs have no float64.
        wide = torch.float32 if values.device.type == "mps" else torch.float64
        valid = (values[mask] if mask is not None else values).flatten().to(wide)
        if fold in ("min", "max"):
            start = torch.inf if fold == "min" else -torch.inf
            reduced = torch.cat([valid, valid.new_tensor([start])])
            value = reduced.min() if fold == "min" else reduced.max()
        else:
            value = valid.sum()
        self._fold(name, fold, torch.stack([value, value.new_tensor(float(valid.numel()))]))

    def _fold(self, name: str, fold: str, entry: Tensor) -> None:
        key = (name, fold)
        if key not in self._folded:
            self._folded[key] = entry
            return
        before = self._folded[key]
        self._folded[key] = torch.stack([_FOLDS[fold](before[0], entry[0]), before[1] + entry[1]])

    def flush(self, gather: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Everything since the last flush, over all processes; names nobody had a value for are left out.

        `gather` joins (M, 2) tensors of all processes along the first dimension.
        """
        if not self._folded:
            return {}
        keys = sorted(self._folded)
        # Plain numbers were folded on the CPU; a gather between GPUs wants all of them on the GPU.
        entries = self._folded.values()
        like = next((entry for entry in entries if entry.device.type != "cpu"), self._folded[keys[0]])
        table = torch.stack([self._folded[key].to(like) for key in keys])
        by_process = gather(table).view(-1, len(keys), 2).tolist()
        self._folded = {}
        result = {}
        for position, (name, fold) in enumerate(keys):
            values = [rows[position][0] for rows in by_process]
            count = sum(rows[position][1] for rows in by_process)
            if count:
                result[name] = min(values) if fold == "min" else max(values) if fold == "max" else sum(values)
                result[name] /= count if fold == "mean" else 1
        return result
