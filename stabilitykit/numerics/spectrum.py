"""Singular triplets of a linear map: the largest k from products alone, or all of them from the dense matrix.

Top k: block Krylov iteration with full reorthogonalisation (block Golub-Kahan: Golub, Luk & Overton 1981; what a block
of random starts finds: Musco & Musco 2015). A round is one product of J and one of J', each with a whole block: on a
model a few rows cost hardly more than one. Values as close to each other as to be equal are found each, as many as the
block has rows, where one start vector finds one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.numerics import memory
from stabilitykit.numerics.linear_map import LinearMap

_NOISE = 64 * torch.finfo(torch.float64).eps

_BESIDE = 3
"""Rows of a block beside the k wanted: the k-th value converges by its distance from the one behind the block."""


@dataclass(frozen=True)
class Triplets:
    """Singular triplets J v_i = sigma_i u_i, largest first.

    `sigma` (k,), `u` (k, M), `v` (k, H) float64, signs fixed so that each v's largest component is positive;
    `residual` (k,) = max(|J v - sigma u|, |J'u - sigma v|), in the unit of sigma: some true singular value lies within
    it of each sigma. `products` counts rows through J and J'.
    """

    sigma: Tensor
    u: Tensor
    v: Tensor
    residual: Tensor
    products: int
    converged: bool = True

    @property
    def gap(self) -> float:
        """(sigma_1 - sigma_2) / sigma_1: near 0 the first direction is not a stable notion; nan for one triplet."""
        return float((self.sigma[0] - self.sigma[1]) / self.sigma[0]) if len(self.sigma) > 1 else float("nan")


def top(
    linear_map: LinearMap, k: int, *, tolerance: float = 1e-5, max_products: int | None = None, seed: int = 0
) -> Triplets:
    """Return the k largest triplets, to a residual of `tolerance` * sigma_1 or to the rounding of the products.

    At most `max_products` rows (None: `budget(k)`), including the k of J v that the residuals end with; `converged` is
    False where they did not suffice. UsageError for a k the map or the budget cannot give, InvalidError for a
    non-finite product. Cost: rounds of k + 3 rows each way; memory (M + H) float64 a row of J.
    """
    M, H = linear_map.shape
    if not 1 <= k <= min(M, H):
        raise UsageError(f"k={k} singular values of a {M} x {H} map do not exist; take 1 to {min(M, H)}")
    block, allowed = min(k + _BESIDE, M, H), budget(k) if max_products is None else max_products
    if (rounds := (allowed - k) // (2 * block)) < 1:
        raise UsageError(f"{allowed} products cannot give {k} triplets; allow at least {2 * block + k}")
    begin = linear_map.products
    # The iteration starts on the shorter side: a start with a part that the map kills would outlast every round.
    wide = M < H
    side = linear_map.transposed() if wide else linear_map
    u, sigma, v, back, converged = _iterated(side, k, rounds, tolerance, seed)
    images = _finite(side.apply(v))
    residual = torch.maximum(_lengths(images - sigma[:, None] * u), back)
    u, v = _fix_signs(*((v, u) if wide else (u, v)))
    return Triplets(sigma, u, v, residual, linear_map.products - begin, converged)


def remeasured(linear_map: LinearMap, known: Triplets) -> Triplets:
    """Return known triplets with the residuals that they have on this map; 2 k products, which are those it counts."""
    begin = linear_map.products
    there = _finite(linear_map.apply(known.v)) - known.sigma[:, None] * known.u
    back = _finite(linear_map.apply_adjoint(known.u)) - known.sigma[:, None] * known.v
    residual = torch.maximum(_lengths(there), _lengths(back))
    return replace(known, residual=residual, products=linear_map.products - begin)


def budget(k: int) -> int:
    """Return the products that k triplets may take: nine rounds or more."""
    return 20 * k + 60


def dense(linear_map: LinearMap) -> Triplets:
    """Return all min(M, H) triplets by a float64 SVD of the dense matrix; min(M, H) products, O(M H min(M, H)) flops.

    The residual is that of the decomposition of the assembled matrix. UnsupportedError before any product if
    `dense_bytes` are not free.
    """
    M, H = linear_map.shape
    memory.require(dense_bytes(M, H), f"the singular value decomposition of a dense {M} x {H} map", "ask for the top k")
    begin = linear_map.products
    J = _finite(linear_map.dense())
    u, sigma, vt = torch.linalg.svd(J, full_matrices=False)
    left, right = _fix_signs(u.T, vt)
    residual = torch.maximum(_lengths(right @ J.T - sigma[:, None] * left), _lengths(left @ J - sigma[:, None] * right))
    return Triplets(sigma, left, right, residual, linear_map.products - begin)


def dense_bytes(M: int, H: int) -> int:
    """Return the bytes at the peak of `dense`: J and its copy, both bases with their signs, one residual, workspace."""
    n = min(M, H)
    return 8 * (2 * M * H + 4 * n * (M + H) + 4 * n * n)


def _iterated(
    linear_map: LinearMap, k: int, rounds: int, tolerance: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, bool]:
    """Return the k best u, sigma, v over the space of all rounds, |J'u - sigma v| of each, and whether they converged.

    In exact arithmetic J'u - sigma v is orthogonal to the space. What it has inside is rounding of the products, and
    says how much of it to expect outside, where nothing can be gained below that.
    """
    M, H = linear_map.shape
    block = min(k + _BESIDE, H)
    basis, images = torch.zeros(0, H, dtype=torch.float64), torch.zeros(0, M, dtype=torch.float64)
    fresh = _orthonormal(_start(block, H, (seed,)), basis)
    for turn in range(rounds):
        basis = torch.cat([basis, fresh])
        images = torch.cat([images, _finite(linear_map.apply(fresh))])
        P, sigma, u = torch.linalg.svd(images, full_matrices=False)
        v = P.T[:block] @ basis
        products = _finite(linear_map.apply_adjoint(u[:block]))
        rest = products - sigma[:block, None] * v
        inside = (rest @ basis.T) @ basis
        outside = _lengths(rest - inside)[:k]
        rounding = float(_lengths(inside)[:k].max()) * math.sqrt((H - len(basis)) / len(basis))
        converged = bool((outside <= max(tolerance * float(sigma[0]), rounding)).all())
        if converged or len(basis) == H or turn + 1 == rounds:
            break
        rest = rest + _NOISE * _lengths(products).max() * _start(block, H, (seed, turn))
        fresh = _orthonormal(rest[: H - len(basis)], basis)
    return u[:k], sigma[:k], v[:k], _lengths(rest)[:k], converged


def _orthonormal(rows: Tensor, basis: Tensor) -> Tensor:
    """Return an orthonormal basis of what the basis leaves of the rows.

    Three times, each on rows of unit length: once is not enough in floating point (Giraud & Langou 2003), twice not for
    rows that have lost all but their rounding noise.
    """
    for _ in range(3):
        rows = rows - (rows @ basis.T) @ basis
        rows = torch.linalg.qr((rows / _lengths(rows)[:, None]).T).Q.T
    return rows


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths


def _start(count: int, H: int, seed: tuple[int, ...]) -> Tensor:
    """Return rows of about unit length from integer draws: the same bits on every machine, unlike a seeded normal."""
    draws = np.random.Generator(np.random.PCG64(seed)).integers(-(2**20), 2**20, size=(count, H), endpoint=True)
    return torch.from_numpy(draws * (2.0**-20 / math.sqrt(H)))


def _fix_signs(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Turn each pair so that the largest component of v is positive; the sign of a triplet is arbitrary."""
    largest = v.gather(1, v.abs().argmax(dim=1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).double()
    return u * sign, v * sign


def _finite(product: Tensor) -> Tensor:
    """Refuse NaN and infinity: a decomposition of them returns finite, meaningless numbers."""
    if not bool(torch.isfinite(product).all()):
        raise InvalidError("a Jacobian product is not finite; the spectrum has no meaning at this input")
    return product
