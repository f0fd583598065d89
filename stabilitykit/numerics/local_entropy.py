"""How mixed are the two classes near each cell? Entropy of small windows, against its exact mean for random cells."""

from __future__ import annotations

import math

import numpy as np

from stabilitykit.errors import UsageError
from stabilitykit.numerics.grid import Mask, check_map, share
from stabilitykit.numerics.rounding import Floats

WINDOW = 5
"""Cells on a side of a window."""


def local_entropy(B: Mask, window: int = WINDOW) -> Floats:
    """Return -q log2 q - (1 - q) log2 (1 - q), in bits, of each whole window, q its share of the first class.

    Shape (R - window + 1, C - window + 1), empty for a smaller map. Windows are counted in integers, so that one of a
    single class has exactly 0. UsageError for an even window. O(n window^2).
    """
    check_map(B)
    if window < 1 or window % 2 == 0:
        raise UsageError(f"window={window!r} has no middle; give an odd number of cells")
    if min(B.shape) < window:
        return np.empty((max(0, B.shape[0] - window + 1), max(0, B.shape[1] - window + 1)))
    inside = np.lib.stride_tricks.sliding_window_view(B, (window, window))
    return np.asarray(_entropies(window)[inside.sum(axis=(2, 3))])


def expected_entropy(p: float, window: int = WINDOW) -> float:
    """Return the exact mean entropy of a window whose cells are of the first class with probability p, each by itself.

    sum_k Binomial(window^2, p)(k) h(k / window^2): 0.971 bits for a fair 5 x 5, not 1. O(window^2).
    """
    from scipy.stats import binom

    cells = window * window
    return float(binom.pmf(np.arange(cells + 1), cells, p) @ _entropies(window))


def entropy_ratio(B: Mask, window: int = WINDOW) -> float:
    """Return the mean local entropy over what independent cells of the same share have: 1 is chance, 0 one block.

    nan for a flat map and for one smaller than a window.
    """
    found, expected = local_entropy(B, window), expected_entropy(share(B), window)
    flat = bool(B.all()) or not bool(B.any())
    return float(found.mean()) / expected if found.size and not flat else math.nan


def _entropies(window: int) -> Floats:
    """Return the entropy of a window by its count of the first class, exactly 0 at both ends."""
    cells = window * window
    q = np.arange(1, cells) / cells
    return np.concatenate([[0.0], -q * np.log2(q) - (1 - q) * np.log2(1 - q), [0.0]])
