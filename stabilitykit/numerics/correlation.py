"""Rank correlation, with a third quantity held fixed where it may explain the two, and how sure a sample makes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stabilitykit.errors import UsageError


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation of two samples (n,), equal values sharing their mean rank.

    nan for fewer than three pairs and where one of them has a single value. O(n log n).
    """
    return _correlation(*_ranks(x, y))


def partial_spearman(x: ArrayLike, y: ArrayLike, given: ArrayLike) -> float:
    """Return the correlation of the ranks of x and y that is left once the ranks of `given` are held fixed.

    (r_xy - r_xg r_yg) / sqrt((1 - r_xg^2) (1 - r_yg^2)): that of the residuals of both on `given`. nan for fewer than
    four samples, and where `given` alone fixes the order of one of them. O(n log n).
    """
    a, b, g = _ranks(x, y, given)
    if len(a) < 4:
        return math.nan
    ab, ag, bg = _correlation(a, b), _correlation(a, g), _correlation(b, g)
    left = (1 - ag**2) * (1 - bg**2)
    return (ab - ag * bg) / math.sqrt(left) if left > _ROUNDING else math.nan


def rank_interval(correlation: float, samples: int, *, fixed: int = 0, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval of a Spearman correlation of independent samples, `fixed` quantities held.

    Fisher's z with the variance (1 + r^2 / 2) / (n - fixed - 3) (Bonett & Wright 2000); (-1, 1) where n is too small.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie strictly between 0 and 1, not {confidence!r}")
    freedom = samples - fixed - 3
    if freedom < 1 or math.isnan(correlation):
        return -1.0, 1.0
    z = math.atanh(max(min(correlation, _NEARLY_ONE), -_NEARLY_ONE))
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((1 + correlation**2 / 2) / freedom)
    return math.tanh(z - half), math.tanh(z + half)


_ROUNDING = 1e-12
_NEARLY_ONE = 1 - 1e-15


def _ranks(*samples: ArrayLike) -> Sequence[NDArray[np.float64]]:
    from scipy.stats import rankdata

    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        raise UsageError(f"samples have shapes {[array.shape for array in arrays]}; give equally long vectors")
    if any(bool(np.isnan(array).any()) for array in arrays):
        raise UsageError("a sample holds nan, which has no rank; leave those pairs out")
    return [np.asarray(rankdata(array), dtype=np.float64) for array in arrays]


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if len(a) < 3:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else math.nan
