"""Maps with known statistics: a straight line, a checkerboard, an independent field, a flat map; counted by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from stabilitykit.errors import UsageError
from stabilitykit.numerics.grid import crossings, flip_ratio, gradient, normalised_flip_ratio, regions, share

R, C = 30, 41


def line(rows=R, columns=C, at=20):
    """A straight boundary along axis 0."""
    return np.tile(np.arange(columns) >= at, (rows, 1))


def board(rows=R, columns=C):
    return np.indices((rows, columns)).sum(axis=0) % 2 == 0


def field(p, seed=0, rows=R, columns=C):
    return np.random.Generator(np.random.PCG64(seed)).random((rows, columns)) < p


def flips_by_hand(B, where=None):
    """Count pair by pair."""
    pairs = flips = 0
    for i in range(B.shape[0]):
        for j in range(B.shape[1]):
            for k, m in ((i + 1, j), (i, j + 1)):
                if k < B.shape[0] and m < B.shape[1] and (where is None or where[i, j] == where[k, m] != 0):
                    pairs += 1
                    flips += B[i, j] != B[k, m]
    return flips / pairs if pairs else math.nan


@pytest.mark.parametrize("B", [line(), board(), field(0.3), field(0.5, rows=7), np.ones((1, 5), dtype=bool)])
def test_flips_are_counted_pair_by_pair(B):
    assert flip_ratio(B) == flips_by_hand(B)
    where = np.random.default_rng(4).integers(0, 3, B.shape)
    assert flip_ratio(B, where) == pytest.approx(flips_by_hand(B, where), nan_ok=True)


def test_a_straight_line_flips_once_a_row():
    assert flip_ratio(line()) == R / ((R - 1) * C + R * (C - 1))


def test_the_scale_ends_at_chance_and_not_at_a_checkerboard():
    """The study called 0.3 a high ratio on a scale that a checkerboard alone reaches; chance has 2 p (1 - p)."""
    assert flip_ratio(board()) == 1
    fair, rare = field(0.5, rows=300, columns=300), field(0.1, rows=300, columns=300)
    assert flip_ratio(fair) == pytest.approx(0.5, abs=0.005)
    assert flip_ratio(rare) < 0.2, "as random as the other, and below the study's threshold"
    assert normalised_flip_ratio(fair) == pytest.approx(1, abs=0.01)
    assert normalised_flip_ratio(rare) == pytest.approx(1, abs=0.02)
    assert normalised_flip_ratio(board(6, 6)) == 2


def test_outside_pairs_are_held_against_the_shares_of_the_whole_map():
    B = line()
    beyond = np.tile(np.arange(C) > 25, (R, 1)).astype(int)
    assert normalised_flip_ratio(B, beyond) == 0
    spoiled = B.copy()
    spoiled[3, 30] = False
    assert normalised_flip_ratio(spoiled, beyond) > 0
    p = share(spoiled)
    assert normalised_flip_ratio(spoiled, beyond) == flip_ratio(spoiled, beyond) / (2 * p * (1 - p))
    assert math.isnan(normalised_flip_ratio(B, np.zeros(B.shape, dtype=int)))


def test_pairs_across_the_predicted_line_are_not_counted_outside():
    """The line itself flips once a row; each side alone does not."""
    sides = np.tile(np.where(np.arange(C) >= 20, 1, -1), (R, 1))
    assert flip_ratio(line(), np.ones((R, C), dtype=int)) > 0
    assert flip_ratio(line(), sides) == 0


def test_a_flat_map_has_no_normalised_ratio():
    for flat in (np.ones((R, C), dtype=bool), np.zeros((R, C), dtype=bool)):
        assert flip_ratio(flat) == 0
        assert math.isnan(normalised_flip_ratio(flat))
        assert regions(flat)[2] == 1


def crossings_by_hand(D):
    found = 0
    for lines in (D, D.T):
        for one in lines:
            signs = [value > 0 for value in one if value != 0]
            found += sum(a != b for a, b in itertools.pairwise(signs))
    return found / sum(D.shape)


def test_zeros_are_passed_over_in_crossings():
    """The study's signs -1, 0, 1 counted a passage through zero twice, and a touch of zero as two crossings."""
    assert crossings(np.array([[1.0, 0.0, -1.0]])) == 1 / 4
    assert crossings(np.array([[1.0, 0.0, 1.0]])) == 0
    assert crossings(np.array([[0.0, 0.0, -2.0, 0.0, 3.0, 0.0]])) == 1 / 7
    assert math.isnan(crossings(np.zeros((4, 4))))
    noisy = np.random.default_rng(1).standard_normal((25, 31))
    noisy[np.random.default_rng(2).random((25, 31)) < 0.3] = 0
    assert crossings(noisy) == crossings_by_hand(noisy)
    signs = np.sign(noisy)
    study = (np.diff(signs, axis=0) != 0).sum() + (np.diff(signs, axis=1) != 0).sum()
    assert study > 1.2 * crossings(noisy) * sum(noisy.shape)


def test_flips_count_a_zero_for_the_first_class_where_crossings_do_not():
    """Without zeros both are one effect, so only flips enter the texture's place."""
    D = np.array([[1.0, 0.0, -1.0, 0.0]])
    assert flip_ratio(D >= 0) == 2 / 3
    assert crossings(D) == 1 / 5
    noise = np.random.default_rng(0).standard_normal((9, 9))
    assert crossings(noise) * 18 == pytest.approx(flip_ratio(noise >= 0) * 144)


def flood(B, steps):
    """Count regions by flooding from each cell that no flood has reached."""
    left, count, largest = {tuple(cell) for cell in np.argwhere(B)}, 0, 0
    while left:
        count, todo, size = count + 1, [left.pop()], 0
        while todo:
            i, j = todo.pop()
            size += 1
            for k, m in steps:
                if (i + k, j + m) in left:
                    left.remove((i + k, j + m))
                    todo.append((i + k, j + m))
        largest = max(largest, size)
    return count, largest


SIDES = [(0, 1), (1, 0), (0, -1), (-1, 0)]
CORNERS = [*SIDES, (1, 1), (1, -1), (-1, 1), (-1, -1)]


@pytest.mark.parametrize("B", [line(), board(), field(0.5), field(0.2, 3), field(0.8, 3), ~line()])
def test_regions_are_those_that_floods_find(B):
    found = regions(B)
    (first, most), (second, other) = flood(B, SIDES), flood(~B, CORNERS)
    assert found == (first, second, max(most, other) / B.size, 1000 * (first + second) / B.size)


def test_a_diagonal_of_one_cell_is_one_region():
    """The study joined both classes by sides alone, which makes as many regions of a diagonal as it has cells."""
    B = ~np.eye(30, dtype=bool)
    assert regions(B)[:2] == (2, 1)
    assert flood(~B, SIDES)[0] == 30
    assert regions(line())[:2] == (1, 1)
    assert regions(board())[:2] == (R * C // 2, 1)


def test_a_gradient_is_per_unit_of_its_own_axis():
    """The study differentiated by the index: the same function in another zoom had another gradient."""
    for e1, e2 in (
        (np.linspace(-1, 1, 11), np.linspace(-1, 1, 21)),
        (np.linspace(-1e-8, 1e-8, 41), np.linspace(0, 3e-9, 5)),
    ):
        D = 3 * e1[:, None] - 4 * e2[None, :]
        assert gradient(D, e1, e2) == pytest.approx(5)
    e = np.linspace(-1, 1, 7)
    by_index = np.hypot(*np.gradient(D))
    assert by_index.max() < 1e-8 * 5
    assert gradient(e[:, None] ** 2 + 0 * e, e, e)[1:-1] == pytest.approx(np.abs(2 * e[1:-1, None]) + 0 * e)
    assert not gradient(np.ones((3, 3)), e[:3], e[:3]).any()
    two = np.array([0.0, 0.5])
    assert gradient(3 * two[:, None] - 4 * two, two, two) == pytest.approx(5), "two points have a slope"


def test_what_is_no_map_is_refused():
    for bad in (math.nan, math.inf):
        with pytest.raises(UsageError, match="not finite"):
            crossings(np.array([[1.0, bad]]))
        with pytest.raises(UsageError, match="not finite"):
            gradient(np.array([[1.0, bad], [1.0, 2.0]]), np.arange(2.0), np.arange(2.0))
    with pytest.raises(UsageError, match="at least one cell"):
        flip_ratio(np.ones((0, 3), dtype=bool))
    for B in (np.ones((0, 3), dtype=bool), np.ones((2, 3, 4), dtype=bool)):
        with pytest.raises(UsageError, match="at least one cell"):
            regions(B)
    with pytest.raises(UsageError, match="axes of 3 and 2"):
        gradient(np.ones((2, 3)), np.arange(3.0), np.arange(2.0))
    with pytest.raises(UsageError, match="with slopes"):
        gradient(np.ones((1, 3)), np.arange(1.0), np.arange(3.0))


def test_a_map_of_two_points_a_side_has_the_slopes_between_them():
    e1, e2 = np.array([0.0, 0.5]), np.array([1.0, 3.0])
    assert gradient(3 * e1[:, None] - 2 * e2, e1, e2) == pytest.approx(math.hypot(3, 2))
