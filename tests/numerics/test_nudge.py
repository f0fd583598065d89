"""The longest steps along the floats of float64, which int64 can just hold."""

from __future__ import annotations

import math

import pytest
import torch

from stabilitykit.numerics import bits

INT64_MAX = 2**63 - 1


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("k", [INT64_MAX, INT64_MAX - 1])
def test_the_longest_steps_cross_from_an_infinity_to_beyond_zero(side: int, k: int) -> None:
    """An infinity of float64 is 2^63 - 2^52 steps from zero, so that 2^63 - 1 steps end among the numbers below it."""
    start = torch.tensor(side * math.inf, dtype=torch.float64)
    for step in (-side * k, torch.tensor(-side * k)):
        assert bits.ordered(bits.nudge(start, step)).item() == side * (0x7FF0_0000_0000_0000 - k)
