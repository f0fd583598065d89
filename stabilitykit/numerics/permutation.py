"""Whether an order is more than chance: a rank correlation with its permutation test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from stabilitykit.numerics.correlation import spearman

_SLACK = 1e-9


def trend(values: Sequence[float], draws: int = 9999, seed: int = 0) -> tuple[float, float]:
    """Return Spearman's correlation of values (n,) with their position, and its two-sided permutation p.

    p = (1 + shuffles at least as far from 0) / (1 + draws), which is never 0. nan and nan for fewer than three values,
    for a nan among them, and for values that are all equal. Draws from PCG64. O(n draws).
    """
    y = np.asarray(values, dtype=np.float64)
    if np.isnan(y).any() or np.isnan(found := spearman(np.arange(len(y)), y)):
        return np.nan, np.nan
    ranks = rankdata(y)
    ranks = (ranks - ranks.mean()) / np.linalg.norm(ranks - ranks.mean())
    places = np.arange(len(y), dtype=np.float64)
    places = (places - places.mean()) / np.linalg.norm(places - places.mean())
    random = np.random.Generator(np.random.PCG64(seed))
    shuffled = random.permuted(np.broadcast_to(ranks, (draws, len(y))), axis=1) @ places
    return found, float(1 + np.count_nonzero(np.abs(shuffled) >= abs(found) - _SLACK)) / (1 + draws)
