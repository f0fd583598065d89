"""The other arithmetic of a fault, against exact fractions, integers and numpy."""

from __future__ import annotations

import itertools
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch

from stabilitykit.faults.arithmetic import fused_multiply_add, narrow_product, next_up, split_product, tf32
from stabilitykit.numerics.bits import bits_equal

NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: ml_dtypes.bfloat16}


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def nearest(exact: Fraction, about: float, dtype: torch.dtype) -> float:
    """The float nearest to a fraction, ties to even, among the neighbours of an approximation."""
    kind = NUMPY[dtype]
    near = kind(about)
    candidates = [near, np.nextafter(near, kind(np.inf)), np.nextafter(near, kind(-np.inf))]
    even = {value: int(np.asarray(value).view(f"u{np.asarray(value).itemsize}")) % 2 for value in candidates}
    return float(min(candidates, key=lambda value: (abs(Fraction(float(value)) - exact), even[value])))


@pytest.mark.parametrize("dtype", NUMPY, ids=str)
def test_a_fused_multiply_add_is_the_fraction_rounded_once(dtype):
    a, b, c = (drawn(seed, 400, dtype=dtype) for seed in range(3))
    c = c * torch.from_numpy(2.0 ** np.random.default_rng(3).integers(-30, 6, 400)).to(dtype)
    c[:200] = -(a[:200] * b[:200])  # a cancellation leaves what the product's own rounding would have thrown away
    fused = fused_multiply_add(a, b, c)
    for x, y, z, got in zip(a.tolist(), b.tolist(), c.tolist(), fused.tolist(), strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        assert got == nearest(exact, float(exact), dtype)
    assert not bits_equal(fused, a * b + c)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_sum_just_below_a_tie_is_not_rounded_twice(sign):
    """c + half an ULP - 2**-70, which float64 cannot show: rounded there first, it would be a tie, and go to even."""
    ulp = 2.0**-23
    c = 1 + ulp
    a = sign * torch.tensor([2.0**-24 * (1 + ulp)])
    b = torch.tensor([1 - ulp])
    addend = sign * torch.tensor([c])
    exact = Fraction(a.item()) * Fraction(b.item()) + Fraction(addend.item())
    assert abs(exact) == Fraction(c) + Fraction(2) ** -24 - Fraction(2) ** -70
    assert fused_multiply_add(a, b, addend).item() == nearest(exact, float(exact), torch.float32) == sign * c


def test_a_scalar_is_rounded_to_the_dtype_first():
    a, c = drawn(0, 50), drawn(1, 50)
    scalar = torch.full((50,), 0.044715)
    assert bits_equal(fused_multiply_add(a, 0.044715, c), fused_multiply_add(a, scalar, c))


def test_infinities_and_zeros_stay():
    a = torch.tensor([torch.inf, 0.0, 0.0, 1.0])
    c = torch.tensor([1.0, 0.0, -0.0, -1.0])
    got = fused_multiply_add(a, torch.ones(4), c)
    assert got.tolist() == [torch.inf, 0.0, 0.0, 0.0]


def test_tf32_clears_thirteen_bits():
    x = torch.cat([drawn(0, 1000), torch.tensor([0.0, -0.0, 1.0, 2.0**-149, torch.inf])])
    bits = x.numpy().view(np.uint32)
    masked = (bits & np.uint32(0xFFFFE000)).view(np.float32)
    assert bits_equal(tf32(x), torch.from_numpy(masked))
    assert bits_equal(tf32(tf32(x)), tf32(x))
    assert bits_equal(tf32(drawn(1, 4, 6).t()), tf32(drawn(1, 4, 6)).t())


@pytest.mark.parametrize("k", [1, 2, 7, 64])
def test_a_split_product_is_the_sum_of_two(k):
    a, b = drawn(0, 3, k), drawn(1, k, 5)
    left, right = (a[:, part] @ b[part] for part in (slice(0, k // 2), slice(k // 2, k)))
    assert bits_equal(split_product(a, b), left + right)


def test_a_split_product_of_whole_numbers_is_exact():
    a, b = (drawn(seed, 16, 16).mul(8).round() for seed in (0, 1))
    assert bits_equal(split_product(a, b), a @ b)


@pytest.mark.parametrize("k", [1, 8, 30])
def test_a_narrow_product_keeps_its_sum_in_bfloat16(k):
    a, b = drawn(0, 2, k), drawn(1, k, 3)
    size = -(-k // 8)
    total = np.zeros((2, 3), dtype=ml_dtypes.bfloat16)
    for start in range(0, k, size):
        part = (a[:, start : start + size] @ b[start : start + size]).numpy()
        total = (total.astype(np.float32) + part).astype(ml_dtypes.bfloat16)
    assert narrow_product(a, b).tolist() == total.astype(np.float32).tolist()


def test_a_narrow_product_stays_near_and_is_not_the_product():
    a, b = drawn(0, 4, 64), drawn(1, 64, 4)
    gap = (narrow_product(a, b) - a @ b).norm() / (a @ b).norm()
    assert 2**-12 < gap < 2**-6


@pytest.mark.parametrize("dtype", NUMPY, ids=str)
def test_the_next_number_up(dtype):
    x = drawn(0, 200, dtype=dtype)
    kind = NUMPY[dtype]
    expected = [float(np.nextafter(kind(value), kind(np.inf))) for value in x.tolist()]
    assert next_up(x).tolist() == expected


def test_what_is_no_number_is_not_moved():
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0])
    got = next_up(x)
    assert got[:2].tolist() == [torch.inf, -torch.inf]
    assert got[2].isnan()
    assert got[3] == 2.0**-149


def test_every_pair_of_small_whole_numbers_is_fused_exactly():
    for a, b, c in itertools.product(range(-3, 4), repeat=3):
        got = fused_multiply_add(*(torch.tensor([float(value)]) for value in (a, b, c)))
        assert got.item() == a * b + c
