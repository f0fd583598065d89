"""Distances between all pairs of a few thousand vectors, none with itself, from differences that do not cancel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stabilitykit.numerics.rounding import Floats


@dataclass(frozen=True, eq=False)
class Pairs:
    """The n(n-1)/2 distances of n vectors, pair (i, j) with i < j in the order (0,1), (0,2), .. (1,2), ..

    `cosine` is 1 - cos, nan with a vector of length 0.
    """

    cosine: Floats
    euclidean: Floats


def pairs(X: Floats) -> Pairs:
    """Return the distances of the rows of X (n, H), in float64.

    |a - b| is summed from the differences themselves, and 1 - cos is |u - v|^2 / 2 of the unit vectors: neither loses
    digits where two vectors are near, as |a|^2 + |b|^2 - 2 a.b and 1 - a.b would. O(n^2 H).
    """
    from scipy.spatial.distance import pdist

    if len(X) < 2:
        return Pairs(np.zeros(0), np.zeros(0))
    return Pairs(np.asarray(pdist(unit(X)) ** 2 / 2), np.asarray(pdist(np.asarray(X, dtype=np.float64))))


def unit(X: Floats) -> Floats:
    """Return the rows of X (n, H) over their lengths, in float64; a row of length 0 becomes nan."""
    X = np.asarray(X, dtype=np.float64)
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    return np.asarray(X / np.where(lengths > 0, lengths, np.nan))


def square(condensed: Floats, count: int) -> Floats:
    """Return the distances of n vectors as a symmetric matrix (n, n) with zeros on its diagonal."""
    from scipy.spatial.distance import squareform

    return np.asarray(squareform(condensed, checks=False)) if count > 1 else np.zeros((count, count))


def spread(values: Floats) -> dict[str, float]:
    """Return count, mean, sd, least, median and most of the finite values; sd, in a second pass, is the population's.

    nan for all but the count where there is no finite value.
    """
    kept = values[np.isfinite(values)]
    names = ("mean", "sd", "least", "median", "most")
    if not kept.size:
        return {"count": 0, **dict.fromkeys(names, np.nan)}
    found = (kept.mean(), kept.std(), kept.min(), np.median(kept), kept.max())
    return {"count": int(kept.size), **{name: float(one) for name, one in zip(names, found, strict=True)}}
