"""Paired comparisons of two recipes that were trained with several seeds and answered the same items. Without torch.

Outcomes are matrices `[seed][item]` of right and wrong. Two questions are kept apart, because on small models they have
different answers. *Are these trained models different?* is about the items alone: `sign_flip_p`. *Is one recipe better
than the other?* is about other seeds and other items: `two_way_difference`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev, variance

import numpy

from unisd.stats import wilson

CONFIDENCE = 0.95
"""Of every interval in a study."""
Outcomes = Sequence[Sequence[bool]]
"""By seed, then by item; all seeds have the same items in the same order."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; the interval is null where nothing can be said about it."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """One recipe against another, over the seeds they share; differences are of accuracies."""

    num_seeds: int
    difference: Estimate
    """First minus second; its interval is over seeds and items, with one seed over items alone."""
    p_models: float
    """Of `sign_flip_p`: that these trained models are equally good."""
    p_recipe: float | None
    """That the recipes are equally good: of `two_way_difference`, and never below `p_models`; null with one seed."""


def mean_accuracy(accuracies: Sequence[float], num_items: int, confidence: float = CONFIDENCE) -> Estimate:
    """Mean over seeds, with the wider of two intervals at either end: t over seeds, and Wilson's over items.

    The first says what other seeds would give on the same items, the second what the same models would give on others;
    seeds that happen to agree leave the second, and so does a single seed.
    """
    over_seeds = mean_over_seeds(accuracies, confidence)
    mean = over_seeds.value
    low, high = wilson(round(mean * num_items), num_items, confidence)
    if over_seeds.low is not None and over_seeds.high is not None:
        low, high = min(low, over_seeds.low), max(high, over_seeds.high)
    return Estimate(mean, max(0.0, low), min(1.0, high))


def mean_over_seeds(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Mean with its t interval: what other seeds would give; without an interval where there is one seed."""
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None)
    half_width = t_quantile(len(values) - 1, confidence) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half_width, mean + half_width)


def compare(first: Outcomes, second: Outcomes) -> Comparison:
    """The comparison of two recipes on the same seeds and items."""
    differences = paired_differences(first, second)
    difference, p_recipe = two_way_difference(differences)
    p_models = sign_flip_p(differences)
    # t is an approximation; with a handful of items that differ it may claim more than the exact test of the models.
    return Comparison(len(differences), difference, p_models, None if p_recipe is None else max(p_recipe, p_models))


def paired_differences(first: Outcomes, second: Outcomes) -> list[list[int]]:
    """1 where only `first` is right, -1 where only `second` is, else 0; by seed, then by item."""
    if len(first) != len(second) or not first:
        raise ValueError(f"compare: needs the same seeds of both, at least one, got {len(first)} and {len(second)}.")
    sizes = {len(items) for items in (*first, *second)}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"compare: needs the same items everywhere, at least one, got {sorted(sizes)} of them.")
    return [
        [int(mine) - int(theirs) for mine, theirs in zip(ours, others, strict=True)]
        for ours, others in zip(first, second, strict=True)
    ]


def sign_flip_p(differences: Sequence[Sequence[int]]) -> float:
    """Exact two-sided p-value that these trained models are equally good; with one seed it is exact McNemar.

    Under the null hypothesis the two recipes' outcomes on an item could be swapped, in all seeds at once: an item that
    one seed finds easy is easy for the others, so its seeds are one draw and not several, and adding up the discordant
    counts of the seeds would claim too much. The statistic is the sum of all differences; its distribution over the
    swaps of all items is computed, not sampled. Seeds are taken as they are: the p-value does not say whether others
    would agree.
    """
    sums = [abs(sum(item)) for item in zip(*differences, strict=True)]
    observed = abs(sum(sum(seed) for seed in differences))
    # distribution[k]: the probability that items with random signs add up to k - sum(sums).
    distribution = numpy.ones(1)
    for size in filter(None, sums):
        grown = numpy.zeros(len(distribution) + 2 * size)
        grown[: len(distribution)] += distribution / 2
        grown[2 * size :] += distribution / 2
        distribution = grown
    totals = numpy.abs(numpy.arange(len(distribution)) - len(distribution) // 2)
    return min(1.0, float(distribution[totals >= observed].sum()))


def two_way_difference(
    differences: Sequence[Sequence[int]], confidence: float = CONFIDENCE
) -> tuple[Estimate, float | None]:
    """Mean difference with an interval over seeds and items, and its two-sided p-value.

    The squared standard error is the variance of the seeds' means over S plus the variance of the items' means over N
    (as in a bootstrap that draws seeds and items; what seeds and items share is counted twice, so it is on the careful
    side), with a t distribution of S - 1 degrees of freedom. With one seed: over items alone, normal, and no p-value,
    because one seed says nothing about others. Source: Owen, "The pigeonhole bootstrap", 2007.
    """
    num_seeds, num_items = len(differences), len(differences[0])
    mean = fmean(fmean(seed) for seed in differences)
    item_means = [fmean(item) for item in zip(*differences, strict=True)]
    of_items = variance(item_means) / num_items if num_items > 1 else math.inf
    if num_seeds == 1 and of_items > 0:
        half_width = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(of_items)
        return _within(mean, half_width), None
    of_seeds = variance([fmean(seed) for seed in differences]) / num_seeds if num_seeds > 1 else 0.0
    error = math.sqrt(of_seeds + of_items)
    if error == 0:
        # Nothing varies, so nothing says how much it might have.
        return Estimate(mean, None, None), None if num_seeds == 1 else float(mean == 0)
    p_value = t_tail(mean / error, num_seeds - 1)
    return _within(mean, t_quantile(num_seeds - 1, confidence) * error), p_value


def _within(mean: float, half_width: float) -> Estimate:
    return Estimate(mean, max(-1.0, mean - half_width), min(1.0, mean + half_width))


def t_tail(t: float, degrees: int) -> float:
    """P(|T| >= |t|) of Student's t with a whole number of degrees of freedom.

    Source: the finite series 26.7.3 and 26.7.4 of Abramowitz and Stegun.
    """
    if math.isinf(t):
        return 0.0
    angle = math.atan2(abs(t), math.sqrt(degrees))
    cosine_squared = math.cos(angle) ** 2
    is_odd = degrees % 2 == 1
    term, total = 1.0, 0.0
    for k in range(degrees // 2):
        total += term
        term *= cosine_squared * ((2 * k + 2) / (2 * k + 3) if is_odd else (2 * k + 1) / (2 * k + 2))
    inside = math.sin(angle) * total
    if is_odd:
        inside = 2 / math.pi * (angle + math.cos(angle) * inside)
    return max(0.0, 1 - inside)


def t_quantile(degrees: int, confidence: float) -> float:
    """The t > 0 with P(|T| <= t) = confidence, by bisection."""
    low, high = 0.0, 1.0
    while t_tail(high, degrees) > 1 - confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, degrees) > 1 - confidence else (low, middle)
    return high
