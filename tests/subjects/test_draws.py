"""Draws: the same bits everywhere, and each with the property it is named for."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from stabilitykit.errors import UsageError
from stabilitykit.numerics.bits import FORMATS, format_of, ordered
from stabilitykit.subjects import draws
from stabilitykit.subjects.draws import DRAWS, named


def drawn(
    name: str, shape: tuple[int, ...] = (64, 128), seed: int = 0, dtype: torch.dtype = torch.float32
) -> np.ndarray:
    return named(name, dtype)(shape, np.random.Generator(np.random.PCG64(seed)))


# Written down once: numbers that another machine or version draws differently would be another question.
DIGESTS = {
    "normal": "2d590d632ba029ef",
    "outliers": "b5fed916316d9aae",
    "wide": "5166d4ee091dc6e4",
    "cancelling": "2d590d632ba029ef",  # until a kernel mirrors it
    "edge": "6ac8c7f31b21ca90",
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_numbers_are_those_that_were_written_down(name: str) -> None:
    values = drawn(name, (3, 5))
    assert values.dtype == np.float64
    assert hashlib.sha256(values.tobytes()).hexdigest()[:16] == DIGESTS[name]


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5)])
def test_any_shape_is_drawn_finite_and_another_seed_draws_others(name: str, shape: tuple[int, ...]) -> None:
    values = drawn(name, shape)
    assert values.shape == shape
    assert np.isfinite(values).all()
    assert not np.array_equal(drawn(name, (40,)), drawn(name, (40,), seed=1))
    assert np.array_equal(drawn(name, (40,)), drawn(name, (40,)))


def test_normal_numbers_have_the_moments_of_one_and_all_their_bits() -> None:
    values = drawn("normal", (100_000,))
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert np.abs(values).max() < 6
    # Numbers of few bits would be added without rounding.
    last = torch.from_numpy(values[np.abs(values) > 0.5]).float().view(torch.int32) & 1
    assert 0.45 < last.double().mean() < 0.55


def test_one_in_64_is_an_outlier() -> None:
    values = np.abs(drawn("outliers", (100_000,)))
    assert 0.012 < (values > 6).mean() < 0.018
    assert values.max() > 2000


def test_wide_numbers_cover_their_powers_of_two_from_row_to_row_and_within() -> None:
    exponents = np.frexp(drawn("wide", (2000, 50)))[1] - 1
    assert (exponents.min(), exponents.max()) == (-14, 14)
    assert set(np.ptp(exponents, axis=1)) <= {7, 8}
    signs = np.sign(drawn("wide", (2000, 50)))
    assert abs(signs.mean()) < 0.02


@pytest.mark.parametrize("dtype", list(FORMATS))
def test_edge_values_are_in_the_format_and_are_the_edges(dtype: torch.dtype) -> None:
    values = torch.from_numpy(drawn("edge", (4000,), dtype=dtype)).to(dtype)
    row = format_of(dtype)
    keys = {int(key) for key in ordered(values).abs()}
    assert {0, 1, (1 << row.mantissa) - 1, 1 << row.mantissa} <= keys
    one = int(ordered(torch.ones(1).to(dtype))[0])
    assert {one - 1, one, one + 1} <= keys
    largest = float(values.double().abs().max())
    assert largest >= 8
    assert largest == 8 or Fraction(largest) ** 2 * 2**24 < Fraction(float(torch.finfo(dtype).max))
    assert {math.copysign(1, value) for value in values.double()[ordered(values) == 0].tolist()} == {1.0, -1.0}


@pytest.mark.parametrize("n", [1, 2, 7, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_mirrored_halves_nearly_cancel_and_repeated_ones_are_equal(n: int, axis: int) -> None:
    values = np.moveaxis(drawn("normal", (n, 500)), 0, axis)
    opposite = np.moveaxis(draws.mirrored(values, axis, np.random.Generator(np.random.PCG64(1))), axis, 0)
    equal = np.moveaxis(draws.repeated(values, axis), axis, 0)
    kept, half = np.moveaxis(values, axis, 0), n // 2
    assert np.array_equal(equal[:half], equal[half : 2 * half])
    assert np.array_equal(opposite[:half], kept[:half])
    assert np.array_equal(opposite[2 * half :], kept[2 * half :])
    assert np.array_equal(equal[2 * half :], kept[2 * half :])
    ratio = np.abs(opposite[:half] + opposite[half : 2 * half]) / np.abs(opposite[:half])
    assert (ratio < 6 / 1024).all()
    assert half == 0 or ratio.max() > 1 / 1024


def test_an_unknown_draw_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="draw 'nromal' is not one of normal, outliers, wide, cancelling, edge"):
        named("nromal", torch.float32)


def test_a_draw_of_ones_own_is_used_as_it_is() -> None:
    def ones(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return np.ones(shape)

    assert named(ones, torch.float32) is ones
    assert draws.name_of_draw(ones) == "ones"
