"""The rows of a large matrix that point most nearly where a vector points: exact, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.numerics.pairwise import unit
from stabilitykit.numerics.rounding import Floats

_ROWS = 8192
"""Rows that are held in float64 at a time."""
_SPARE = 8
"""Rows beyond those asked for whose order is decided by their exact cosines."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """Of n vectors the k rows nearest by cosine: `ids` (n, k), the nearest first, equal ones by id, and `cosines`."""

    ids: NDArray[np.int64]
    cosines: Floats


def nearest(W: Tensor, X: Floats, count: int) -> Nearest:
    """Return the nearest rows of W (V, H), of any dtype, to the rows of X (n, H); all V where there are fewer.

    Products in float64 throughout. A product of matrices may round equal rows differently, so the nearest `count` and
    some spare ones are multiplied again, row by row, before they are put in order. Rows and vectors of length 0 have no
    direction: such a row comes last. O(n V H), memory that of 8192 rows.
    """
    count = min(count, len(W))
    U = unit(X)
    kept = min(count + _SPARE, len(W))
    ids, cosines = np.zeros((len(X), 0), dtype=np.int64), np.zeros((len(X), 0))
    for start in range(0, len(W), _ROWS):
        block = unit(W[start : start + _ROWS].double().cpu().numpy())
        found = np.nan_to_num(U @ block.T, nan=-np.inf)
        numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        ids, cosines = _best(np.concatenate([ids, numbers], 1), np.concatenate([cosines, found], 1), kept)
    again = np.stack([row_cosines(W, own.tolist(), x) for own, x in zip(ids, X, strict=True)])
    order = np.lexsort((ids, -np.nan_to_num(again, nan=-np.inf)))[:, :count]
    return Nearest(np.take_along_axis(ids, order, 1), np.take_along_axis(again, order, 1))


def row_cosines(W: Tensor, ids: Sequence[int], x: Floats) -> Floats:
    """Return the cosines of some rows of W with a vector x (H,): (k,), each row multiplied by itself; nan without."""
    rows = W[list(ids)].double().cpu().numpy()
    return np.asarray((unit(rows) * unit(x[None])).sum(axis=1))


def _best(ids: NDArray[np.int64], cosines: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(cosines, order, 1)
