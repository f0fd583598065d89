"""Singular triplets of a linear map: the largest k from products alone, or all of them from the dense matrix.

Top k: Golub-Kahan-Lanczos bidiagonalisation with full reorthogonalisation (Golub & Kahan 1965; Larsen 1998). One step
costs one product with J and one with J'. Every triplet then gets its true residual, from products with it, because the
recurrence's own estimate believes in the exact adjointness that rounding denies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.numerics.linear_map import LinearMap

_NOISE = 64 * torch.finfo(torch.float64).eps


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


def top(linear_map: LinearMap, k: int, *, tolerance: float = 1e-5, max_products: int = 60, seed: int = 0) -> Triplets:
    """Return the k largest triplets, to a relative residual estimate of `tolerance` * sigma_1.

    At most `max_products` products including the 2 k that measure the residuals; `converged` is False where they did
    not suffice. UsageError for a k the map or the budget cannot give, InvalidError for a non-finite product.
    Cost: (products - 2 k) / 2 steps; memory (M + H) float64 a step.
    """
    M, H = linear_map.shape
    if not 1 <= k <= min(M, H):
        raise UsageError(f"k={k} singular values of a {M} x {H} map do not exist; take 1 to {min(M, H)}")
    if (steps := (max_products - 2 * k) // 2) < k:
        raise UsageError(f"{max_products} products cannot give {k} triplets; allow at least {4 * k}")
    begin = linear_map.products
    # The iteration starts on the shorter side: a start with a part that the map kills would outlast every step.
    wide = M < H
    side = linear_map.transposed() if wide else linear_map
    left, right, coefficients, converged = _bidiagonalise(side, k, min(steps, M, H), tolerance, seed)
    P, sigma, Qt = torch.linalg.svd(coefficients)
    u, v = (P.T[:k] @ left), (Qt[:k] @ right)
    u, v = _fix_signs(*((v, u) if wide else (u, v)))
    return _with_residuals(linear_map, sigma[:k], u, v, begin, converged)


def dense(linear_map: LinearMap, batch: int = 64) -> Triplets:
    """Return all min(M, H) triplets by a float64 SVD of the dense matrix; M products, O(M H min(M, H)) flops.

    The residual is that of the decomposition of the assembled matrix.
    """
    begin = linear_map.products
    J = _finite(linear_map.dense(batch))
    u, sigma, vt = torch.linalg.svd(J, full_matrices=False)
    left, right = _fix_signs(u.T, vt)
    residual = torch.maximum(
        torch.linalg.vector_norm(right @ J.T - sigma[:, None] * left, dim=1),
        torch.linalg.vector_norm(left @ J - sigma[:, None] * right, dim=1),
    )
    return Triplets(sigma, left, right, residual, linear_map.products - begin)


def _bidiagonalise(
    linear_map: LinearMap, k: int, steps: int, tolerance: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Return bases (n, M) and (n, H), the n x n upper bidiagonal B of J between them, and whether it converged."""
    M, H = linear_map.shape
    left, right = torch.zeros(steps, M, dtype=torch.float64), torch.zeros(steps, H, dtype=torch.float64)
    B = torch.zeros(steps, steps, dtype=torch.float64)
    v = _start(H, seed)
    for n in range(steps):
        right[n] = v
        left[n], B[n, n] = _direction(_finite(linear_map.apply(v)), left[:n], (seed, n, 0))
        v, beta = _direction(_finite(linear_map.apply_adjoint(left[n])), right[: n + 1], (seed, n, 1))
        P, sigma, _ = torch.linalg.svd(B[: n + 1, : n + 1])
        done = n + 1 >= k and bool((beta * P[n, :k].abs() <= tolerance * sigma[0]).all())
        if done or n + 1 == steps:
            return left[: n + 1], right[: n + 1], B[: n + 1, : n + 1], done
        B[n, n + 1] = beta
    raise AssertionError("unreachable: steps >= k >= 1")


def _direction(product: Tensor, basis: Tensor, seed: tuple[int, ...]) -> tuple[Tensor, float]:
    """Return the unit vector and the length of what the basis leaves of a product.

    Where it leaves rounding noise only, the Krylov space is complete: any orthogonal direction continues it, at length
    0. The noise itself would not do, since it is not orthogonal.
    """
    vector = _orthogonal(product, basis)
    length = torch.linalg.vector_norm(vector)
    if length > _NOISE * torch.linalg.vector_norm(product):
        return vector / length, float(length)
    if len(basis) == len(product):
        return torch.zeros_like(product), 0.0
    fresh = _orthogonal(_start(len(product), seed), basis)
    return fresh / torch.linalg.vector_norm(fresh), 0.0


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    """Remove the basis rows from a vector, twice: once is not enough in floating point (Giraud & Langou 2003)."""
    for _ in range(2):
        vector = vector - (basis @ vector) @ basis
    return vector


def _start(H: int, seed: int | tuple[int, ...]) -> Tensor:
    """Return a unit start vector from integer draws: the same bits on every machine, unlike a seeded normal."""
    draws = np.random.Generator(np.random.PCG64(seed)).integers(-(2**20), 2**20, size=H, endpoint=True)
    vector: Tensor = torch.from_numpy(draws.astype(np.float64))
    norm: Tensor = torch.linalg.vector_norm(vector)
    return vector / norm


def _fix_signs(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Turn each pair so that the largest component of v is positive; the sign of a triplet is arbitrary."""
    largest = v.gather(1, v.abs().argmax(dim=1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).double()
    return u * sign, v * sign


def _with_residuals(
    linear_map: LinearMap, sigma: Tensor, u: Tensor, v: Tensor, begin: int, converged: bool
) -> Triplets:
    residual = torch.maximum(
        torch.linalg.vector_norm(_finite(linear_map.apply(v)) - sigma[:, None] * u, dim=1),
        torch.linalg.vector_norm(_finite(linear_map.apply_adjoint(u)) - sigma[:, None] * v, dim=1),
    )
    return Triplets(sigma, u, v, residual, linear_map.products - begin, converged)


def _finite(product: Tensor) -> Tensor:
    """Refuse NaN and infinity: a decomposition of them returns finite, meaningless numbers."""
    if not bool(torch.isfinite(product).all()):
        raise InvalidError("a Jacobian product is not finite; the spectrum has no meaning at this input")
    return product
