"""The grid of inputs against exact fractions, and the axes against theirs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.numerics.bits import bits_equal, raw_bytes
from stabilitykit.numerics.perturbation import perturb
from stabilitykit.numerics.plane import Plane, axis

H = 40


def drawn(seed, dtype=torch.float32):
    return torch.randn(H, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_directions_and_their_steps_may_change_places(dtype):
    x0, h1, h2 = drawn(0, dtype), drawn(1, torch.float64), drawn(2)
    e1, e2 = np.linspace(-3e-7, 2e-7, 50), np.linspace(5e-8, -1e-7, 50)
    assert bits_equal(Plane(x0, h1, h2).at(e1, e2), Plane(x0, h2, h1).at(e2, e1))


def test_two_roundings_know_which_direction_came_first():
    """Below 1 floats are twice as dense, so what the first step rounds off depends on where it goes."""
    x0, h1, h2, e = torch.ones(H), drawn(1), drawn(2), np.full(1, 1e-7)
    assert not bits_equal(Plane(x0, h1, h2, "p32").at(e, e), Plane(x0, h2, h1, "p32").at(e, e))
    assert bits_equal(Plane(x0, h1, h2).at(e, e), Plane(x0, h2, h1).at(e, e))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_an_axis_the_rule_is_that_of_a_ray(dtype):
    x0, h1, h2 = drawn(0, dtype), drawn(1), drawn(2)
    steps = np.linspace(-2e-6, 2e-6, 41)
    assert bits_equal(Plane(x0, h1, h2).at(steps, 0 * steps), perturb(x0, h1, torch.from_numpy(steps)))
    assert bits_equal(Plane(x0, h1, h2).at(0 * steps, steps), perturb(x0, h2, torch.from_numpy(steps)))


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 1e-7), (torch.float64, 1e-16)])
def test_the_products_are_added_first_and_the_sum_is_rounded_once(dtype, unit):
    """Against fractions: three float64 roundings, then the nearest number of the dtype."""
    x0, h1, h2 = drawn(0, dtype), drawn(1, torch.float64), drawn(2, torch.float64)
    a, b = 3.1 * unit, -2.7 * unit
    x = Plane(x0, h1, h2).at(np.array([a]), np.array([b]))[0]
    for i in range(H):
        first = float(Fraction(a) * Fraction(float(h1[i])))
        second = float(Fraction(b) * Fraction(float(h2[i])))
        moved = float(Fraction(first) + Fraction(second))
        total = float(Fraction(float(x0[i])) + Fraction(moved))
        assert float(x[i]) == (float(np.float32(total)) if dtype == torch.float32 else total)


def test_the_rule_of_the_study_rounds_twice():
    x0, h1, h2 = drawn(0), drawn(1), drawn(2)
    a, b = np.float32(3.1e-7), np.float32(-2.7e-7)
    expected = (x0.numpy() + a * h1.numpy()) + b * h2.numpy()
    assert bits_equal(Plane(x0, h1, h2, "p32").at(np.array([a]), np.array([b]))[0], torch.from_numpy(expected))


@pytest.mark.parametrize("span", [1e-8, 2.5e-7, 1.0, 3e-6, 1.9127555772777218])
@pytest.mark.parametrize("n", [3, 31, 101, 201, 999])
def test_an_axis_has_exact_ends_and_an_exact_middle(span, n):
    e = axis(-span, span, n)
    assert (len(e), e[0], e[-1], e[n // 2]) == (n, -span, span, 0)
    assert (e == -e[::-1]).all()
    for k, value in enumerate(e):
        exact = Fraction(-span) + Fraction(2 * span) * k / (n - 1)
        assert abs(Fraction(float(value)) - exact) <= 2 * Fraction(math.ulp(span))


def test_an_axis_has_the_points_that_were_asked_for():
    """The study truncated a float quotient: 1e-7 in steps of 1e-9 gave 200 points."""
    assert int((1e-7 - -1e-7) / 1e-9) + 1 == 200
    assert len(axis(-1e-7, 1e-7, 201)) == 201
    assert np.linspace(-1e-7, 1e-7, 201)[100] != 0
    low, high = axis(2e-9, 7e-9, 4)[[0, -1]]
    assert (low, high) == (2e-9, 7e-9)


def test_the_middle_is_the_input_itself():
    x0 = drawn(0)
    x0[3] = -0.0
    e = axis(-1e-7, 1e-7, 31)
    x = Plane(x0, drawn(1), drawn(2)).at(e[15:16], e[15:16])[0]
    moved = (raw_bytes(x) != raw_bytes(x0)).nonzero().flatten().tolist()
    assert moved in ([], [15]), "at most the sign of a zero"


def test_two_points_are_the_ends():
    assert axis(-1.5, 7.0, 2).tolist() == [-1.5, 7.0]


@pytest.mark.parametrize("n", [1, 0, 2.0])
def test_too_few_points_are_refused(n):
    with pytest.raises(UsageError, match="make no axis"):
        axis(-1, 1, n)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (-math.inf, 1), (0, math.nan)])
def test_ends_in_no_order_are_refused(low, high):
    with pytest.raises(UsageError, match="has no length"):
        axis(low, high, 5)


def test_what_spans_no_plane_is_refused():
    x0, h = drawn(0), drawn(1)
    with pytest.raises(UsageError, match="rule 'mine'"):
        Plane(x0, h, h, "mine")
    with pytest.raises(UsageError, match=r"shapes \(3,\)"):
        Plane(x0, h, h[:3])
    with pytest.raises(UsageError, match="int64"):
        Plane(x0, h, torch.ones(H, dtype=torch.int64))
    with pytest.raises(UsageError, match="zero"):
        Plane(x0, 0 * h, h)
    spoiled = h.clone()
    for spoiled[7] in (math.nan, math.inf, -math.inf):
        with pytest.raises(InvalidError, match="not finite"):
            Plane(x0, h, spoiled)
    with pytest.raises(UsageError, match="before any step"):
        Plane(x0.double(), h, h, "p32")


def test_a_direction_along_one_coordinate_spans_a_plane():
    x0, first, last = torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    assert Plane(x0, first, last).at(np.array([2.0]), np.array([3.0])).tolist() == [[2.0, 0.0, 3.0]]


def test_two_points_are_an_axis():
    assert axis(-1.0, 3.0, 2).tolist() == [-1.0, 3.0]
