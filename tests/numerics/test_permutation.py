"""Trends against scipy and against all orders of few values."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from stabilitykit.numerics.permutation import association, trend


def test_p_is_that_of_all_orders():
    values = [3.0, 1.0, 4.0, 1.5, 5.0, 9.0]
    found, p = trend(values, draws=20_000)
    assert found == pytest.approx(stats.spearmanr(range(6), values).statistic)
    every = [abs(stats.spearmanr(range(6), order).statistic) for order in itertools.permutations(values)]
    exact = np.mean(np.array(every) >= abs(found) - 1e-9)
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))


def test_a_planted_trend_is_found_and_chance_is_not():
    random = np.random.Generator(np.random.PCG64(4))
    assert trend(np.arange(30.0), 999) == (pytest.approx(1), 0.001)
    assert trend(-np.arange(30.0), 999) == (pytest.approx(-1), 0.001)
    small = [trend(random.standard_normal(12), 199, seed=n)[1] for n in range(200)]
    assert 0.01 < np.mean(np.array(small) <= 0.05) < 0.1


@pytest.mark.parametrize("values", [[], [1.0, 2.0], [1.0, math.nan, 2.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
def test_what_has_no_order_has_no_trend(values):
    assert all(map(math.isnan, trend(values)))


def test_infinities_have_ranks():
    assert trend([1.0, 2.0, math.inf], 99)[0] == pytest.approx(1)


def test_groups_are_moved_as_one():
    """Against all 3! orders of the groups and 2!^3 inside them."""
    values = [1.0, 2.0, 4.0, 3.0, 5.0, 6.0]
    found, p = trend(values, draws=20_000, together=2)
    pairs = [values[:2], values[2:4], values[4:]]
    every = [
        abs(stats.spearmanr(range(6), [x for pair in order for x in pair]).statistic)
        for group in itertools.permutations(pairs)
        for order in itertools.product(*(itertools.permutations(pair) for pair in group))
    ]
    exact = np.mean(np.array(every) >= abs(found) - 1e-9)
    assert len(every) == 48
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))


def test_likeness_within_groups_is_no_order():
    """Nine heads, three of a kind: taken one by one they seem in order far too often, as groups they do not."""
    random = np.random.Generator(np.random.PCG64(9))
    alike = [np.repeat(random.standard_normal(3), 3) + 0.1 * random.standard_normal(9) for _ in range(300)]
    shares = [np.mean([trend(x, 199, seed=n, together=t)[1] <= 0.05 for n, x in enumerate(alike)]) for t in (1, 3)]
    assert shares[0] > 0.2
    assert shares[1] < 0.09


def test_two_samples_go_together_or_not():
    """Against scipy, with equal values in both; and all orders of few."""
    x, y = [3.0, 1.0, 1.0, 2.0, 5.0, 4.0], [2.0, 0.0, 1.0, 1.0, 9.0, 3.0]
    found, p = association(x, y, 20_000)
    assert found == pytest.approx(stats.spearmanr(x, y).statistic)
    every = [abs(stats.spearmanr(x, order).statistic) for order in itertools.permutations(y)]
    exact = np.mean(np.array(every) >= abs(found) - 1e-9)
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    assert all(map(math.isnan, association([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])))
    assert all(map(math.isnan, association([1.0, math.nan, 3.0], [1.0, 2.0, 1.0])))
