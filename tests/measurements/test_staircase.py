"""Staircases whose every step is planted, against the same treads found by plain rounding and bisection."""

import itertools
import math

import numpy as np
import pytest
import torch

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.directions import products_of
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.staircase import SCALES, STUDY_START, STUDY_STEP, Staircase
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import load

X0 = torch.tensor([0.75, -1.3125, 0.0123, 5.5])
AXIS = torch.tensor([1.0, 0.0, 0.0, 0.0])
FLOAT = 2.0**-24
"""The distance between floats at 0.75."""


def floats(X):
    """How many floats the first coordinate is above 0.75: exact, below 1."""
    return (X[:, :1] - 0.75) / FLOAT


def planted(fn, x0=X0, **how):
    return FunctionSubject(fn, x0, **how)


def asked(fn, x0=X0, batch=1, direction=AXIS, **how):
    result = measure(Staircase(direction, **how), planted(fn, x0, batch=batch))
    return result, [row for row in result.rows if row["part"] == "step"]


def values(result):
    return {name: reading.value for name, reading in result.readings.items()}


# --- an independent enumeration, by rounding and bisection over the bits of s


def rounded(x0, d, s):
    return (x0.double() + s * d.double()).to(x0.dtype)


def next_step(x0, d, s):
    here = rounded(x0, d, s)
    low, high = np.float64(s).view(np.int64), np.float64(1e300).view(np.int64)
    while high - low > 1:
        middle = low + (high - low) // 2
        if torch.equal(rounded(x0, d, float(middle.view(np.float64))), here):
            low = middle
        else:
            high = middle
    return float(high.view(np.float64))


def treads(x0, d, start, count):
    steps = [start]
    while len(steps) < count:
        steps.append(next_step(x0, d, steps[-1]))
    return steps


# --- planted stairs


def stairs(X):
    """A step of 3 at every fifth float."""
    return 3 * torch.floor(floats(X) / 5)


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 32])
def test_every_reading_of_planted_stairs_is_recovered(batch):
    result, rows = asked(stairs, batch=batch, n=18, scales=())
    steps = treads(X0, AXIS, 0.0, 19)
    found = values(result)
    assert [row["s_first"] for row in rows] == steps[:18]
    assert [row["s_last"] for row in rows] == [math.nextafter(step, 0) for step in steps[1:]]
    assert [row["input"] for row in rows if row["jumped"]] == [5, 10, 15]
    assert (found["inputs"], found["outputs"], found["jumps"]) == (18, 4, 3)
    assert found["absorbed"] == pytest.approx(1 - 3 / 17)
    assert (found["jump_median"], found["jump_max"]) == (3, 3)
    assert found["first_jump"] == steps[5]
    assert found["spacing_median"] == np.median([steps[10] - steps[5], steps[15] - steps[10]])
    assert found["secant_slope"] == pytest.approx(9 / (17 * FLOAT))
    assert (found["islands"], found["island_share"]) == (0, 0)
    assert (found["unexplained_changes"], found["exact"], found["held"]) == (0, 1, 0)
    assert result.verdict == "pass"
    assert result.arrays["output_jump"][1:].tolist() == [3.0 * (k % 5 == 0) for k in range(1, 18)]
    assert [row["slope"] for row in rows[1:]] == [3 / FLOAT * (k % 5 == 0) for k in range(1, 18)]
    assert [row["output_distance"] for row in rows] == [3.0 * (k // 5) for k in range(18)]
    assert [row["input_distance"] for row in rows] == [k * FLOAT for k in range(18)]
    assert [row["changed"] for row in rows] == [k >= 5 for k in range(18)]


def test_the_largest_jump_and_the_median_are_different_jumps():
    def uneven(X):
        k = floats(X)
        return 1.0 * (k >= 2) + 10.0 * (k >= 5) + 2.0 * (k >= 9)

    result, rows = asked(uneven, n=12, scales=())
    assert result.readings["jump_max"].value == 10
    assert float(result.readings["jump_max"].place["s"]) == rows[5]["s_first"]
    assert result.readings["jump_median"].value == 2
    assert result.readings["first_jump"].value == rows[2]["s_first"]
    spacing = np.median([rows[5]["s_first"] - rows[2]["s_first"], rows[9]["s_first"] - rows[5]["s_first"]])
    assert result.readings["spacing_median"].value == spacing


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_islands_are_returns_to_the_baseline(batch):
    """Changed at float 3, back on 4 to 8, changed at 9, back on 10, changed from 11 to the end, 19."""

    def archipelago(X):
        k = floats(X)
        return ((k == 3) | (k == 9) | (k >= 11)).float() * (1 + k)

    found = values(asked(archipelago, batch=batch, n=20, scales=())[0])
    assert found["islands"] == 2
    assert found["island_share"] == pytest.approx(6 / 17)
    assert found["jumps"] == 5 + 8  # at 3, 4, 9, 10, 11, and at each further float
    assert found["outputs"] == 1 + 2 + 9


def test_the_last_island_may_be_where_the_stretch_ends():
    found = values(asked(lambda X: (floats(X) == 3).float(), n=8, scales=())[0])
    assert (found["islands"], found["island_share"]) == (1, 4 / 5)


def test_a_flat_function_has_no_jumps_and_says_so():
    result, _ = asked(lambda X: 0 * X[:, 1:], n=9, scales=())
    found = values(result)
    assert (found["inputs"], found["jumps"], found["outputs"], found["absorbed"]) == (9, 0, 1, 1)
    assert (found["islands"], found["secant_slope"]) == (0, 0)
    for name in ("jump_median", "jump_max", "first_jump", "spacing_median", "island_share", "jump_over_smooth"):
        assert math.isnan(found[name]), name
    assert "does not change" in result.sentence


@pytest.mark.parametrize("batch", [1, 4])
def test_one_input_is_a_stretch_too(batch):
    result, rows = asked(stairs, batch=batch, n=1)
    assert len(rows) == 1
    assert math.isnan(rows[0]["output_jump"])
    found = values(result)
    assert (found["inputs"], found["jumps"], found["outputs"]) == (1, 0, 1)
    assert math.isnan(found["absorbed"])
    assert math.isnan(found["secant_slope"])
    assert "1 distinct value " in result.sentence


# --- slots


@pytest.mark.parametrize("batch", [1, 2, 5, 7, 30])
def test_slots_that_round_differently_plant_no_jump(batch):
    """Slot b adds b: a pair compared across slots would differ by it."""

    def by_slot(X):
        return stairs(X) + 100 * torch.arange(len(X))[:, None]

    result, rows = asked(by_slot, batch=batch, n=21, scales=())
    found = values(result)
    assert (found["jumps"], found["jump_max"], found["outputs"], found["islands"]) == (4, 3, 5, 0)
    assert found["secant_slope"] == pytest.approx(12 / (20 * FLOAT))
    assert len({row["slot"] for row in rows}) >= min(batch, 4)
    assert result.execution.forwards <= Staircase(AXIS, n=21, scales=()).cost(planted(by_slot, batch=batch)).forwards


def test_an_output_that_is_the_baseline_in_one_slot_only_is_not_named_so_in_another():
    """Slot 0 is flat, slot 1 changes at the tread they share: unchanged in the one and changed in the other."""

    def half_dead(X):
        return torch.floor(floats(X) / 3) * torch.arange(len(X))[:, None]

    result, rows = asked(half_dead, batch=2, n=6, scales=())
    assert [row["slot"] for row in rows] == [0, 0, 0, 0, 1, 1]
    assert [row["changed"] for row in rows] == [False] * 4 + [True] * 2
    assert [row["jumped"] for row in rows] == [False] * 6
    assert values(result)["outputs"] == 2


# --- every output twice


class Shaken:
    """The identity, nudged in one slot at one call."""

    def __init__(self, call, slot):
        self.call, self.slot, self.calls = call, slot, 0

    def __call__(self, X):
        self.calls += 1
        Y = X.clone()
        if self.calls == self.call:
            Y[self.slot] += 1
        return Y


@pytest.mark.parametrize("call", [1, 3, 4, 6])
def test_an_output_that_changes_without_its_input_is_counted(call):
    """9 treads in 5 slots are 3 rounds, walked twice."""
    result = measure(Staircase(AXIS, n=9, scales=()), planted(Shaken(call, 1), batch=5))
    assert result.readings["unexplained_changes"].value == 1
    assert result.verdict == "differs"
    assert "1 output changed though its input did not" in result.sentence


def test_a_row_that_sees_its_neighbours_is_caught_by_other_neighbours():
    def mixed(X):
        return X + X.mean(dim=0)

    assert values(asked(mixed, batch=4, n=9, scales=())[0])["unexplained_changes"] > 0
    assert values(asked(lambda X: X, batch=4, n=9, scales=())[0])["unexplained_changes"] == 0


# --- where the stretch begins and ends


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_stretch_begins_and_ends_where_it_is_asked_to(dtype):
    x0, d = X0.to(dtype), torch.tensor([1.0, 0.3, -0.01, 2.0])
    start = 5.3 * torch.finfo(dtype).eps
    steps = treads(x0, d, start, 25)
    result, rows = asked(lambda X: X, x0, direction=d, start=start, n=24, unit="abs", batch=4, scales=())
    assert [row["s_first"] for row in rows] == steps[:24]
    assert values(result)["absorbed"] == 0
    stop = (steps[11] + steps[12]) / 2
    to_stop, rows = asked(lambda X: X, x0, direction=d, start=start, stop=stop, unit="abs", scales=())
    assert [row["s_first"] for row in rows] == steps[:12]
    assert rows[-1]["s_last"] == stop
    for row, step in zip(rows[1:], steps[1:], strict=False):
        before = rounded(x0, d, math.nextafter(step, 0)).double()
        after = rounded(x0, d, step).double()
        assert row["input_step"] == row["output_jump"] == float((after - before).norm())
        assert row["coords_changed"] == int((after != before).sum())
        assert row["slope"] == 1
    assert values(to_stop)["secant_slope"] == 1


@pytest.mark.parametrize(("unit", "length"), [("abs", 1.0), ("rel", float(X0.double().norm())), ("ulp", 2.0**-24)])
def test_units_are_lengths_of_the_input(unit, length):
    x0 = torch.tensor([0.75, -0.625, 0.5, 5.5]) if unit == "ulp" else X0
    start = 1e-6 / length
    rows = asked(lambda X: X, x0, start=start, n=3, unit=unit, scales=())[1]
    assert rows[0]["s_first"] == start * length
    rows = asked(lambda X: X, x0, stop=start, unit=unit, scales=())[1]
    assert rows[-1]["s_last"] == start * length
    rows = asked(lambda X: X, x0, step=start, n=1, unit=unit, scales=())[1]
    assert rows[-1]["s_first"] == start * length


def test_the_last_finite_input_ends_the_stretch():
    x0 = torch.tensor([65000.0, 1.0]).half()
    rows = asked(lambda X: X, x0, direction=torch.tensor([1.0, 0]), n=99, scales=())[1]
    assert rows[-1]["input_distance"] == 65504 - 64992
    assert rows[-1]["s_last"] == rows[-1]["s_first"]
    assert len(rows) == 17


# --- grids


@pytest.mark.parametrize("start", [0.0, 33.3 * FLOAT])
@pytest.mark.parametrize(("step", "exact"), [(FLOAT / 8, 1), (3 * FLOAT, 0)])
def test_a_grid_groups_equal_inputs_and_knows_what_it_skips(step, exact, start):
    result, rows = asked(stairs, start=start, step=step, n=100, unit="abs", batch=4, scales=())
    grid = list(itertools.accumulate([start] + [step] * 100))
    groups = [list(group) for _, group in itertools.groupby(grid, lambda s: rounded(X0, AXIS, s)[0].item())]
    assert [(row["s_first"], row["s_last"]) for row in rows] == [(group[0], group[-1]) for group in groups]
    assert values(result)["exact"] == exact
    assert values(result)["inputs"] == len(groups)
    jumps = sum(
        stairs(rounded(X0, AXIS, a)[None]) != stairs(rounded(X0, AXIS, b)[None]) for a, b in itertools.pairwise(grid)
    )
    assert values(result)["jumps"] == jumps


def test_the_studys_own_grid_is_asked_exactly():
    """The inputs of the study's script, written in numpy; float32 s, so that 501 steps are 265 numbers."""
    random = np.random.default_rng(0)
    x0 = (0.0065 * random.standard_normal(4096)).astype(np.float32)
    v = random.standard_normal(4096)
    v = (v / np.linalg.norm(v)).astype(np.float32)
    epsilons, inputs = [1e-6 + 1815 * 2e-13], []
    for _ in range(500):
        epsilons.append(epsilons[-1] + 6e-14)
    for epsilon in epsilons:
        moved = x0 + np.float32(epsilon) * v
        if not inputs or inputs[-1][1].tobytes() != moved.tobytes():
            inputs.append((epsilon, moved))
    assert len({np.float32(epsilon) for epsilon in epsilons}) == 265
    subject = FunctionSubject(lambda X: X, torch.from_numpy(x0), batch=8)
    result = measure(Staircase.study(torch.from_numpy(v)), subject)
    rows = [row for row in result.rows if row["part"] == "step"]
    assert [row["s_first"] for row in rows] == [epsilon for epsilon, _ in inputs]
    distances = [float(np.linalg.norm(x.astype(np.float64) - x0.astype(np.float64))) for _, x in inputs]
    assert [row["input_distance"] for row in rows] == pytest.approx(distances, rel=1e-14)
    assert 5 < len(rows) < 60
    assert (STUDY_START, STUDY_STEP) == (1.000363e-6, 6e-14) == (pytest.approx(epsilons[0]), 6e-14)


# --- the derivative


@pytest.mark.parametrize("batch", [1, 4])
def test_jumps_are_set_against_the_derivative(batch):
    random = np.random.default_rng(1)
    A, d = random.normal(size=(3, 4)).astype(np.float32), np.array([1.0, 0.3, -0.01, 2.0])
    W = torch.from_numpy(A).double()

    def rounding(X):
        return (X.double() @ W.T).float()

    result, rows = asked(rounding, batch=batch, direction=torch.from_numpy(d), n=40)
    gain = float(np.linalg.norm(A.astype(np.float64) @ d) / np.linalg.norm(d))
    assert result.readings["gain"].value == pytest.approx(gain, rel=1e-6)
    steps = [row["s_first"] for row in rows]
    X = [rounded(X0, torch.from_numpy(d), s).double().numpy() for s in steps]
    predicted = [float(np.linalg.norm(A.astype(np.float64) @ (b - a))) for a, b in itertools.pairwise(X)]
    assert [row["smooth_jump"] for row in rows[1:]] == pytest.approx(predicted, rel=1e-5)
    shares = [row["output_jump"] / p for row, p in zip(rows[1:], predicted, strict=True) if row["jumped"]]
    assert result.readings["jump_over_smooth"].value == pytest.approx(float(np.median(shares)), rel=1e-5)


class Flat(FunctionSubject):
    """A function without derivatives."""

    def jvp(self, V):
        raise UnsupportedError("no")


def test_without_derivatives_the_stairs_remain():
    result = measure(Staircase(AXIS, n=18), Flat(stairs, X0))
    found = values(result)
    assert found["jumps"] == 3
    for name in ("gain", "jump_over_smooth", "crossover_scale"):
        assert math.isnan(found[name])
    assert "derivative" not in result.sentence


class Tripled(FunctionSubject):
    """Whatever it does, its derivative is said to be 3."""

    def jvp(self, V):
        return 3 * V


def scanned(agrees, **how):
    """A step of relative length h along the axis triples where `agrees(h)`, and is lost elsewhere."""
    x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def f(X):
        moved = X[:, :1] - 1
        return 3 * torch.where(agrees(moved), moved, 0 * moved)

    result = measure(Staircase(torch.tensor([1.0, 0.0]), n=2, **how), Tripled(f, x0))
    found = result.readings["crossover_scale"].value
    assert ("follows the derivative from" in result.sentence) == math.isfinite(found)
    assert ("No single step up to" in result.sentence) == (math.isnan(found) and how.get("scales") != ())
    return found


def test_the_crossover_is_where_the_slope_reaches_the_gain_and_stays():
    assert scanned(lambda h: h > 2e-9) == pytest.approx(10**-8.5)
    assert scanned(lambda h: (h > 2e-9) & (h < 4e-9) | (h > 5e-4)) == pytest.approx(1e-3)
    assert math.isnan(scanned(lambda h: h < 0))
    assert math.isnan(scanned(lambda h: h > 0.009))  # only the last scale: nothing says that it stays
    assert scanned(lambda h: h > 2e-9, scales=(1e-7, 1e-5, 1e-3)) == 1e-7
    assert math.isnan(scanned(lambda h: h > 0, scales=()))


@pytest.mark.parametrize(("tolerance", "agreed"), [(0.24, False), (0.26, True)])
def test_the_tolerance_is_relative_to_the_gain(tolerance, agreed):
    """A slope of 3.75 is a quarter more than 3."""
    x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    subject = Tripled(lambda X: 3.75 * (X[:, :1] - 1), x0)
    found = measure(Staircase(torch.tensor([1.0, 0.0]), n=2, tolerance=tolerance), subject)
    assert (found.readings["crossover_scale"].value == SCALES[0]) == agreed


def test_each_scale_is_compared_in_its_own_slot():
    def by_slot(X):
        return X[:, :1] + 100 * torch.arange(len(X))[:, None]

    result = measure(Staircase(AXIS, n=2, scales=tuple(10.0**-k for k in range(7, 1, -1))), planted(by_slot, batch=4))
    rows = [row for row in result.rows if row["part"] == "scale"]
    assert [row["slot"] for row in rows] == [0, 1, 2, 3, 0, 1]
    assert all(row["slope"] == row["output_jump"] / row["input_step"] for row in rows)
    assert all(row["output_jump"] < 1 for row in rows)
    length = float(X0.double().norm())
    for row in rows:
        step = rounded(X0, AXIS, row["scale"] * length).double() - X0.double()
        assert row["input_step"] == float(step.norm())
        assert row["coords_changed"] == int((step != 0).sum())


# --- noise


def test_the_largest_jump_is_set_against_the_noise_floor():
    """The output shows the batch size: 1, 2, 3 and 8 rows lie at most 7 x 0.25 apart."""

    def noisy(X):
        return stairs(X) + 4 * (floats(X) >= 10) + 0.25 * len(X)

    result, _ = asked(noisy, n=18, scales=())
    assert result.readings["jump_over_noise"].value == pytest.approx(7 / 1.75)
    assert "batch" in result.noise
    assert asked(stairs, n=18, scales=())[0].readings["jump_over_noise"].value == math.inf


# --- exact zeros


def test_zeros_are_held_so_that_the_list_stays_exact():
    x0, d = torch.tensor([0.0, 0.75, -1.5]), torch.tensor([0.5, 1.0, 0.25])
    result, rows = asked(lambda X: X, x0, direction=d, n=9, scales=())
    assert (values(result)["held"], values(result)["exact"]) == (1, 1)
    without = torch.tensor([0.0, 1.0, 0.25])
    assert [row["s_first"] for row in rows] == treads(x0, without, 0.0, 9)
    assert result.arrays["directions"].tolist() == [without.tolist()]
    assert "1 dense coordinate held" in result.sentence


def test_what_is_dense_once_the_zeros_are_held_is_held_as_well():
    """Three zeros that d moves far hide that the fourth coordinate passes 4096 floats while the last passes none."""
    x0 = torch.tensor([0.0, 0.0, 0.0, 0.75 * 2.0**-22, 0.75])
    result, rows = asked(lambda X: X, x0, direction=torch.tensor([1e4, 1e4, 1e4, 1.0, 1.0]), n=5, scales=())
    assert (values(result)["held"], values(result)["exact"]) == (4, 1)
    assert [row["input_distance"] for row in rows] == [k * FLOAT for k in range(5)]


def test_zeros_that_are_sampled_or_all_there_is_make_no_exact_list():
    x0, d = torch.tensor([0.0, 0.75, -1.5]), torch.tensor([0.5, 1.0, 0.25])
    sampled, rows = asked(lambda X: X, x0, direction=d, n=9, dense="sample", scales=())
    assert (values(sampled)["held"], values(sampled)["exact"]) == (0, 0)
    assert rows[1]["s_first"] < 1e-30
    grid, _ = asked(lambda X: X, x0, direction=d, step=1e-9, n=9, unit="abs", scales=())
    assert (values(grid)["held"], values(grid)["exact"], values(grid)["inputs"]) == (0, 0, 10)
    # A float of the listable coordinate a step, so that only the zero, which moves on, makes the grid leave inputs out.
    d = torch.tensor([0.5, 1.0, 0.0])
    dense_too, _ = asked(lambda X: X, x0, direction=d, step=2.0**-24, n=9, unit="abs", scales=())
    assert (values(dense_too)["inputs"], values(dense_too)["exact"]) == (10, 0)
    only, _ = asked(lambda X: X, x0, direction=torch.tensor([1.0, 0, 0]), n=5, scales=())
    assert (values(only)["held"], values(only)["exact"], values(only)["inputs"]) == (0, 0, 5)


def test_a_zero_input_is_scanned_in_absolute_steps():
    result, rows = asked(lambda X: 2 * X, torch.zeros(3), direction=AXIS[:3], n=5, unit="abs", scales=(1e-3, 1e-2))
    assert [row["s_first"] for row in result.rows[5:]] == [1e-3, 1e-2]
    assert result.readings["crossover_scale"].value == 1e-3
    assert [row["coords_changed"] for row in rows] == [0, 1, 1, 1, 1]


# --- a model


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 7)])
def test_a_models_stairs_are_those_of_one_call_each(tiny, path, batch):
    """The oracle: each pair of neighbouring inputs again, by two calls of its own, in the slot that was stated."""
    subject = CausalLMSubject(tiny, "The capital of France is", path=path, batch=batch)
    result = measure(Staircase("v1", n=20), subject)
    rows = [row for row in result.rows if row["part"] == "step"]
    d = torch.from_numpy(result.arrays["directions"][0])
    assert values(result)["unexplained_changes"] == 0
    for before, row in itertools.pairwise(rows):
        pair = []
        for s in (before["s_first"], row["s_first"]):
            X = subject.copies(batch)
            X[row["slot"]] = rounded(subject.x0, d, s)
            pair.append(subject.evaluate(X)[row["slot"]])
        assert row["jumped"] == (not bits_equal(*pair))
        assert row["output_jump"] == float((pair[1].double() - pair[0].double()).norm())
    assert result.readings["gain"].value > 0
    stated = Staircase("v1", n=20).cost(subject)
    assert result.execution.forwards <= stated.forwards
    assert result.execution.tangents <= stated.backwards
    assert stated.backwards == len(rows) + products_of("v1", subject)


# --- what cannot be asked


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"n": 0}, "at least 1"),
        ({"n": 2.5}, "n=2.5"),
        ({"start": -1.0}, "start=-1.0"),
        ({"start": math.nan}, "start=nan"),
        ({"step": 0.0}, "step=0.0"),
        ({"step": 1.0, "stop": 2.0}, "a step or a stop"),
        ({"start": 2.0, "stop": 2.0}, "beyond start"),
        ({"unit": "cm"}, "unit 'cm'"),
        ({"rule": "p16"}, "rule 'p16'"),
        ({"dense": "move"}, "dense='move'"),
        ({"scales": (1e-3, 1e-4)}, "ascending"),
        ({"scales": (0.0,)}, "positive"),
        ({"tolerance": 1.0}, "tolerance=1.0"),
    ],
)
def test_bad_parameters_are_refused_at_once(how, says):
    with pytest.raises(UsageError, match=says):
        Staircase(AXIS, **how)


def test_one_direction_at_a_time():
    with pytest.raises(UsageError, match="one direction, not 2"):
        asked(stairs, direction=torch.eye(4)[:2])
