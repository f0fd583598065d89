"""Rounding in numpy against torch's own conversion: every narrow float, its midpoints, and what lies beside them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from stabilitykit.numerics.bits import FORMATS, bits_equal, from_total_order, is_nan, total_order
from stabilitykit.numerics.rounding import half_unit, keys_to_values, round_once, round_to_keys

NARROW = [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES = [*NARROW, torch.float32, torch.float64]


def every_number(dtype: torch.dtype) -> np.ndarray:
    """All finite values of a narrow format in float64, ascending, both zeros."""
    largest = FORMATS[dtype].largest
    keys = torch.arange(-1 - largest, largest + 1)
    return from_total_order(keys, dtype).double().numpy()


def torch_keys(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    return total_order(torch.from_numpy(values).to(dtype)).numpy()


def nearest_even(value: Fraction, precision: int, lowest: int) -> Fraction:
    """Round in exact arithmetic to `precision` bits, or to the spacing of the exponent `lowest`; no range ends."""
    exponent = lowest
    while Fraction(2) ** (exponent + 1) <= value:
        exponent += 1
    quantum = Fraction(2) ** (exponent - precision + 1)
    return round(value / quantum) * quantum  # Fraction's round is half to even


def around(points: np.ndarray) -> np.ndarray:
    """The points and their neighbours in float64 and in float32, where the first of two roundings decides."""
    single = points.astype(np.float32)
    beside = [np.nextafter(single, np.float32(side)).astype(np.float64) for side in (-np.inf, np.inf)]
    closest = [np.nextafter(points, side) for side in (-np.inf, np.inf)]
    # One float64 beside a float32 neighbour, and half way to it: the ties of the first rounding.
    half_way = [(points + other) / 2 for other in beside]
    nudged = [np.nextafter(middle, side) for middle in half_way for side in (-np.inf, np.inf)]
    every = np.concatenate([points, *beside, *closest, *half_way, *nudged])
    return every[np.isfinite(every)]


@pytest.mark.parametrize("dtype", NARROW)
def test_every_narrow_number_and_its_midpoints_round_as_torch_rounds_them(dtype: torch.dtype) -> None:
    numbers = every_number(dtype)
    values = around(np.concatenate([numbers, (numbers[1:] + numbers[:-1]) / 2]))
    assert np.array_equal(round_to_keys(values, dtype), torch_keys(values, dtype))


@pytest.mark.parametrize("dtype", NARROW)
def test_a_scalar_conversion_has_the_bits_of_the_vectorised_one(dtype: torch.dtype) -> None:
    numbers = every_number(dtype)[:: 131 if dtype.itemsize > 1 else 1]
    values = around((numbers[1:] + numbers[:-1]) / 2)
    alone = [int(total_order(torch.tensor(value, dtype=torch.float64).to(dtype))) for value in values]
    assert round_to_keys(values, dtype).tolist() == alone


@pytest.mark.parametrize("dtype", NARROW)
def test_the_two_roundings_are_those_of_exact_fractions(dtype: torch.dtype) -> None:
    numbers = every_number(dtype)[:: 131 if dtype.itemsize > 1 else 1]
    numbers = numbers[numbers > 0]
    values = around((numbers[1:] + numbers[:-1]) / 2)
    precision, lowest = FORMATS[dtype].mantissa + 1, 1 - FORMATS[dtype].bias
    exact = [nearest_even(nearest_even(Fraction(value), 24, -126), precision, lowest) for value in values.tolist()]
    assert [Fraction(value) for value in keys_to_values(round_to_keys(values, dtype), dtype).tolist()] == exact


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("sign", [1, -1])
def test_one_rounding_is_that_of_exact_fractions(dtype: torch.dtype, sign: int) -> None:
    numbers = every_number(dtype)[:: 131 if dtype.itemsize > 1 else 1]
    numbers = numbers[numbers > 0]
    values = around(np.concatenate([numbers, (numbers[1:] + numbers[:-1]) / 2]))
    values = values[values <= float(torch.finfo(dtype).max)]
    precision, lowest = FORMATS[dtype].mantissa + 1, 1 - FORMATS[dtype].bias
    exact = [sign * nearest_even(Fraction(value), precision, lowest) for value in values.tolist()]
    found = round_once(torch.from_numpy(sign * values), dtype)
    assert [Fraction(value) for value in found.double().tolist()] == exact
    # The difference to torch's own two roundings exists, or this test would show nothing.
    assert not bits_equal(found, torch.from_numpy(sign * values).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_rounding_keeps_what_is_no_number_and_every_number_of_the_format(dtype: torch.dtype) -> None:
    ends = torch.tensor([np.inf, -np.inf, 0.0, -0.0, 1e300, -1e300], dtype=torch.float64)
    assert bits_equal(round_once(ends, dtype), ends.to(dtype))
    assert is_nan(round_once(torch.full((20,), np.nan, dtype=torch.float64), dtype)).all()
    largest = min(FORMATS[dtype].largest, 40_000)
    numbers = from_total_order(torch.arange(-1 - largest, largest + 1), dtype)
    assert bits_equal(round_once(numbers.double(), dtype), numbers)


@pytest.mark.parametrize("dtype", NARROW)
def test_two_roundings_are_not_one(dtype: torch.dtype) -> None:
    # Just above a tie whose even neighbour lies below, float32 rounds to the tie itself: the second rounding goes down.
    one = 1 + 2.0 ** -(FORMATS[dtype].mantissa + 1)
    above = one + 2.0**-40
    assert above > one
    unmoved = torch_keys(np.array([1.0, 1.0]), dtype)
    assert np.array_equal(round_to_keys(np.array([one, above]), dtype), unmoved)
    assert np.array_equal(torch_keys(np.array([one, above]), dtype), unmoved)


def test_random_float64_round_to_float32_as_torch_rounds_them() -> None:
    random = np.random.default_rng(7)
    values = np.ldexp(random.uniform(-1, 1, 100_000), random.integers(-155, 128, 100_000))
    keys = round_to_keys(values, torch.float32)
    assert np.array_equal(keys, torch_keys(values, torch.float32))
    ties = (keys_to_values(keys, torch.float32) + keys_to_values(keys + 1, torch.float32)) / 2
    beside = np.concatenate([ties, np.nextafter(ties, -np.inf), np.nextafter(ties, np.inf)])
    assert np.array_equal(round_to_keys(beside, torch.float32), torch_keys(beside, torch.float32))


def test_float64_is_not_rounded() -> None:
    values = np.random.default_rng(8).integers(-(2**62), 2**62, 10_000).view(np.float64)
    values = np.concatenate([values[np.isfinite(values)], [0.0, -0.0, 5e-324, -5e-324]])
    assert np.array_equal(round_to_keys(values, torch.float64), torch_keys(values, torch.float64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_keep_their_signs_and_what_underflows_becomes_one(dtype: torch.dtype) -> None:
    values = np.array([0.0, -0.0, 5e-324 / 2, np.nextafter(-0.0, 1)])
    assert np.array_equal(round_to_keys(values, dtype), torch_keys(values, dtype))
    assert round_to_keys(np.array([-0.0, 0.0]), dtype).tolist() == [-1, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e5m2, torch.float32])
def test_what_overflows_becomes_infinity_without_a_warning_where_the_caller_says_so(dtype: torch.dtype) -> None:
    last = float(torch.finfo(dtype).max)
    gap = last - keys_to_values(np.array([FORMATS[dtype].largest - 1]), dtype)[0]
    edge = last + gap / 2
    values = np.array([last, np.nextafter(edge, 0), edge, 2 * last, -2 * last])
    with np.errstate(over="ignore"):
        keys = round_to_keys(values, dtype)
    assert np.array_equal(keys, torch_keys(values, dtype))
    assert keys[0] == FORMATS[dtype].largest
    assert keys[3] == FORMATS[dtype].largest + 1 == -1 - keys[4]


def test_a_format_without_infinity_is_rounded_as_torch_rounds_it_beyond_its_largest_number() -> None:
    values = np.array([448.0, 463.9, 464.0, 464.1, 480.0, 1e300, np.inf, -1e300, -np.inf])
    assert np.array_equal(round_to_keys(values, torch.float8_e4m3fn), torch_keys(values, torch.float8_e4m3fn))


@pytest.mark.parametrize("dtype", NARROW)
def test_the_inverse_is_exact_for_every_narrow_number(dtype: torch.dtype) -> None:
    largest = FORMATS[dtype].largest
    keys = np.arange(-1 - largest, largest + 1)
    values = keys_to_values(keys, dtype)
    assert np.array_equal(values.view(np.int64), every_number(dtype).view(np.int64))
    assert np.array_equal(round_to_keys(values, dtype), keys)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_is_exact_for_sampled_numbers_and_the_ends(dtype: torch.dtype) -> None:
    largest = FORMATS[dtype].largest
    drawn = np.random.default_rng(9).integers(-1 - largest, largest + 1, 100_000)
    keys = np.concatenate([drawn, [-1 - largest, largest, -1, 0, 1, -2]])
    values = keys_to_values(keys, dtype)
    expected = from_total_order(torch.from_numpy(keys), dtype).double().numpy()
    assert np.array_equal(values.view(np.int64), expected.view(np.int64))
    assert np.array_equal(round_to_keys(values, dtype), keys)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_a_unit_of_the_rounding_before_the_last_one(dtype: torch.dtype) -> None:
    """That to float32 for what is narrower, that to float64 for float32; a float64 has none."""
    values = np.array([0.0, 1.0, 1.5, -2.0, 2.0**-20])
    before = {torch.float64: None, torch.float32: np.float64}.get(dtype, np.float32)
    units = 0 if before is None else np.spacing(np.abs(values).astype(before)).astype(np.float64)
    assert np.array_equal(half_unit(values, dtype), np.where(values == 0, 0, units / 2) if before else 0)
