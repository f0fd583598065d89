"""Readings of several rays of which one has no number."""

import math

import pytest
import torch

from stabilitykit.measurements.boundary import FirstChange
from stabilitykit.measurements.measure import measure
from stabilitykit.subjects.function_subject import FunctionSubject


@pytest.mark.parametrize("dead", [0, 1])
def test_a_ray_without_a_change_has_no_amplification_and_takes_none_from_the_others(dead):
    subject = FunctionSubject(lambda X: 4 * X[:, [1 - dead]], torch.tensor([0.75, 0.75]))
    result = measure(FirstChange(direction=torch.eye(2), s_max=1e-6), subject)
    assert math.isnan(result.rows[dead]["amplification"])
    assert result.readings["amplification"].value == 4
    assert result.readings["amplification"].place == {"direction": str(1 - dead)}
