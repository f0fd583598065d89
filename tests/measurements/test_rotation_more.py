"""What a rotation states that it takes: a product a direction, and nothing screened where no block can be seen."""

import math

import pytest
import torch

from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.rotation import Rotation, _largest
from stabilitykit.subjects.function_subject import FunctionSubject


@pytest.mark.parametrize("controls", [0, 1, 4])
def test_a_product_is_stated_for_each_shift_and_for_each_of_the_three_kinds_of_controls(controls):
    subject = FunctionSubject(lambda X: X, torch.ones(8))
    asked = Rotation(torch.ones(8), shifts=(0, 3), gaps=(0.25,), controls=controls)
    result = measure(asked, subject)
    stated = asked.cost(subject)
    assert stated.backwards == len(result.arrays["directions"]) == 2 + 3 * controls
    assert stated.screened == result.execution.screened == 0


def test_the_study_is_asked_with_its_own_numbers():
    study = Rotation.study("v2")
    assert (study.direction, study.step, study.unit) == ("v2", 64, "abs")
    assert study.magnitude == pytest.approx(1.000363e-6, rel=1e-12, abs=0)
    assert study.gaps == pytest.approx([jump * 6e-14 for jump in (1, 10, 20, 50, 100)], rel=1e-12, abs=0)


@pytest.mark.parametrize("unknown", [0, 1, 2])
def test_the_largest_jump_is_that_of_a_pair_that_has_one(unknown):
    rows = [{"shift": shift, "gap": 0.25, "output_jump": jump} for shift, jump in enumerate((1.0, 2.0))]
    rows.insert(unknown, {"shift": 9, "gap": 0.25, "output_jump": math.nan})
    found = _largest(rows, "output_jump")
    assert (found.value, found.place) == (2.0, {"shift": "1", "gap": "0.25"})


def test_where_there_are_blocks_every_pair_may_be_screened():
    subject = FunctionSubject(lambda X: X, torch.ones(8), batch=2, first=lambda X: X)
    assert Rotation(torch.ones(8), shifts=(0, 3), gaps=(0.25, 0.5), controls=1).cost(subject).screened == 2 * 10
