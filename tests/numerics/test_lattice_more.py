"""Where a lattice ends: with the last finite input, and with the last finite step."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

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


def test_a_grid_becomes_fine_at_its_first_step_that_is_not_below_a_roundoff_of_the_first_breakpoint() -> None:
    """The second number is odd and moves at the tie itself, 2^-50; the grid, of powers of two, meets 2^-102 exactly."""
    x0, direction = torch.tensor([[0.0, 1 + 2.0**-52], [1.0, 2.0**-3]], dtype=torch.float64)
    lattice = Lattice(x0, direction)
    assert lattice.nearest == (math.nextafter(2.0**-50, 0.0), 2.0**-50, 1)
    grid = [cell.first_changed for cell in itertools.islice(lattice.samples(1.0, 2.0**-118), 5)]
    assert grid == pytest.approx([2.0**-110, 2.0**-102, 2.0**-101.5, 2.0**-101, 2.0**-100.5], rel=1e-12, abs=0)
