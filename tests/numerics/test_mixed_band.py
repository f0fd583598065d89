"""The band in which both classes occur: planted edges, planted strays, and the fit of a prediction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stabilitykit.errors import UsageError
from stabilitykit.numerics.mixed_band import fit, mixed_band

L = np.linspace(-1, 1, 21)[:, None] + np.zeros((1, 5))


def test_what_one_threshold_separates_has_no_width():
    found = mixed_band(L, L >= 0.3)
    assert (found.width, found.share, found.open) == (0, 0, False)
    assert mixed_band(L, (L >= 0) & (L != -0.0)).width == 0


def test_two_strays_are_the_ends_of_the_band():
    B = L >= 0
    B[3, 2] = True
    B[15, 1] = False
    found = mixed_band(L, B)
    assert (found.low, found.high) == (L[3, 0], L[15, 0])
    assert found.width == L[15, 0] - L[3, 0]
    assert found.share == 13 / 21
    assert not found.open


def test_a_band_that_reaches_an_end_is_open():
    B = L >= 0
    B[0, 0] = True
    assert mixed_band(L, B).open
    for near, wide in ((1, True), (3, False)):
        B = L >= 0
        B[near, 0] = True
        assert mixed_band(L, B).open is wide
        assert mixed_band(-L, ~B).open is wide
    assert mixed_band(L, np.random.default_rng(0).random(L.shape) < 0.5).share == 1


def test_equal_predictions_of_both_classes_make_no_width():
    flat = np.zeros((4, 4))
    found = mixed_band(flat, np.eye(4, dtype=bool))
    assert (found.width, found.share, found.open) == (0, 0, False)


def test_a_flat_map_has_no_band():
    for flat in (np.ones_like(L, dtype=bool), np.zeros_like(L, dtype=bool)):
        assert all(math.isnan(value) for value in mixed_band(L, flat)[:4])


def test_a_flat_map_is_not_open():
    """There is no end of a band that a larger map could move."""
    for flat in (np.ones_like(L, dtype=bool), np.zeros_like(L, dtype=bool)):
        assert mixed_band(L, flat).open is False


def test_the_fit_is_that_of_the_prediction_as_it_is():
    D = L + 0.1
    found = fit(D, L)
    assert found.agreement == 20 / 21 or found.agreement == 19 / 21
    assert found.agreement == ((D >= 0) == (L >= 0)).mean()
    assert found.rms == pytest.approx(0.1)
    assert found.largest == pytest.approx(0.1)
    assert found.r2 == pytest.approx(1 - 0.01 / L.var())
    assert fit(L, L) == (1, 1, 0, 0)
    assert fit(L, -L).r2 == pytest.approx(-3)
    assert math.isnan(fit(np.ones((3, 3)), np.zeros((3, 3))).r2)


def test_other_shapes_are_refused():
    with pytest.raises(UsageError, match="do not belong"):
        mixed_band(L, np.ones((2, 2), dtype=bool))


@pytest.mark.parametrize(("stray", "wide"), [(9, True), (10, False)])
def test_a_band_is_open_that_ends_less_than_a_tenth_from_the_end(stray, wide):
    steps = np.arange(101.0)[:, None]
    B = steps >= 50
    B[stray] = True
    assert mixed_band(steps, B).open is wide


def test_the_largest_deviation_is_the_furthest_on_either_side():
    flat = np.zeros((1, 3))
    assert fit(np.array([[0.5, -3.0, 1.0]]), flat).largest == 3
    assert fit(np.array([[-0.5, 3.0, -1.0]]), flat).largest == 3
