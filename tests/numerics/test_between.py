"""The points between two inputs: each one distinct, in order, and at last one float of one coordinate apart."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stabilitykit.numerics.between import Chain, segment
from stabilitykit.numerics.bits import bits_equal, nudge, ordered, ulp_distance

LOW = torch.tensor([1.0, -0.5, 2.0, 0.25])


def _of(keys, dtype):
    """Values of ordered keys by the definition: sign and magnitude bits, no code of the kit."""
    integer = {4: torch.int32, 2: torch.int16}[dtype.itemsize]
    magnitude = keys.abs().to(integer).view(dtype)
    return torch.where(keys < 0, -magnitude, magnitude)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_step_of_a_chain_is_one_ulp_of_one_coordinate(dtype):
    """Walked from end to end, also through zero, it visits length + 1 inputs and arrives."""
    low = LOW.to(dtype)
    low[3] = torch.tensor(0.0, dtype=dtype)
    high = _of(ordered(low) + torch.tensor([3, -2, 0, -1]), dtype)
    chain = Chain(low, high)
    assert chain.length == 6
    points = chain.at(torch.arange(7))
    assert bits_equal(points[0], low)
    assert bits_equal(points[-1], high)
    for left, right in itertools.pairwise(points):
        assert sorted(ulp_distance(left, right).tolist()) == [0, 0, 0, 1]


def test_a_chain_moves_coordinates_in_the_order_it_is_given():
    """The last one first: after its two ULPs nothing else has moved."""
    high = _of(ordered(LOW) + torch.tensor([3, 0, 0, 2]), torch.float32)
    points = Chain(LOW, high, order=torch.tensor([3, 2, 1, 0])).at(torch.tensor([2]))
    assert ulp_distance(points[0], LOW).tolist() == [0, 0, 0, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_chain_passes_the_neighbours_that_a_nudge_reaches_bit_by_bit(dtype):
    """Also through zero, which is reached as +0 from either side."""
    low = _of(torch.tensor([-2, 2]), dtype)
    points = Chain(low, -low).at(torch.arange(9))
    first, second = torch.arange(9).clamp(max=4), (torch.arange(9) - 4).clamp(min=0)
    assert bits_equal(points, nudge(low, torch.stack([first, -second], dim=1)))
    assert not torch.signbit(points[2, 0])
    assert not torch.signbit(points[6, 1])


def test_untouched_coordinates_keep_the_sign_of_a_zero():
    """-0 counts as 0, and is not rewritten where nothing moves."""
    low = torch.tensor([-0.0, 1.0])
    points = Chain(low, torch.tensor([-0.0, 1.5])).at(torch.tensor([5]))
    assert torch.signbit(points[0, 0])


@given(st.integers(0, 40), st.integers(1, 9))
def test_inside_is_between_distinct_and_halves_when_alone(width, count):
    """No end, no repetition, in order; nothing between neighbours; one point is the middle."""
    inside = Chain(LOW, LOW).inside(3, 3 + width, count)
    assert inside == sorted(set(inside))
    assert all(3 < point < 3 + width for point in inside)
    assert bool(inside) == (width > 1)
    if width > 1 and count == 1:
        assert inside == [3 + width // 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_segment_is_rounded_from_its_ends(dtype):
    """Each point is low + share (high - low) in float64, rounded once; all are distinct and ascending."""
    low, high = LOW.to(dtype), (LOW + 0.125).to(dtype)
    points = segment(low, high, 3)
    for k, point in enumerate(points):
        exact = low.double() + (k + 1) / 4 * (high.double() - low.double())
        assert bits_equal(point, exact.to(dtype))
    assert len(points) == 3


def test_a_segment_between_neighbours_is_empty_and_a_short_one_repeats_nothing():
    """One ULP leaves nothing between; two ULP leave one input however many are asked for."""
    one, two = (_of(ordered(LOW) + torch.tensor([k, 0, 0, 0]), torch.float32) for k in (1, 2))
    assert len(segment(LOW, one, 5)) == 0
    assert bits_equal(segment(LOW, two, 5), one[None])


def test_a_segment_does_not_begin_with_the_other_zero():
    """-0 and 0 are one number: of three points between it and 1 none is 0."""
    points = segment(torch.tensor([-0.0]), torch.tensor([1.0]), 3)
    assert points.flatten().tolist() == [0.25, 0.5, 0.75]


def test_a_segment_has_no_more_points_than_asked_for_where_its_end_is_not_reached():
    """1 - 1 is +0 and not -0, and 1e30 + (1 - 1e30) is 0: the last share of all would be another input than `high`."""
    for low, high in ((1.0, -0.0), (1e30, 1.0)):
        points = segment(torch.tensor([low]), torch.tensor([high]), 3)
        assert points[:, 0].tolist() == pytest.approx([low + k / 4 * (high - low) for k in (1, 2, 3)], rel=1e-6)
