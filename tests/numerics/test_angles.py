"""Angles of vectors, against 60-digit decimals, also where cosines and squares fail."""

import math
from decimal import Decimal, getcontext

import pytest
import torch

from stabilitykit.numerics.angles import turn

getcontext().prec = 60


def exact(a, b):
    """1 - cos and the angle's sine and cosine, by decimals of the exact values."""
    left, right = [Decimal(x) for x in a.double().tolist()], [Decimal(x) for x in b.double().tolist()]
    lengths = sum(x * x for x in left).sqrt() * sum(x * x for x in right).sqrt()
    cosine = sum(x * y for x, y in zip(left, right, strict=True)) / lengths
    return 1 - cosine, cosine


def random(size, seed, dtype=torch.float32):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_angle_is_that_of_the_exact_values(dtype):
    a, b = random(37, 0, dtype), random(37, 1, dtype)
    rest, cosine = exact(a, b)
    found = turn(a, b)
    assert found.one_minus_cosine == pytest.approx(float(rest), rel=1e-14)
    assert found.degrees == pytest.approx(math.degrees(math.acos(float(cosine))), rel=1e-12)


@pytest.mark.parametrize("size", [1e-4, 1e-8, 1e-12])
def test_small_angles_do_not_cancel(size):
    """At 1e-12 the cosine of float64 is 1: the angle would be lost."""
    a, across = torch.tensor([3.0, 4.0]).double(), torch.tensor([-4.0, 3.0]).double()
    b = a + size * across
    rest, _ = exact(a, b)
    found = turn(a, b)
    assert found.one_minus_cosine == pytest.approx(float(rest), rel=1e-3)
    assert found.degrees == pytest.approx(math.degrees(math.atan(size)), rel=1e-3)


def test_a_negated_vector_points_the_other_way_and_nearly_negated_ones_are_told_apart():
    a = random(9, 2)
    assert turn(a, -a).degrees == pytest.approx(180.0, abs=1e-13)
    assert turn(a, -a).one_minus_cosine == pytest.approx(2.0, abs=1e-15)
    b = torch.tensor([-1.0, 1e-10]).double()
    assert 180.0 - turn(torch.tensor([1.0, 0.0]).double(), b).degrees == pytest.approx(math.degrees(1e-10), rel=1e-3)


def test_equal_vectors_are_exactly_0_apart_and_zero_has_no_direction():
    a = random(64, 3)
    assert turn(a, a.clone()) == turn(a, a * 4) == turn(torch.zeros(3), -torch.zeros(3))
    assert (turn(a, a).degrees, turn(a, a).one_minus_cosine) == (0.0, 0.0)
    assert math.isnan(turn(a, torch.zeros(64)).degrees)
    assert math.isnan(turn(torch.zeros(64), a).one_minus_cosine)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_direction(bad):
    a = random(5, 4)
    b = a.clone()
    b[2] = bad
    assert math.isnan(turn(a, b).degrees)
    assert math.isnan(turn(b, a).one_minus_cosine)
    assert math.isnan(turn(b, b).degrees), "equal, and of no direction all the same"


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_squares_neither_overflow_nor_vanish(scale):
    a, b = torch.tensor([1.0, 1.0]).double() * scale, torch.tensor([1.0, 0.0]).double() * scale
    assert turn(a, b).degrees == pytest.approx(45.0, rel=1e-14)


@pytest.mark.parametrize(
    "values", [[-1.0, -2.0, -5.0], [-3.0, 0.0, -0.5], [-1e300, 1e-300, 1e300], [0.0, -1e-300, 0.0]]
)
def test_a_direction_keeps_its_sign_and_length_one_whatever_its_signs(values):
    a, b = torch.tensor(values, dtype=torch.float64), torch.tensor([1.0, 0.5, -0.25], dtype=torch.float64)
    rest, cosine = exact(a, b)
    assert turn(a, b).degrees == pytest.approx(math.degrees(math.acos(float(cosine))), rel=1e-12)
    assert turn(b, a).one_minus_cosine == pytest.approx(float(rest), rel=1e-12)
