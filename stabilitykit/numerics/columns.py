"""The columns of a matrix with many rows, compared with one another: lengths, entropies, distances, outliers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stabilitykit.numerics.components import entropy
from stabilitykit.numerics.rounding import Floats

_ROWS, _COLUMNS = 8192, 32
"""Rows and columns that are held in float64 at a time."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Points on the first principal axes of a table, (n, k), and the share of the variance that each axis has, (k,)."""

    scores: Floats
    shares: Floats


def gram(W: Tensor) -> Floats:
    """Return W'W (d, d) of W (V, d) in float64. O(V d^2), in blocks of rows."""
    total = torch.zeros(W.shape[1], W.shape[1], dtype=torch.float64)
    for block in _blocks(W):
        total += block.T @ block
    return np.asarray(total.numpy())


def _blocks(W: Tensor) -> Iterator[Tensor]:
    for block in torch.split(W, _ROWS):
        yield block.double().cpu()


def entropies(W: Tensor) -> Floats:
    """Return the entropy in nats of the softmax over each column of W (V, d): (d,). O(V d) exponentials."""
    found = [entropy(block.T.double().cpu()) for block in torch.split(W, _COLUMNS, dim=1)]
    return np.asarray(torch.cat(found).numpy())


def distances(products: Floats) -> Floats:
    """Return the Euclidean distances (d, d) between the columns whose inner products (d, d) are given.

    |a - b|^2 = a.a + b.b - 2 a.b, at least 0: near columns lose digits, an absolute error of about 1e-8 |a|.
    """
    squares = np.diag(products)
    return np.asarray(np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * products, 0.0)))


def robust_z(x: Floats) -> Floats:
    """Return |x - median| / (1.4826 MAD), signed: how far each is out, whatever the outliers are; 0 where MAD is 0."""
    middle = np.median(x)
    spread = 1.4826 * np.median(np.abs(x - middle))
    return np.zeros_like(x) if spread == 0 else np.asarray((x - middle) / spread)


def principal(X: Floats, axes: int = 2) -> Scores:
    """Return the rows of X (n, m) on its first principal axes, each column standardised: (x - mean) / sd, sd with n.

    From the m x m products; an axis points where its largest component is positive. A constant column has no part.
    """
    spread = X.std(axis=0)
    Z = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    values, vectors = np.linalg.eigh(Z.T @ Z)
    kept = vectors[:, ::-1][:, :axes]
    largest = np.take_along_axis(kept, np.abs(kept).argmax(axis=0)[None], axis=0)
    return Scores(
        np.asarray(Z @ (kept * np.sign(largest))), np.asarray(values[::-1][:axes] / max(values.sum(), 1e-300))
    )
