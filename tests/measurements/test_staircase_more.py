"""What a staircase says of the scales at which single steps were tried."""

import math

import pytest

from stabilitykit.measurements.staircase import _agreed


@pytest.mark.parametrize("scales", [(1e-3,), (1e-7, 1e-5, 1e-3)])
def test_the_largest_scale_is_named_where_no_single_step_follows_the_derivative(scales):
    found = {"crossover_scale": math.nan, "gain": 3.0}
    assert _agreed(found, scales) == " No single step up to 0.001 |x0| follows the derivative for long."
