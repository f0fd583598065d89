"""Readings of several rays of which one has no number, and what is said of one that is made up."""

import math

import pytest
import torch

from stabilitykit.measurements.boundary import FirstChange
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.radii import sentence_of
from stabilitykit.subjects.function_subject import FunctionSubject


@pytest.mark.parametrize(
    ("rho", "said"),
    [
        (1.0, "exactly where the rounded input itself first changes."),
        (2.5, "2.5 times the step at which the rounded input itself first changes."),
        (1e4, "1e+04 times the step at which the rounded input itself first changes."),
        (1.001e4, "far beyond s = 0.5, where the rounded input itself first changes."),
        (math.inf, "far beyond s = 0.5, where the rounded input itself first changes."),
    ],
)
def test_more_than_ten_thousand_times_the_first_step_is_far_beyond_it(rho, said):
    row = {"radius": 0.25, "censored": False, "exact": True, "rho": rho, "lattice_radius": 0.5}
    kept = "Along the ray the output keeps every bit up to s = 0.25"
    assert sentence_of([row]) == f"{kept}, {said} Every distinct input below it was tried."


@pytest.mark.parametrize("dead", [0, 1])
def test_a_ray_without_a_change_has_no_amplification_and_takes_none_from_the_others(dead):
    subject = FunctionSubject(lambda X: 4 * X[:, [1 - dead]], torch.tensor([0.75, 0.75]))
    result = measure(FirstChange(direction=torch.eye(2), s_max=1e-6), subject)
    assert math.isnan(result.rows[dead]["amplification"])
    assert result.readings["amplification"].value == 4
    assert result.readings["amplification"].place == {"direction": str(1 - dead)}
