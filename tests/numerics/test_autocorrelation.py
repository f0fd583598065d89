"""Moran's I against the dense matrix of weights, its shuffles against the exact moments under permutation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from stabilitykit.errors import UsageError
from stabilitykit.numerics.autocorrelation import moran, shuffled


def weights(rows, columns):
    """Every pair of cells, n x n: what the function must not need."""
    cells = np.indices((rows, columns)).reshape(2, -1).T
    return (np.abs(cells[:, None] - cells[None]).sum(axis=2) == 1).astype(float)


def dense(B):
    W, z = weights(*B.shape), B.ravel() - B.mean()
    return len(z) / W.sum() * (z @ W @ z) / (z @ z)


def moments(B):
    """Mean and standard deviation of I over all permutations, by the closed form of Cliff and Ord (1973)."""
    W, z, n = weights(*B.shape), B.ravel() - B.mean(), B.size
    S0, S1, S2 = W.sum(), ((W + W.T) ** 2).sum() / 2, ((W.sum(axis=0) + W.sum(axis=1)) ** 2).sum()
    k = n * (z**4).sum() / (z**2).sum() ** 2
    upper = n * ((n * n - 3 * n + 3) * S1 - n * S2 + 3 * S0**2) - k * ((n * n - n) * S1 - 2 * n * S2 + 6 * S0**2)
    return -1 / (n - 1), math.sqrt(upper / ((n - 1) * (n - 2) * (n - 3) * S0**2) - 1 / (n - 1) ** 2)


def drawn(p, seed, shape=(12, 17)):
    return np.random.Generator(np.random.PCG64(seed)).random(shape) < p


LINE, BOARD = np.arange(17) + np.zeros((12, 1)) >= 8, np.indices((12, 17)).sum(axis=0) % 2 == 0


@pytest.mark.parametrize(
    "B", [LINE, BOARD, drawn(0.5, 1), drawn(0.1, 2), drawn(0.5, 3, (2, 2)), drawn(0.5, 3, (1, 9)), np.eye(1, 3) > 0]
)
def test_sums_over_neighbours_are_the_dense_formula(B):
    assert moran(B).coefficient == pytest.approx(dense(B), rel=1e-12)


@pytest.mark.parametrize("B", [LINE, BOARD, drawn(0.3, 5)])
def test_shuffles_have_the_exact_moments(B):
    mean, deviation = moments(B)
    found = moran(B, shuffles=4000, seed=7)
    assert found.z == pytest.approx((found.coefficient - mean) / deviation, abs=0.06 + 0.04 * abs(found.z))


def test_a_line_is_clustered_a_board_is_alternating_and_chance_is_neither():
    line, board, chance = moran(LINE), moran(BOARD), moran(drawn(0.5, 1))
    assert line.coefficient > 0.9
    assert line.z > 10
    assert board.coefficient == pytest.approx(-1)
    assert board.z < -10
    assert line.p == board.p == 1 / 200
    assert abs(chance.z) < 3


def test_chance_has_any_p():
    """A p below a tenth in a tenth of the maps, and above one half in half of them."""
    found = np.array([moran(drawn(0.4, seed), seed=1000 + seed).p for seed in range(60)])
    assert 0.35 < found.mean() < 0.65
    assert 1 <= (found <= 0.1).sum() <= 14
    assert 18 <= (found > 0.5).sum() <= 42


def test_a_share_of_one_half_is_no_evidence():
    """The study's chi-square looks at the share alone: a straight line passes for random and a 60/40 field does not."""
    from scipy.stats import chi2

    line, biased = np.arange(201) + np.zeros((201, 1)) >= 100, drawn(0.6, 0, (201, 201))
    assert chi2.sf((2 * line.sum() - line.size) ** 2 / line.size, 1) > 0.05
    assert chi2.sf((2 * biased.sum() - biased.size) ** 2 / biased.size, 1) < 1e-6
    assert moran(line).p == 1 / 200
    assert moran(line).z > 100
    assert abs(moran(biased).z) < 3


def test_a_flat_map_has_none():
    for flat in (np.ones((5, 5), dtype=bool), np.zeros((5, 5), dtype=bool), np.array([[True, False]])):
        assert all(math.isnan(value) for value in moran(flat))


def test_the_seed_decides_and_the_cells_stay():
    B = drawn(0.3, 1)
    assert moran(B, seed=1) == moran(B, seed=1) != moran(B, seed=2)
    mixed = shuffled(LINE, 3)
    assert (mixed.sum(), mixed.shape) == (LINE.sum(), LINE.shape)
    assert (mixed == shuffled(LINE, 3)).all()
    assert (mixed != LINE).any()
    assert abs(moran(mixed).z) < 3


def test_too_few_shuffles_are_refused():
    with pytest.raises(UsageError, match="at least 199"):
        moran(LINE, shuffles=99)


@pytest.mark.parametrize(("shape", "cells"), [((3, 3), (0, 1, 3)), ((1, 5), (0,))])
def test_p_is_that_of_all_arrangements(shape, cells):
    """All ways to place as many cells, each measured by the dense formula, from the mean of all, -1 / (n - 1)."""
    n = math.prod(shape)
    B, *every = (
        np.isin(np.arange(n), places).reshape(shape)
        for places in (cells, *itertools.combinations(range(n), len(cells)))
    )
    off = np.array([abs(dense(one) + 1 / (n - 1)) for one in every])
    exact = np.mean(off >= abs(dense(B) + 1 / (n - 1)) - 1e-9)
    assert 0.1 < exact < 0.9
    assert moran(B, shuffles=4000).p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


@pytest.mark.parametrize("seed", range(4))
def test_z_is_counted_in_the_standard_deviation_of_a_sample_of_shuffles(seed):
    B = drawn(0.4, seed, (4, 5))
    random = np.random.Generator(np.random.PCG64(seed))
    others = np.array([dense(random.permutation(B.ravel()).reshape(B.shape)) for _ in range(199)])
    assert moran(B, seed=seed).z == pytest.approx((dense(B) - others.mean()) / others.std(ddof=1), rel=1e-9)


def test_three_cells_are_enough():
    """Of the three arrangements two have I = -1/4 and one, with the odd cell in the middle, -1; the mean is -1/2."""
    at_the_end, in_the_middle = (moran(np.array([cells])) for cells in ([True, False, False], [False, True, False]))
    assert (at_the_end.coefficient, in_the_middle.coefficient) == pytest.approx((-0.25, -1.0))
    assert at_the_end.p == 1.0
    assert in_the_middle.p == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (0, 3)])
def test_what_is_no_map_is_refused(shape):
    with pytest.raises(UsageError, match=r"a map is \(R, C\)"):
        moran(np.arange(math.prod(shape)).reshape(shape) % 2 == 0)


def test_z_is_counted_in_sample_deviations_of_the_shuffles_themselves():
    """Of the same shuffles, each measured by the dense formula."""
    random, B = np.random.Generator(np.random.PCG64(4)), drawn(0.4, 6, (4, 5))
    every = np.array([dense(random.permutation(B.ravel()).reshape(B.shape)) for _ in range(199)])
    deviation = math.sqrt(((every - every.mean()) ** 2).sum() / 198)
    assert moran(B, seed=4).z == pytest.approx((dense(B) - every.mean()) / deviation, rel=1e-9)


def test_a_map_that_is_just_as_far_as_every_other_has_a_p_of_one():
    """One cell of four in a square: wherever it lies, I is -1 / 3, the mean itself."""
    found = moran(np.array([[True, False], [False, False]]))
    assert found.coefficient == -1 / 3
    assert found.p == 1


def test_where_every_arrangement_has_one_coefficient_it_has_no_place_among_them():
    """One cell of four has two neighbours wherever it is: I is -1/3 of each, but for last bits."""
    found = moran(np.array([[True, False], [False, False]]))
    assert found.coefficient == pytest.approx(-1 / 3)
    assert math.isnan(found.z)
    assert found.p == 1
