"""What a staircase says of the scales at which single steps were tried."""

import math

import pytest
import torch

from stabilitykit.measurements.staircase import _agreed
from stabilitykit.measurements.stairs import climb
from stabilitykit.subjects.function_subject import FunctionSubject


@pytest.mark.parametrize("batch", [2, 3, 4])
def test_the_second_time_every_slot_meets_each_of_its_inputs_at_another_time(batch):
    """What depends on when it is computed is then seen: no input is run twice in the same place."""
    seen = []

    def fn(X):
        seen.append(X.clone())
        return X

    subject = FunctionSubject(fn, torch.zeros(1), batch=batch)
    assert len(subject.baseline) == batch
    seen.clear()
    climbed = climb(subject, torch.arange(1.0, 10.0)[:, None])
    assert (climbed.unexplained, len(climbed.arrivals)) == (0, 9)
    there, again = torch.stack(seen).view(2, -1, batch)
    for slot in range(batch):
        one, other = (X[:, slot][X[:, slot] > 0] for X in (there, again))
        assert sorted(one.tolist()) == sorted(other.tolist())
        assert not (one == other).any()


@pytest.mark.parametrize("scales", [(1e-3,), (1e-7, 1e-5, 1e-3)])
def test_the_largest_scale_is_named_where_no_single_step_follows_the_derivative(scales):
    found = {"crossover_scale": math.nan, "gain": 3.0}
    assert _agreed(found, scales) == " No single step up to 0.001 |x0| follows the derivative for long."
