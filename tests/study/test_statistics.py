"""Tests of two recipes over seeds and items: hand-made tables, and what they do where nothing is different."""

from __future__ import annotations

import random

import pytest
from scipy import stats

from unisd.stats import mcnemar_exact, wilson
from unisd.study.statistics import (
    compare,
    mean_accuracy,
    paired_differences,
    sign_flip_p,
    t_quantile,
    t_tail,
    two_way_difference,
)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30])
def test_students_t_equals_scipys(degrees):
    for t in (0.0, 0.3, -1.0, 2.5, 12.0):
        assert t_tail(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), abs=1e-12)
    assert t_quantile(degrees, 0.95) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


def test_the_accuracy_has_the_wider_of_the_intervals_of_seeds_and_of_items():
    # Mean 0.6, standard deviation 0.1, t(2) = 4.3027: 0.6 +- 4.3027 * 0.1 / sqrt(3). Wilson is narrower.
    estimate = mean_accuracy([0.5, 0.6, 0.7], 1000)
    assert estimate.value == pytest.approx(0.6)
    assert estimate.low == pytest.approx(0.3516, abs=1e-4)
    assert estimate.high == pytest.approx(0.8484, abs=1e-4)
    assert mean_accuracy([0.9, 1.0], 10).high == 1.0
    # Seeds that agree say nothing about other items.
    for accuracies in ([0.5], [0.5, 0.5]):
        agreeing = mean_accuracy(accuracies, 10)
        assert (agreeing.low, agreeing.high) == wilson(5, 10)


def test_with_one_seed_the_sign_flip_is_mcnemars_test():
    for only_first, only_second in ((5, 0), (8, 3), (4, 4), (0, 0)):
        first = [[True] * only_first + [False] * only_second + [True, False]]
        second = [[False] * only_first + [True] * only_second + [True, False]]
        expected = mcnemar_exact(only_first, only_second)
        assert sign_flip_p(paired_differences(first, second)) == pytest.approx(expected)


def test_seeds_of_an_item_are_one_draw():
    # Three items, won in both seeds: sums 2, 2, 2. All alike in 2 of 8 ways of signs.
    assert sign_flip_p([[1, 1, 1], [1, 1, 1]]) == pytest.approx(0.25)
    # McNemar on the six discordant pairs added up would say 2 / 64.
    assert mcnemar_exact(6, 0) == pytest.approx(0.03125)
    # Sums 2, 1, -1: |2 + 1 - 1| = 2 or more for 6 of the 8 ways (only -2 + 1 + 1 and 2 - 1 - 1 give 0).
    assert sign_flip_p([[1, 1, 0], [1, 0, -1]]) == pytest.approx(0.75)
    # Won in one seed and lost in the other is no evidence.
    assert sign_flip_p([[1, -1], [-1, 1]]) == 1.0


def test_many_items_and_seeds_do_not_overflow():
    everything = [[1] * 2000 for _ in range(5)]
    assert sign_flip_p(everything) == pytest.approx(0.0, abs=1e-300)
    assert sign_flip_p([[1, -1] * 1000 for _ in range(3)]) == 1.0


def test_the_difference_of_two_recipes_counts_seeds_and_items():
    # Two seeds, two items. Seed means 1 and 0.5, item means 1 and 0.5: both variances are 0.125, over 2 each.
    estimate, p_value = two_way_difference([[1, 1], [1, 0]])
    error = (0.125 / 2 + 0.125 / 2) ** 0.5
    assert estimate.value == 0.75
    assert p_value == pytest.approx(2 * stats.t.sf(0.75 / error, 1))
    assert (estimate.low, estimate.high) == (-1.0, 1.0)
    # One seed: items alone, and no word on the recipe. Four items, variance 1/4: 0.75 +- 1.96 * 1/4.
    estimate, p_value = two_way_difference([[1, 1, 1, 0]])
    assert p_value is None
    assert estimate.low == pytest.approx(0.75 - 1.95996 * 0.25, abs=1e-4)


def test_equal_models_are_no_difference():
    outcomes = [[True, False, True], [False, False, True]]
    comparison = compare(outcomes, outcomes)
    assert (comparison.difference.value, comparison.p_models, comparison.p_recipe) == (0.0, 1.0, 1.0)
    assert comparison.num_seeds == 2


def test_a_claim_about_recipes_is_never_stronger_than_the_one_about_their_models():
    # All four items won in both seeds: nothing varies, t would be infinite; the exact test says 2 / 16.
    comparison = compare([[True] * 4] * 2, [[False] * 4] * 2)
    assert comparison.p_models == pytest.approx(0.125)
    assert comparison.p_recipe == comparison.p_models
    assert comparison.difference.low is None


def test_tables_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="same seeds of both"):
        compare([[True]], [[True], [True]])
    with pytest.raises(ValueError, match="same items everywhere"):
        compare([[True, False]], [[True]])


def outcomes_of(rng: random.Random, items: list[float], num_seeds: int, seed_noise: float) -> list[list[bool]]:
    """Right and wrong answers to items of given difficulty by one recipe; `seed_noise` moves all items of a seed."""
    shifts = [rng.gauss(0, seed_noise) for _ in range(num_seeds)]
    return [[rng.random() < min(1.0, max(0.0, item + shift)) for item in items] for shift in shifts]


def rejected(seed_noise: float, *, repeats: int = 400, num_seeds: int = 4, num_items: int = 60) -> tuple[float, float]:
    """How often each p-value is below 0.05 for two recipes that are the same, and which items are drawn anew."""
    rng = random.Random(0)
    models = recipe = 0
    for _ in range(repeats):
        items = [rng.random() for _ in range(num_items)]
        comparison = compare(*(outcomes_of(rng, items, num_seeds, seed_noise) for _ in range(2)))
        models += comparison.p_models < 0.05
        recipe += comparison.p_recipe is not None and comparison.p_recipe < 0.05
    return models / repeats, recipe / repeats


def test_where_nothing_differs_p_is_below_5_percent_in_5_percent_of_studies():
    # Three standard errors of 400 repeats at 5 % are 3.3 points.
    models, recipe = rejected(seed_noise=0.0)
    assert models <= 0.083
    assert recipe <= 0.083
    assert models >= 0.02


def test_seed_noise_misleads_the_p_of_the_models_and_not_that_of_the_recipe():
    models, recipe = rejected(seed_noise=0.15)
    assert models > 0.2
    assert recipe <= 0.083


def test_a_recipe_that_is_better_is_found():
    rng = random.Random(1)
    found = 0
    for _ in range(100):
        items = [rng.uniform(0.2, 0.7) for _ in range(100)]
        better = outcomes_of(rng, [item + 0.25 for item in items], 4, 0.02)
        p_value = compare(better, outcomes_of(rng, items, 4, 0.02)).p_recipe
        found += p_value is not None and p_value < 0.05
    assert found >= 80
