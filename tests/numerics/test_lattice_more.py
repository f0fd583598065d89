"""Where a lattice ends, which coordinates are sampled and from where on, and how it is looked for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from stabilitykit.errors import InvalidError
from stabilitykit.numerics import lattice as module
from stabilitykit.numerics.fan import fan
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


def test_no_sample_is_beyond_the_last_finite_input() -> None:
    """The zero could go on to 2^128; the number at 2^127 overflows before that, at a step that is none of the grid."""
    x0 = torch.tensor([0.0, 2.0**127]).bfloat16()
    for component in np.geomspace(1.0, 2.0, 8):
        lattice = Lattice(x0, torch.tensor([1.0, component], dtype=torch.float64))
        steps = [cell.first_changed for cell in lattice.samples(math.inf, 2.0**126 / component)]
        assert steps[-1] > 2.0**126.4 / component
        assert lattice.at(torch.tensor(steps, dtype=torch.float64)).isfinite().all()


def test_a_step_of_the_grid_is_within_a_bound_at_it() -> None:
    lattice = Lattice(torch.tensor([0.0, 1.0, 1.5]), torch.tensor([1e6, 1.0, 0.7]))
    assert lattice.nearest is not None
    near = lattice.nearest.first_changed
    samples = list(lattice.samples(4 * near))
    steps = [cell.first_changed for cell in samples if cell.coordinate == -1 and cell.first_changed > near]
    assert len(steps) >= 3
    for step in steps:
        assert list(lattice.samples(step)) == [cell for cell in samples if cell.first_changed <= step]


@pytest.fixture
def located(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many breakpoints were looked for together, each time."""
    counts: list[int] = []
    locate = Lattice._locate

    def counted(lattice: Lattice, coordinates: np.ndarray, count: np.ndarray, span: tuple[float, float]) -> np.ndarray:
        counts.append(len(count))
        return locate(lattice, coordinates, count, span)

    monkeypatch.setattr(Lattice, "_locate", counted)
    return counts


def test_as_few_are_looked_for_at_the_end_of_a_long_walk_as_at_its_beginning(located: list[int]) -> None:
    """Some 16 at a time, also where a coordinate moves so slowly that it has no part in most of them."""
    direction = torch.tensor([1.0, -0.7, 0.4, 1.3, 1e-3, 1e-9], dtype=torch.float64)
    cells = list(itertools.islice(Lattice(torch.tensor([0.3, 0.5, 0.6, 0.8, 1.1, 1.5]), direction).cells(), 2500))
    assert len(cells) == 2500
    assert max(located) <= 64


def test_a_stretch_without_a_breakpoint_is_not_left_by_a_leap(located: list[int]) -> None:
    """With 8 bits a step stays as it is for longer than the input would, so that estimates come too early."""
    lattice = Lattice(torch.tensor([3.0]).bfloat16(), torch.tensor([1.0]), "native")
    cells = list(itertools.islice(lattice.cells(), 5))
    assert [float(lattice.at(cell.first_changed)) for cell in cells] == [3 + 2.0**-6 * n for n in range(1, 6)]
    assert max(located) <= 32


def test_what_is_known_of_one_input_is_not_taken_for_another() -> None:
    direction = torch.tensor([1.0, 0.3])
    known, x0 = Lattice(torch.tensor([1.0, 2.0]), direction), torch.tensor([5.0, -0.7])
    assert known.nearest is not None
    alone = list(itertools.islice(Lattice(x0, direction).cells(), 20))
    assert list(itertools.islice(Lattice(x0, direction).sharing(known).cells(), 20)) == alone


def test_an_input_is_read_once_for_all_rays_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read, start = [], module.Start
    monkeypatch.setattr(module, "Start", lambda x0: read.append(x0) or start(x0))
    x0 = torch.tensor([1.0, 2.0])
    assert all(ray.nearest for ray in fan(x0, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])))
    assert len(read) == 1


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
