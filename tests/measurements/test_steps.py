"""Units of a step: against numbers written out by hand."""

import math

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.steps import length_of


def test_a_unit_has_its_length():
    """Spacings of 1, 2, 4, 3, -0.5 in float32: 1, 2, 4, 2 and 0.5 times 2**-23; the median is 2 of them."""
    subject = sk.FunctionSubject(torch.neg, torch.tensor([1.0, 2.0, 4.0, 3.0, -0.5]))
    assert length_of("abs", subject) == 1.0
    assert length_of("rel", subject) == pytest.approx(math.sqrt(1 + 4 + 16 + 9 + 0.25), rel=1e-15)
    assert length_of("ulp", subject) == 2 * 2.0**-23


def test_an_unknown_unit_and_a_step_relative_to_nothing_are_refused():
    subject = sk.FunctionSubject(torch.neg, torch.zeros(3))
    with pytest.raises(sk.UsageError, match="unit 'percent' is not one of abs, rel, ulp"):
        length_of("percent", subject)
    with pytest.raises(sk.UsageError, match="the input is zero"):
        length_of("rel", subject)
