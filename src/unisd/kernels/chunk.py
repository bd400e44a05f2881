"""How many tokens are projected at a time: enough for fast matrix products, few enough for bounded memory."""

from __future__ import annotations

from itertools import pairwise

_CHUNK_BYTES = {"cpu": 96 * 2**20}
"""Bytes of the float32 logit buffers of one chunk, by device type."""
_OTHER_CHUNK_BYTES = 2**30
CACHE_BYTES = 2**30
"""Bytes of logit gradients that a trainable head may keep from the forward to the backward pass."""
_STRIDE = 16
"""Rows of a buffer start at multiples of so many numbers, for aligned loads whatever the vocabulary."""


def chunk_rows(vocabulary: int, device: str = "cpu", *, num_buffers: int = 2) -> int:
    """Tokens projected at a time: what fits 96 MiB of student and teacher logits (1 GiB on a GPU), 128 to 1024."""
    bytes_per_row = 4 * num_buffers * vocabulary
    rows = min(max(_CHUNK_BYTES.get(device, _OTHER_CHUNK_BYTES) // bytes_per_row, 128), 1024)
    return rows // 64 * 64


def equal_chunks(num_tokens: int, rows: int) -> list[slice]:
    """`num_tokens` in as few chunks of at most `rows` as there must be, of equal size to within one token."""
    num = -(-num_tokens // rows)
    bounds = [num_tokens * number // num for number in range(num + 1)] if num else [0]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def padded(vocabulary: int) -> int:
    """Row stride of a logit buffer."""
    return -(-vocabulary // _STRIDE) * _STRIDE
