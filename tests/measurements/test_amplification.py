"""Magnification of planted blocks: a quantiser whose rounding is known, and matrices against numpy."""

import math

import numpy as np
import pytest
import torch

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.amplification import Steps, amplify
from stabilitykit.subjects.function_subject import FunctionSubject

X0 = torch.tensor([0.75, 0.0])
AXIS = torch.tensor([1.0, 0.0])
Q = 2.0**-10


def tried(block, epsilons, directions=AXIS, unit="abs", rule="p64r", seed=0):
    return amplify(block, Steps(epsilons, directions, unit, rule, seed), {})


def values(found):
    return {name: getattr(value, "value", value) for name, value in found.values.items()}


def quantised(X):
    """2 x to the next multiple of Q: a step of a multiple of Q / 2 is doubled exactly, one below Q / 4 is lost."""
    return torch.round(2 * X / Q) * Q


def doubled(X):
    return 2 * X


class Quantiser(FunctionSubject):
    """The quantiser with the derivative of what it stands for."""

    def __init__(self, batch=1):
        super().__init__(quantised, X0, batch=batch, exact=doubled)

    def jvp(self, V):
        return 2 * V

    def vjp(self, U):
        return 2 * U


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_reading_of_a_planted_quantiser_is_recovered(batch):
    """Steps in Q: 4 and 1 are exact, 5/16 is rounded up to 1/2 (gain 3.2), 1/8 is lost, 2**-20 is below the lattice."""
    sizes = tuple(Q * size for size in (4, 1, 5 / 16, 1 / 8, 2.0**-20))
    found = tried(Quantiser(batch), sizes)
    rows = found.rows
    assert [row["magnification_realised"] for row in rows[:4]] == [2, 2, pytest.approx(3.2), 0]
    assert [row["magnification_true"] for row in rows[:4]] == [2, 2, 2, 2]
    assert [row["rounding_share"] for row in rows[:4]] == [0, 0, pytest.approx(0.6), 1]
    assert [row["coords_moved"] for row in rows] == [1, 1, 1, 1, 0]
    assert [row["input_step"] for row in rows] == [*sizes[:4], 0]
    assert [row["output_jump"] for row in rows] == [8 * Q, 2 * Q, Q, 0, 0]
    assert all(math.isnan(rows[4][name]) for name in ("magnification_realised", "magnification_true", "rounding_share"))
    assert rows[4]["magnification_nominal"] == 0
    read = values(found)
    assert read["magnification_realised"] == pytest.approx(3.2)
    assert found.values["magnification_realised"].place == {"direction": "0", "epsilon": repr(sizes[2])}
    assert (read["magnification_true"], read["plateau"]) == (2, 2)
    assert read["spectral_norm"] == pytest.approx(2, rel=1e-12)
    assert read["plateau_over_norm"] == pytest.approx(1, rel=1e-12)
    assert read["eps_rounding"] == sizes[2]
    assert read["rounding_share"] == 0
    assert read["lattice_radius"] == pytest.approx(2.0**-25)
    assert read["unchanged"] == pytest.approx(1 / 5)
    assert read["jump_over_noise"] == math.inf
    assert "1 of 5 steps do not change the input at all" in found.sentence


def test_the_plateau_is_a_median_and_its_bound_a_maximum():
    """Gains 2, 3, 8 along three axes, none rounded; the derivative is said to be 4 in float64, and 5 without."""
    gains = torch.tensor([2.0, 3.0, 8.0])

    class Uneven(FunctionSubject):
        def in_float64(self):
            return Uneven(lambda X: X * gains.double(), self.x0.double())

        def jvp(self, V):
            return (4 if self.x0.dtype == torch.float64 else 5) * V

        def vjp(self, U):
            return self.jvp(U)

    found = values(tried(Uneven(lambda X: X * gains, torch.ones(3)), (0.25,), torch.eye(3)))
    assert found["plateau"] == 3
    assert found["spectral_norm"] == pytest.approx(4)
    assert found["plateau_over_norm"] == pytest.approx(2)
    assert found["magnification_realised"] == 8


def test_the_largest_true_magnification_has_a_place_of_its_own():
    gains = torch.tensor([10.0, 3.0])
    block = FunctionSubject(lambda X: X * gains, X0, exact=lambda X: X * torch.tensor([2.0, 3.0]))
    found = tried(block, (0.25,), torch.eye(2)).values
    assert (found["magnification_realised"].value, found["magnification_true"].value) == (10, 3)
    assert found["magnification_realised"].place["direction"] == "0"
    assert found["magnification_true"].place["direction"] == "1"


def test_rounding_decides_from_the_largest_step_down():
    """A share below 1 at a small step does not count while a larger step is dominated."""
    read = values(tried(Quantiser(), tuple(Q * size for size in (4, 1 / 8, 5 / 16))))
    assert read["eps_rounding"] == Q * 5 / 16

    def bumpy(X):
        moved = X[:, :1] - 0.75
        return 2 * X + 5 * ((moved > 0.1) & (moved < 0.2))

    bump = tried(FunctionSubject(bumpy, X0, exact=doubled), (0.5, 0.125, 0.03125))
    assert [row["rounding_share"] < 1 for row in bump.rows] == [True, False, True]
    assert values(bump)["eps_rounding"] == 0.5
    read = values(tried(Quantiser(), (Q / 8, Q * 3 / 64)))
    assert read["eps_rounding"] == math.inf
    assert math.isnan(read["plateau"])
    assert math.isnan(read["plateau_over_norm"])
    assert read["rounding_share"] == 1
    read = values(tried(Quantiser(), (Q / 8, Q, Q * 2.0**-20)))
    assert read["eps_rounding"] == Q


def test_what_does_not_change_at_all_is_said():
    found = tried(Quantiser(), (2.0**-40, 2.0**-50))
    read = values(found)
    assert read["unchanged"] == 1
    for name in ("magnification_realised", "plateau", "eps_rounding", "jump_over_noise"):
        assert math.isnan(read[name]), name
    assert read["rounding_share"] == math.inf
    assert found.sentence == "No step changes the input. 2 of 2 steps do not change the input at all."


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_each_row_is_compared_with_its_own_slot(batch):
    def by_slot(X):
        return 2 * X + torch.arange(len(X))[:, None]

    found = tried(FunctionSubject(by_slot, X0, batch=batch), (0.25, 0.125, 0.0625, 0.03125))
    assert [row["slot"] for row in found.rows] == [k % batch for k in range(4)]
    assert values(found)["magnification_realised"] == 2
    assert [row["rounding_share"] for row in found.rows] == [0] * 4


def test_the_jump_of_the_largest_magnification_is_set_against_the_noise():
    """The output shows the batch size, from 1 to 8; the largest gain is that of the smaller step."""

    def noisy(X):
        return X + torch.sign(X - 0.75) / 64 + len(X)

    found = tried(FunctionSubject(noisy, X0, exact=doubled), (0.25, 0.125))
    assert found.values["magnification_realised"].place["epsilon"] == "0.125"
    assert values(found)["jump_over_noise"] == pytest.approx((0.125 + 1 / 64) / (7 * math.sqrt(2)))
    assert "batch" in found.noise


class Bare(FunctionSubject):
    """A function with neither a twin nor a derivative."""

    def in_float64(self):
        raise UnsupportedError("no")

    def jvp(self, V):
        raise UnsupportedError("no")


def test_without_truth_and_derivative_the_realised_magnification_remains():
    read = values(tried(Bare(quantised, X0), (4 * Q, Q * 5 / 16)))
    assert read["magnification_realised"] == pytest.approx(3.2)
    for name in ("magnification_true", "spectral_norm", "plateau", "plateau_over_norm", "eps_rounding"):
        assert math.isnan(read[name]), name
    assert [row["direction"] for row in tried(Bare(quantised, X0), (Q,), 2).rows] == ["random 0", "random 1"]


# --- directions and lengths


def test_random_directions_come_with_v1_and_a_seed():
    def steep(X):
        return X * torch.tensor([1.0, 5.0], dtype=X.dtype)

    block = FunctionSubject(steep, torch.tensor([0.75, -1.5]))
    found = tried(block, (0.25, 0.125), 3)
    assert [row["direction"] for row in found.rows] == [
        n for n in ("v1", "random 0", "random 1", "random 2") for _ in "12"
    ]
    assert found.rows[0]["magnification_true"] == pytest.approx(5, rel=1e-6)
    assert np.allclose(np.linalg.norm(found.arrays["directions"], axis=1), 1)
    radii = [row["lattice_radius"] for row in found.rows]
    assert values(found)["lattice_radius"] == min(radii) < max(radii)
    again, other = tried(block, (0.25, 0.125), 3), tried(block, (0.25, 0.125), 3, seed=1)
    assert np.array_equal(found.arrays["directions"], again.arrays["directions"])
    assert not np.array_equal(found.arrays["directions"][1:], other.arrays["directions"][1:])
    assert [row["direction"] for row in tried(block, (0.5,), ["v1", "-v2"]).rows] == ["v1", "-v2"]
    steps = [Steps((0.25, 0.125), given, "abs", "p64r", 0) for given in (3, "v1", ["v1", "-v2"], torch.eye(2), AXIS)]
    assert [one.count for one in steps] == [8, 2, 4, 4, 2]


@pytest.mark.parametrize(("unit", "length"), [("abs", 1.0), ("rel", 2.5), ("ulp", 2.0**-23)])
def test_steps_are_lengths_in_the_unit(unit, length):
    block = FunctionSubject(doubled, torch.tensor([1.5, 2.0]))
    (row,) = tried(block, (3.0,), -AXIS, unit=unit).rows
    assert (row["epsilon"], row["step"], row["coords_moved"]) == (3, 3 * length, 1)
    assert row["magnification_nominal"] == pytest.approx(2 * row["input_step"] / (3 * length))


def test_the_rule_rounds_the_input():
    x0, d = torch.tensor([1.0]), torch.tensor([1.0 / 3])
    sizes = tuple(0.1 * k for k in range(1, 40))
    steps = {}
    for rule in ("p64r", "p32"):
        steps[rule] = [row["input_step"] for row in tried(FunctionSubject(doubled, x0), sizes, d, rule=rule).rows]
    S = torch.tensor(sizes, dtype=torch.float64)
    assert steps["p64r"] == ((x0.double() + S * d.double()).float().double() - 1).tolist()
    assert steps["p32"] == ((x0 + S.float() * d).double() - 1).tolist()
    assert steps["p64r"] != steps["p32"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"epsilons": ()}, "at least one"),
        ({"epsilons": (1.0, 0.0)}, "positive"),
        ({"directions": 0}, "directions=0"),
        ({"unit": "cm"}, "unit 'cm'"),
        ({"rule": "p16"}, "rule 'p16'"),
    ],
)
def test_bad_steps_are_refused(how, says):
    with pytest.raises(UsageError, match=says):
        Steps(**({"epsilons": (1.0,), "directions": 1, "unit": "abs", "rule": "p64r", "seed": 0} | how))
