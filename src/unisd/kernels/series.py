"""Divergences of nearly equal distributions: Taylor series in d = log s/p, with the first orders cancelled on paper."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import factorial

from unisd.kernels.rows import DivergenceKind

NUM_TERMS = 8
"""Coefficients of each series; the compiled rows have room for as many."""
NEAR = {"float32": 0.3, "float64": 0.03}
"""|d| below which the series are used, by type: the first term left out is then below rounding."""


@lru_cache(maxsize=64)
def near_series(divergence: DivergenceKind, beta: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Coefficients of D's summand / (p d^2), and of U / (s d), in rising powers of d; see `rows_torch` for both.

    They converge for |d| < pi. Computed in rational numbers, so that they are right for beta next to 0 and 1.
    """
    num = NUM_TERMS + 2
    exponential = [Fraction(1, factorial(k)) for k in range(num)]
    if divergence == "forward_kl":  # p (e^d - 1 - d), s (1 - e^-d)
        value, slope = exponential[:], [-coefficient * (-1) ** k for k, coefficient in enumerate(exponential)]
    elif divergence == "reverse_kl":  # p (1 - e^d + d e^d), s d
        value = [(k - 1) * coefficient for k, coefficient in enumerate(exponential)]
        slope = [Fraction(int(k == 1)) for k in range(num)]
    else:  # with q = m/p = beta + rest e^d: p (rest d e^d - q log q), rest s (d - log q)
        rest = 1 - Fraction(beta)
        quotient = [Fraction(1), *(rest * coefficient for coefficient in exponential[1:])]
        logarithm = _logarithm(quotient)
        value = [
            rest * k * coefficient - sum(quotient[j] * logarithm[k - j] for j in range(k + 1))
            for k, coefficient in enumerate(exponential)
        ]
        slope = [rest * (int(k == 1) - coefficient) for k, coefficient in enumerate(logarithm)]
    return tuple(map(float, value[2:])), tuple(map(float, slope[1 : NUM_TERMS + 1]))


def _logarithm(series: list[Fraction]) -> list[Fraction]:
    """The series of log q, of a series q that starts with 1: from q (log q)' = q'."""
    logarithm = [Fraction(0)] * len(series)
    for k in range(1, len(series)):
        known = sum((j * logarithm[j] * series[k - j] for j in range(1, k)), Fraction(0))
        logarithm[k] = series[k] - known / k
    return logarithm
