"""What the iteration for the largest triplets starts from, how long it goes on and what it keeps orthogonal."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.numerics.spectrum import _orthonormal, dense, remeasured, top


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).normal(size=shape))


def test_without_a_budget_of_ones_own_one_triplet_takes_nine_rounds_at_most() -> None:
    """Of four rows each way, and the one product that the residual ends with."""
    found = top(LinearMap.of_matrix(normal(200, 200)), 1, tolerance=0.0)
    assert not found.converged
    assert found.products == 9 * 2 * 4 + 1


def test_the_start_prefers_no_sign() -> None:
    """The cosine with the diagonal is some 0.03; that of a row whose draws are all of one sign is 0.87."""
    H, asked, scale = 1000, [], normal(1000)

    def forward(V: Tensor) -> Tensor:
        asked.append(V)
        return V * scale

    top(LinearMap(forward, lambda U: U * scale, (H, H)), 1)
    assert (asked[0].sum(dim=1).abs() / math.sqrt(H) < 0.2).all()


def test_known_triplets_count_only_their_own_products() -> None:
    linear_map = LinearMap.of_matrix(normal(30, 30))
    known = top(linear_map, 2, max_products=40)
    assert linear_map.products == known.products > 0
    assert remeasured(linear_map, known).products == 4


def test_rows_that_the_basis_leaves_only_their_rounding_of_become_orthogonal_to_it() -> None:
    """Some of thirty draws still have 1e-13 of the basis in them after they were made orthogonal twice."""
    worst = 0.0
    for seed in range(30):
        basis = torch.linalg.qr(normal(30, 26, seed=seed)).Q.T
        rows = normal(4, 26, seed=seed + 1000) @ basis
        found = _orthonormal(rows, basis)
        torch.testing.assert_close(found @ found.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-14)
        worst = max(worst, float((found @ basis.T).abs().max()))
    assert worst < 1e-14


def test_all_triplets_count_only_their_own_products() -> None:
    linear_map = LinearMap.of_matrix(normal(7, 5))
    top(linear_map, 1, max_products=9)
    before = linear_map.products
    assert before > 0
    assert dense(linear_map).products == linear_map.products - before == 5


@pytest.mark.parametrize("ratio", [0.8, 0.95])
def test_products_with_noise_are_used_until_no_residual_is_above_that_noise(ratio: float) -> None:
    """A product is off by eps / sqrt(12) of itself; a residual compares two of them, and has 0.41 eps sigma_1 of it."""
    eps, H, noise = 2.0**-23, 200, np.random.default_rng(0)
    U, V = torch.linalg.qr(normal(H, H)).Q, torch.linalg.qr(normal(H, H, seed=1)).Q
    J = (U * 30 * ratio ** torch.arange(H)) @ V.T

    def rounded(rows: Tensor, matrix: Tensor) -> Tensor:
        exact = rows @ matrix
        return exact * (1 + eps * torch.from_numpy(noise.uniform(-0.5, 0.5, exact.shape)))

    noisy = LinearMap(lambda V: rounded(V, J.T), lambda U: rounded(U, J), (H, H))
    found = top(noisy, 3, tolerance=0.0, max_products=200)
    assert found.converged
    assert (found.residual <= eps / 2 * found.sigma[0]).all()
