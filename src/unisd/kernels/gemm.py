"""Matrix products with a head, in at least float32 whatever the head is stored in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from unisd.kernels.rows import AfterHead

_TILE_ROWS = 2048
"""Vocabulary rows of a low-precision head that are converted at a time; at 576 features the tile is 4.5 MiB."""
_LARGE_TILE_ROWS = 16384
"""The same on a GPU, for the gradient of the head."""
_HAS_OUT_DTYPE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)
"""Whether `torch.mm` can keep the float32 sums of a low-precision product."""


@dataclass(frozen=True)
class Projection:
    """A head: z = W h + b, and what follows."""

    weight: Float[Tensor, "V D"]
    """Without gradient."""
    bias: Float[Tensor, " V"] | None = None
    """Without gradient."""
    after: AfterHead = field(default_factory=AfterHead)
    """From z to logits."""

    def is_shared_with(self, other: Projection) -> bool:
        """Whether both multiply by the same numbers in the same place."""
        mine, theirs = self.weight, other.weight
        same_weight = mine.data_ptr() == theirs.data_ptr() and mine.shape == theirs.shape and mine.dtype == theirs.dtype
        if self.bias is None or other.bias is None:
            return same_weight and self.bias is other.bias
        return same_weight and self.bias.data_ptr() == other.bias.data_ptr()


def project(states: Float[Tensor, "n D"], head: Projection, *, out: Float[Tensor, "n V"]) -> None:
    """z = W h + b into `out`, in its type."""
    weight = head.weight
    if _sums_in_float32(states, weight, out):
        torch.mm(states, weight.T, out_dtype=torch.float32, out=out)
    else:
        states = states.to(out.dtype)
        for columns, tile in _tiles(weight, out.dtype):
            torch.mm(states, tile.T, out=out[:, columns])
    if head.bias is not None:
        out.add_(head.bias)


def project_back(gradient: Float[Tensor, "n V"], weight: Float[Tensor, "V D"], *, out: Float[Tensor, "n D"]) -> None:
    """The gradient with respect to h of z = W h + b, from the one with respect to z."""
    low = gradient.to(weight.dtype) if gradient.is_cuda else gradient
    if _sums_in_float32(low, weight, out):
        torch.mm(low, weight, out_dtype=torch.float32, out=out)
        return
    for columns, tile in _tiles(weight, out.dtype):
        if columns.start == 0:
            torch.mm(gradient[:, columns], tile, out=out)
        else:
            out.addmm_(gradient[:, columns], tile)


def add_weight_gradient(
    gradient: Float[Tensor, "n V"], states: Float[Tensor, "n D"], *, out: Float[Tensor, "V D"]
) -> None:
    """Adds the gradient with respect to W of z = W h + b."""
    if not _sums_in_float32(states, states, out):
        out.addmm_(gradient.T, states.to(out.dtype))
        return
    for start in range(0, len(out), _LARGE_TILE_ROWS):
        columns = slice(start, start + _LARGE_TILE_ROWS)
        low = gradient[:, columns].T.to(states.dtype)
        out[columns].add_(torch.mm(low, states, out_dtype=torch.float32))


def _sums_in_float32(left: Tensor, right: Tensor, out: Tensor) -> bool:
    is_low = left.dtype == right.dtype and left.dtype in (torch.bfloat16, torch.float16)
    # Not on a CPU: there the product of converted tiles is also the faster one, where it was measured.
    return _HAS_OUT_DTYPE and is_low and left.is_cuda and out.dtype == torch.float32


def _tiles(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The weight as it is, or converted a few rows at a time."""
    if weight.dtype == dtype:
        yield slice(0, len(weight)), weight
        return
    for start in range(0, len(weight), _TILE_ROWS):
        tile = weight[start : start + _TILE_ROWS]
        yield slice(start, start + len(tile)), tile.to(dtype)
