"""Whether an order is more than chance: a rank correlation with its permutation test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from stabilitykit.numerics.correlation import spearman

_SLACK = 1e-9


def trend(values: Sequence[float], draws: int = 9999, seed: int = 0, together: int = 1) -> tuple[float, float]:
    """Return Spearman's correlation of values (n,) with their position, and its two-sided permutation p.

    p = (1 + shuffles at least as far from 0) / (1 + draws), which is never 0. nan and nan for fewer than three values,
    for a nan among them, and for values that are all equal. Draws from PCG64. O(n draws).

    `together` neighbours belong together, as heads that share keys do: they are shuffled among themselves and moved as
    one. Values that are alike for that reason would otherwise seem to be in order.
    """
    y = np.asarray(values, dtype=np.float64)
    return association(np.arange(len(y), dtype=np.float64), y, draws, seed, together)


def association(x: ArrayLike, y: ArrayLike, draws: int = 9999, seed: int = 0, together: int = 1) -> tuple[float, float]:
    """Return Spearman's correlation of two samples (n,) and its two-sided permutation p, as `trend` does of one."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if np.isnan(x).any() or np.isnan(y).any() or np.isnan(found := spearman(x, y)):
        return np.nan, np.nan
    places, ranks = _standard(x), _standard(y)
    random = np.random.Generator(np.random.PCG64(seed))
    inside = random.permuted(
        np.broadcast_to(ranks.reshape(-1, together), (draws, len(y) // together, together)), axis=2
    )
    groups = random.permuted(np.broadcast_to(np.arange(inside.shape[1]), inside.shape[:2]), axis=1)
    shuffled = np.take_along_axis(inside, groups[:, :, None], axis=1).reshape(draws, -1) @ places
    return found, float(1 + np.count_nonzero(np.abs(shuffled) >= abs(found) - _SLACK)) / (1 + draws)


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks, centred and of length 1."""
    ranks = rankdata(values)
    centred: NDArray[np.float64] = (ranks - ranks.mean()) / np.linalg.norm(ranks - ranks.mean())
    return centred
