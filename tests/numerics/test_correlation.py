"""Rank correlations against scipy, against regression by least squares, and in samples with a known one."""

import math

import numpy as np
import pytest
from scipy import stats

from stabilitykit.errors import UsageError
from stabilitykit.numerics.correlation import partial_spearman, rank_interval, spearman


def drawn(seed, count, values=None):
    random = np.random.default_rng(seed)
    return random.integers(0, values, count).astype(float) if values else random.normal(size=count)


@pytest.mark.parametrize("values", [None, 3, 10])
@pytest.mark.parametrize("count", [3, 4, 10, 301])
def test_spearman_is_that_of_scipy(count, values):
    for seed in range(20):
        x, y = drawn(seed, count, values), drawn(seed + 100, count, values)
        if len(set(x)) == 1 or len(set(y)) == 1:
            assert math.isnan(spearman(x, y))
        else:
            assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_any_monotone_relation_is_one():
    x = drawn(1, 50)
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)


@pytest.mark.parametrize("values", [None, 4])
def test_partial_is_the_correlation_of_what_regression_leaves(values):
    """An independent way: regress the ranks on those of the third by least squares, and correlate the residuals."""
    for seed in range(10):
        z = drawn(seed, 200, values)
        x, y = z + drawn(seed + 50, 200), z - 0.5 * drawn(seed + 90, 200)
        ranks = [stats.rankdata(sample) for sample in (x, y, z)]
        design = np.stack([np.ones(200), ranks[2]], axis=1)
        left = [rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0] for rank in ranks[:2]]
        assert partial_spearman(x, y, z) == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-9)


def test_what_a_third_quantity_explains_is_gone():
    z = drawn(3, 2000)
    x, y = z + 0.3 * drawn(4, 2000), z + 0.3 * drawn(5, 2000)
    assert spearman(x, y) > 0.85
    assert abs(partial_spearman(x, y, z)) < 0.05
    assert partial_spearman(x, y + x, z) > 0.5


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1.0], [2.0]), ([1, 2], [2, 1]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3], [5, 5, 5])]
)
def test_too_little_has_no_correlation(x, y):
    assert math.isnan(spearman(x, y))
    assert math.isnan(partial_spearman(x, y, y))


def test_what_the_third_fixes_alone_is_no_partial_correlation():
    x, y = drawn(6, 30), drawn(7, 30)
    assert math.isnan(partial_spearman(x, y, 2 * x))
    assert math.isnan(partial_spearman(x, y, np.ones(30)))
    assert math.isnan(partial_spearman([1, 2, 3], [1, 3, 2], [2, 1, 3]))


def test_intervals_cover_what_they_say():
    """2000 samples of 60 pairs with a known correlation: 95 of 100 intervals hold it, within the error of counting."""
    random = np.random.default_rng(8)
    for pearson in (0.0, 0.6):
        true = 6 / math.pi * math.asin(pearson / 2)  # of normal pairs
        covered = 0
        for _ in range(2000):
            x = random.normal(size=60)
            y = pearson * x + math.sqrt(1 - pearson**2) * random.normal(size=60)
            low, high = rank_interval(spearman(x, y), 60)
            covered += low <= true <= high
        assert 0.935 <= covered / 2000 <= 0.965


def test_an_interval_of_few_samples_or_of_nothing_says_nothing():
    assert rank_interval(0.3, 3) == (-1.0, 1.0)
    assert rank_interval(0.3, 4, fixed=1) == (-1.0, 1.0)
    assert rank_interval(math.nan, 100) == (-1.0, 1.0)
    assert rank_interval(0.3, 4) == pytest.approx(
        [math.tanh(math.atanh(0.3) + side * 1.959963985 * math.sqrt(1.045)) for side in (-1, 1)]
    )
    low, high = rank_interval(1.0, 50)
    assert 0.99 < low < high <= 1
    wide, narrow = rank_interval(0.3, 20), rank_interval(0.3, 2000)
    assert wide[0] < narrow[0] < 0.3 < narrow[1] < wide[1]
    assert rank_interval(0.3, 24, fixed=4) == wide
    assert rank_interval(0.3, 20, confidence=0.5)[0] > wide[0]


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda: spearman([1, 2], [1, 2, 3]), "equally long vectors"),
        (lambda: spearman([[1, 2]], [[1, 2]]), "equally long vectors"),
        (lambda: spearman([1, math.nan, 2], [1, 2, 3]), "nan, which has no rank"),
        (lambda: rank_interval(0.1, 10, confidence=1.0), "confidence must lie strictly between 0 and 1"),
        (lambda: rank_interval(0.1, 10, confidence=0.0), "confidence must lie strictly between 0 and 1"),
    ],
)
def test_what_has_no_rank_is_refused(call, fragment):
    with pytest.raises(UsageError, match=fragment):
        call()


def test_four_samples_have_a_partial_correlation():
    """Ranks correlate by 0.8, 0.8 and 0.4, so that (0.8 - 0.8 0.4) / (0.6 sqrt 0.84) is left."""
    found = partial_spearman([1, 2, 3, 4], [1, 3, 2, 4], [1, 2, 4, 3])
    assert found == pytest.approx(0.48 / (0.6 * math.sqrt(0.84)))


def test_four_samples_are_enough_to_hold_one_quantity_fixed():
    """The ranks of x and y are 0.6 and those of `given` 0.8 and 0.4: (0.6 - 0.32) / sqrt(0.36 * 0.84)."""
    x, y, z = [1, 2, 3, 4], [2, 1, 4, 3], [1, 3, 2, 4]
    assert (spearman(x, y), spearman(x, z), spearman(y, z)) == pytest.approx((0.6, 0.8, 0.0))
    assert partial_spearman(x, y, z) == pytest.approx(0.6 / 0.6)
