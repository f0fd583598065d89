"""Bounds and intervals against scipy, binomial sums and exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binomtest

from stabilitykit.errors import UsageError
from stabilitykit.numerics.statistics import rate_bound, sentence, trials_for, wilson

COUNTS = [(k, n) for n in (1, 2, 5, 59, 299, 1000) for k in {0, 1, n // 3, n - 1, n} if 0 <= k <= n]
LEVELS = [0.5, 0.9, 0.95, 0.99, 0.999]


@pytest.mark.parametrize("confidence", LEVELS)
@pytest.mark.parametrize(("events", "trials"), COUNTS)
def test_the_bound_is_the_exact_one_sided_interval_of_scipy(events: int, trials: int, confidence: float) -> None:
    # scipy finds this bound by root search, hence the tolerance; the exact tail below is the sharp oracle.
    oracle = binomtest(events, trials, alternative="less").proportion_ci(confidence, method="exact")
    assert rate_bound(events, trials, confidence) == pytest.approx(oracle.high, rel=1e-8, abs=0)


@pytest.mark.parametrize(("events", "trials"), [(k, n) for k, n in COUNTS if 0 < k < n <= 59])
def test_at_the_bound_so_few_events_are_exactly_as_unlikely_as_claimed(events: int, trials: int) -> None:
    rate = Fraction(rate_bound(events, trials))
    tail = sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(events + 1))
    assert float(tail) == pytest.approx(0.05, rel=1e-10, abs=0)


def test_the_bound_of_no_events_keeps_its_digits_for_very_many_trials() -> None:
    for power in (15, 30):  # 10^30 is a count, though no integer of 64 bits
        assert rate_bound(0, 10**power) == pytest.approx(-math.log(0.05) * 10.0**-power, rel=1e-13, abs=0)


@pytest.mark.parametrize(
    ("rate", "confidence", "expected"),
    [(0.05, 0.95, 59), (0.01, 0.95, 299), (0.001, 0.95, 2995), (0.5, 0.75, 2), (0.99, 0.5, 1)],
)
def test_the_known_numbers_of_clean_trials(rate: float, confidence: float, expected: int) -> None:
    assert expected == trials_for(rate, confidence)


@pytest.mark.parametrize("rate", ["0.3", "0.05", "0.017", "0.001"])
@pytest.mark.parametrize("confidence", ["0.5", "0.9", "0.95", "0.999"])
def test_the_number_of_trials_is_the_smallest_that_bounds_the_rate(rate: str, confidence: str) -> None:
    trials = trials_for(float(rate), float(confidence))
    keep, doubt = 1 - Fraction(rate), 1 - Fraction(confidence)
    assert keep**trials <= doubt < keep ** (trials - 1)


@pytest.mark.parametrize("confidence", LEVELS)
@pytest.mark.parametrize(("events", "trials"), COUNTS)
def test_the_wilson_interval_is_that_of_scipy(events: int, trials: int, confidence: float) -> None:
    oracle = binomtest(events, trials).proportion_ci(confidence, method="wilson")
    low, high = wilson(events, trials, confidence)
    assert (low, high) == pytest.approx((oracle.low, oracle.high), rel=1e-9, abs=1e-15)
    assert 0.0 <= low <= events / trials <= high <= 1.0


@pytest.mark.parametrize(
    ("events", "trials", "confidence", "expected"),
    [
        (0, 59, 0.95, "0 of 59 differed: rate < 5% at 95%"),
        (0, 2, 0.95, "0 of 2 differed: rate < 78% at 95%"),
        (0, 299, 0.95, "0 of 299 differed: rate < 1% at 95%"),
        (0, 2995, 0.95, "0 of 2995 differed: rate < 0.1% at 95%"),
        (0, 2995, 0.999, "0 of 2995 differed: rate < 0.24% at 99.9%"),
        (0, 64, 0.9, "0 of 64 differed: rate < 3.6% at 90%"),
        (1, 100, 0.95, "1 of 100 differed: rate < 4.7% at 95%"),
        (999, 1000, 0.95, "999 of 1000 differed: rate < 100% at 95%"),
        (3, 3, 0.95, "3 of 3 differed: rate <= 100% at 95%"),
    ],
)
def test_the_sentence_says_the_count_and_the_bound(events: int, trials: int, confidence: float, expected: str) -> None:
    assert expected == sentence(events, trials, confidence)


@pytest.mark.parametrize(("events", "trials"), COUNTS)
def test_the_printed_bound_is_never_smaller_than_the_proven_one(events: int, trials: int) -> None:
    printed = Fraction(sentence(events, trials).split("rate ")[1].split()[1].rstrip("%")) / 100
    bound = Fraction(rate_bound(events, trials))
    assert bound <= printed <= bound * Fraction(111, 100)


def test_counts_of_numpy_are_counts() -> None:
    assert rate_bound(np.int64(1), np.int64(9)) == rate_bound(1, 9)


@pytest.mark.parametrize("bound", [rate_bound, wilson, sentence])
@pytest.mark.parametrize(
    ("events", "trials", "confidence"),
    [(-1, 5, 0.95), (6, 5, 0.95), (0, 0, 0.95), (0.5, 5, 0.95), (0, 5.0, 0.95), (math.nan, 5, 0.95)]
    + [(0, 5, level) for level in (0.0, 1.0, -0.1, 95, math.nan)],
)
def test_impossible_counts_and_levels_are_refused(
    bound: object, events: float, trials: float, confidence: float
) -> None:
    assert callable(bound)
    with pytest.raises(UsageError, match=r"need 0 <= events|are counts|strictly between 0 and 1"):
        bound(events, trials, confidence)


@pytest.mark.parametrize(("rate", "confidence"), [(0.0, 0.95), (1.0, 0.95), (math.nan, 0.95), (0.1, 1.0)])
def test_a_rate_that_no_number_of_trials_can_bound_is_refused(rate: float, confidence: float) -> None:
    with pytest.raises(UsageError, match="strictly between 0 and 1"):
        trials_for(rate, confidence)


def test_counts_beyond_64_bits_have_a_bound():
    """Of so many trials the bound of one event is the Poisson limit, 4.7439 over their number."""
    assert rate_bound(1, 10**20) == pytest.approx(4.743864518390582e-20, rel=1e-9)
