"""What the iteration for the largest triplets starts from, how long it goes on, what it keeps orthogonal, and holds."""

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


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**60])
def test_a_map_in_another_unit_takes_as_many_products(scale: float) -> None:
    J = normal(60, 50, seed=4)
    plain, scaled = (top(LinearMap.of_matrix(A), 2, max_products=300) for A in (J, J * scale))
    assert plain.converged
    assert scaled.converged
    assert scaled.products == plain.products
    torch.testing.assert_close(scaled.sigma / scale, plain.sigma, rtol=1e-12, atol=0)
    torch.testing.assert_close(scaled.residual / scale, plain.residual, rtol=1e-6, atol=0)


@pytest.mark.parametrize("H", [8, 30])
def test_directions_that_a_map_kills_to_the_last_bit_are_replaced(H: int) -> None:
    """Of a map with one element all products but one are exactly 0, which has no direction to go on in."""
    J = torch.zeros(H, H, dtype=torch.float64)
    J[2, 1] = 3.0
    found = top(LinearMap.of_matrix(J), 1)
    assert found.converged
    assert found.sigma.tolist() == pytest.approx([3.0])
    torch.testing.assert_close(found.v[0].abs(), torch.eye(H, dtype=torch.float64)[1], rtol=0, atol=1e-12)


def test_memory_grows_with_the_rows_and_not_with_the_square_of_a_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a decomposition returns is no larger than the rows so far, as many as were multiplied, and their images."""
    held, svd = [], torch.linalg.svd

    def watched(A: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        found = svd(A, full_matrices=full_matrices)
        held.append(max(part.numel() for part in found))
        return found

    monkeypatch.setattr(torch.linalg, "svd", watched)
    M, H = 300, 100
    found = top(LinearMap.of_matrix(normal(M, H)), 1, max_products=25)
    assert held
    assert max(held) <= found.products * M / 2


def test_two_values_have_a_gap_and_one_has_none() -> None:
    two = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 4.0]], dtype=torch.float64)
    assert math.isclose(dense(LinearMap.of_matrix(two)).gap, 0.25)
    assert math.isnan(dense(LinearMap.of_matrix(two[:1])).gap)


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
