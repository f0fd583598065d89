"""Bounds of what regimes may be asked, what they cost, and which rays count as searched without a gap."""

import math

import numpy as np
import pytest
import torch

from stabilitykit.errors import UsageError
from stabilitykit.measurements.ray import Boundary
from stabilitykit.measurements.regimes import Regimes
from stabilitykit.measurements.scan import _edge
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


@pytest.mark.parametrize(("last_same", "everything"), [(3.0, False), (4.0, True)])
def test_nothing_was_left_out_only_if_the_search_went_as_far_as_the_scan(last_same, everything):
    s, unchanged = np.array([1.0, 2.0, 4.0]), np.zeros(3, dtype=bool)
    edge = Boundary(last_same, math.inf, cells=9, coordinate=-1, output=None, slot=0)
    assert _edge(s, unchanged, edge, Lattice(X0, AXIS)) == (4.0, math.inf, everything)
