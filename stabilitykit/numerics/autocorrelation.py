"""Do equal cells lie together? Moran's I of a map, and how far it lies from what shuffled cells have."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from stabilitykit.errors import UsageError
from stabilitykit.numerics.grid import Mask, check_map
from stabilitykit.numerics.rounding import Floats

SHUFFLES = 199
"""The fewest shuffles: with them a p below 0.01 can be seen."""


class Moran(NamedTuple):
    """Moran's I, its z and two-sided p against shuffles of the same cells; all nan for a flat map.

    `coefficient`: about 1 for two large blocks, -1 / (n - 1) in the mean over shuffles, -1 for a checkerboard. A small
    p says that the arrangement is not chance; a large p says nothing.
    """

    coefficient: float
    z: float
    p: float


def moran(B: Mask, *, shuffles: int = SHUFFLES, seed: int = 0) -> Moran:
    """Return Moran's I of a map of classes with neighbours of weight 1, and its place among shuffled maps.

    I = (n / W) sum_ij w_ij z_i z_j / sum_i z_i^2 with z = B - mean, from sums over neighbours alone. z = (I - mean) /
    standard deviation of I over `shuffles` permutations of the cells (PCG64), NaN where all of them have one I;
    p = (1 + k) / (1 + shuffles), where k of them lie as far from -1 / (n - 1) as I does. UsageError for fewer than 199
    shuffles. O(n shuffles).
    """
    check_map(B)
    if shuffles < SHUFFLES:
        raise UsageError(f"shuffles={shuffles!r} cannot tell chance from a pattern; give at least {SHUFFLES}")
    if bool(B.all()) or not bool(B.any()) or B.size < 3:
        return Moran(math.nan, math.nan, math.nan)
    centred = B - B.mean()
    index = _index(centred)
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = np.array([_index(random.permutation(centred.ravel()).reshape(B.shape)) for _ in range(shuffles)])
    expected, spread = -1 / (B.size - 1), float(drawn.std(ddof=1))
    # The sums of two arrangements with as many flips may differ in their last bit, and are as far all the same.
    as_far = np.abs(drawn - expected) >= abs(index - expected) * (1 - 1e-12)
    apart = spread > 1e-12 * float(np.abs(drawn).max())
    z = (index - float(drawn.mean())) / spread if apart else math.nan
    return Moran(index, z, (1 + int(as_far.sum())) / (1 + shuffles))


def _index(centred: Floats) -> float:
    rows, columns = centred.shape
    weights = 2 * ((rows - 1) * columns + rows * (columns - 1))
    beside = (centred[1:] * centred[:-1]).sum() + (centred[:, 1:] * centred[:, :-1]).sum()
    return float(centred.size / weights * 2 * beside / (centred**2).sum())


def shuffled(B: Mask, seed: int = 0) -> Mask:
    """Return the same cells in a random order (PCG64): the map that has no pattern. O(n)."""
    return np.random.Generator(np.random.PCG64(seed)).permutation(B.ravel()).reshape(B.shape)
