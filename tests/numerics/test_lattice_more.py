"""Where a lattice ends, with the last finite input and step; which coordinates are sampled, and from where on."""

from __future__ import annotations

import math

import pytest
import torch

from stabilitykit.errors import InvalidError
from stabilitykit.numerics.lattice import Lattice


def test_what_lies_just_before_an_overflow_is_listed() -> None:
    """The first coordinate overflows at 16; the second moves at 12, and the third at 2, 6, 10, and at last at 14."""
    half = 2.0**-11  # of the spacing at 1, where the others begin
    lattice = Lattice(torch.tensor([65504.0, 1.0, 1.0]).half(), torch.tensor([1.0, half / 12, half / 2]))
    cells = list(lattice.cells())
    assert [cell.coordinate for cell in cells] == [2, 2, 2, 1, 2]
    assert [cell.first_changed for cell in cells] == pytest.approx(
        [2, 6, 10, 12, 14], abs=2.0**-9
    )  # float32 on the way


def test_the_last_finite_step_is_sampled_if_it_is_one_of_the_grid() -> None:
    """The zero is sampled, the second number moves first and so places the grid, and the last one overflows."""
    x0 = torch.tensor([0.0, 1.0, 1.0, 2.0**127]).bfloat16()

    def ending(component: float) -> Lattice:
        return Lattice(x0, torch.tensor([1.0, 4.0, 0.0, component], dtype=torch.float64))

    def grid(lattice: Lattice) -> list[float]:
        return [cell.first_changed for cell in lattice.samples(1.0, 0.6) if cell.coordinate == -1]

    (step,) = grid(ending(1.0))
    component = (2.0**127 - 2.0**119 - 2.0**103) / step  # 2^128 less half a unit, in float32 first, is infinite
    while not ending(component).at(step).isfinite().all():
        component = math.nextafter(component, 0.0)
    lattice = ending(component)
    assert not lattice.at(math.nextafter(step, math.inf)).isfinite().all()
    assert grid(lattice) == [step]


def test_a_cell_begins_at_a_finite_step() -> None:
    """The largest step moves 1 by 1e-12 here. An infinite one would give 448, since this format has no infinity."""
    lattice = Lattice(torch.ones(2).to(torch.float8_e4m3fn), torch.tensor([1e-320, -2e-320], dtype=torch.float64))
    assert lattice.at(math.inf).double().tolist() == [448.0, -448.0]
    assert lattice.nearest is None
    assert list(lattice.cells()) == list(lattice.cells(math.inf, 1e300)) == []


def test_the_first_of_several_numbers_that_are_not_finite_is_named() -> None:
    spoiled = torch.tensor([1.0, math.inf, 2.0, math.nan])
    with pytest.raises(InvalidError, match=r"^the direction is inf at coordinate 1; give finite numbers$"):
        Lattice(torch.ones(4), spoiled)
    with pytest.raises(InvalidError, match=r"^the input is inf at coordinate 1; give finite numbers$"):
        Lattice(spoiled, torch.ones(4))


@pytest.mark.parametrize(("crossed", "dense"), [(1024, []), (1025, [0])])
def test_a_coordinate_is_dense_if_it_crosses_more_than_1024_floats(crossed: int, dense: list[int]) -> None:
    """1 moves by half its spacing at 2^-24; in 2^-32, a 256th of it, 2^-20 with its floats 2^-43 apart goes so far."""
    direction = torch.tensor([crossed * 2.0**-11, 1.0, 1.0], dtype=torch.float64)
    assert Lattice(torch.tensor([2.0**-20, 1.0, 1.0]), direction).dense == dense


@pytest.mark.parametrize("component", [1.0, -0.3])
def test_the_samples_begin_where_the_first_dense_coordinate_leaves_its_float(component: float) -> None:
    lattice = Lattice(torch.tensor([0.0, 1.0]), torch.tensor([component, 0.01], dtype=torch.float64))
    begin = next(lattice.samples(1.0)).first_changed
    assert lattice.at(begin * (1 - 1e-12))[0] == 0
    assert lattice.at(begin * (1 + 1e-12))[0] != 0


def test_a_step_that_is_a_breakpoint_and_a_sample_comes_as_the_breakpoint_first() -> None:
    """2^-134 is the first sample of the zero, and each is 2^8 of the one before: 2^-14 is one of them."""
    component = math.nextafter(2.0**6 + 2.0**-10 + 2.0**-39, math.inf)  # half a spacing of bfloat16 at 1, and the ties
    lattice = Lattice(torch.tensor([0.0, 1.0]).bfloat16(), torch.tensor([1.0, component], dtype=torch.float64))
    there = [cell for cell in lattice.samples(1e-4) if cell.first_changed == 2.0**-14]
    assert [cell.coordinate for cell in there] == [1, -1]
    assert there[0].last_same == math.nextafter(2.0**-14, 0.0)
