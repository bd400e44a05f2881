"""pass@k against counting."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest

from unisd.evaluate.pass_at_k import mean_pass_at_k, pass_at_k


def test_it_is_the_share_of_subsets_with_a_right_answer():
    for num_correct in range(6):
        answers = [index < num_correct for index in range(5)]
        for k in range(1, 6):
            subsets = list(combinations(answers, k))
            assert pass_at_k(5, num_correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_its_mean_over_samples_is_what_k_fresh_answers_would_do():
    n, k, p = 6, 3, 0.3
    mean = sum(comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(1 - (1 - p) ** k)


def test_customary_k_up_to_n_and_n_itself_are_reported():
    # Items with 0, 2 and 4 of 4: pass@1 = (0 + 1/2 + 1) / 3, pass@2 = (0 + 5/6 + 1) / 3.
    assert mean_pass_at_k(4, [0, 2, 4]) == pytest.approx({1: 1 / 2, 2: 11 / 18, 4: 2 / 3})


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(ValueError, match="k must be between 1 and the number of samples"):
        pass_at_k(n, c, k)
