"""Randomness that depends on where a run stands, never on what happened to the global generator before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def purpose_seed(*parts: int | str) -> int:
    """A 63-bit seed from the run's seed, the optimizer step, the process and what the randomness is for."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def forked_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators start from `seed` inside, and are as before afterwards.

    The Trainer restores the global generator only after the first batches of a resumed epoch are taken, so rollouts
    that read it would differ there.
    """
    devices = [device] if device.type != "cpu" else []
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(seed)
        yield
