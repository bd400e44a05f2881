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
_NOTHING = {"mean": 0.0, "sum": 0.0, "min": torch.inf, "max": -torch.inf}


class Metrics:
    """Collects values between two logs; one gather of numbers (and one of names) and one device sync per log."""

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
            reduced = torch.cat([valid, valid.new_tensor([_NOTHING[fold]])])
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

    def flush(
        self, gather: Callable[[Tensor], Tensor], gather_names: Callable[[list], list] = list
    ) -> dict[str, float]:
        """Everything since the last flush, over all processes; names nobody had a value for are left out.

        `gather` joins (M, 2) tensors of all processes along the first dimension, `gather_names` lists of names.
        """
        # Some names come with some batches only (sampler_logp, where every row was sampled), but a gather wants the
        # same rows from every process.
        keys = sorted(set(gather_names(list(self._folded))))
        if not keys:
            return {}
        # Plain numbers were folded on the CPU; a gather between GPUs wants all of them on the GPU.
        entries = [self._folded.get(key, torch.tensor([_NOTHING[key[1]], 0.0]).double()) for key in keys]
        like = next((entry for entry in entries if entry.device.type != "cpu"), entries[0])
        table = torch.stack([entry.to(like) for entry in entries])
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
