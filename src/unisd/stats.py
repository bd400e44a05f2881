"""The statistics of a results table: an interval for one proportion and a paired test for two."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(num_correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion, without continuity correction.

    It covers the noise of the `n` items drawn, not that of seeds. With n = 0 nothing is known: (0, 1).
    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927).
    """
    if not 0 <= num_correct <= n:
        raise ValueError(f"wilson: num_correct must be between 0 and n = {n}, got {num_correct}.")
    if not 0 < confidence < 1:
        raise ValueError(f"wilson: confidence must be between 0 and 1, got {confidence}. For 95 % write 0.95.")
    if n == 0:
        return 0.0, 1.0
    z_squared = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    centre = (num_correct + z_squared / 2) / (n + z_squared)
    half_width = math.sqrt(z_squared * (num_correct * (n - num_correct) / n + z_squared / 4)) / (n + z_squared)
    # At 0 and n the bound is exactly 0 or 1; rounding would leave 1e-17.
    low = 0.0 if num_correct == 0 else centre - half_width
    high = 1.0 if num_correct == n else centre + half_width
    return low, high


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value of the exact McNemar test on paired outcomes.

    `only_first` counts the items that only the first got right, `only_second` those that only the second did. Under
    the null hypothesis each such item is a fair coin; items on which both agree say nothing. Without any, p is 1.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"mcnemar_exact: counts must be 0 or positive, got {only_first} and {only_second}.")
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**discordant)
