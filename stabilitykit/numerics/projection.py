"""Vectors on the plane in which they differ most: the same picture each time."""

from __future__ import annotations

import numpy as np

from stabilitykit.numerics.columns import Scores
from stabilitykit.numerics.rounding import Floats


def plane_of(X: Floats, axes: int = 2) -> Scores:
    """Return the rows of X (n, H) on their first principal axes, (n, axes), in the unit of X, and each axis' share.

    From the SVD of X less its mean, in float64. An axis points where its largest component is positive, so that the
    result is unique as long as singular values are apart; axes beyond the rank are 0. Distances in the picture are at
    most those between the vectors. O(n^2 H) for n < H.
    """
    centred = np.asarray(X, dtype=np.float64) - np.mean(X, axis=0, dtype=np.float64)
    U, s, Vt = np.linalg.svd(centred, full_matrices=False)
    largest = np.take_along_axis(Vt, np.abs(Vt).argmax(axis=1)[:, None], axis=1)[:, 0]
    scores = U * s * np.where(largest < 0, -1.0, 1.0)
    scores[:, s <= len(s) * np.finfo(np.float64).eps * s.max(initial=0.0)] = 0.0
    missing = max(axes - scores.shape[1], 0)
    shares = np.concatenate([s**2 / max(float((s**2).sum()), 1e-300), np.zeros(missing)])
    return Scores(np.pad(scores, ((0, 0), (0, missing)))[:, :axes], shares[:axes])
