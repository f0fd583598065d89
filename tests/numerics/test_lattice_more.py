"""Where a lattice ends, with the last finite input and the last finite step, and what it does not look at twice."""

from __future__ import annotations

import math

import pytest
import torch

from stabilitykit.numerics import lattice as module
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


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all arrays that were rounded."""
    sizes: list[int] = []
    keys = module.round_to_keys
    monkeypatch.setattr(module, "round_to_keys", lambda values, dtype: sizes.append(values.size) or keys(values, dtype))
    return sizes


def test_what_was_listed_from_the_input_on_is_not_searched_again(rounded: list[int]) -> None:
    lattice = Lattice(torch.tensor([1.0, 1.7, -0.3]), torch.tensor([1.0, 1.3, -0.7]))
    first = list(lattice.cells(1e-5))
    searched = len(rounded)
    assert searched > 0
    assert list(lattice.cells(1e-5)) == first
    assert lattice.nearest == first[0]
    assert len(rounded) == searched


def test_the_rays_of_one_input_look_at_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, start = [], module.Start
    monkeypatch.setattr(module, "Start", lambda x0: seen.append(x0) or start(x0))
    x0, directions = torch.tensor([1.0, 1.7]), torch.tensor([[1.0, 1.3], [-1.0, 0.5], [0.0, 1.0]])
    first, second, third = (Lattice(x0, direction) for direction in directions)
    found = [lattice.sharing(first).nearest for lattice in (second, third)]
    assert len(seen) == 1
    assert found == [Lattice(x0.clone(), direction).nearest for direction in directions[1:]]
    assert Lattice(x0.clone(), directions[0]).sharing(first).nearest == first.nearest
    assert len(seen) == 4, "an input of its own is looked at, equal or not"
