"""Past the first change: planted returns to the baseline's bits, and what halving makes of them."""

import math

import numpy as np
import pytest
import torch

from stabilitykit.errors import UsageError
from stabilitykit.measurements.boundary import FirstChange, StabilityFan
from stabilitykit.measurements.islands import beyond
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.ray import Boundary
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.perturbation import perturb
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import load

X0 = torch.tensor([0.75, -1.3125, 0.0123, 5.5])
E0 = torch.tensor([1.0, 0, 0, 0])


def floats(X, x0=X0):
    """How many floats the first coordinate is away from x0's."""
    return (X[:, :1].contiguous().view(torch.int32) - x0[:1].view(torch.int32)).abs()


def planted(*changed):
    """Another output exactly where so many floats were passed; from the last number on for good."""
    *single, last = changed
    return lambda X: (torch.isin(floats(X), torch.tensor(single)) | (floats(X) >= last)).float()


def at(step):
    return (X0.double() + step * E0.double()).float()[None]


def first_step(count):
    """The first float64 at which 0.75 has moved `count` floats up: by bisection over the bits of the step."""
    low, high = np.float64(0).view(np.int64), np.float64(1).view(np.int64)
    while high - low > 1:
        middle = low + (high - low) // 2
        reached = int(floats(at(float(middle.view(np.float64))))) >= count
        low, high = (low, middle) if reached else (middle, high)
    return float(high.view(np.float64))


def pair(count):
    return math.nextafter(first_step(count), 0), first_step(count)


def halving(f, high):
    """The naive bisection, run for real."""
    low, y0 = 0.0, f(X0[None])
    while math.nextafter(low, math.inf) < high:
        middle = low + (high - low) / 2
        same = bits_equal(f(at(middle)), y0)
        low, high = (middle, high) if same else (low, middle)
    return low


def searched(fn, beyond, **settings):
    subject = FunctionSubject(fn, X0, batch=settings.pop("batch", 1), first=settings.pop("first", None))
    return measure(FirstChange(direction=E0, beyond=beyond, **settings), subject)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_island_is_found_from_end_to_end(batch):
    result = searched(planted(3, 9), 12, batch=batch)
    (row,) = result.rows
    assert row["cells"] == 3
    assert (row["islands"], row["island_cells"], row["beyond_cells"]) == (1, 5, 12)
    assert result.arrays["islands"].tolist() == [[0, *pair(4), *pair(9), 5]]
    assert row["last_return"] == pair(9)[0]
    assert row["bisection_radius"] == halving(planted(3, 9), first_step(15)) == pair(9)[0]
    values = {name: reading.value for name, reading in result.readings.items()}
    assert (values["islands"], values["island_cells"], values["beyond_cells"]) == (1, 5, 12)
    assert values["bisection_overstates"] == row["bisection_radius"] / row["radius"] > 3
    assert result.readings["bisection_overstates"].place == {"direction": "0"}
    assert "1 of 1 rays come back to the baseline's identical bits past their first change" in result.sentence
    assert result.sentence.endswith("; on 1 of them a bisection would overstate the radius.")


def test_what_changed_for_good_has_no_island():
    result = searched(planted(3), 12)
    (row,) = result.rows
    assert (row["islands"], row["island_cells"], row["beyond_cells"]) == (0, 0, 12)
    assert math.isnan(row["last_return"])
    assert row["bisection_radius"] == row["radius"] == pair(3)[0]
    assert result.arrays["islands"].shape == (0, 6)
    assert result.readings["islands"].value == 0
    assert result.readings["bisection_overstates"].value == 1
    assert result.sentence.endswith("None of 12 inputs past the first changes has the baseline's bits again.")


def test_a_search_that_ends_on_an_island_says_so():
    result = searched(planted(2, 9), 4)
    (row,) = result.rows
    assert result.arrays["islands"].tolist() == [[0, *pair(3), first_step(6), math.inf, 4]]
    assert row["last_return"] == first_step(6)
    # Halving never asks about its upper end: from the first middle on it walks up to it.
    assert row["bisection_radius"] == halving(planted(2, 9), first_step(6)) == math.nextafter(first_step(6), 0)


def test_every_island_of_every_ray_is_listed():
    directions = torch.stack([E0, 2 * E0, torch.tensor([0, 1.0, 0, 0])])
    subject = FunctionSubject(planted(2, 5, 6, 11), X0, batch=2)
    result = measure(FirstChange(direction=directions, beyond=14, max_cells=40), subject)
    one = [[0, *pair(3), *pair(5), 2], [0, *pair(7), *pair(11), 4]]
    half = [[1, *(step / 2 for step in island[1:5]), island[5]] for island in one]
    assert result.arrays["islands"].tolist() == [*one, *half]
    assert [row["islands"] for row in result.rows] == [2, 2, 0]
    assert result.rows[2]["censored"]
    assert result.rows[2]["beyond_cells"] == 0
    assert math.isnan(result.rows[2]["bisection_radius"])
    assert result.readings["islands"].value == 2
    assert result.readings["island_cells"].value == 12


def test_an_island_that_halving_misses_does_no_harm():
    """The middles pass the island at 7 floats by: 11, 5, 3 and 2 floats are all changed."""
    fn = planted(2, 3, 4, 5, 6, 8)
    result = searched(fn, 20)
    (row,) = result.rows
    assert row["islands"] == 1
    assert row["bisection_radius"] == halving(fn, first_step(22)) == row["radius"]
    assert "on 0 of them a bisection would overstate" in result.sentence


def test_screening_sees_the_same_islands():
    """The state returns as well: then it takes no whole forward to prove the island."""
    found = [searched(planted(3, 9), 12, first=planted(3, 9), screen=screen) for screen in (True, False)]
    assert found[0].rows == found[1].rows
    assert np.array_equal(found[0].arrays["islands"], found[1].arrays["islands"])
    assert found[0].execution.screened > 0 == found[1].execution.screened


def test_nothing_is_said_about_what_was_not_searched():
    result = searched(planted(3, 9), 0)
    assert "islands" not in result.readings
    assert "islands" not in result.rows[0]
    assert "islands" not in result.arrays
    assert "come back" not in result.sentence


def test_past_no_change_nothing_is_tried():
    nowhere = Boundary(1.0, math.inf, cells=3, coordinate=-1, output=None, slot=0)
    search = beyond(Lattice(X0, E0), nowhere, 1.0, 5)
    with pytest.raises(StopIteration) as ended:
        next(search)
    assert (ended.value.value.islands, ended.value.value.cells) == ((), 0)


def test_a_range_that_ends_at_the_change_has_nothing_beyond():
    result = searched(planted(3, 9), 5, s_max=first_step(3))
    (row,) = result.rows
    assert not row["censored"]
    assert (row["beyond_cells"], row["islands"]) == (0, 0)
    assert math.isnan(result.readings["bisection_overstates"].value)


@pytest.mark.parametrize("screen", [True, False])
def test_the_ends_of_an_island_between_samples_are_bisected(screen):
    """Coordinate 0 is an exact zero: it changes the output between 1e-12 and 1e-9 only, and beyond 1e-6 again."""
    x0, d = torch.tensor([0.0, 0.75]), torch.tensor([0.5, 1.0])

    def fn(X):
        x = X[:, :1]
        return ((x > 1e-12) & (x < 1e-9) | (x > 1e-6)).float()

    subject = FunctionSubject(fn, x0, batch=2, first=lambda X: X[:, :1])
    result = measure(FirstChange(direction=d, beyond=300, screen=screen), subject)
    ((ray, *steps, cells),) = result.arrays["islands"].tolist()
    assert ray == 0
    assert cells > 10
    assert math.nextafter(steps[0], 1) == steps[1]
    assert math.nextafter(steps[2], 1) == steps[3]
    outputs = [bool(fn(perturb(x0, d, step)[None])) for step in steps]
    assert outputs == [True, False, False, True]
    assert perturb(x0, d, steps[1])[0] == np.float32(1e-9)
    assert perturb(x0, d, steps[2])[0] == np.float32(1e-6)
    assert result.rows[0]["bisection_radius"] >= steps[2] > 100 * result.rows[0]["radius"]


def test_an_island_begins_behind_the_last_input_seen_changed():
    """It begins a tenth below the step of the next float of 0.75; at half that step is a small one, between samples."""
    x0, d, step = torch.tensor([0.0, 0.75]), torch.tensor([0.5, 0.75]), 2.0**-25 / 0.75

    def fn(X):
        s = 2 * X[:, :1].double()
        return ((s > 1e-12) & ((s / step - 0.5).abs() > 1e-3) & ((s < 0.9 * step) | (s > 64 * step))).float()

    result = measure(FirstChange(direction=d, beyond=300), FunctionSubject(fn, x0))
    ((_, *steps, cells),) = result.arrays["islands"].tolist()
    assert cells > 10
    assert steps[:2] == [pytest.approx(0.9 * step, rel=1e-6), math.nextafter(steps[0], 1)]
    assert steps[2:] == [pytest.approx(64 * step, rel=1e-6), math.nextafter(steps[2], 1)]
    assert [bool(fn(perturb(x0, d, one)[None])) for one in steps] == [True, False, False, True]


def test_a_fan_reports_them_too():
    matrix = torch.diag(torch.tensor([8.0, 4.0, 1.0, 2.0]))
    subject = FunctionSubject(lambda X: X @ matrix, X0, batch=4)
    result = measure(StabilityFan(angles=4, beyond=6), subject)
    assert result.readings["islands"].value == 0
    assert result.readings["beyond_cells"].value == 24


@pytest.mark.parametrize("beyond", [-1, 1.5, True, "4"])
def test_what_is_no_count_is_refused(beyond):
    with pytest.raises(UsageError, match=r"beyond=.* is no count"):
        FirstChange(beyond=beyond)


@pytest.mark.model
def test_bfloat16_returns_to_identical_bits():
    """Some rays of a real model do: each return is checked again, in its slot, on both sides of both ends."""
    ambient = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        subject = CausalLMSubject(
            load("smollm2", dtype="bfloat16"), "The capital of France is", path="decode", batch=36
        )
        directions = torch.randn(36, 576, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        directions[:, subject.x0 == 0] = 0
        result = measure(FirstChange(direction=directions, beyond=16), subject)
        assert all(row["exact"] for row in result.rows)
        assert result.readings["islands"].value > 0
        assert result.readings["bisection_overstates"].value > 1
        for ray, *steps, _ in result.arrays["islands"].tolist():
            X, slot = subject.copies(36), result.rows[int(ray)]["slot"]
            for step, same in zip(steps, (False, True, True, False), strict=True):
                if math.isfinite(step):
                    X[slot] = perturb(subject.x0, directions[int(ray)], step)
                    assert bits_equal(subject.evaluate(X)[slot], subject.baseline[slot]) == same
    finally:
        torch.set_num_threads(ambient)


def test_a_ray_without_a_change_names_no_coordinate():
    """Up to its end, and up to so many inputs."""
    subject = FunctionSubject(lambda X: X[:, 1:], X0)
    for how in ({"s_max": 1e-5}, {"max_cells": 3}):
        (row,) = measure(FirstChange(direction=E0, **how), subject).rows
        assert (row["censored"], row["coordinate"], row["s_first_changed"]) == (True, -1, math.inf)
