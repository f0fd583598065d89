"""Trends against scipy and against all orders of few values."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from stabilitykit.numerics.permutation import trend


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
