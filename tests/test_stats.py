"""Intervals and paired tests, by hand and against scipy."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from unisd.stats import mcnemar_exact, wilson


def test_wilson_of_half_is_symmetric_and_equals_the_hand_sum():
    # z^2 = 3.841459; n = 4, 2 correct: centre 1/2, half width sqrt(3.841459 * 1.960365) / 7.841459 = 0.349961
    low, high = wilson(2, 4)
    assert low == pytest.approx(0.150039, abs=1e-6)
    assert low + high == pytest.approx(1.0)


@pytest.mark.parametrize(("num_correct", "n"), [(0, 10), (1, 10), (2, 96), (75, 128), (255, 256), (256, 256)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_equals_scipy(num_correct, n, confidence):
    expected = binomtest(num_correct, n).proportion_ci(confidence, method="wilson")
    assert wilson(num_correct, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_says_nothing_without_items_and_is_exact_at_the_ends():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0


def test_mcnemar_equals_the_hand_sum():
    # 5 discordant items, 1 : 4 -> 2 * (1 + 5) / 32
    assert mcnemar_exact(1, 4) == pytest.approx(0.375)
    # 0 : 8 -> 2 / 256
    assert mcnemar_exact(8, 0) == pytest.approx(0.0078125)


@pytest.mark.parametrize(("only_first", "only_second"), [(10, 8), (3, 3), (1, 18), (0, 94), (66, 1), (1200, 1300)])
def test_mcnemar_equals_the_two_sided_binomial_test_either_way_round(only_first, only_second):
    expected = binomtest(only_first, only_first + only_second).pvalue
    assert mcnemar_exact(only_first, only_second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(only_second, only_first) == mcnemar_exact(only_first, only_second)


def test_mcnemar_without_a_discordant_item_is_one():
    assert mcnemar_exact(0, 0) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(3, 2), "num_correct must be between 0 and n = 2, got 3"),
        (lambda: wilson(1, 2, 95), "For 95 % write 0.95"),
        (lambda: mcnemar_exact(-1, 2), "0 or positive, got -1 and 2"),
    ],
)
def test_impossible_counts_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
