"""pass@k: the chance that at least one of k sampled answers is right, estimated from n >= k samples."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

CUSTOMARY_K = (1, 2, 5, 10, 20, 50, 100)
"""Which k are reported: those up to n, and n itself."""


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): the chance that k of the n samples, drawn without replacement, hold a right one.

    Unbiased for 1 - (1 - p)^k, unlike 1 - (1 - c/n)^k. Source: Chen et al. 2021, arXiv:2107.03374, equation 1.
    """
    if not (1 <= k <= num_samples and 0 <= num_correct <= num_samples):
        raise ValueError(
            f"pass_at_k: k must be between 1 and the number of samples, and the correct ones among those; got k = {k}, "
            f"{num_correct} correct of {num_samples}."
        )
    return 1 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def mean_pass_at_k(num_samples: int, num_correct: Sequence[int]) -> dict[int, float]:
    """By k, the mean over items, each of which has `num_samples` answers."""
    reported = sorted({*(k for k in CUSTOMARY_K if k <= num_samples), num_samples})
    return {k: sum(pass_at_k(num_samples, c, k) for c in num_correct) / len(num_correct) for k in reported}
