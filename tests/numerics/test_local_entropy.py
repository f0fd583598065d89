"""Local entropy window by window, and its exact mean against every possible window."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from stabilitykit.errors import UsageError
from stabilitykit.numerics.local_entropy import entropy_ratio, expected_entropy, local_entropy


def plain(q):
    return 0.0 if q in (0, 1) else -q * math.log2(q) - (1 - q) * math.log2(1 - q)


def drawn(p, shape, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).random(shape) < p


@pytest.mark.parametrize("window", [1, 3, 5])
def test_each_window_has_the_entropy_of_its_share(window):
    for rows, columns in ((9, 13), (window, 13), (9, window)):
        B = drawn(0.4, (rows, columns))
        found = local_entropy(B, window)
        assert found.shape == (rows - window + 1, columns - window + 1)
        for i, j in np.ndindex(found.shape):
            assert found[i, j] == pytest.approx(plain(B[i : i + window, j : j + window].mean()), abs=1e-12)


@pytest.mark.parametrize("p", [0.5, 0.2, 0.9, 0.0, 1.0])
def test_the_expectation_is_the_mean_over_all_windows(p):
    windows = itertools.product((0, 1), repeat=9)
    mean = math.fsum(p ** sum(one) * (1 - p) ** (9 - sum(one)) * plain(sum(one) / 9) for one in windows)
    assert expected_entropy(p, 3) == pytest.approx(mean, abs=1e-12)


def test_a_fair_window_does_not_reach_one_bit():
    """The study divided by 1, so that even chance looked more ordered than chance."""
    assert expected_entropy(0.5) == pytest.approx(0.971, abs=5e-4)
    fair, rare = drawn(0.5, (300, 300)), drawn(0.1, (300, 300))
    assert local_entropy(fair).mean() == pytest.approx(0.971, abs=2e-3)
    assert entropy_ratio(fair) == pytest.approx(1, abs=2e-3)
    assert local_entropy(rare).mean() < 0.5
    assert entropy_ratio(rare) == pytest.approx(1, abs=0.01)


def test_a_line_is_low_a_board_high_and_a_flat_map_has_none():
    line, board = np.arange(201) + np.zeros((201, 1)) >= 100, np.indices((20, 20)).sum(axis=0) % 2 == 0
    # Four of the 197 windows of a row hold both classes.
    assert local_entropy(line).mean() == pytest.approx(2 * (plain(0.2) + plain(0.4)) / 197)
    assert entropy_ratio(line) < 0.02
    assert local_entropy(board) == pytest.approx(plain(12 / 25))
    assert entropy_ratio(board) > 1
    assert not local_entropy(np.ones((9, 9), dtype=bool)).any()
    assert math.isnan(entropy_ratio(np.ones((9, 9), dtype=bool)))
    assert math.isnan(entropy_ratio(np.zeros((9, 9), dtype=bool)))
    assert math.isnan(entropy_ratio(drawn(0.5, (4, 9))))
    for shape, windows in (((4, 9), (0, 5)), ((9, 4), (5, 0)), ((4, 4), (0, 0)), ((1, 9), (0, 5))):
        assert local_entropy(drawn(0.5, shape)).shape == windows


def test_a_window_without_a_middle_is_refused():
    with pytest.raises(UsageError, match="no middle"):
        local_entropy(drawn(0.5, (9, 9)), 4)


@pytest.mark.parametrize(
    ("shape", "expected"), [((7, 2), (3, 0)), ((2, 7), (0, 3)), ((1, 1), (0, 0)), ((7, 4), (3, 0))]
)
def test_a_map_too_small_for_a_window_has_as_many_rows_or_columns_of_none(shape, expected):
    assert local_entropy(drawn(0.5, shape)).shape == expected


@pytest.mark.parametrize(("shape", "windows"), [((3, 9), (0, 5)), ((9, 3), (5, 0)), ((2, 3), (0, 0)), ((4, 5), (0, 1))])
def test_a_map_that_is_too_small_has_as_many_windows_as_fit_along_each_side(shape, windows):
    assert local_entropy(drawn(0.5, shape)).shape == windows


@pytest.mark.parametrize(("shape", "windows"), [((2, 9), (0, 5)), ((9, 2), (5, 0)), ((1, 1), (0, 0)), ((3, 4), (0, 0))])
def test_a_map_smaller_than_a_window_has_none_along_that_side(shape, windows):
    assert local_entropy(drawn(0.5, shape)).shape == windows


@pytest.mark.parametrize("shape", [(9,), (9, 9, 9), (0, 9)])
def test_what_is_no_map_is_refused(shape):
    with pytest.raises(UsageError, match="at least one cell"):
        local_entropy(np.ones(shape, dtype=bool))
