"""What a tie and a flip scan are made of, asked directly: logits as they are read, lines, the way from a prompt."""

import math

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.flip_lines import Grid
from stabilitykit.measurements.flip_radius import outward
from stabilitykit.measurements.tie_point import read
from stabilitykit.measurements.tie_solver import tie_point
from stabilitykit.measurements.ties import oracle_gap


def test_going_outward_begins_at_a_quarter_of_the_radius_and_says_how_far_the_input_moved():
    """The token changes 0.3125 from x0, between the first two steps of 0.25 and 0.354; narrowed twice to a ninth."""
    one = torch.ones(1, dtype=torch.float64)
    subject = sk.FunctionSubject(lambda X: torch.cat([X, X * 0 + 0.6875], 1), one)
    found = outward(subject, (0, 1), ("down", -one, -1.0), 0.3125, 1.0)
    assert found.token == 1
    assert found.last_same <= 0.3125 < found.flip_eps
    assert found.flip_eps - found.last_same == pytest.approx((2**-1.5 - 2**-2) / 81, rel=1e-9)
    assert found.realised == pytest.approx(found.flip_eps, rel=1e-12)
    assert found.alignment == pytest.approx(1)
    assert found.estimate == 0.3125


def test_two_logits_have_no_third():
    seen = read(torch.ones(1), torch.tensor([2.0, 1.0]), (0, 1), "start")
    assert seen.other == (-1, -math.inf)
    assert read(torch.ones(1), torch.tensor([2.0, 1.0, 0.5]), (0, 1), "start").other == (2, 0.5)


def test_a_line_is_walked_without_a_gap_where_all_its_floats_can_be_listed():
    """Up to the third float on either side; not at all where none lies within the span, or too many near a zero."""
    grid, along = Grid(1e-3, points=4, cells=3), torch.ones(1)
    below, above = grid.steps(torch.ones(1), along)[1]
    assert (below, above) == (pytest.approx(2.5 * 2**-24), pytest.approx(2.5 * 2**-23))
    assert Grid(2.0**-26, points=4, cells=3).steps(torch.ones(1), along)[1] == (0, 0)
    assert grid.steps(torch.tensor([1.0, 0.0]), torch.ones(2))[1] == (0, 0)


def test_a_scan_without_the_oracle_is_stated_to_run_its_own_points_once_and_with_it_twice():
    subject = sk.CausalLMSubject(sk.load("tiny"), [1, 2, 3], site="logits", batch=4)
    alone, both = (
        [sk.FlipScan(("v1",), points=points, cells=2, oracle=oracle).cost(subject).forwards for points in (40, 8)]
        for oracle in (False, True)
    )
    assert alone[0] - alone[1] == 2 * (40 - 8)
    assert both[0] - both[1] == 2 * 2 * (40 - 8)


def plane(X):
    return torch.cat([X, X[:, :1] * 0 - 9], 1)


def test_the_true_gap_is_that_of_the_slot_in_which_the_tie_was_found():
    """The float64 twin's second slot is 0.5 off, as its first is not."""

    def slotted(X):
        return plane(X) + torch.arange(len(X))[:, None] * torch.tensor([0.5, 0.0, 0.0])

    subject = sk.FunctionSubject(plane, torch.tensor([1.0, 0.75]), batch=2, exact=slotted)
    tie = tie_point(subject)
    assert tie.gap == 0
    assert oracle_gap(subject, tie) == 0


def test_the_sentence_names_the_tokens_in_the_order_of_the_pair():
    """Without a tokenizer by their numbers; and how near, how far away and from what they have become equal."""
    subject = sk.FunctionSubject(plane, torch.tensor([1.0, 0.75]))
    said = sk.measure(sk.Tie(), subject).sentence
    assert said.startswith(
        "token 0 and token 1 have equal logits to the last bit at an embedding 0.177 away (14.1% of "
    )
    assert said.endswith("in true float64 0 of 0.25 logits are left.")
    assert sk.measure(sk.Tie((1, 0)), subject).sentence.startswith("token 1 and token 0 have equal logits")
