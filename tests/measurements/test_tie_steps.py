"""Single steps of the tie solver: which of the halved ones is taken, and which neighbour is asked first."""

import math

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.tie_solver import _neighbours, _Search, tie_point


def test_a_step_after_which_a_third_token_leads_is_taken_where_no_shorter_one_is_better():
    """All halved steps from 0 land where token 2 leads; the next one, from 1, lands where it does not: root 1.382."""

    def wide(X):
        x = X[:, :1]
        return torch.cat([5 - x + x**2 / 5, x * 0 + 4, torch.where((x > 0.01) & (x < 1.1), 50.0, -9.0)], 1)

    tie = tie_point(sk.FunctionSubject(wide, torch.tensor([0.0])))
    assert tie.distance == pytest.approx((5 - math.sqrt(5)) / 2, rel=1e-6)


def test_of_the_neighbours_that_is_asked_first_which_should_close_the_gap():
    """A ULP of each of the coordinates moves g by 2^-16, 2^-21 and 2^-26 or so; the gap is 2^-21."""
    w, x = torch.full((3,), 128.0), torch.tensor([1.0, 2.0**-5, 2.0**-10])

    def plane(X):
        g = ((X - x).double() @ w.double() + 2.0**-21).float()[:, None]
        return torch.cat([1 + g, torch.ones_like(g)], 1)

    search = _Search(sk.FunctionSubject(plane, x), (0, 1), "logits", 2)
    assert search._ask(x[None], "start")[0].gap == 2.0**-21
    search._around(w.double() / float(w.double().norm()) ** 2)
    assert [one.kind for one in search.seen] == ["start", "around"]
    assert abs(search.seen[1].gap) <= 2.0**-22


def test_a_halved_step_is_held_to_a_quarter_of_what_its_own_length_promises():
    """Steps of 1 and 1/2 lower nothing; that of 1/4 lowers g by 0.2, less than a quarter of g, and is taken."""

    def hollow(X):
        x = X[:, :1]
        g = torch.where(x < 0.2, 1 - x, torch.where(x < 0.4, 0.8 - 8 * (x - 0.25), 1 + 0 * x))
        return torch.cat([4 + g, x * 0 + 4, x * 0 - 9], 1)

    tie = tie_point(sk.FunctionSubject(hollow, torch.tensor([0.0])))
    assert [row["distance"] for row in tie.trace if row["kind"] == "newton"][:3] == [1.0, 0.5, 0.25]
    assert tie.distance == pytest.approx(0.35, rel=1e-6)


def test_a_coordinate_that_should_go_down_is_moved_down_the_first_as_well():
    """Below 1 a float is 2^-24 away: down in the first coordinate closes the gap, which up would widen."""
    first, *_ = _neighbours(torch.ones(2), 2.0**-24, torch.tensor([1.0, 0.125], dtype=torch.float64), 1)
    assert first.tolist() == [[1 - 2.0**-24, 1.0]]
