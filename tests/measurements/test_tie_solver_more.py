"""Ties beside the way to them, and the end of a search that finds none."""

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.tie_solver import GRADIENTS, tie_point


def test_where_no_input_on_the_way_ties_those_a_ulp_beside_it_are_tried():
    """The gap jumps over zero at 1, but for inputs whose second coordinate, which moves nothing else, is a float up."""
    up = float(torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)))

    def split(X):
        x, beside = X[:, :1], X[:, 1:]
        jump = torch.where(x > 1, 1e-3, -1e-3)
        return torch.cat([torch.where(beside == up, 1.0, x + jump), torch.ones_like(x)], 1)

    tie = tie_point(sk.FunctionSubject(split, torch.tensor([2.0, 0.5])))
    assert tie.gap == 0
    assert float(tie.x[1]) == up
    assert tie.trace[-1]["kind"] == "around"


def test_a_flat_crossing_takes_every_gradient_that_may_be_taken_and_no_more():
    """Towards the root of x^3 a step goes a third of the way; the last gradient is kept for what follows the steps."""

    def flat(X):
        return torch.cat([X**3 + 1000, torch.full_like(X, 1000.0)], 1)

    subject = sk.FunctionSubject(flat, torch.tensor([3.0]))
    tie = tie_point(subject)
    assert tie.gap_ulp <= 2
    assert tie.backwards == GRADIENTS
    assert [row["kind"] for row in tie.trace].count("newton") == GRADIENTS - 1


def test_a_search_ends_after_40_batches_with_what_it_has_found():
    """Halving an interval of float64 down to two neighbours would take more."""

    def split(X):
        return torch.cat([X + torch.where(X > 1, 1e-3, -1e-3), torch.ones_like(X)], 1)

    subject = sk.FunctionSubject(split, torch.tensor([2.0], dtype=torch.float64))
    with pytest.raises(sk.UnsupportedError, match=r"the smallest difference of 40 inputs is 0\.001"):
        tie_point(subject)
