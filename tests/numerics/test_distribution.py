"""A distribution in numbers, against Python's own statistics."""

import math
import statistics

import pytest

from stabilitykit.numerics.distribution import distribution

VALUES = [3.0, 1.0, 4.0, 1.5, 9.0, 2.5]


def test_every_number_is_that_of_the_standard_library():
    found = distribution(VALUES)
    assert found["count"] == 6
    assert found["mean"] == pytest.approx(statistics.mean(VALUES))
    assert found["sd"] == pytest.approx(statistics.stdev(VALUES))
    assert found["geometric_mean"] == pytest.approx(statistics.geometric_mean(VALUES))
    assert [found[name] for name in ("q1", "median", "q3")] == pytest.approx(
        statistics.quantiles(VALUES, n=4, method="inclusive")
    )
    assert (found["least"], found["most"]) == (1.0, 9.0)


def test_the_interval_of_the_mean_is_near_that_of_the_normal_theory():
    values = [statistics.NormalDist(10, 2).inv_cdf((k + 0.5) / 200) for k in range(200)]
    found = distribution(values)
    reach = 1.96 * 2 / math.sqrt(200)
    assert found["mean_low"] == pytest.approx(10 - reach, abs=0.05)
    assert found["mean_high"] == pytest.approx(10 + reach, abs=0.05)
    assert found == distribution(values)
    assert found["mean_low"] != distribution(values, seed=1)["mean_low"]
    wider = distribution(values, confidence=0.99)
    assert wider["mean_low"] < found["mean_low"]


def test_one_value_has_no_spread_and_none_has_nothing():
    one = distribution([2.0])
    assert (one["count"], one["mean"], one["median"]) == (1, 2, 2)
    assert all(math.isnan(one[name]) for name in ("sd", "mean_low", "mean_high"))
    none = distribution([math.nan, math.inf])
    assert none.pop("count") == 0
    assert all(math.isnan(value) for value in none.values())


def test_what_is_no_number_is_left_out():
    assert distribution([*VALUES, math.nan, math.inf]) == distribution(VALUES)


def test_there_is_no_geometric_mean_over_zero():
    assert math.isnan(distribution([0.0, 1.0])["geometric_mean"])
    assert math.isnan(distribution([-1.0, 1.0])["geometric_mean"])


def test_two_numbers_have_a_deviation():
    found = distribution([1.0, 3.0])
    assert found["sd"] == pytest.approx(math.sqrt(2))
    assert (found["mean_low"], found["mean_high"]) == (1, 3), "a quarter of the means of two draws"
    most = distribution([1.0, 3.0], confidence=0.6)
    assert (most["mean_low"], most["mean_high"]) == (1, 3), "a fifth lies outside on each side, less than a quarter"
    middle = distribution([1.0, 3.0], confidence=0.3)
    assert (middle["mean_low"], middle["mean_high"]) == (2, 2), "half of them"
