"""The rows of a large matrix that point most nearly where a vector points: exact, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.numerics.pairwise import unit
from stabilitykit.numerics.rounding import Floats

_ROWS = 8192
"""Rows that are held in float64 at a time."""
_CLOSE = 1e-12
"""Cosines that differ by less may come in another order: those of products in float64 are within 1e-15 or so."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """Of n vectors the k rows nearest by cosine: `ids` (n, k), the nearest first, equal ones by id, and `cosines`."""

    ids: NDArray[np.int64]
    cosines: Floats


def nearest(W: Tensor, X: Floats, count: int) -> Nearest:
    """Return the nearest rows of W (V, H), of any dtype, to the rows of X (n, H); all V where there are fewer.

    Products in float64 throughout. A product of matrices may round equal rows differently, so every row that is as near
    as the last one asked for, or only just further, is multiplied again by itself before they are put in order. Rows
    of length 0 have no direction and come last. O(n V H), memory that of n V numbers.
    """
    count = min(count, len(W))
    U = unit(X)
    blocks = [U @ unit(block.double().cpu().numpy()).T for block in torch.split(W, _ROWS)]
    cosines = np.nan_to_num(np.concatenate(blocks, axis=1), nan=-np.inf)
    last = np.partition(cosines, len(W) - count, axis=1)[:, len(W) - count]
    found = [
        _ordered(W, np.flatnonzero(own >= least - _CLOSE), x, count)
        for own, least, x in zip(cosines, last, X, strict=True)
    ]
    return Nearest(np.stack([ids for ids, _ in found]), np.stack([again for _, again in found]))


def _ordered(W: Tensor, ids: NDArray[np.int64], x: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the nearest of some rows, each multiplied by itself; they come in the order of their ids."""
    again = row_cosines(W, ids.tolist(), x)
    order = np.argsort(-np.nan_to_num(again, nan=-np.inf), kind="stable")[:count]
    return ids[order], again[order]


def row_cosines(W: Tensor, ids: Sequence[int], x: Floats) -> Floats:
    """Return the cosines of some rows of W with a vector x (H,): (k,), each row multiplied by itself; nan without."""
    rows = W[list(ids)].double().cpu().numpy()
    return np.asarray((unit(rows) * unit(x[None])).sum(axis=1))
