"""What a gain's grid of steps is stated to cost, its moves by one float, and what its sentence is about."""

import math

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.gain import MOVES
from stabilitykit.measurements.gain_cells import Effects, ulp_moves
from stabilitykit.measurements.responses import angle
from stabilitykit.numerics.bits import ordered
from stabilitykit.subjects.noise import BATCHES
from stabilitykit.subjects.precision import SELF_TEST

BATCH = 4


def linear():
    J = torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64))
    return sk.FunctionSubject(lambda X: X @ J, torch.linspace(0.5, 1.5, 4, dtype=torch.float64), batch=BATCH)


def stated(directions, **how):
    asked = {"directions": directions, "epsilons": (1e-2,), "signs": "+", "oracle": False}
    return sk.DirectionalGain(**(asked | how)).cost(linear())


@pytest.mark.parametrize(
    ("directions", "count"), [(torch.eye(4)[0], 1), (torch.eye(4)[:1], 1), (torch.eye(4), 4), ("v1", 1), (["v1"], 1)]
)
def test_the_stated_rows_are_those_of_each_direction_that_is_given(directions, count):
    """Full batches of x0, its moves and a step a direction, the baseline, and the noise floor."""
    cells = -(-(count + MOVES + 1) // BATCH) * BATCH + BATCH
    floor = 3 * BATCH + sum(BATCHES) + 1
    assert stated(directions).forwards == cells + floor
    assert stated(directions, oracle=True).forwards == 2 * cells + SELF_TEST + floor


def test_both_signs_are_stated_to_cost_what_twice_the_directions_do():
    assert stated(torch.eye(4)[:2], signs="both") == stated(torch.eye(4))
    smoothed = {"noise": "isotropic", "samples": 8}
    assert stated(torch.eye(4)[:2], signs="both", **smoothed) == stated(torch.eye(4), **smoothed)


def test_the_sentence_ends_with_the_counts_where_nothing_was_averaged():
    result = sk.measure(sk.DirectionalGain("v1", (1e-2,), unit="abs", at=1e-2), linear(), progress=False)
    assert result.sentence.endswith(" Of 2 steps tried: 2 linear.")


@pytest.mark.parametrize(("off", "regime"), [(1.5, "rounding"), (1.75, "nonlinear"), (0.125, "linear")])
def test_without_true_float64_a_deviation_of_three_times_the_largest_effect_of_a_move_is_rounding(off, regime):
    """The largest effect is 0.5; a deviation of an eighth of what the derivative says is still linear."""
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    found = Effects(one, one + torch.tensor([0.0, off]), one, None, [{}], {})
    assert found.regime(0, 0.125, 0.5) == regime
    assert found.columns(0, 0.125, 0.5)["deviation"] == off


def test_a_vector_without_length_is_at_no_angle():
    x, nothing = torch.tensor([3.0, 4.0]), torch.zeros(2)
    for pair in ((x, nothing), (nothing, x), (nothing, nothing)):
        assert math.isnan(angle(*pair))
    assert angle(x, 2 * x) == 0
    assert angle(x, -x) == pytest.approx(math.pi)
    assert angle(x, torch.tensor([-4.0, 3.0])) == pytest.approx(math.pi / 2)


def test_every_coordinate_moves_by_one_float_up_or_down():
    x = torch.tensor([0.75, -1.3125, 0.0123, 5.5, 1e-30, -7.0])
    steps = ordered(ulp_moves(x, 8, 0)) - ordered(x)
    assert set(steps.flatten().tolist()) == {-1, 1}


def test_the_sentence_is_about_the_ray_with_the_largest_gain():
    asked = sk.DirectionalGain(torch.eye(4)[[1, 0, 2]], (1e-2,), signs="+", unit="abs", at=1e-2)
    result = sk.measure(asked, linear(), progress=False)
    assert "along 1 the output moves 8 times as far as the input" in result.sentence
