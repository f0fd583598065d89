"""Singular triplets from products, against dense decompositions and scipy's own iterations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.numerics.spectrum import Triplets, dense, dense_bytes, remeasured, top

EPS = float(np.finfo(np.float64).eps)


def of_spectrum(values: list[float], M: int, H: int, seed: int = 0) -> Tensor:
    """A dense M x H matrix with these singular values and random singular vectors."""
    random = np.random.default_rng(seed)
    left = np.linalg.qr(random.normal(size=(M, len(values))))[0]
    right = np.linalg.qr(random.normal(size=(H, len(values))))[0]
    return torch.from_numpy(left * np.array(values) @ right.T)


def random_matrix(M: int, H: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(M, H)))


CASES = {
    "square": random_matrix(30, 30),
    "tall": random_matrix(60, 20),
    "wide": random_matrix(20, 60),
    "one row": random_matrix(1, 9),
    "one column": random_matrix(9, 1),
    "ill conditioned": of_spectrum([10.0**-n for n in range(14)], 25, 20),
    "nearly flat": of_spectrum([1 + 0.01 * n for n in range(12)], 20, 15),
    "rank 1": of_spectrum([3.0], 12, 9),
    "rank 2": of_spectrum([3.0, 1.0], 12, 9),
    "huge": 1e100 * random_matrix(8, 9),
    "tiny": 1e-100 * random_matrix(8, 9),
}
EXACT = {"identity": torch.eye(7), "rank 1 of integers": torch.outer(torch.arange(1.0, 8), torch.arange(1.0, 7))}


def true_residual(J: Tensor, found: Triplets) -> Tensor:
    J = J.double()
    forward = (found.v @ J.T - found.sigma[:, None] * found.u).norm(dim=1)
    return torch.maximum(forward, (found.u @ J - found.sigma[:, None] * found.v).norm(dim=1))


def check_vectors(J: Tensor, found: Triplets) -> None:
    """Unit, orthogonal, ordered, with the sign convention and a residual that is the true one."""
    one = torch.eye(len(found.sigma), dtype=torch.float64)
    torch.testing.assert_close(found.u @ found.u.T, one, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.v @ found.v.T, one, rtol=0, atol=1e-12)
    assert found.sigma.tolist() == sorted(found.sigma.tolist(), reverse=True)
    assert (found.v.gather(1, found.v.abs().argmax(dim=1, keepdim=True)) > 0).all()
    scale = float(torch.linalg.matrix_norm(J.double(), 2)) * 100 * EPS
    torch.testing.assert_close(found.residual, true_residual(J, found), rtol=1e-6, atol=scale)


@pytest.mark.parametrize(
    ("name", "k"), [(name, k) for name, J in CASES.items() for k in (1, 2, 3) if k <= min(J.shape)]
)
def test_top_agrees_with_a_dense_decomposition(name: str, k: int) -> None:
    J = CASES[name]
    found = top(LinearMap.of_matrix(J), k, tolerance=1e-12, max_products=200)
    true = np.linalg.svd(J.numpy(), compute_uv=False)
    assert found.converged
    np.testing.assert_allclose(found.sigma.numpy(), true[:k], rtol=1e-10, atol=1e-12 * true[0])
    assert (found.residual <= 1e-11 * true[0]).all()
    check_vectors(J, found)


@pytest.mark.parametrize("name", [*CASES, *EXACT])
def test_dense_agrees_with_numpy(name: str) -> None:
    J = {**CASES, **EXACT}[name]
    linear_map = LinearMap.of_matrix(J)
    found = dense(linear_map)
    true = np.linalg.svd(J.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(found.sigma.numpy(), true, rtol=1e-12, atol=1e-14 * true[0])
    assert found.products == linear_map.products == min(J.shape)
    assert found.converged
    check_vectors(J, found)


@pytest.mark.parametrize("solver", ["arpack", "propack"])
@pytest.mark.parametrize("name", ["square", "tall", "wide", "nearly flat"])
def test_scipy_finds_the_same_triplets(name: str, solver: str) -> None:
    J = CASES[name].numpy()
    u, sigma, vt = scipy.sparse.linalg.svds(J, k=3, solver=solver, rng=np.random.default_rng(1))
    order = np.argsort(sigma)[::-1]
    found = top(LinearMap.of_matrix(CASES[name]), 3, tolerance=1e-12, max_products=200)
    np.testing.assert_allclose(found.sigma.numpy(), sigma[order], rtol=1e-10)
    for mine, theirs in ((found.v, vt[order]), (found.u, u.T[order])):
        np.testing.assert_allclose(np.abs(np.sum(mine.numpy() * theirs, axis=1)), 1, rtol=1e-9)


def test_each_pair_turns_together() -> None:
    J = CASES["square"]
    for found in (top(LinearMap.of_matrix(J), 3, tolerance=1e-12, max_products=200), dense(LinearMap.of_matrix(J))):
        assert ((found.u[:3] * (found.v[:3] @ J.T)).sum(dim=1) > 0).all()
        signs = found.v.gather(1, found.v.abs().argmax(dim=1, keepdim=True))
        assert (signs > 0).all()
    # Whatever the signs of the matrix, the directions are the same; the outputs turn.
    plain, turned = (top(LinearMap.of_matrix(sign * J), 2, tolerance=1e-12, max_products=200) for sign in (1, -1))
    torch.testing.assert_close(plain.v, turned.v, rtol=0, atol=1e-9)
    torch.testing.assert_close(plain.u, -turned.u, rtol=0, atol=1e-9)


# ---- what products run out on ----


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("shape", [(5, 4), (4, 5), (3, 3)])
def test_a_map_that_kills_everything_has_zeros_with_orthonormal_vectors(k: int, shape: tuple[int, int]) -> None:
    J = torch.zeros(shape)
    found = top(LinearMap.of_matrix(J), k)
    assert found.sigma.tolist() == [0.0] * k
    assert found.residual.tolist() == [0.0] * k
    assert found.converged
    check_vectors(J, found)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_krylov_space_that_ends_early_is_continued(name: str, k: int) -> None:
    J = EXACT[name].double()
    found = top(LinearMap.of_matrix(J), k)
    true = torch.linalg.svdvals(J)
    torch.testing.assert_close(found.sigma, true[:k], rtol=1e-12, atol=1e-12 * float(true[0]))
    check_vectors(J, found)


@pytest.mark.parametrize("zeros", [1, 3])
def test_an_exactly_invariant_start_is_continued(zeros: int) -> None:
    # An axis-aligned map whose products are exact: the recurrence ends with an exact zero.
    J = torch.diag(torch.tensor([2.0] * 6 + [0.0] * zeros, dtype=torch.float64))
    found = top(LinearMap.of_matrix(J), 5)
    assert found.sigma.tolist() == pytest.approx([2.0] * 5, rel=1e-12)
    check_vectors(J, found)


@pytest.mark.parametrize("apart", [0.0, 1e-13, 1e-9])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40)])
def test_values_that_are_equal_or_nearly_are_found_each(shape: tuple[int, int], apart: float) -> None:
    # From one start vector a Krylov space holds one direction of each pair; it says 5, 3, 2 and is sure of it.
    planted = [5.0, 5.0 * (1 - apart), 3.0, 3.0 * (1 - apart), *np.linspace(2, 0.1, 20)]
    J = of_spectrum(planted, *shape)
    found = top(LinearMap.of_matrix(J), 4, tolerance=1e-9)
    assert found.sigma.tolist() == pytest.approx(planted[:4], rel=1e-9)
    assert found.converged
    check_vectors(J, found)
    plane = np.linalg.svd(J.numpy())[2][:2]
    np.testing.assert_allclose(np.linalg.norm(found.v[:2].numpy() @ plane.T, axis=1), 1, rtol=1e-9)


def test_a_value_that_occurs_as_often_as_the_block_has_rows_is_found_as_often() -> None:
    J = of_spectrum([5.0] * 5 + [1.0, 0.5, 0.2], 14, 11)
    found = top(LinearMap.of_matrix(J), 2, tolerance=1e-10)
    assert found.sigma.tolist() == pytest.approx([5.0, 5.0], rel=1e-12)
    check_vectors(J, found)


@pytest.mark.parametrize(("eps", "k"), [(2.0**-8, 3), (2.0**-23, 5)])
def test_it_stops_at_the_rounding_of_its_products_and_says_so_in_the_residual(eps: float, k: int) -> None:
    """What a model in a narrow dtype gives: products that no number of rounds makes better."""
    J = of_spectrum([30 * 0.8**n for n in range(60)], 60, 60)
    noise = np.random.default_rng(0)

    def rounded(rows: Tensor, matrix: Tensor) -> Tensor:
        exact = rows @ matrix
        return exact * (1 + eps * torch.from_numpy(noise.uniform(-0.5, 0.5, exact.shape)))

    found = top(LinearMap(lambda V: rounded(V, J.T), lambda U: rounded(U, J), (60, 60)), k, tolerance=1e-12)
    assert found.converged
    assert found.products < 150
    assert eps / 100 < float(found.residual.max()) / 30 < eps
    true = torch.linalg.svdvals(J)[:k]
    assert ((found.sigma - true).abs() <= found.residual).all()


# ---- budget ----


class Counted:
    """A map that counts its own rows, apart from the count under test."""

    def __init__(self, J: Tensor) -> None:
        self.rows = 0
        self.J = J
        self.map = LinearMap(self.forward, self.adjoint, (J.shape[0], J.shape[1]))

    def forward(self, V: Tensor) -> Tensor:
        self.rows += len(V)
        return V @ self.J.T

    def adjoint(self, U: Tensor) -> Tensor:
        self.rows += len(U)
        return U @ self.J


@pytest.mark.parametrize(("k", "budget"), [(1, 9), (1, 16), (1, 17), (2, 12), (3, 31), (5, 60), (5, 100)])
def test_products_are_counted_truly_and_never_exceed_the_budget(k: int, budget: int) -> None:
    counted = Counted(random_matrix(80, 70))
    counted.map.apply(torch.ones(3, 70))
    found = top(counted.map, k, tolerance=1e-14, max_products=budget)
    assert found.products == counted.rows - 3 == counted.map.products - 3
    assert budget - 2 * (k + 3) < found.products <= budget
    assert not found.converged
    check_vectors(counted.J, found)


def test_a_budget_too_small_is_not_called_converged_and_its_residual_says_how_far_it_is() -> None:
    J = CASES["nearly flat"]
    few = top(LinearMap.of_matrix(J), 2, tolerance=1e-10, max_products=22)
    many = top(LinearMap.of_matrix(J), 2, tolerance=1e-10, max_products=100)
    assert not few.converged
    assert many.converged
    assert few.residual.min() > 1e-4
    assert many.residual.max() < 1e-9
    true = torch.linalg.svdvals(J)
    for sigma, residual in zip(few.sigma, few.residual, strict=True):
        assert float((true - sigma).abs().min()) <= float(residual)


def test_it_stops_as_soon_as_the_tolerance_is_met() -> None:
    J = of_spectrum([100.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], 40, 40)
    loose = top(LinearMap.of_matrix(J), 1, tolerance=1e-2)
    tight = top(LinearMap.of_matrix(J), 1, tolerance=1e-13)
    assert loose.converged
    assert tight.converged
    assert loose.products < tight.products < 60
    assert float(loose.residual) <= 1e-2 * 100
    assert float(tight.residual) <= 1e-12 * 100


def test_the_residual_measures_a_map_whose_halves_disagree() -> None:
    J = CASES["square"]
    skewed = J + 1e-3 * random_matrix(30, 30, seed=5)
    found = top(LinearMap(lambda V: V @ J.T, lambda U: U @ skewed, (30, 30)), 1, tolerance=1e-10, max_products=200)
    clean = top(LinearMap.of_matrix(J), 1, tolerance=1e-10, max_products=200)
    assert float(clean.residual) < 1e-8
    assert float(found.residual) > 1e-4
    forward = float((found.v @ J.T - found.sigma[:, None] * found.u).norm())
    back = float((found.u @ skewed - found.sigma[:, None] * found.v).norm())
    assert float(found.residual) == pytest.approx(max(forward, back), rel=1e-9)


def test_known_triplets_are_measured_anew_on_another_map() -> None:
    J = CASES["square"]
    known = top(LinearMap.of_matrix(J), 3, tolerance=1e-12, max_products=200)
    moved = J + 1e-3 * random_matrix(30, 30, seed=5)
    there = remeasured(LinearMap.of_matrix(moved), known)
    assert there.products == 6
    assert torch.equal(there.sigma, known.sigma)
    torch.testing.assert_close(there.residual, true_residual(moved, known), rtol=1e-9, atol=1e-12)
    assert (there.residual > 1e-4).all()
    assert (remeasured(LinearMap.of_matrix(J), known).residual < 1e-10).all()


def test_the_start_is_the_seed_and_nothing_else() -> None:
    J = CASES["square"]
    first, again, other = (top(LinearMap.of_matrix(J), 2, max_products=20, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.v, again.v)
    assert not torch.equal(first.v, other.v)


# ---- the gap ----


def test_the_gap_is_relative_to_the_first_value() -> None:
    found = dense(LinearMap.of_matrix(torch.diag(torch.tensor([4.0, 3.0, 1.0]))))
    assert found.gap == 0.25
    assert math.isnan(top(LinearMap.of_matrix(torch.eye(3)), 1).gap)


# ---- refusals ----


def test_a_decomposition_that_does_not_fit_is_refused_before_any_product(monkeypatch: pytest.MonkeyPatch) -> None:
    linear_map = LinearMap.of_matrix(random_matrix(6, 5))
    monkeypatch.setattr("stabilitykit.numerics.memory.free_bytes", lambda: dense_bytes(6, 5) - 1)
    told = "of a dense 6 x 5 map takes 3,040 bytes and 3,039 are free; ask for the top k"
    with pytest.raises(UnsupportedError, match=told):
        dense(linear_map)
    assert linear_map.products == 0
    monkeypatch.setattr("stabilitykit.numerics.memory.free_bytes", lambda: dense_bytes(6, 5))
    assert len(dense(linear_map).sigma) == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["forward", "adjoint"])
def test_a_product_that_is_not_finite_is_refused(bad: float, side: str) -> None:
    J = random_matrix(6, 5)
    broken = J.clone()
    broken[2, 3] = bad
    forward, adjoint = (broken, J) if side == "forward" else (J, broken)
    linear_map = LinearMap(lambda V: V @ forward.T, lambda U: U @ adjoint, (6, 5))
    with pytest.raises(InvalidError, match="product is not finite"):
        top(linear_map, 1)


def test_dense_refuses_what_is_not_finite() -> None:
    J = random_matrix(6, 5)
    J[0, 0] = math.nan
    with pytest.raises(InvalidError, match="product is not finite"):
        dense(LinearMap.of_matrix(J))


def test_a_defect_that_shows_only_in_the_last_products_is_refused_too() -> None:
    J, calls = random_matrix(6, 5), []

    def forward(V: Tensor) -> Tensor:
        calls.append(len(V))
        return V @ J.T if len(V) > 2 else torch.full((len(V), 6), math.nan)

    with pytest.raises(InvalidError, match="product is not finite"):
        top(LinearMap(forward, lambda U: U @ J, (6, 5)), 2)
    assert calls[-1] == 2


@pytest.mark.parametrize(
    ("k", "budget", "fragment"),
    [
        (0, 60, "k=0 singular values of a 6 x 5 map do not exist; take 1 to 5"),
        (6, 60, "k=6 singular values"),
        (2, 11, "11 products cannot give 2 triplets; allow at least 12"),
        (5, 14, "allow at least 15"),
    ],
)
def test_what_cannot_be_found_is_refused_before_any_product(k: int, budget: int, fragment: str) -> None:
    linear_map = LinearMap.of_matrix(random_matrix(6, 5))
    with pytest.raises(UsageError, match=fragment):
        top(linear_map, k, max_products=budget)
    assert linear_map.products == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_residual_of_a_dense_decomposition_is_the_larger_one(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A left vector that is off outside of the range of a tall map, or a right one in the kernel of a wide map."""
    svd = torch.linalg.svd
    J = torch.eye(3, 2, dtype=torch.float64) if side == "left" else torch.eye(2, 3, dtype=torch.float64)

    def off(A: Tensor, full_matrices: bool) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vt = svd(A, full_matrices=full_matrices)
        return (
            (u + torch.tensor([[0.0], [0.0], [0.5]]), s, vt)
            if side == "left"
            else (u, s, vt + torch.tensor([0, 0, 0.5]))
        )

    monkeypatch.setattr(torch.linalg, "svd", off)
    assert dense(LinearMap.of_matrix(J)).residual.tolist() == [0.5, 0.5]
