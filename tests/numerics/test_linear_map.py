"""A map known by its products: counted truly, dense on demand, and caught when its two halves disagree."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.numerics.linear_map import LinearMap, adjoint_defect


def matrix(M: int, H: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(M, H)))


@pytest.fixture(name="J")
def example() -> Tensor:
    return matrix(5, 3)


def test_the_products_are_those_of_the_matrix(J: Tensor) -> None:
    linear_map = LinearMap.of_matrix(J)
    v, u = matrix(4, 3, seed=1), matrix(2, 5, seed=2)
    torch.testing.assert_close(linear_map.apply(v), v @ J.T, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(linear_map.apply(v[0]), J @ v[0], rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(linear_map.apply_adjoint(u), u @ J, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(linear_map.apply_adjoint(u[1]), u[1] @ J, rtol=1e-15, atol=1e-15)


def test_every_row_of_either_product_is_counted(J: Tensor) -> None:
    linear_map = LinearMap.of_matrix(J)
    linear_map.apply(matrix(4, 3))
    linear_map.apply(matrix(1, 3)[0])
    linear_map.apply_adjoint(matrix(2, 5))
    assert linear_map.products == 7


@pytest.mark.parametrize(("rows", "sizes"), [(1, [1] * 3), (2, [2, 1]), (3, [3]), (64, [3])])
@pytest.mark.parametrize("wide", [True, False])
def test_the_dense_matrix_comes_from_its_narrower_side_so_many_rows_at_once(
    J: Tensor, rows: int, sizes: list[int], wide: bool
) -> None:
    matrix = J.T if wide else J
    seen: list[int] = []

    def product(vectors: Tensor) -> Tensor:
        seen.append(len(vectors))
        return vectors @ (matrix if wide else matrix.T)

    def unasked(vectors: Tensor) -> Tensor:
        raise AssertionError("products of the longer side are not needed")

    forward, adjoint = (unasked, product) if wide else (product, unasked)
    linear_map = LinearMap(forward, adjoint, (matrix.shape[0], matrix.shape[1]), rows)
    assert torch.equal(linear_map.dense(), matrix)
    assert seen == sizes
    assert linear_map.products == 3


def test_no_product_is_asked_for_more_rows_than_it_takes(J: Tensor) -> None:
    seen: list[int] = []

    def forward(V: Tensor) -> Tensor:
        seen.append(len(V))
        return V @ J.T

    linear_map = LinearMap(forward, lambda U: U @ J, (5, 3), rows=2)
    V = matrix(5, 3, seed=1)
    assert torch.equal(linear_map.apply(V), torch.cat([some @ J.T for some in V.split(2)]))
    assert seen == [2, 2, 1]
    assert linear_map.transposed().rows == 2


def test_vectors_come_back_as_float64_whatever_is_inside(J: Tensor) -> None:
    half = J.to(torch.bfloat16)
    linear_map = LinearMap(lambda V: V.to(torch.bfloat16) @ half.T, lambda U: U.to(torch.bfloat16) @ half, (5, 3))
    assert linear_map.apply(matrix(2, 3)).dtype == torch.float64
    assert linear_map.apply_adjoint(matrix(2, 5).float()).dtype == torch.float64


@pytest.mark.parametrize(("side", "width"), [("apply", 5), ("apply_adjoint", 3)])
def test_vectors_of_another_length_are_refused_and_not_counted(J: Tensor, side: str, width: int) -> None:
    linear_map = LinearMap.of_matrix(J)
    with pytest.raises(UsageError, match=rf"length {width} do not fit a map of shape \(5, 3\)"):
        getattr(linear_map, side)(matrix(1, width))
    assert linear_map.products == 0


def test_the_transposed_map_swaps_the_products_and_both_count(J: Tensor) -> None:
    linear_map = LinearMap.of_matrix(J)
    turned = linear_map.transposed()
    assert turned.shape == (3, 5)
    torch.testing.assert_close(turned.apply(matrix(2, 5)), matrix(2, 5) @ J, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(turned.apply_adjoint(matrix(1, 3)), matrix(1, 3) @ J.T, rtol=1e-15, atol=1e-15)
    assert linear_map.products == 3


def wrong_adjoints(J: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    swapped = J.clone()
    swapped[:2, :2] = J[:2, :2].T
    negated = J.clone()
    negated[1, 2] *= -1
    return {
        "a transposed block": lambda U: U @ swapped,
        "scaled": lambda U: U @ J * (1 + 1e-9),
        "one sign": lambda U: U @ negated,
        "a permutation": lambda U: (U @ J).roll(1, dims=1),
    }


@pytest.mark.parametrize("name", wrong_adjoints(matrix(5, 3)))
def test_a_wrong_adjoint_is_caught_and_its_clean_twin_passes(J: Tensor, name: str) -> None:
    u, v = matrix(1, 5, seed=3)[0], matrix(1, 3, seed=4)[0]
    assert adjoint_defect(LinearMap.of_matrix(J), u, v) < 1e-15
    defect = adjoint_defect(LinearMap(lambda V: V @ J.T, wrong_adjoints(J)[name], (5, 3)), u, v)
    assert defect > 1e-11
    wrong = wrong_adjoints(J)[name](u[None])[0]
    expected = abs(float(u @ J @ v - wrong @ v)) / float(u.norm() * (J @ v).norm())
    assert defect == pytest.approx(expected, rel=1e-4)


def test_the_defect_does_not_depend_on_the_scale_of_the_vectors(J: Tensor) -> None:
    u, v = matrix(1, 5, seed=3)[0], matrix(1, 3, seed=4)[0]
    linear_map = LinearMap(lambda V: V @ J.T, lambda U: 1.5 * U @ J, (5, 3))
    plain = adjoint_defect(linear_map, u, v)
    assert linear_map.products == 2
    assert adjoint_defect(linear_map, 1e6 * u, 1e-6 * v) == pytest.approx(plain, rel=1e-12)


def test_a_vector_that_the_map_kills_tells_nothing(J: Tensor) -> None:
    assert math.isnan(adjoint_defect(LinearMap.of_matrix(J * 0), matrix(1, 5)[0], matrix(1, 3)[0]))


def test_the_dense_matrix_of_a_square_map_takes_no_forward_product() -> None:
    J = matrix(4, 4)
    linear_map = LinearMap(lambda _: pytest.fail("a forward product"), lambda U: U @ J, (4, 4))
    assert torch.equal(linear_map.dense(), J)
    assert linear_map.products == 4
