"""The input lattice against exact fractions, against torch at both ends of every cell, and against closed forms."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.numerics import lattice as module
from stabilitykit.numerics.bits import total_order
from stabilitykit.numerics.lattice import Cell, Lattice
from stabilitykit.numerics.perturbation import perturb

EIGHTS = [torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, *EIGHTS]
FORMATS = {
    torch.float64: (53, -1022),
    torch.float32: (24, -126),
    torch.float16: (11, -14),
    torch.bfloat16: (8, -126),
    torch.float8_e4m3fn: (4, -6),
    torch.float8_e5m2: (3, -14),
}
PATHS = {
    torch.float64: [torch.float64],
    torch.float32: [torch.float64, torch.float32],
    torch.float16: [torch.float64, torch.float32, torch.float16],
    torch.bfloat16: [torch.float64, torch.float32, torch.bfloat16],
    torch.float8_e4m3fn: [torch.float64, torch.float32, torch.float8_e4m3fn],
    torch.float8_e5m2: [torch.float64, torch.float32, torch.float8_e5m2],
}
REFUSED = {("p32", torch.float64), *(("native", dtype) for dtype in EIGHTS)}
RULED = [(rule, dtype) for rule in module.RULES for dtype in DTYPES if (rule, dtype) not in REFUSED]


def drawn(H: int, dtype: torch.dtype, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """x0 and a direction of both signs, as float64 draws."""
    random = np.random.default_rng(seed)
    x0 = torch.from_numpy(random.normal(size=H)).to(dtype)
    return x0, torch.from_numpy(random.normal(size=H)) * scale


def up(s: float) -> float:
    return math.nextafter(s, math.inf)


def down(s: float) -> float:
    return math.nextafter(s, -math.inf)


# ---- independent oracle 1: round to nearest even in exact rational arithmetic ----


def exponent(size: Fraction) -> int:
    e = size.numerator.bit_length() - size.denominator.bit_length()
    return e if Fraction(2) ** e <= size else e - 1


def nearest_even(value: Fraction, dtype: torch.dtype) -> Fraction:
    precision, lowest = FORMATS[dtype]
    if value == 0:
        return value
    quantum = Fraction(2) ** (max(exponent(abs(value)), lowest) - precision + 1)
    return round(value / quantum) * quantum  # Fraction's round is half to even


def exact_key(x0: float, d: float, s: float, dtype: torch.dtype, largest: float = math.inf) -> int:
    """The place of x(s) among the floats of `dtype`, -0 at -1 and +0 at 0, by three roundings of fractions."""
    product = nearest_even(Fraction(s) * Fraction(d), torch.float64)
    total = Fraction(x0) + product
    negative = total < 0
    if total == 0:
        negative = product == 0 and math.copysign(1, x0) < 0 and d < 0
    for step in PATHS[dtype]:
        total = nearest_even(total, step)
    precision, lowest = FORMATS[dtype]
    size = min(abs(total), largest)
    binade = max(exponent(size), lowest) if size else lowest
    steps = (binade - lowest) * 2 ** (precision - 1) + size / Fraction(2) ** (binade - precision + 1)
    assert steps.denominator == 1
    return -1 - int(steps) if negative else int(steps)


def exact_cells(x0: Tensor, direction: Tensor, s_max: float, largest: float = math.inf) -> list[Cell]:
    """Every breakpoint up to s_max, each found by bisection over the bits of s."""
    found: dict[float, int] = {}
    for i, (x, d) in enumerate(zip(x0.double().tolist(), direction.double().tolist(), strict=True)):
        origin = int(total_order(x0[i]))
        for count in range(1, abs(exact_key(x, d, s_max, x0.dtype, largest) - origin) + 1):
            low, high = 0, int(np.float64(s_max).view(np.int64))
            while high - low > 1:
                middle = (low + high) // 2
                s = float(np.int64(middle).view(np.float64))
                reached = abs(exact_key(x, d, s, x0.dtype, largest) - origin) >= count
                low, high = (low, middle) if reached else (middle, high)
            found.setdefault(float(np.int64(high).view(np.float64)), i)
    return [Cell(math.nextafter(s, 0), s, i) for s, i in sorted(found.items())]


def span_of(x0: Tensor, direction: Tensor, cells: float) -> float:
    """A step that moves a coordinate of median size by about so many floats."""
    return cells * torch.finfo(x0.dtype).eps * float(x0.double().abs().median() / direction.abs().median())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_cells_are_those_of_exact_rational_arithmetic(dtype: torch.dtype, seed: int) -> None:
    x0, direction = drawn(4 + 2 * seed, dtype, seed)
    s_max = span_of(x0, direction, 3)
    expected = exact_cells(x0, direction, s_max)
    assert len(expected) > 8
    assert list(Lattice(x0, direction).cells(s_max)) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_with_few_bits_meet_every_tie(dtype: torch.dtype) -> None:
    # Short x0 and d make x0 + s d hit midpoints, where only rounding to even decides.
    x0 = torch.tensor([1.0, -1.0, 1.5, -2.0, 0.75, 3.0], dtype=dtype)
    direction = torch.tensor([1.0, 1.0, -1.0, -0.5, 0.25, -2.0])
    s_max = 4 * torch.finfo(dtype).eps
    assert list(Lattice(x0, direction).cells(s_max)) == exact_cells(x0, direction, s_max)


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormals_and_the_crossing_of_zero_are_exact(dtype: torch.dtype) -> None:
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    x0 = (torch.tensor([2.0, -2.0, 0.0, -0.0, 3.0, -1.0], dtype=torch.float64) * smallest).to(dtype)
    direction = torch.tensor([-1.0, 1.0, 1.0, -1.0, 0.5, 0.25])
    s_max = 6 * smallest
    lattice = Lattice(x0, direction)
    expected = exact_cells(x0, direction, s_max)
    assert lattice.dense == []
    assert list(lattice.cells(s_max)) == expected
    firsts = torch.tensor([cell.first_changed for cell in expected], dtype=torch.float64)
    signs = torch.signbit(lattice.at(firsts).double())
    # The first two coordinates change sign, one through +0 and -0, the other through -0 and +0.
    assert signs[0, :2].tolist() == [False, True]
    assert signs[-1, :2].tolist() == [True, False]


# ---- independent oracle 2: torch at both ends of every cell ----


def certify(lattice: Lattice, cells: list[Cell], s_max: float) -> None:
    """Each coordinate is monotone in s, so equal ends of a gap prove that nothing moved in between."""
    last, first = (torch.tensor([cell[end] for cell in cells], dtype=torch.float64) for end in (0, 1))
    assert [up(s) for s in last.tolist()] == first.tolist()
    same, changed, start, end = (total_order(lattice.at(s)) for s in (last, first, 0.0, s_max))
    before = torch.cat([start[None], changed])
    assert torch.equal(same, before[:-1])
    assert torch.equal(end, before[-1])
    moves = (changed - before[:-1]).abs()
    assert moves.gt(0).int().argmax(dim=1).tolist() == [cell.coordinate for cell in cells]
    assert moves.any(dim=1).all()
    assert torch.equal(moves.sum(dim=0), (end - total_order(lattice.x0)).abs())


@pytest.mark.parametrize(("rule", "dtype"), RULED)
@pytest.mark.parametrize("sign", [1, -1])
def test_torch_agrees_at_both_ends_of_every_cell(rule: str, dtype: torch.dtype, sign: int) -> None:
    x0, direction = drawn(24, dtype, seed=11)
    lattice = Lattice(x0, sign * direction, rule)
    s_max = span_of(x0, direction, 6)
    cells = list(lattice.cells(s_max))
    assert len(cells) > (5 if rule == "native" else 40)
    certify(lattice, cells, s_max)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_direction_only_scales_the_steps(dtype: torch.dtype, scale: float) -> None:
    x0, direction = drawn(12, dtype, seed=12, scale=scale)
    lattice = Lattice(x0, direction)
    s_max = span_of(x0, direction, 4)
    cells = list(lattice.cells(s_max))
    assert len(cells) > 20
    certify(lattice, cells, s_max)


@pytest.mark.parametrize("scale", [1e-310, 1e-320, 5e-324, 1e300])
def test_directions_at_the_ends_of_float64_give_true_cells_or_none(scale: float) -> None:
    lattice = Lattice(torch.tensor([1.0, -3.0]), torch.tensor([1.0, 2.0], dtype=torch.float64) * scale)
    cells = list(itertools.islice(lattice.cells(), 5))
    # 1e-320 times the largest float64 is 2e-12, which moves no float32 near 1.
    assert bool(cells) == (scale > 1e-320)
    certify(lattice, cells, cells[-1].first_changed if cells else float(np.finfo(np.float64).max))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_cell_is_lost_or_doubled_across_many_chunks(dtype: torch.dtype) -> None:
    x0, direction = drawn(40, dtype, seed=13)
    lattice = Lattice(x0, direction)
    s_max = span_of(x0, direction, 30)
    steps = [cell.first_changed for cell in lattice.cells(s_max)]
    keys = total_order(lattice.at(torch.tensor([0.0, *steps], dtype=torch.float64)))
    moves = (keys[1:] - keys[:-1]).abs()
    total = int((total_order(lattice.at(s_max)) - total_order(x0)).abs().sum())
    assert len(steps) > 400
    assert steps == sorted(set(steps))
    assert len(steps) == total - int((moves.sum(dim=1) - 1).sum())
    assert int(moves.sum()) == total


def test_coordinates_that_move_at_one_step_share_a_cell_named_after_the_lowest() -> None:
    x0 = torch.tensor([7.0, 1.0, 1.0])
    direction = torch.tensor([0.0, 1.0, 1.0])
    together = list(itertools.islice(Lattice(x0, direction).cells(), 50))
    alone = list(itertools.islice(Lattice(x0[1:2], direction[1:2]).cells(), 50))
    assert [cell[:2] for cell in together] == [cell[:2] for cell in alone]
    assert {cell.coordinate for cell in together} == {1}


def test_coordinates_that_do_not_move_are_never_named() -> None:
    x0, direction = drawn(30, torch.float32, seed=14)
    direction[::2] = 0
    cells = list(itertools.islice(Lattice(x0, direction).cells(), 60))
    assert {cell.coordinate for cell in cells} <= set(range(1, 30, 2))
    certify(Lattice(x0, direction), cells, cells[-1].first_changed)


# ---- closed forms ----


def first_cell(x: float, d: float, dtype: torch.dtype) -> Cell:
    return next(Lattice(torch.tensor([x], dtype=dtype), torch.tensor([d], dtype=torch.float64)).cells())


def test_in_float64_half_an_ulp_is_absorbed_by_an_even_number_and_the_next_step_is_not() -> None:
    assert first_cell(1.0, 1.0, torch.float64) == (2.0**-53, up(2.0**-53), 0)


def test_below_a_power_of_two_half_the_ulp_suffices() -> None:
    assert first_cell(1.0, -1.0, torch.float64) == (2.0**-54, up(2.0**-54), 0)
    assert first_cell(-1.0, 1.0, torch.float64) == (2.0**-54, up(2.0**-54), 0)


def test_an_odd_number_leaves_at_the_tie_itself() -> None:
    odd = 1 + 2.0**-52
    assert first_cell(odd, 1.0, torch.float64) == (down(2.0**-53), 2.0**-53, 0)


def test_in_float32_the_float64_sum_rounds_first() -> None:
    # The sum must leave the float32 tie by more than half a float64 ulp before the tie is broken.
    last = 2.0**-24 + 2.0**-53
    assert first_cell(1.0, 1.0, torch.float32) == (last, up(last), 0)
    last = 2.0**-25 + 2.0**-54
    assert first_cell(1.0, -1.0, torch.float32) == (last, up(last), 0)
    first = 2.0**-24 - 2.0**-53
    assert first_cell(1 + 2.0**-23, 1.0, torch.float32) == (down(first), first, 0)


def test_in_bfloat16_float32_rounds_before_the_tie_is_broken() -> None:
    last = 2.0**-8 + 2.0**-24
    assert first_cell(1.0, 1.0, torch.bfloat16).last_same == pytest.approx(last, rel=1e-12, abs=0)
    assert first_cell(1.0, 1.0, torch.bfloat16).last_same >= last


def test_an_axis_moves_one_coordinate_float_by_float() -> None:
    x0, _ = drawn(9, torch.bfloat16, seed=15)
    axis = torch.zeros(9)
    axis[4] = -1
    lattice = Lattice(x0, axis)
    cells = list(itertools.islice(lattice.cells(), 40))
    keys = [int(total_order(lattice.at(cell.first_changed))[4]) for cell in cells]
    assert keys == [int(total_order(x0[4])) - n for n in range(1, 41)]
    assert {cell.coordinate for cell in cells} == {4}


def test_minus_zero_becomes_plus_zero_before_any_step() -> None:
    # -0 + s d is +0 for a positive d already at s = 0: the breakpoint lies at the first step that there is.
    lattice = Lattice(torch.tensor([-0.0]), torch.tensor([1.0]))
    smallest = 2.0**-149
    first, second, third = itertools.islice(lattice.cells(), 3)
    assert first == (0.0, 5e-324, 0)
    assert second == (smallest / 2, up(smallest / 2), 0)
    assert third == (down(1.5 * smallest), 1.5 * smallest, 0) or third.last_same == 1.5 * smallest
    assert next(Lattice(torch.tensor([-0.0]), torch.tensor([-1.0])).cells()).last_same == smallest / 2


# ---- ends ----


def test_s_max_is_the_last_step_that_can_be_a_cell() -> None:
    x0, direction = drawn(8, torch.float32, seed=16)
    lattice = Lattice(x0, direction)
    cells = list(itertools.islice(lattice.cells(), 40))
    for count in (1, 16, 17, 40):
        edge = cells[count - 1]
        assert list(lattice.cells(edge.first_changed)) == cells[:count]
        assert list(lattice.cells(edge.last_same)) == cells[: count - 1]
    assert list(lattice.cells(0.0)) == []


@pytest.mark.parametrize(("dtype", "H"), [(torch.float16, 20), (torch.bfloat16, 20), (torch.float32, 1)])
def test_cells_end_with_the_last_finite_input(dtype: torch.dtype, H: int) -> None:
    largest = torch.finfo(dtype).max
    below = largest * (1 - 4 * torch.finfo(dtype).eps)
    x0 = torch.full((H,), below, dtype=torch.float64).to(dtype)
    direction = torch.linspace(1.0, 1.5, H, dtype=torch.float64)
    direction[::2] *= -1
    direction[0] = 1.5
    lattice = Lattice(x0, direction)
    cells = list(lattice.cells())
    end = cells[-1]
    assert bool(torch.isfinite(lattice.at(end.first_changed)).all())
    assert float(lattice.at(end.first_changed)[0]) == largest or H > 1
    assert float(lattice.at(end.first_changed).max()) == largest
    half = (largest - float(torch.nextafter(torch.tensor(largest, dtype=dtype), torch.tensor(0.0, dtype=dtype)))) / 2
    beyond = (largest - float(x0[0]) + half) / 1.5
    assert not bool(torch.isfinite(lattice.at(beyond * (1 + 1e-4))).all())
    certify(lattice, cells, beyond * (1 - 1e-4))


def test_cells_end_where_the_first_of_several_coordinates_overflows_downwards() -> None:
    """The other one could still move for long."""
    lattice = Lattice(torch.tensor([-60000.0, 1.0]).half(), torch.tensor([-1.0, 2.0**-12]))
    cells = list(itertools.islice(lattice.cells(), 5000))
    assert len(cells) < 5000
    assert lattice.at(cells[-1].first_changed).isfinite().all()
    assert 5504 < cells[-1].first_changed < 5520, "65520 is rounded to infinity"


def test_a_format_without_infinity_saturates_and_has_no_last_step() -> None:
    lattice = Lattice(torch.tensor([416.0, 1.0, -8.0]).to(torch.float8_e4m3fn), torch.tensor([1.0, 3.0, -0.5]))
    cells = list(lattice.cells())
    assert lattice.at(cells[-1].first_changed).double().tolist() == [448.0, 448.0, -448.0]
    assert lattice.at(math.inf).double().tolist() == [448.0, 448.0, -448.0]
    assert cells == exact_cells(lattice.x0, lattice.direction, cells[-1].first_changed, largest=448)
    certify(lattice, cells, 1e300)


@pytest.mark.parametrize("dtype", EIGHTS)
def test_arithmetic_that_torch_does_not_have_is_refused(dtype: torch.dtype) -> None:
    x0, direction = drawn(4, dtype, seed=19)
    for refused in (lambda: Lattice(x0, direction, "native"), lambda: perturb(x0, direction, 1.0, "native")):
        with pytest.raises(UsageError, match=r"'native' adds in float8_e\dm\d.*, which torch cannot; take 'p64r'"):
            refused()


@pytest.mark.parametrize(
    ("dtype", "pattern"), [(EIGHTS[0], 0x7F), (EIGHTS[0], -1), (EIGHTS[1], 0x7C), (EIGHTS[1], 0x7D)]
)
def test_every_8_bit_infinity_and_nan_is_refused(dtype: torch.dtype, pattern: int) -> None:
    x0 = torch.tensor([0, pattern], dtype=torch.int8).view(dtype)
    with pytest.raises(InvalidError, match=r"the input is .* at coordinate 1"):
        Lattice(x0, torch.ones(2))


def test_float64_ends_at_its_largest_number_too() -> None:
    top = float(np.finfo(np.float64).max)
    lattice = Lattice(torch.tensor([down(down(top))], dtype=torch.float64), torch.tensor([1e300], dtype=torch.float64))
    cells = list(lattice.cells())
    assert [float(lattice.at(cell.first_changed)) for cell in cells] == [down(top), top]


# ---- laziness ----


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all arrays that were rounded."""
    sizes: list[int] = []
    rounded = module.round_to_keys

    def counted(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
        sizes.append(np.size(values))
        return rounded(values, dtype)

    monkeypatch.setattr(module, "round_to_keys", counted)
    return sizes


@pytest.mark.parametrize(
    "direction",
    [
        pytest.param([1.0, 1.3, -0.7], id="plain"),
        pytest.param([math.cos(math.pi / 2), 1.0, 0.0], id="nearly an axis"),
        pytest.param([1e-30, -1e-12, 1.0], id="three speeds"),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_cells_of_an_endless_ray_cost_little(
    direction: list[float], dtype: torch.dtype, work: list[int]
) -> None:
    lattice = Lattice(torch.tensor([1.0, 1.7, -0.3], dtype=dtype), torch.tensor(direction, dtype=torch.float64))
    cells = list(itertools.islice(lattice.cells(), 3))
    assert sum(work) < 10_000
    certify(lattice, cells, cells[-1].first_changed)


ROUNDINGS = dict(zip(DTYPES, [9_000, 9_000, 14_000, 14_000, 18_000, 16_000], strict=True))


@pytest.mark.parametrize(("dtype", "bound"), ROUNDINGS.items())
def test_real_arithmetic_with_its_slack_lands_beside_the_breakpoints(
    dtype: torch.dtype, bound: int, work: list[int]
) -> None:
    # A wrong side of the tie costs no cell but twice the roundings.
    cells = list(itertools.islice(Lattice(*drawn(576, dtype, seed=3)).cells(), 200))
    assert len(cells) == 200
    assert sum(work) < bound


def test_a_quick_coordinate_does_not_wait_for_sixteen_others(work: list[int]) -> None:
    x0, direction = drawn(64, torch.float32, seed=17)
    direction[1:] *= 1e-16
    lattice = Lattice(x0, direction)
    cells = list(itertools.islice(lattice.samples(1.0), 3))
    assert [cell.coordinate for cell in cells] == [0, 0, 0]
    assert sum(work) < 20_000
    certify(lattice, cells, cells[-1].first_changed)


def test_a_coordinate_about_to_cross_zero_is_not_overrun_while_a_slow_one_is_awaited(work: list[int]) -> None:
    x0 = torch.tensor([15 * 2.0**-149, 15 * 2.0**-149])
    lattice = Lattice(x0, torch.tensor([-1.0, 1e-30], dtype=torch.float64))
    cells = list(itertools.islice(lattice.cells(), 40))
    assert sum(work) < 20_000
    certify(lattice, cells, cells[-1].first_changed)


@pytest.mark.parametrize("rule", ["p64r", "native"])
def test_a_breakpoint_far_beyond_its_estimate_is_reached(rule: str, work: list[int]) -> None:
    # native: s itself is rounded to 8 bits. p64r: the second coordinate moves so late that the first laps it.
    lattice = Lattice(torch.tensor([1.0, 2.0], dtype=torch.bfloat16), torch.tensor([1.0, 1e-3]), rule)
    cells = list(lattice.cells(4.0))
    assert len(cells) > 200
    assert sum(work) < 2_000_000
    certify(lattice, cells, 4.0)


def test_coordinates_that_never_move_do_not_stop_the_walk() -> None:
    # In float16 the small components become zero, so twenty coordinates never reach their estimated breakpoints.
    direction = torch.full((21,), 1e-12)
    direction[3] = 1.0
    lattice = Lattice(torch.ones(21, dtype=torch.float16), direction, "native")
    cells = list(lattice.cells(0.1))
    assert {cell.coordinate for cell in cells} == {3}
    certify(lattice, cells, 0.1)


# ---- dense coordinates ----


def with_zeros(dtype: torch.dtype, share: float = 0.2) -> tuple[Tensor, Tensor, list[int]]:
    x0, direction = drawn(40, dtype, seed=18)
    zeros = list(range(int(40 * share)))
    x0[zeros] = 0
    return x0, direction, zeros


@pytest.mark.parametrize("share", [0.05, 0.2, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_exact_zeros_are_dense_however_many_there_are(dtype: torch.dtype, share: float) -> None:
    x0, direction, zeros = with_zeros(dtype, share)
    lattice = Lattice(x0, direction)
    assert lattice.dense == zeros
    cells = list(itertools.islice(lattice.cells(), 20))
    assert not {cell.coordinate for cell in cells} & set(zeros)


def test_values_near_zero_are_dense_and_ordinary_ones_are_not() -> None:
    x0, direction, _ = with_zeros(torch.float32, 0.0)
    x0[:2] = torch.tensor([1e-30, -1e-12])
    assert Lattice(x0, direction).dense == [0, 1]
    x0[:2] = torch.tensor([1e-2, 1e4])
    assert Lattice(x0, direction).dense == []


def test_dense_means_more_than_1024_floats_within_a_256th_of_a_typical_step() -> None:
    """That is 2**-32 here; the two small numbers have spacings of 2**-42 and 2**-43: 1024 and 2048 floats."""
    x0 = torch.tensor([1.0, 1.0, 1.0, 1.5 * 2**-19, 1.5 * 2**-20])
    assert Lattice(x0, torch.ones(5)).dense == [4]


def test_a_zero_that_does_not_move_is_not_dense() -> None:
    x0, direction, zeros = with_zeros(torch.float32)
    direction[zeros] = 0
    lattice = Lattice(x0, direction)
    s_max = span_of(x0, torch.ones(1), 2)
    assert lattice.dense == []
    assert list(lattice.samples(s_max)) == list(lattice.cells(s_max))


def test_a_large_component_makes_no_coordinate_dense() -> None:
    x0, direction = drawn(40, torch.float32, seed=19)
    direction[5] = 1e20
    assert Lattice(x0, direction).dense == []


def test_float16_has_so_few_floats_near_zero_that_all_are_listed() -> None:
    x0, direction, zeros = with_zeros(torch.float16)
    lattice = Lattice(x0, direction)
    assert lattice.dense == []
    cells = list(itertools.islice(lattice.cells(), 200))
    assert {cell.coordinate for cell in cells} & set(zeros)
    certify(lattice, cells, cells[-1].first_changed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_samples_are_the_cells_and_a_grid_in_one_order(dtype: torch.dtype) -> None:
    x0, direction, _ = with_zeros(dtype)
    lattice = Lattice(x0, direction)
    s_max = span_of(x0, direction, 2)
    samples = list(lattice.samples(s_max))
    listed = [cell for cell in samples if cell.coordinate >= 0]
    grid = [cell for cell in samples if cell.coordinate == -1]
    assert listed == list(lattice.cells(s_max))
    steps = [cell.first_changed for cell in samples]
    assert steps == sorted(steps)
    assert [cell.last_same for cell in grid] == [
        0.0 if index == 0 else steps[index - 1] for index, cell in enumerate(samples) if cell.coordinate == -1
    ]
    # Two an octave from one unit roundoff below the first breakpoint, up to s_max; coarse but from the start below.
    fine = listed[0].first_changed * torch.finfo(dtype).eps
    points = [cell.first_changed for cell in grid]
    ratios = [(later / earlier, earlier) for earlier, later in itertools.pairwise(points)]
    assert all(ratio == pytest.approx(2**0.5) for ratio, earlier in ratios if earlier >= fine)
    assert all(ratio == 256 for ratio, earlier in ratios if earlier < fine)
    assert points[-1] > s_max / 1.42
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    largest = float(direction[lattice.dense].abs().max())
    assert points[0] <= max(smallest / largest, 1e-307)


def test_a_bound_and_a_start_only_cut_the_samples() -> None:
    """Also where they are steps of the grid, or the first breakpoint itself."""
    lattice = Lattice(torch.tensor([0.0, 1.0, 1.5]), torch.tensor([1e6, 1.0, 0.7]))
    assert lattice.nearest is not None
    near = lattice.nearest.first_changed
    samples = list(lattice.samples(4 * near))
    assert list(lattice.samples(near)) == [cell for cell in samples if cell.first_changed <= near]
    for cell in samples[:: len(samples) // 7]:
        after = [later.first_changed for later in samples if later.first_changed > cell.first_changed]
        assert [later.first_changed for later in lattice.samples(4 * near, cell.first_changed)] == after


def test_a_ray_of_zeros_alone_is_sampled_finely_where_others_would_move_and_ends_finite() -> None:
    x0 = torch.tensor([0.0, 1.0, -1.0, 1.0])
    axis = torch.tensor([2.0, 0.0, 0.0, 0.0])
    lattice = Lattice(x0, axis)
    samples = list(itertools.islice(lattice.samples(math.inf), 2000))
    assert len(samples) < 2000
    assert {cell.coordinate for cell in samples} == {-1}
    points = [cell.first_changed for cell in samples]
    half = 2.0**-24 / 2  # the step that moves a number of size one by half its spacing
    assert all(b / a < 1.42 for a, b in itertools.pairwise(points) if a >= half * 2.0**-23)
    assert bool(torch.isfinite(lattice.at(points[-1])).all())
    assert float(lattice.at(points[-1])[0]) > 1e38


# ---- the evaluated map ----


def test_the_product_is_rounded_before_the_sum() -> None:
    s = d = 1 + 2.0**-30
    x0 = torch.tensor([-(1 + 2.0**-29)], dtype=torch.float64)
    # A fused multiply-add would keep the product's last bit, 2**-60.
    assert float(perturb(x0, torch.tensor([d], dtype=torch.float64), s)) == 0.0


def test_the_default_rule_rounds_once_from_float64() -> None:
    x0, direction = drawn(500, torch.bfloat16, seed=20)
    expected = (x0.double() + 0.0123 * direction.double()).to(torch.bfloat16)
    assert torch.equal(perturb(x0, direction, 0.0123), expected)


def test_p32_rounds_the_step_to_float32() -> None:
    x0, d, s = torch.ones(1), torch.ones(1), 2.0**-24 + 2.0**-50
    assert float(perturb(x0, d, s, "p64r")) == 1 + 2.0**-23
    assert float(perturb(x0, d, s, "p32")) == 1.0


def test_native_rounds_step_and_direction_to_the_dtype() -> None:
    x0, d = torch.tensor([256.0], dtype=torch.bfloat16), torch.tensor([1.0])
    assert float(perturb(x0, d, 1.001, "p32")) == 258.0
    assert float(perturb(x0, d, 1.001, "native")) == 256.0
    assert float(perturb(x0, 1.001 * d, 1.0, "native")) == 256.0


def test_p32_and_native_round_step_and_direction_before_their_product() -> None:
    # Each factor is just below a tie that the product of the unrounded ones would cross.
    s, d = torch.tensor([1 + 2.0**-24, 1 + 2.0**-8], dtype=torch.float64), [1 + 2.0**-23, 1 + 2.0**-7]
    single = perturb(torch.zeros(1), torch.tensor(d[:1], dtype=torch.float64), float(s[0]), "p32")
    half = perturb(torch.zeros(1, dtype=torch.bfloat16), torch.tensor(d[1:]), float(s[1]), "native")
    assert (float(single), float(half)) == (d[0], d[1])


def test_many_steps_at_once_are_the_steps_one_by_one() -> None:
    x0, direction = drawn(7, torch.float16, seed=21)
    steps = torch.tensor([0.0, 1e-4, 0.3], dtype=torch.float64)
    for rule in module.RULES:
        together = perturb(x0, direction, steps, rule)
        assert together.shape == (3, 7)
        for row, s in zip(together, steps.tolist(), strict=True):
            assert torch.equal(row, perturb(x0, direction, s, rule))
            assert torch.equal(row, Lattice(x0, direction, rule).at(s))


# ---- errors ----


@pytest.mark.parametrize(
    ("x0", "direction", "rule", "error", "fragment"),
    [
        ([1.0], [0.0], "p64r", UsageError, "moves no coordinate"),
        ([1.0, 2.0], [1.0], "p64r", UsageError, r"shapes \(1,\) and \(2,\)"),
        ([[1.0]], [[1.0]], "p64r", UsageError, r"must be \(H,\)"),
        ([1.0], [1.0], "p16", UsageError, "rule 'p16' is not one of p64r, p32, native"),
        ([1.0, 1.0], [1.0, math.nan], "p64r", InvalidError, "direction is nan at coordinate 1"),
        ([1.0, 1.0], [-math.inf, 1.0], "p64r", InvalidError, "direction is -inf at coordinate 0"),
        ([1.0, math.nan], [1.0, 1.0], "p64r", InvalidError, "input is nan at coordinate 1"),
        ([1.0], [1e39], "p32", InvalidError, "direction is inf at coordinate 0"),
        ([1.0], [1e-60], "p32", UsageError, "moves no coordinate"),
    ],
)
def test_what_has_no_lattice_is_refused_in_a_sentence(
    x0: list[float], direction: list[float], rule: str, error: type[Exception], fragment: str
) -> None:
    with pytest.raises(error, match=fragment):
        Lattice(torch.tensor(x0), torch.tensor(direction, dtype=torch.float64), rule)


def test_native_refuses_a_direction_that_overflows_the_dtype() -> None:
    with pytest.raises(InvalidError, match="direction is inf at coordinate 0"):
        Lattice(torch.ones(1, dtype=torch.float16), torch.tensor([1e5]), "native")


def test_p32_refuses_a_float64_input_which_it_would_round() -> None:
    with pytest.raises(UsageError, match="'p32' rounds a float64 input"):
        Lattice(torch.ones(1, dtype=torch.float64), torch.ones(1), "p32")


def test_perturb_refuses_an_unknown_rule_and_another_shape() -> None:
    with pytest.raises(UsageError, match="rule 'p16' is not one of"):
        perturb(torch.ones(2), torch.ones(2), 1.0, "p16")
    with pytest.raises(UsageError, match=r"direction has shape \(1,\), the input \(2,\)"):
        perturb(torch.ones(2), torch.ones(1), 1.0)
