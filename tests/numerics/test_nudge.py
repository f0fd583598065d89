"""The longest steps along the floats of float64: those that int64 can just hold, and those that it cannot."""

from __future__ import annotations

import math

import pytest
import torch

from stabilitykit.errors import InvalidError
from stabilitykit.numerics import bits

INT64_MAX = 2**63 - 1


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("k", [INT64_MAX, INT64_MAX - 1])
def test_the_longest_steps_cross_from_an_infinity_to_beyond_zero(side: int, k: int) -> None:
    """An infinity of float64 is 2^63 - 2^52 steps from zero, so that 2^63 - 1 steps end among the numbers below it."""
    start = torch.tensor(side * math.inf, dtype=torch.float64)
    for step in (-side * k, torch.tensor(-side * k)):
        assert bits.ordered(bits.nudge(start, step)).item() == side * (0x7FF0_0000_0000_0000 - k)


TOP = 0x7FF0_0000_0000_0000  # the key of infinity


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("k", [2**63, 2**63 + 5, 2 * TOP - 1, 2 * TOP])
def test_a_step_that_int64_does_not_hold_is_taken_as_it_is(side: int, k: int) -> None:
    start = torch.tensor(side * math.inf, dtype=torch.float64)
    assert bits.ordered(bits.nudge(start, -side * k)).item() == side * (TOP - k)


def test_the_one_tensor_step_of_two_to_the_63_is_exact() -> None:
    start = torch.tensor([math.inf, 1.0], dtype=torch.float64)
    moved = bits.ordered(bits.nudge(start, torch.tensor(-(2**63))))
    assert moved.tolist() == [TOP - 2**63, bits.ordered(start)[1].item() - 2**63]


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("k", [2 * TOP + 1, 2**64, 2**70])
def test_a_step_past_the_other_end_is_refused(side: int, k: int) -> None:
    with pytest.raises(InvalidError, match="leaves the range of float64"):
        bits.nudge(torch.tensor(side * math.inf, dtype=torch.float64), -side * k)
