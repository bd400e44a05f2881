"""Sums and joins over the processes of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from unisd.types import StepCounts


@dataclass(frozen=True)
class Processes:
    """The processes of one launch; every method must be called by all of them."""

    accelerator: Accelerator

    @property
    def num(self) -> int:
        """How many there are."""
        return self.accelerator.num_processes

    def gather(self, values: Shaped[Tensor, "N ..."]) -> Shaped[Tensor, "M ..."]:
        """The values of all processes, which bring the same number of them."""
        return cast("Tensor", self.accelerator.gather(values))

    def total(self, counts: StepCounts) -> StepCounts:
        """Counts summed over processes."""
        if self.num == 1:
            return counts
        local = torch.tensor([[counts.num_tokens, counts.num_sequences]], device=self.accelerator.device)
        num_tokens, num_sequences = self.gather(local).sum(0).tolist()
        return StepCounts(num_tokens, num_sequences)

    def join(self, values: Float[Tensor, " N"]) -> Float[Tensor, " M"]:
        """The values of all processes in one row; each may bring another number of them. NaN values are left out."""
        padded = self.accelerator.pad_across_processes(values, pad_index=torch.nan)  # pyright: ignore[reportArgumentType]
        assert isinstance(padded, Tensor)
        joined = self.gather(padded)
        return joined[~joined.isnan()]

    def without_repeats(self, mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """This process's share of a batch, without the rows that accelerate repeats to fill the last one."""
        state = self.accelerator.gradient_state
        # As Accelerator.gather_for_metrics asks; -1 where the length of the data is not known.
        if self.num == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return mask
        rows = torch.arange(len(mask), device=mask.device) + self.accelerator.process_index * len(mask)
        return mask & (rows < state.remainder)[:, None]
