"""Differences with known answers, and random tensors against exact fractions."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from statistics import median

import ml_dtypes
import numpy as np
import pytest
import torch

from stabilitykit.errors import UsageError
from stabilitykit.numerics import differences
from stabilitykit.numerics.bits import FORMATS, nudge
from stabilitykit.numerics.differences import Difference, Worst, difference

ZERO, MINUS_ZERO, ONE, LARGEST, INF = 0, -(2**31), 0x3F800000, 0x7F7FFFFF, 0x7F800000
NAN, PAYLOAD, MINUS_NAN = 0x7FC00000, 0x7FC00001, 0x7FC00000 - 2**31


def floats(*patterns: int) -> torch.Tensor:
    """float32 numbers by their patterns, which a Python float would not carry for a NaN."""
    return torch.tensor(patterns, dtype=torch.int32).view(torch.float32)


def norm(values: list[Fraction]) -> float:
    return math.sqrt(sum(v * v for v in values))


def test_one_changed_element_gives_every_number_by_hand() -> None:
    a = torch.tensor([[3.0, 4.0], [0.0, 12.0]])
    b = torch.tensor([[3.0, 4.0], [0.0, 14.0]])
    expected = Difference(
        elements=4,
        differing_bits=1,
        differing_values=1,
        max_ulp=2**21,
        median_ulp=2.0**21,
        max_scaled_ulp=2.0**21,
        max_abs=2.0,
        l2=2.0,
        relative_l2=2 / 13,
        worst=Worst((1, 1), 12.0, 14.0, "0x41400000", "0x41600000", 2**21),
    )
    assert expected == difference(a, b)
    assert not expected.identical


@pytest.mark.parametrize("dtype", list(FORMATS))
def test_identical_tensors_differ_in_nothing(dtype: torch.dtype) -> None:
    x = torch.linspace(-3, 3, 50).to(dtype)
    assert Difference(elements=50) == difference(x, x.clone())
    assert difference(x, x.clone()).identical


def test_identical_bits_are_settled_without_a_single_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(differences, "ulp_distance")
    monkeypatch.delattr(differences, "same_bits")
    x = floats(ONE, NAN, INF, INF)
    assert Difference(elements=4, nan_match=1, infs=2) == difference(x, x.clone())


@pytest.mark.parametrize("dtype", list(FORMATS))
@pytest.mark.parametrize("seed", range(3))
def test_random_tensors_agree_with_exact_fractions(dtype: torch.dtype, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(40, generator=draw, dtype=torch.float64).to(dtype)
    steps = torch.randint(-9, 10, (40,), generator=draw)
    b = nudge(a, steps)
    exact = [Fraction(v) for v in a.tolist()]
    gaps = [abs(p - Fraction(q)) for p, q in zip(exact, b.tolist(), strict=True)]
    exponent = math.frexp(max(map(abs, a.tolist())))[1]
    spacing = Fraction(2) ** (exponent - 1) * Fraction(torch.finfo(dtype).eps)
    moved = [abs(s) for s in steps.tolist() if s]
    got = difference(a, b)
    assert (40, len(moved), len(moved)) == (got.elements, got.differing_bits, got.differing_values)
    assert (max(moved), median(moved)) == (got.max_ulp, got.median_ulp)
    assert max(gaps) == got.max_abs
    assert max(gaps) / spacing == got.max_scaled_ulp
    assert norm(gaps) == pytest.approx(got.l2, rel=1e-14, abs=0)
    assert norm(gaps) / norm(exact) == pytest.approx(got.relative_l2, rel=1e-14, abs=0)
    assert got.worst is not None
    assert max(gaps) == gaps[got.worst.index[0]]


def test_every_class_of_pair_is_counted_apart_and_the_classes_add_up() -> None:
    a = floats(ZERO, NAN, NAN, NAN, NAN, ONE, LARGEST, INF, ONE, ONE)
    b = floats(MINUS_ZERO, NAN, PAYLOAD, MINUS_NAN, ONE, NAN, INF, INF, ONE + 3, ONE)
    got = difference(a, b)
    assert (got.elements, got.signed_zeros, got.nan_match, got.nan_payload) == (10, 1, 1, 2)
    assert (got.nan_mismatch, got.infs, got.differing_values, got.differing_bits) == (2, 2, 4, 7)
    assert got.differing_bits == got.differing_values + got.signed_zeros + got.nan_payload
    assert (got.max_ulp, got.median_ulp) == (3, 2.0)


def test_an_infinity_against_the_largest_value_is_one_ulp_and_infinitely_far() -> None:
    got = difference(floats(ONE, LARGEST), floats(ONE + 1, INF))
    assert (got.max_ulp, got.infs) == (1, 1)
    assert (got.max_abs, got.l2, got.relative_l2, got.max_scaled_ulp) == (math.inf,) * 4
    assert Worst((1,), floats(LARGEST).item(), math.inf, "0x7f7fffff", "0x7f800000", 1) == got.worst


def test_an_infinity_in_the_reference_does_not_hide_the_relative_difference_of_the_rest() -> None:
    got = difference(torch.tensor([math.inf, 4.0]), torch.tensor([math.inf, 5.0]))
    assert (got.max_abs, got.relative_l2) == (1.0, 0.25)


def test_a_reference_without_a_finite_number_still_gives_a_verdict() -> None:
    got = difference(floats(INF, NAN), floats(ONE, ONE))
    assert (got.max_ulp, got.nan_mismatch) == (INF - ONE, 1)
    assert (got.max_abs, got.max_scaled_ulp, got.relative_l2) == (math.inf,) * 3


def test_signed_zeros_alone_have_a_place_but_no_size() -> None:
    got = difference(floats(ONE, ZERO), floats(ONE, MINUS_ZERO))
    place = Worst((1,), 0.0, -0.0, "0x00000000", "0x80000000", 0)
    assert Difference(elements=2, differing_bits=1, signed_zeros=1, worst=place) == got
    assert not got.identical


def test_a_nan_on_one_side_beside_signed_zeros_leaves_the_sizes_at_zero() -> None:
    got = difference(floats(NAN, ZERO), floats(ONE, MINUS_ZERO))
    assert (got.differing_values, got.nan_mismatch, got.max_ulp, got.median_ulp) == (1, 1, 0, 0.0)


def test_nan_payloads_alone_are_a_difference_without_a_worst_place() -> None:
    got = difference(floats(NAN, ONE), floats(PAYLOAD, ONE))
    assert Difference(elements=2, differing_bits=1, nan_payload=1) == got
    assert not got.identical


def test_the_worst_place_is_by_size_then_by_ulp_then_the_first() -> None:
    a = torch.tensor([[1e-30, 8.0, 1.0], [9.0, 1.0, 1.0]])
    b = torch.tensor([[-1e-30, 8.5, 1.5], [9.5, 1.5, 1.0]])
    worst = difference(a, b).worst
    assert worst is not None
    assert (worst.index, worst.ulp) == ((0, 2), 2**22)
    assert difference(a, b).max_ulp > 4 * 10**8


def test_a_zero_reference_makes_the_relative_difference_infinite() -> None:
    got = difference(torch.zeros(2), torch.tensor([0.0, 1e-45]))
    assert (got.relative_l2, got.max_ulp, got.max_scaled_ulp) == (math.inf, 1, 1.0)


@pytest.mark.parametrize("unit", [1e200, 1e-200, 5e-324])
def test_norms_neither_overflow_nor_vanish(unit: float) -> None:
    a, b = torch.zeros(2, dtype=torch.float64), torch.tensor([3 * unit, 4 * unit], dtype=torch.float64)
    assert difference(a, b).l2 == pytest.approx(5 * unit, rel=1e-15, abs=0)
    assert difference(b, a).relative_l2 == pytest.approx(1.0, rel=1e-15, abs=0)


def test_the_largest_numbers_have_a_norm() -> None:
    """Twice their power of two is no float64."""
    a, b = torch.tensor([1.5e308, 0.0], dtype=torch.float64), torch.tensor([1.5e308, 3e307], dtype=torch.float64)
    assert difference(a, b).relative_l2 == pytest.approx(0.2, rel=1e-15)
    assert difference(a, torch.zeros_like(a)).l2 == 1.5e308


@pytest.mark.parametrize("dtype", list(FORMATS))
def test_strides_empty_tensors_scalars_and_gradients_do_not_matter(dtype: torch.dtype) -> None:
    dense = torch.linspace(-2, 2, 24).to(dtype).reshape(4, 6)
    for view in (dense.T, dense[::2, 1::3], dense[0, 0], dense[1:2, ::6]):
        copy = view.clone(memory_format=torch.contiguous_format).requires_grad_()
        assert difference(view, copy).identical
        assert difference(copy, nudge(view, 2)).max_ulp == 2
    assert Difference(elements=0) == difference(dense[:0], dense[:0])


def test_a_scalar_has_the_empty_index() -> None:
    worst = difference(torch.tensor(1.0), torch.tensor(2.0)).worst
    assert worst is not None
    assert worst.index == ()


def test_different_structures_are_refused_before_any_value_is_read() -> None:
    with pytest.raises(UsageError, match="dtype float32 != bfloat16"):
        difference(torch.ones(2), torch.ones(2).bfloat16())
    with pytest.raises(UsageError, match=r"shape \(2,\) != \(2, 1\)"):
        difference(torch.ones(2), torch.ones(2, 1))


def test_a_difference_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        difference(torch.ones(1), torch.ones(1)).max_ulp = 0  # type: ignore[misc]


@pytest.mark.parametrize(("name", "specials"), [("float8_e4m3fn", 2), ("float8_e5m2", 8)])
def test_every_pair_of_8_bit_patterns_is_counted_and_sized_by_its_values(name: str, specials: int) -> None:
    patterns = torch.arange(-128, 128).to(torch.int8).view(getattr(torch, name))
    left, right = patterns.repeat_interleave(256), patterns.repeat(256)
    values = np.arange(-128, 128).astype(np.int8).view(getattr(ml_dtypes, name)).astype(np.float64)
    numbers = np.unique(values[~np.isnan(values)])
    nans, infinite = 256 - len(numbers) - 1, int(np.isinf(numbers).sum())  # -0 and +0 are one number
    found = difference(left, right)
    assert (found.elements, found.differing_bits, found.nan_match) == (65536, 65536 - 256, nans)
    assert (found.signed_zeros, found.nan_payload) == (2, nans * (nans - 1))
    assert found.nan_mismatch == 2 * nans * (256 - nans)
    assert found.infs == 2 * 256 * infinite - infinite**2
    assert found.max_ulp == len(numbers) - 1
    finite = numbers[np.isfinite(numbers)]
    assert len(finite) == 255 - specials
    assert found.max_abs == (math.inf if infinite else finite[-1] - finite[0])
    assert found.max_scaled_ulp == (math.inf if infinite else found.max_abs / (finite[-1] - finite[-2]))


def test_equal_tensors_differ_in_nothing() -> None:
    found = dataclasses.asdict(difference(floats(ONE, ZERO, INF, NAN), floats(ONE, ZERO, INF, NAN)))
    counted = {"elements": 4, "nan_match": 1, "infs": 1, "worst": None}
    assert found == dict.fromkeys(found, 0) | counted


@pytest.mark.parametrize("sign", [1, -1])
def test_a_length_has_no_sign(sign: int) -> None:
    a = torch.tensor([-3e30, -4e30, 0.0]) * sign
    found = difference(a, torch.zeros(3))
    assert found.l2 == pytest.approx(5e30)
    assert found.relative_l2 == pytest.approx(1)


@pytest.mark.parametrize("left", [[0.0, -0.0], [0.0, math.inf]])
def test_a_reference_of_zeros_is_no_distance_from_zeros_of_other_signs(left: list[float]) -> None:
    """Nothing over nothing is 0 here; an infinity that both have is no part of either."""
    right = [-x if x == 0 else x for x in left]
    got = difference(torch.tensor(left), torch.tensor(right))
    assert (got.signed_zeros, got.l2, got.relative_l2) == (left.count(0.0), 0.0, 0.0)
