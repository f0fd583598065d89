"""Where do two classes mix, if a linear prediction is to tell them apart? The band of predictions that hold both."""

from __future__ import annotations

import math
from typing import NamedTuple

from stabilitykit.errors import UsageError
from stabilitykit.numerics.grid import Mask
from stabilitykit.numerics.rounding import Floats

_EDGE = 0.1


class Band(NamedTuple):
    """From the lowest prediction L of the first class to the highest of the second; nan for a flat map.

    `width` = max(0, high - low) is 0 where some threshold on L separates the classes. `share` of the cells lie in it.
    `open`: less than a tenth of the map's range lies beyond one of its ends, so a larger map may hold a wider band. The
    ends are those of the outermost cells: the width grows slowly with the number of cells.
    """

    low: float
    high: float
    width: float
    share: float
    open: bool


def mixed_band(L: Floats, B: Mask) -> Band:
    """Return the band of predictions in which both classes occur. O(n)."""
    if L.shape != B.shape:
        raise UsageError(f"predictions of shape {L.shape} do not belong to a map of shape {B.shape}")
    if bool(B.all()) or not bool(B.any()):
        return Band(math.nan, math.nan, math.nan, math.nan, False)
    low, high = float(L[B].min()), float(L[~B].max())
    if high <= low:
        return Band(low, high, 0.0, 0.0, False)
    inside = (low <= L) & (high >= L)
    least, most = float(L.min()), float(L.max())
    beyond = min(low - least, most - high)
    return Band(low, high, high - low, float(inside.mean()), beyond < _EDGE * (most - least))


class Fit(NamedTuple):
    """How well a prediction L fits a map D: `agreement` of the classes D >= 0 and L >= 0, R^2, and the deviations.

    `r2` = 1 - sum (D - L)^2 / sum (D - mean D)^2, of the prediction as it is, not of a fit: it may be below 0; nan for
    a constant D.
    """

    agreement: float
    r2: float
    rms: float
    largest: float


def fit(D: Floats, L: Floats) -> Fit:
    """Return how well L predicts D. O(n)."""
    off = D - L
    spread = float(((D - D.mean()) ** 2).sum())
    r2 = 1 - float((off**2).sum()) / spread if spread else math.nan
    return Fit(float(((D >= 0) == (L >= 0)).mean()), r2, math.sqrt(float((off**2).mean())), float(abs(off).max()))
