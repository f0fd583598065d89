"""What a staircase says of the scales at which single steps were tried."""

import math

import pytest

from stabilitykit.measurements.staircase import Staircase, _agreed


def test_the_study_is_asked_with_its_own_numbers():
    study = Staircase.study("v2")
    assert (study.direction, study.n, study.unit, study.rule) == ("v2", 500, "abs", "p32")
    assert (study.start, study.step) == pytest.approx((1.000363e-6, 6e-14), rel=1e-12, abs=0)


@pytest.mark.parametrize("scales", [(1e-3,), (1e-7, 1e-5, 1e-3)])
def test_the_largest_scale_is_named_where_no_single_step_follows_the_derivative(scales):
    found = {"crossover_scale": math.nan, "gain": 3.0}
    assert _agreed(found, scales) == " No single step up to 0.001 |x0| follows the derivative for long."
