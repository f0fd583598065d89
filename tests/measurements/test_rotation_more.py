"""What a rotation states that it takes: a product a direction, and nothing screened where no block can be seen."""

import pytest
import torch

from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.rotation import Rotation
from stabilitykit.subjects.function_subject import FunctionSubject


@pytest.mark.parametrize("controls", [0, 1, 4])
def test_a_product_is_stated_for_each_shift_and_for_each_of_the_three_kinds_of_controls(controls):
    subject = FunctionSubject(lambda X: X, torch.ones(8))
    asked = Rotation(torch.ones(8), shifts=(0, 3), gaps=(0.25,), controls=controls)
    result = measure(asked, subject)
    stated = asked.cost(subject)
    assert stated.backwards == len(result.arrays["directions"]) == 2 + 3 * controls
    assert stated.screened == result.execution.screened == 0


def test_where_there_are_blocks_every_pair_may_be_screened():
    subject = FunctionSubject(lambda X: X, torch.ones(8), batch=2, first=lambda X: X)
    assert Rotation(torch.ones(8), shifts=(0, 3), gaps=(0.25, 0.5), controls=1).cost(subject).screened == 2 * 10
