"""Clustered intervals: against all resamples there are, for coverage on data with known clusters, and next to naive."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm, t, ttest_ind

from stabilitykit.errors import UsageError
from stabilitykit.numerics.clusters import cluster_means, clustered
from stabilitykit.numerics.distribution import DRAWS


def generator(seed):
    return np.random.Generator(np.random.PCG64(seed))


def test_clusters_are_averaged_in_order_of_appearance():
    found = cluster_means([1.0, 5.0, 2.0, math.nan, math.inf, 9.0], ["b", "a", "b", "b", "c", "a"])
    assert found.tolist() == [1.5, 7.0]


def test_each_value_has_a_cluster():
    with pytest.raises(UsageError, match="3 values have 2 clusters"):
        cluster_means([1, 2, 3], ["a", "b"])


@pytest.mark.parametrize("means", [[0.0, 1.0, 5.0], [3.0, -1.0, 2.0, 2.5]])
def test_the_interval_is_that_of_all_resamples_widened_by_hand(means):
    """Every resample of 3 or 4 clusters is listed; 2000 draws come near its quantiles."""
    n, x = len(means), np.array(means)
    every = np.array([np.mean(one) for one in itertools.product(means, repeat=n)]) - x.mean()
    factor = math.sqrt(n / (n - 1)) * t.ppf(0.9, n - 1) / norm.ppf(0.9)
    found = clustered(x, confidence=0.8)
    low, high = x.mean() + factor * np.quantile(every, [0.1, 0.9])
    assert found.value == pytest.approx(x.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * factor * np.ptp(x))


def test_the_difference_is_that_of_all_resamples_of_both_sides():
    a, b = np.array([0.0, 1.0, 5.0]), np.array([2.0, 2.5, 3.5])
    sides = [[np.mean(one) for one in itertools.product(x, repeat=3)] for x in (a, b)]
    every = np.array([p - q for p in sides[0] for q in sides[1]]) - (a.mean() - b.mean())
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 3
    welch = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 2)
    factor = math.sqrt(3 / 2) * t.ppf(0.975, welch) / norm.ppf(0.975)
    found = clustered(a, b)
    low, high = a.mean() - b.mean() + factor * np.quantile(every, [0.025, 0.975])
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_sides_of_different_sizes_are_widened_by_welchs_degrees_of_freedom():
    """By hand from the same draws, those of the first side before those of the second."""
    a, b = np.array([0.0, 1.0, 5.0]), generator(1).normal(size=9)
    draw = generator(6)
    means = [x[draw.integers(0, len(x), size=(DRAWS, len(x)))].mean(axis=1) - x.mean() for x in (a, b)]
    off = math.sqrt(3 / 2) * means[0] - math.sqrt(9 / 8) * means[1]
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 9
    welch = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 8)
    low, high = np.quantile(off, [0.05, 0.95]) * t.ppf(0.95, welch) / norm.ppf(0.95)
    found = clustered(a, b, confidence=0.9, seed=6)
    assert (found.low, found.high) == pytest.approx((found.value + low, found.value + high), rel=1e-9)


def simulated(seed, questions=10, prompts=5):
    """Prompts of a question share most of what they have: sd 1 between questions, 0.3 within."""
    draw = generator(seed)
    effects = draw.normal(size=questions)
    values = effects[:, None] + 0.3 * draw.normal(size=(questions, prompts))
    return values.ravel(), np.repeat(np.arange(questions), prompts)


@pytest.mark.parametrize(("questions", "least", "most"), [(10, 0.92, 0.975), (3, 0.92, 0.99)])
def test_nineteen_of_twenty_intervals_hold_the_truth_and_the_naive_ones_far_fewer(questions, least, most):
    covered = naive = 0
    trials = 400
    for trial in range(trials):
        (a, of_a), (b, of_b) = simulated(2 * trial, questions), simulated(2 * trial + 1, questions)
        found = clustered(cluster_means(a, of_a), cluster_means(b, of_b), seed=trial)
        covered += found.low <= 0 <= found.high
        alone = clustered(a, b, seed=trial)
        naive += alone.low <= 0 <= alone.high
    assert least < covered / trials < most
    assert naive / trials < 0.75


def test_the_same_seed_gives_the_same_interval_and_another_one_nearly():
    x = generator(3).normal(size=10)
    assert clustered(x, seed=4) == clustered(x, seed=4)
    one, other = clustered(x, seed=4), clustered(x, seed=5)
    assert one.low != other.low
    assert one.low == pytest.approx(other.low, abs=0.15)


@pytest.mark.parametrize("sides", [([1.0],), ([1.0, 2.0], [3.0])])
def test_one_cluster_has_no_interval(sides):
    found = clustered(*(np.array(side) for side in sides))
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isfinite(found.value)


def test_no_cluster_has_no_mean():
    assert math.isnan(clustered(np.zeros(0)).value)
    assert math.isnan(clustered(np.ones(3), np.zeros(0)).value)


def test_equal_clusters_have_an_interval_without_width():
    found = clustered(np.full(4, 2.0), np.full(3, 0.5))
    assert (found.value, found.low, found.high) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_confidence_lies_between_0_and_1(confidence):
    with pytest.raises(UsageError, match="confidence"):
        clustered(np.ones(3), confidence=confidence)


def test_the_skew_of_the_side_that_is_subtracted_is_turned_round():
    """One cluster far above the others makes its side's mean uncertain upwards, and so the difference downwards."""
    even, skewed = np.array([0.0, 0.1, 0.2]), np.array([0.0, 0.0, 0.0, 0.0, 10.0])
    above, below = clustered(skewed, even), clustered(even, skewed)
    assert above.high - above.value > 1.2 * (above.value - above.low)
    assert below.value - below.low > 1.2 * (below.high - below.value)


def test_two_clusters_have_an_interval():
    found = clustered(np.array([1.0, 3.0]))
    assert found.low < 1 < 3 < found.high
    both = clustered(np.array([1.0, 3.0]), np.array([0.0, 1.0]))
    assert both.low < both.value < both.high


def test_the_ends_of_an_interval_are_as_far_from_symmetric_clusters():
    """The mean of twenty intervals, whose ends are quantiles of two thousand draws each."""
    half = generator(8).normal(size=10)
    found = [clustered(np.concatenate([half, -half]), seed=seed) for seed in range(20)]
    low, high = np.mean([one.low for one in found]), np.mean([one.high for one in found])
    assert -low == pytest.approx(high, rel=0.03)


def test_sides_of_different_sizes_have_the_degrees_of_freedom_of_scipy():
    """Every resample of two clusters and of five; the freedom is that of Welch's test of the same two sides."""
    a, b = np.array([0.0, 4.0]), np.array([0.0, 4.0, 1.0, 6.0, 7.0])
    every = [
        np.array([np.mean(one) - x.mean() for one in itertools.product(x, repeat=len(x))]) * math.sqrt(n / (n - 1))
        for x, n in ((a, 2), (b, 5))
    ]
    off = (every[0][:, None] - every[1][None]).ravel()
    factor = t.ppf(0.975, ttest_ind(a, b, equal_var=False).df) / norm.ppf(0.975)
    found = clustered(a, b)
    low, high = a.mean() - b.mean() + factor * np.quantile(off, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))
