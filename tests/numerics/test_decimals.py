"""Tables of decimals and ULP, against exact decimals and fractions, and loops over single numbers."""

import math
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
import torch

from stabilitykit.numerics.bits import nudge
from stabilitykit.numerics.decimals import DECIMALS, apart_at, by_decade, by_ulp


def pairs(dtype, seed=0, size=200):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(size, generator=generator, dtype=torch.float64)
    b = a + torch.randn(size, generator=generator, dtype=torch.float64) * 10.0 ** -torch.arange(size).remainder(18)
    b[::7] = a[::7]
    return a.to(dtype), b.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounded_coordinates_are_those_of_exact_decimals(dtype):
    a, b = pairs(dtype)
    found = apart_at(a, b)
    assert list(found) == [f"decimal_{q}" for q in range(1, 16)]
    for q in DECIMALS:
        unit = Decimal(1).scaleb(-q)
        rounded = [[Decimal(x).quantize(unit, ROUND_HALF_EVEN) for x in one.double().tolist()] for one in (a, b)]
        assert found[f"decimal_{q}"] == sum(x != y for x, y in zip(*rounded, strict=True)), q


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_decades_are_those_of_exact_differences_and_add_up(dtype):
    a, b = pairs(dtype, seed=1)
    found = by_decade(a, b)
    gaps = [abs(Fraction(x) - Fraction(y)) for x, y in zip(a.double().tolist(), b.double().tolist(), strict=True)]
    bounds = [Fraction(1), *(Fraction(1, 10**k) for k in DECIMALS)]
    assert found["decade_0"] == sum(gap >= 1 for gap in gaps)
    for k in DECIMALS:
        assert found[f"decade_{k}"] == sum(bounds[k] <= gap < bounds[k - 1] for gap in gaps), k
        assert found[f"above_{k}"] == sum(gap >= bounds[k] for gap in gaps), k
        assert found[f"above_{k}"] == sum(found[f"decade_{j}"] for j in range(k + 1))
    assert found["decade_below"] == sum(0 < gap < bounds[15] for gap in gaps)
    assert sum(value for name, value in found.items() if name.startswith("decade")) == sum(gap > 0 for gap in gaps)
    assert min(found["decade_0"], found["decade_1"], found["above_15"]) > 0


def test_a_bound_belongs_to_the_bin_above_it():
    a = torch.zeros(4, dtype=torch.float64)
    b = torch.tensor([1.0, 0.1, math.nextafter(0.1, 0.0), 1e-15], dtype=torch.float64)
    found = by_decade(a, b)
    assert {name: count for name, count in found.items() if count and name.startswith("decade")} == {
        "decade_0": 1,
        "decade_1": 1,
        "decade_2": 1,
        "decade_15": 1,
    }
    assert by_decade(a[:1], torch.tensor([math.nextafter(1e-15, 0.0)], dtype=torch.float64))["decade_below"] == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_ulp_are_counted_by_powers_of_two(dtype):
    a = torch.ones(9, dtype=dtype)
    steps = [0, 1, 2, 3, 4, 7, 8, 31, 32]
    b = torch.stack([nudge(x, step) for x, step in zip(a, steps, strict=True)])
    found = by_ulp(a, b)
    assert len(found) == torch.finfo(dtype).bits
    assert {name: count for name, count in found.items() if count} == {
        "ulp_2^0": 1,
        "ulp_2^1": 2,
        "ulp_2^2": 2,
        "ulp_2^3": 1,
        "ulp_2^4": 1,
        "ulp_2^5": 1,
    }


def test_zeros_of_two_signs_are_no_ulp_apart_and_opposite_ends_are_counted():
    tiny = torch.finfo(torch.bfloat16).smallest_normal
    a = torch.tensor([0.0, tiny, math.inf], dtype=torch.bfloat16)
    b = torch.tensor([-0.0, -tiny, -math.inf], dtype=torch.bfloat16)
    found = by_ulp(a, b)
    assert sum(found.values()) == 2
    assert (found["ulp_2^8"], found["ulp_2^15"]) == (1, 1)


def test_what_is_not_finite_is_in_no_decimal():
    a = torch.tensor([math.nan, math.inf, 1.0, -math.inf, math.nan])
    b = torch.tensor([1.0, math.inf, math.nan, 5.0, math.nan])
    assert sum(apart_at(a, b).values()) == sum(by_decade(a, b).values()) == 0
    assert sum(by_ulp(a, b).values()) == 1  # -inf and 5 are so many steps apart; NaN are not
