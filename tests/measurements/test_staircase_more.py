"""What a staircase says of the scales at which single steps were tried, and what its grids hold and cost."""

import itertools
import math

import pytest
import torch

from stabilitykit.measurements.staircase import Staircase, _agreed
from stabilitykit.measurements.stairs import climb, on_grid
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.subjects.function_subject import FunctionSubject

X0, AXIS = torch.tensor([0.75, -1.3125, 0.0123, 5.5]), torch.eye(4)[0]
FLOAT = 2.0**-24
"""The distance between floats at 0.75."""


def test_the_study_is_asked_with_its_own_numbers():
    study = Staircase.study("v2")
    assert (study.direction, study.n, study.unit, study.rule) == ("v2", 500, "abs", "p32")
    assert (study.start, study.step) == pytest.approx((1.000363e-6, 6e-14), rel=1e-12, abs=0)


@pytest.mark.parametrize(("floats_on", "exact"), [((0, 1, 1), True), ((0, 0, 1), True), ((0, 2, 3), False)])
def test_a_grid_is_exact_if_no_input_lies_between_its_steps(floats_on, exact):
    """Also between the first two of them."""
    found = on_grid(Lattice(X0, AXIS), [n * FLOAT for n in floats_on])
    assert found.exact == exact
    assert len(found.X) == len(set(floats_on))


def test_a_grid_is_stated_to_cost_what_a_list_with_one_more_input_does():
    """n steps lead from the first input to n others."""
    for batch in (1, 4):
        subject = FunctionSubject(lambda X: X, X0, batch=batch)
        assert Staircase(AXIS, step=1.0, n=8).cost(subject) == Staircase(AXIS, n=9).cost(subject)
        assert Staircase(AXIS, n=9).cost(subject).backwards == 9


@pytest.mark.parametrize("batch", [2, 3, 4])
def test_the_second_time_every_slot_meets_each_of_its_inputs_at_another_time(batch):
    """What depends on when it is computed is then seen: no input is run twice in the same place."""
    seen = []

    def fn(X):
        seen.append(X.clone())
        return X

    subject = FunctionSubject(fn, torch.zeros(1), batch=batch)
    assert len(subject.baseline) == batch
    seen.clear()
    climbed = climb(subject, torch.arange(1.0, 10.0)[:, None])
    assert (climbed.unexplained, len(climbed.arrivals)) == (0, 9)
    there, again = torch.stack(seen).view(2, -1, batch)
    for slot in range(batch):
        one, other = (X[:, slot][X[:, slot] > 0] for X in (there, again))
        assert sorted(one.tolist()) == sorted(other.tolist())
        assert not (one == other).any()


@pytest.mark.parametrize(("batch", "rounds"), [(1, 5), (2, 3)])
def test_the_second_walk_meets_each_tread_at_another_time(batch, rounds):
    """A function that answers otherwise once a walk, always at the same time, does so to two treads of each slot."""
    calls = itertools.count()
    subject = FunctionSubject(lambda X: X + (next(calls) % rounds == 0), X0, batch=batch)
    treads = Lattice(X0, AXIS).at(torch.arange(4, dtype=torch.float64) * FLOAT)
    assert subject.baseline.shape == (batch, 4)
    assert climb(subject, treads).unexplained == 2 * batch
    assert next(calls) >= 2 * rounds


@pytest.mark.parametrize("scales", [(1e-3,), (1e-7, 1e-5, 1e-3)])
def test_the_largest_scale_is_named_where_no_single_step_follows_the_derivative(scales):
    found = {"crossover_scale": math.nan, "gain": 3.0}
    assert _agreed(found, scales) == " No single step up to 0.001 |x0| follows the derivative for long."
