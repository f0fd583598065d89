"""Bounds of what regimes may be asked, what they cost, and which rays count as searched without a gap."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stabilitykit.errors import UsageError
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.ray import Boundary
from stabilitykit.measurements.regimes import Regimes, _nearest
from stabilitykit.measurements.scan import Plan, _edge, _truth, beyond_tangent, scan
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.subjects.function_subject import FunctionSubject

X0, AXIS = torch.tensor([0.75, -1.3125, 0.5123, 5.5]), torch.eye(4)[0]


def test_decades_reach_to_300():
    assert Regimes(AXIS, decades=(-300, 300)).decades == (-300, 300)
    with pytest.raises(UsageError, match="two ascending whole exponents"):
        Regimes(AXIS, decades=(0, 301))


def test_each_step_where_curvature_shows_costs_a_row_more():
    """Two decades of three points: all beyond the tangent's own step at 1e3, none at 1e-13."""
    subject = FunctionSubject(lambda X: X, X0)
    far, near = (Regimes(AXIS, decades=decades, points=3, unit="abs").cost(subject) for decades in ((3, 5), (-13, -11)))
    assert far.forwards - near.forwards == 6


def test_the_tangent_is_left_on_the_side_that_the_ray_goes_to():
    """The true function is a line that gets twice as steep 0.25 ahead, or behind: of a step s there 1 - 0.25 / s."""
    x0, steps = torch.zeros(1, dtype=torch.float64), np.array([0.125, 0.25, 0.5, 1.0])
    for side, left in ((1, 0.25 * 2), (-1, math.inf)):
        twin = FunctionSubject(lambda X, side=side: X + (side * X - 0.25).clamp(min=0), x0)
        lattice = Lattice(x0, torch.ones(1, dtype=torch.float64))
        true, end = _truth(twin, lattice, lattice.at(torch.from_numpy(steps)), steps, 0.5)
        assert true[:, 0].tolist() == pytest.approx(steps + np.maximum(side * steps - 0.25, 0))
        assert end == left


def test_a_ray_that_changes_nothing_does_not_speak_for_the_others():
    still = FunctionSubject(lambda X: X[:, 1:], X0, exact=lambda X: X[:, 1:])
    both = measure(Regimes(torch.eye(4)[:2], decades=(-8, -2), replicates=100), still)
    assert [row["s_first_changed"] == math.inf for row in both.rows if row["part"] == "ray"] == [True, False]
    assert both.sentence.startswith("Along the nearest of 2 rays the output keeps every bit up to a step of ")


@pytest.mark.parametrize(("last_same", "everything"), [(3.0, False), (4.0, True)])
def test_nothing_was_left_out_only_if_the_search_went_as_far_as_the_scan(last_same, everything):
    s, unchanged = np.array([1.0, 2.0, 4.0]), np.zeros(3, dtype=bool)
    edge = Boundary(last_same, math.inf, cells=9, coordinate=-1, output=None, slot=0)
    assert _edge(s, unchanged, edge, Lattice(X0, AXIS)) == (4.0, math.inf, everything)


def test_the_worst_place_is_the_first_change_nearest_to_the_input():
    def band(label, stable, *changed):
        ray = {"s_last_same": stable, "s_first_changed": 1.5 * stable, "changed": np.array(changed)}
        return SimpleNamespace(ray=SimpleNamespace(label=label, stable=stable, **ray))

    bands = [band("far", 4.0, False, True), band("near", 1.0, False, True), band("between", 2.0, False, True)]
    found = _nearest(bands)
    assert found.where == "ray near"
    assert (found.left, found.right) == (f"1.0 ({(1.0).hex()})", f"1.5 ({(1.5).hex()})")
    assert _nearest([band("never", 1.0, False, False)]) is None


def test_where_the_first_scanned_step_changes_no_step_is_known_to_leave_the_output_as_it_is():
    """The search went past it in its own slot and saw a change later; what it saw below is no step that was kept."""
    s, changed = np.array([1.0, 2.0]), np.ones(2, dtype=bool)
    edge = Boundary(3.0, 4.0, cells=9, coordinate=0, output=torch.ones(4), slot=0)
    assert _edge(s, changed, edge, Lattice(X0, AXIS)) == (0.0, 1.0, False)


def test_the_search_goes_as_far_as_the_last_scanned_step_whatever_the_length_of_the_direction():
    """The output changes at 2^-19, the steps end below 10^-6; a direction of length 2 is walked by halves of them."""
    subject = FunctionSubject(lambda X: (X[:, :1] >= 0.75 + 2.0**-19).float(), X0)
    ends = []
    for decades in ((-7, -6), (-7, -5)):
        (ray,) = scan(subject, None, [Lattice(X0, 2 * AXIS)], ["twice"], Plan(1.0, decades, 4, 0, 0.1))
        ends.append((ray.first, bool(ray.certified.any())))
    assert ends == [(math.inf, False), (pytest.approx(2.0**-19, rel=0.02), True)]


def test_from_a_zero_input_the_tangent_is_told_from_a_curve_beyond_ten_times_a_millionth():
    zero = FunctionSubject(lambda X: X, torch.zeros(2))
    assert beyond_tangent(zero, np.array([5e-6, 9e-6, 1.1e-5, 1.0])).tolist() == [1.1e-5, 1.0]
