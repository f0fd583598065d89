"""The steps at which rounding lets something through, against exact fractions and a walk over every float."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from stabilitykit.numerics.bits import FORMATS, nudge, spacing
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.resolution import cosine, step_columns, thresholds

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


def wide(x):
    return Fraction(float(x))


def first_move(x0, d):
    """The exact step at which x0 + s d, in real arithmetic, is first rounded to another float; and on which side."""
    found = []
    for x, direction in zip(x0, d, strict=True):
        if direction == 0:
            continue
        neighbour = nudge(x, 1 if direction > 0 else -1)
        found.append((wide(x) + wide(neighbour)) / 2 - wide(x))
        found[-1] /= wide(direction)
    return min(found)


def drawn(dtype, seed, size=24):
    random = np.random.Generator(np.random.PCG64(seed))
    x0 = torch.from_numpy(random.uniform(0.25, 4, size) * random.choice([-1, 1], size)).to(dtype)
    d = torch.from_numpy(random.standard_normal(size))
    return x0, d / d.norm()


@pytest.mark.parametrize("dtype", [torch.float64, *FLOATS])
@pytest.mark.parametrize("seed", range(4))
def test_the_first_move_is_half_a_spacing_in_the_direction_of_motion(dtype, seed):
    x0, d = drawn(dtype, seed)
    found = thresholds(Lattice(x0, d))
    exact = first_move(x0, d)
    assert found["eps_first_move"] == found["eps_first_move_any"]
    listed = next(Lattice(x0, d).cells())
    assert found["eps_first_move"] == float(d.norm()) * listed.first_changed
    # The roundings before the last one, to float64 and of the narrow to float32, move a midpoint by this much at most.
    before = {torch.float64: -50, torch.float32: -28}.get(dtype, FORMATS[dtype].mantissa - 22)
    off = Fraction(found["eps_first_move"]) / Fraction(float(d.norm())) / exact - 1
    assert abs(off) < Fraction(2) ** before


def test_a_tie_is_absorbed_by_an_even_mantissa_and_moves_an_odd_one():
    """Half a spacing above 1 is a tie: 1 is even and stays, the next float is odd and moves at the tie itself."""
    spacing = 2.0**-23
    d = torch.ones(1, dtype=torch.float64)
    even = thresholds(Lattice(torch.ones(1), d))["eps_first_move"]
    odd = thresholds(Lattice(torch.ones(1) + spacing, d))["eps_first_move"]
    assert even > spacing / 2
    assert even == pytest.approx(spacing / 2, rel=1e-7)
    assert odd <= spacing / 2
    assert odd == pytest.approx(spacing / 2, rel=1e-7)


def test_the_spacing_halves_below_a_power_of_two():
    d = torch.ones(1, dtype=torch.float64)
    up, down = (thresholds(Lattice(torch.ones(1), side * d))["eps_first_move"] for side in (1, -1))
    assert up == pytest.approx(2 * down, rel=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
def test_each_threshold_is_where_its_property_begins(dtype):
    x0, d = drawn(dtype, 9)
    lattice = Lattice(x0, d)
    found = thresholds(lattice)

    def moved(s):
        return int((lattice.at(s).double() != x0.double()).sum())

    def aligned(s):
        return cosine(lattice.at(s).double() - x0.double(), d)

    before = {name: math.nextafter(found[name], 0.0) for name in found}
    assert (moved(before["eps_first_move"]), moved(found["eps_first_move"]) > 0) == (0, True)
    assert moved(before["eps_half_moved"]) < 12 <= moved(found["eps_half_moved"])
    assert aligned(before["eps_aligned"]) < 0.99 <= aligned(found["eps_aligned"])


def test_below_the_aligned_step_every_float_input_shows_a_lost_direction_and_above_none():
    """Every distinct input of a small ray: bfloat16, two coordinates."""
    x0, d = torch.tensor([1.0, 1.5], dtype=torch.bfloat16), torch.tensor([0.8, 0.6], dtype=torch.float64)
    lattice = Lattice(x0, d)
    limit = thresholds(lattice)["eps_aligned"]
    cosines = {}
    for cell in itertools.takewhile(lambda cell: cell.first_changed < 4 * 1.8, lattice.cells()):
        cosines[cell.first_changed] = cosine(lattice.at(cell.first_changed).double() - x0.double(), d)
    assert all(value >= 0.99 for s, value in cosines.items() if s >= limit)
    last_lost = max(s for s, value in cosines.items() if value < 0.99)
    assert last_lost < limit
    assert not [s for s in cosines if last_lost < s < limit]


def test_a_zero_moves_at_once_and_is_not_counted_among_the_listed():
    found = thresholds(Lattice(torch.tensor([0.0, 1.0]), torch.tensor([0.6, 0.8], dtype=torch.float64)))
    assert 1e-46 < found["eps_first_move_any"] < 1e-44 < 1e-9 < found["eps_first_move"]
    assert found["zeros"] == 1
    assert found["eps_half_moved"] == found["eps_first_move_any"], "one of two is half"


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_zero_that_only_changes_its_sign_has_not_moved(dtype):
    """+0 - tiny rounds to -0, another pattern of the same number: the first move is to a subnormal number."""
    x0, d = torch.zeros(1).to(dtype), -torch.ones(1, dtype=torch.float64)
    found = thresholds(Lattice(x0, d))
    assert float(Lattice(x0, d).at(found["eps_first_move_any"]).double()) < 0
    assert found["eps_first_move_any"] == pytest.approx(float(spacing(x0)) / 2, rel=1e-2)


def test_an_input_of_zeros_keeps_every_direction_of_normal_numbers():
    found = thresholds(Lattice(torch.zeros(3), torch.tensor([0.48, 0.6, 0.64], dtype=torch.float64)))
    assert found["eps_first_move"] == found["eps_first_move_any"] < 1e-44
    assert found["eps_aligned"] < 1e-42


def test_lengths_are_nominal_so_a_longer_direction_changes_nothing():
    x0, d = drawn(torch.float32, 5)
    unit, *others = (thresholds(Lattice(x0, scale * d)) for scale in (1, 4, 2.0**-30, 2.0**30))
    for name in ("eps_first_move", "eps_half_moved", "eps_aligned"):
        assert [other[name] for other in others] == pytest.approx([unit[name]] * 3, rel=1e-6)


def test_a_step_in_columns():
    delta, d = torch.tensor([0.0, 3.0, 4.0], dtype=torch.float64), torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
    assert step_columns(delta, 4.0, d) == {
        "realised_norm": 5.0,
        "realised_ratio": 1.25,
        "alignment": 0.8,
        "coords_moved": 2,
    }
    still = step_columns(torch.zeros(3, dtype=torch.float64), 4.0, d)
    assert math.isnan(still["alignment"])
    assert (still["realised_norm"], still["realised_ratio"], still["coords_moved"]) == (0, 0, 0)


def test_what_never_moves_has_no_threshold():
    """Even the largest step times this direction is far below half a spacing."""
    found = thresholds(Lattice(torch.tensor([1e38]), torch.tensor([1e-300], dtype=torch.float64)))
    assert all(math.isnan(found[name]) for name in found if name != "zeros")


def test_a_format_that_saturates_may_lose_every_direction():
    """From 400 there is no way past 448, so no step keeps both coordinates equal."""
    x0 = torch.tensor([400.0, 1.0]).to(torch.float8_e4m3fn)
    found = thresholds(Lattice(x0, torch.ones(2, dtype=torch.float64)))
    assert math.isnan(found["eps_aligned"])
    assert found["eps_first_move"] > 0


def test_a_cosine_is_never_beyond_one_though_its_product_is_rounded():
    vectors = torch.from_numpy(np.random.Generator(np.random.PCG64(3)).standard_normal((50, 7)))
    assert max(float(v @ v) / float(v.norm()) ** 2 for v in vectors) > 1


def test_a_cosine_stays_in_its_range_however_lengths_round():
    """Of some of these the product with itself is more than the square of the rounded length."""
    vectors = torch.from_numpy(np.random.Generator(np.random.PCG64(1)).standard_normal((200, 7)))
    assert any(float(v @ v) / float(v.norm()) ** 2 > 1 for v in vectors)
    assert max(cosine(v, v) for v in vectors) == 1
    assert min(cosine(v, -v) for v in vectors) == -1
