"""Calibration tables and the area under the ROC curve, against brute force and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

import stabilitykit as sk
from stabilitykit.numerics.calibration import auc, calibration, exact_interval


def test_auc_is_the_share_of_pairs_in_order():
    random = np.random.Generator(np.random.PCG64(0))
    scores = random.integers(0, 6, 60)  # many ties
    events = random.integers(0, 3, 60) == 0
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[events] for b in scores[~events]]
    assert auc(scores, events) == pytest.approx(np.mean(pairs))


def test_auc_of_perfect_reversed_and_empty():
    assert auc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert auc([4, 3, 2, 1], [False, False, True, True]) == 0.0
    assert math.isnan(auc([1, 2], [True, True]))
    assert math.isnan(auc([1, 2], [False, False]))
    with pytest.raises(sk.UsageError, match="one number and one flag each"):
        auc([1, 2], [True])


@pytest.mark.parametrize(("events", "trials"), [(0, 7), (3, 11), (9, 9), (1, 1000)])
def test_the_interval_is_scipys_exact_one(events, trials):
    expected = stats.binomtest(events, trials).proportion_ci(0.95, method="exact")
    assert exact_interval(events, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_is_known_without_trials():
    assert exact_interval(0, 0) == (0.0, 1.0)


def test_each_forecast_is_in_one_bin():
    p = [0.0, 0.05, 0.1, 0.5, 0.99, 1.0]
    rows = calibration(p, [False, False, True, False, True, True], (0.0, 0.1, 0.5, 1.0))
    assert [(row["from"], row["forecasts"], row["seen"]) for row in rows] == [(0.0, 2, 0), (0.1, 1, 1), (0.5, 3, 2)]
    assert [row["expected"] for row in rows] == pytest.approx([0.05, 0.1, 2.49])
    assert rows[2]["rate"] == pytest.approx(2 / 3)


def test_empty_bins_are_left_out():
    assert [row["to"] for row in calibration([0.9], [True], (0.0, 0.5, 1.0))] == [1.0]


def test_a_half_is_an_edge_unless_other_edges_are_given():
    rows = calibration([0.4, 0.5, 0.6], [False, True, True])
    assert [(row["from"], row["to"], row["forecasts"]) for row in rows] == [(0.3, 0.5, 1), (0.5, 1.0, 2)]


def test_every_power_of_ten_down_to_a_millionth_but_one_begins_a_bin():
    """The number just below it belongs to the bin before."""
    for power in (1e-6, 1e-4, 1e-3, 1e-2, 0.1):
        below, at = calibration([math.nextafter(power, 0), power], [False, True])
        assert (below["to"], at["from"], below["seen"], at["seen"]) == (power, power, 0, 1)


def test_every_forecast_has_a_bin_unless_other_edges_are_given():
    p = [0.0, 1e-9, 1e-5, 5e-4, 5e-3, 0.05, 0.2, 0.4, 0.99, 1.0]
    rows = calibration(p, [False] * len(p))
    assert sum(row["forecasts"] for row in rows) == len(p)
    assert sum(row["expected"] for row in rows) == pytest.approx(sum(p))


def test_forecasts_as_rare_as_one_in_a_million_have_bins_of_their_own():
    """Each edge opens a bin, and a forecast just below it is in the bin before."""
    edges = [1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.5]
    p = [side for edge in edges for side in (math.nextafter(edge, 0), edge)]
    rows = calibration(p, [False] * len(p))
    assert [row["from"] for row in rows] == [0.0, *edges]
    assert [row["forecasts"] for row in rows] == [1, *[2] * 6, 1]


def test_forecasts_of_eight_sizes_have_a_bin_each():
    p = [1e-7, 1e-5, 5e-4, 1.5e-3, 0.05, 0.2, 0.4, 0.9]
    rows = calibration(p, [False] * 8)
    assert [row["expected"] for row in rows] == p
    assert [row["from"] for row in rows] == [0.0, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.5]
