"""Enlarged maps against the squares around each cell, drawn one by one."""

from __future__ import annotations

import numpy as np
import pytest

from stabilitykit.errors import UsageError
from stabilitykit.numerics.enlarged import enlarged

B = np.random.Generator(np.random.PCG64(3)).random((15, 22)) < 0.03


def squares(cells, times):
    grown = np.zeros_like(cells)
    for i, j in np.argwhere(cells):
        grown[max(0, i - times) : i + times + 1, max(0, j - times) : j + times + 1] = True
    return grown


@pytest.mark.parametrize("times", [1, 2, 5])
def test_each_cell_becomes_a_square(times):
    assert (enlarged(B, times) == squares(B, times)).all()
    assert (enlarged(~B, times, first=False) == ~squares(B, times)).all()


def test_cells_on_the_edge_grow():
    """The study's loop left out the edge, so that a cell there stayed alone."""
    corner = np.zeros((6, 6), dtype=bool)
    corner[0, 0] = corner[5, 3] = True
    assert enlarged(corner).sum() == 4 + 6


def test_a_flat_map_stays_flat():
    for flat in (np.ones((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool)):
        assert (enlarged(flat) == flat).all()
        assert (enlarged(flat, first=False) == flat).all()


@pytest.mark.parametrize("times", [0, -1, 1.5])
def test_nothing_is_enlarged_without_a_number_of_times(times):
    with pytest.raises(UsageError, match="enlarges nothing"):
        enlarged(B, times)


def test_what_is_no_map_is_refused():
    with pytest.raises(UsageError, match="a map is"):
        enlarged(np.ones(4, dtype=bool))
