"""Single cells made visible on a large map: each of one class drawn wider. A picture, from which nothing is counted."""

from __future__ import annotations

import numpy as np

from stabilitykit.errors import UsageError
from stabilitykit.numerics.grid import EIGHT, Mask, check_map


def enlarged(B: Mask, times: int = 1, *, first: bool = True) -> Mask:
    """Return the map with every cell of one class grown by a 3 x 3 square, `times` times; the other class yields.

    `first`: the class that is True grows, else the other. Cells on the edge grow too. UsageError for times < 1. O(n).
    """
    from scipy.ndimage import binary_dilation

    check_map(B)
    if not isinstance(times, int) or times < 1:  # scipy takes 0 for "until nothing changes"
        raise UsageError(f"times={times!r} enlarges nothing; give at least 1")
    grown = binary_dilation(B if first else ~B, structure=EIGHT, iterations=times)
    return np.asarray(grown if first else ~grown)
