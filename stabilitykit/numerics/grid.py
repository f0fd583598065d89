"""What a map on a grid looks like: flips, crossings, regions and slopes, without a loop over its cells.

A map is (R, C): axis 0 belongs to e1, axis 1 to e2. `B` is True where the first of two classes lies, D is any real
map. Neighbours are the up to 4 cells beside one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from stabilitykit.errors import UsageError
from stabilitykit.numerics.rounding import Floats

Mask = NDArray[np.bool_]
Labels = NDArray[np.integer[Any]]

Cell = TypeVar("Cell", bound=np.generic)

FOUR = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
EIGHT = np.ones((3, 3), dtype=bool)


def share(B: Mask) -> float:
    """Return the share p of cells of the first class."""
    return float(B.mean())


def flip_ratio(B: Mask, where: Labels | None = None) -> float:
    """Return the share of pairs of neighbours whose classes differ: 0 for one block, 1 for a checkerboard.

    `where`: only pairs of which both cells have the same number in it, other than 0. nan where there is no pair. O(n).
    """
    check_map(B)
    inside = np.ones(B.shape, dtype=np.int8) if where is None else where
    pairs, flips = 0, 0
    for axis in (0, 1):
        (first, second), (one, other) = _beside(B, axis), _beside(inside, axis)
        counted = (one == other) & (one != 0)
        pairs += int(counted.sum())
        flips += int(((first != second) & counted).sum())
    return flips / pairs if pairs else math.nan


def normalised_flip_ratio(B: Mask, where: Labels | None = None) -> float:
    """Return the flip ratio over 2 p (1 - p), what cells drawn independently have: 1 is chance, 0 one block.

    p is the share in the whole map, also where only the pairs in `where` are counted. nan for a flat map. O(n).
    """
    chance = 2 * share(B) * (1 - share(B))
    return flip_ratio(B, where) / chance if chance else math.nan


def crossings(D: Floats) -> float:
    """Return the mean number of changes of sign along a line, over all R + C rows and columns.

    An exact zero has no sign and is passed over: +, 0, - is one crossing, +, 0, + none. nan for a map of zeros. O(n).
    """
    check_map(D)
    if not D.any():
        return math.nan
    found = 0
    for lines in (D, D.T):
        signs = _filled(np.sign(lines))
        found += int((signs[:, 1:] * signs[:, :-1] < 0).sum())
    return found / sum(D.shape)


class Regions(NamedTuple):
    """Connected regions of each class: the first joined by sides, the second by sides and corners.

    With the same neighbourhood for both, two lines that cross would both be cut, or neither. `largest` is the share of
    cells in the largest region, `per_1000` the regions of both classes in 1000 cells.
    """

    first: int
    second: int
    largest: float
    per_1000: float


def regions(B: Mask) -> Regions:
    """Return the regions of both classes. O(n)."""
    from scipy.ndimage import label

    check_map(B)
    counts, largest = [], 0
    for cells, joined in ((B, FOUR), (~B, EIGHT)):
        numbered, count = label(cells, structure=joined)
        counts.append(int(count))
        largest = max(largest, int(np.bincount(numbered.ravel())[1:].max(initial=0)))
    return Regions(counts[0], counts[1], largest / B.size, 1000 * sum(counts) / B.size)


def gradient(D: Floats, e1: Floats, e2: Floats) -> Floats:
    """Return |grad D| of each cell, in D's unit per unit of e: central differences, one-sided at the edge.

    `e1` (R,) and `e2` (C,) are the axes; each difference is over its own axis' distance, so maps of different zooms
    compare. UsageError for an axis of fewer than 2 points or another length. O(n).
    """
    check_map(D)
    if (len(e1), len(e2)) != D.shape or min(D.shape) < 2:
        raise UsageError(f"axes of {len(e1)} and {len(e2)} points do not span a map of shape {D.shape} with slopes")
    along, across = np.gradient(D, e1, e2)
    return np.asarray(np.hypot(along, across))


def check_map(values: NDArray[np.generic]) -> None:
    """Refuse what is not a map of at least one cell, or holds nan, in one sentence."""
    if values.ndim != 2 or not values.size:
        raise UsageError(f"a map is (R, C) with at least one cell, not {values.shape}")
    if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
        raise UsageError("a map holds a number that is not finite; no statistic is computed from it")


def _beside(values: NDArray[Cell], axis: int) -> tuple[NDArray[Cell], NDArray[Cell]]:
    lines = np.moveaxis(values, axis, 0)
    return lines[1:], lines[:-1]


def _filled(signs: Floats) -> Floats:
    """Return each line with zeros replaced by the last sign before them; leading zeros stay."""
    last = np.where(signs != 0, np.arange(signs.shape[1]), 0)
    return np.take_along_axis(signs, np.maximum.accumulate(last, axis=1), axis=1)
