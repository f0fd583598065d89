"""Jumps at first changes: planted sizes, a planted noise floor, what calculus predicts, and the study's own ratio."""

import math
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from stabilitykit.errors import UsageError
from stabilitykit.measurements.boundary import FirstChange, StabilityFan
from stabilitykit.measurements.boundary_jump import BoundaryJump, _light
from stabilitykit.measurements.measure import measure
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import load

X0 = torch.tensor([0.75, -1.3125, 0.0123, 5.5])
SCALE = torch.tensor([1.0, 2.0, 64.0, 4.0])
IDS = [(7 * i + 3) % 258 for i in range(12)]


def value(result, name):
    return result.readings[name].value


def jump(fn, directions=None, *, batch=1, x0=X0, **settings):
    return measure(BoundaryJump(directions, **settings), FunctionSubject(fn, x0, batch=batch))


def noisy(X):
    """One output flips by 0.25 with any last bit of the input; alone in its batch a row differs by 0.5."""
    flipped = (X != X0).any(dim=1, keepdim=True).float() / 4
    return torch.cat([X * 0 + (len(X) == 1) * torch.tensor([0.5, 0, 0, 0]), flipped], dim=1)


def test_a_linear_map_jumps_as_calculus_says():
    """Along each axis one float moves, and the output by the axis' own stretch of it."""
    result = jump(lambda X: X * SCALE, torch.eye(4))
    spacings = [2.0**-24, 2.0**-23, 2.0**-30, 2.0**-21]
    assert [row["input_step"] for row in result.rows] == spacings
    assert [row["output_jump"] for row in result.rows] == [s * float(k) for s, k in zip(spacings, SCALE, strict=True)]
    for name in ("amplification", "study_amplification"):
        assert [row[name] for row in result.rows] == SCALE.tolist()
    assert [row["smooth_jump"] for row in result.rows] == pytest.approx(
        [row["output_jump"] for row in result.rows], abs=0
    )
    assert [row["jump_over_smooth"] for row in result.rows] == pytest.approx([1] * 4)
    assert value(result, "input_step") == statistics.median(spacings)
    assert value(result, "output_jump") == max(row["output_jump"] for row in result.rows)
    assert result.readings["output_jump"].place == {"direction": "3", "slot": "0"}
    assert value(result, "amplification") == 64
    assert result.readings["amplification"].place == {"direction": "2", "slot": "0"}
    assert value(result, "median_amplification") == 3
    assert value(result, "jump_over_smooth") == pytest.approx(1)
    assert value(result, "smooth_jump") == pytest.approx(value(result, "median_jump"), abs=0)
    assert value(result, "sigma_1") == pytest.approx(64)
    assert (value(result, "directions"), value(result, "boundaries")) == (4, 4)
    # Nothing is random here: there is no floor, and the sentence does not invent one.
    assert value(result, "noise_floor") == 0
    assert value(result, "jump_over_noise") == math.inf
    roundoff = 2.0**-24 * float((X0 * SCALE).double().norm())
    assert value(result, "jump_over_roundoff") == pytest.approx(value(result, "median_jump") / roundoff)
    assert f"there is no noise floor; the jump is {value(result, 'jump_over_roundoff'):.2g} times" in result.sentence
    assert "where calculus allows 64." in result.sentence


def test_a_jump_that_is_noise_is_called_noise():
    """The same jump of 0.25 wherever the input moves, over steps that differ by 512: next to a floor of 0.5."""
    result = jump(noisy, torch.eye(4), batch=4)
    jumps, steps = ([row[name] for row in result.rows] for name in ("output_jump", "input_step"))
    assert jumps == [0.25] * 4
    assert value(result, "noise_floor") == 0.5
    assert value(result, "jump_over_noise") == 0.5
    assert [row["jump_over_noise"] for row in result.rows] == [0.5] * 4
    assert value(result, "jump_spread") == 1
    assert value(result, "step_spread") == max(steps) / min(steps) == 512
    assert value(result, "jump_cv") == 0
    assert math.isnan(value(result, "jump_of_step"))
    assert value(result, "median_amplification") == statistics.median(0.25 / step for step in steps)
    assert (
        "The jump is 0.5 times the noise floor; the steps differ by a factor of 512, the jumps by 1." in result.sentence
    )
    assert result.noise.startswith("0.5 (L2), between batch 4 and batch 1")


def test_a_jump_far_above_the_noise_is_not_called_noise():
    result = jump(lambda X: noisy(X) * torch.tensor([1, 1, 1, 1, 400.0]), torch.eye(4), batch=4)
    assert value(result, "jump_over_noise") == 200
    assert "The jump is 200 times the noise floor. " in f"{result.sentence} "
    assert "re-rolls" not in result.sentence


@pytest.mark.parametrize(("times", "alike"), [(0.0999, False), (0.1, True), (10.0, True), (10.1, False)])
def test_a_jump_of_a_tenth_to_ten_times_the_noise_is_called_noise(times, alike):
    numbers = {"noise_floor": 1.0, "median_jump": times, "step_spread": 4.0, "jump_spread": 2.0}
    said = _light({name: SimpleNamespace(value=number) for name, number in numbers.items()})
    told = f"The jump is {times:g} times the noise floor"
    assert said.startswith(f"{told}; the steps differ by a factor of 4, the jumps by 2." if alike else f"{told}.")
    assert ("re-rolls the rounding" in said) == alike


def test_spread_and_correlation_are_those_of_the_rows():
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(4, 4, generator=generator)
    result = jump(lambda X: (X @ matrix * 2**21).round(), torch.randn(30, 4, generator=generator), batch=5)
    jumps, steps = (np.array([row[name] for row in result.rows]) for name in ("output_jump", "input_step"))
    assert value(result, "jump_cv") == pytest.approx(statistics.pstdev(jumps) / statistics.fmean(jumps))
    assert value(result, "jump_spread") == max(jumps) / min(jumps)
    assert value(result, "step_spread") == max(steps) / min(steps)
    assert value(result, "median_jump") == statistics.median(jumps)
    tied = result.readings["jump_of_step"]
    assert tied.value == pytest.approx(stats.spearmanr(jumps, steps).statistic)
    # As many events as there are different outputs: neighbouring rays that cross the same float are one.
    events = len({row["output_digest"] for row in result.rows})
    assert events < 30
    half = 1.959963984540054 * math.sqrt((1 + tied.value**2 / 2) / (events - 3))
    assert tied.high == pytest.approx(math.tanh(math.atanh(tied.value) + half))


def test_the_studys_ratio_counts_from_the_input_itself():
    """After three floats of dead zone the step across the boundary is one float, the distance from x0 is three."""

    def dead(X):
        return ((X[:, :1].contiguous().view(torch.int32) - X0[:1].view(torch.int32)).abs() >= 3).float()

    result = jump(dead, torch.tensor([1.0, 0, 0, 0]))
    assert value(result, "amplification") == 2.0**24
    assert value(result, "study_amplification") == pytest.approx(2.0**24 / 3)


def test_a_coarse_output_jumps_farther_than_its_derivative_says():
    """Twice the input on a grid of 2**-20: some floats away from 0.75 it jumps by 2**-20, all at once."""

    def coarse(X):
        smooth = 2 * X[:, :1]
        return smooth + (torch.round(smooth.detach() * 2**20) / 2**20 - smooth.detach())

    result = jump(coarse, torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0]]))
    floats = next(n for n in range(1, 99) if round((1.5 + n * 2.0**-23) * 2**20) > 1.5 * 2**20)
    assert value(result, "input_step") == 2.0**-24
    assert [row["realised_norm"] for row in result.rows] == [floats * 2.0**-24] * 2
    assert value(result, "median_jump") == value(result, "output_jump") == 2.0**-20
    assert value(result, "median_amplification") == value(result, "amplification") == 16
    assert value(result, "study_amplification") == 16 / floats < 8
    assert value(result, "smooth_jump") == pytest.approx(2.0**-23, abs=0)
    assert value(result, "jump_over_smooth") == pytest.approx(8)
    assert value(result, "sigma_1") == pytest.approx(2)


def test_equal_steps_are_one_product():
    """Forty rays cross a float of four coordinates, up or down: their products are shared."""
    directions = torch.cat([torch.eye(4) * (k + 1) for k in range(10)])
    subject = FunctionSubject(lambda X: X * SCALE, X0)
    result = measure(BoundaryJump(directions), subject)
    assert result.execution.tangents <= 4 + 60
    alone = measure(BoundaryJump(torch.eye(4)), FunctionSubject(lambda X: X * SCALE, X0))
    assert [row["smooth_jump"] for row in result.rows] == [row["smooth_jump"] for row in alone.rows] * 10


def test_rays_without_a_change_have_no_jump():
    result = jump(lambda X: X[:, 1:], torch.eye(4), max_cells=5)
    assert [row["censored"] for row in result.rows] == [True, False, False, False]
    first = result.rows[0]
    names = ("output_jump", "smooth_jump", "jump_over_smooth", "jump_over_noise", "study_amplification")
    assert all(math.isnan(first[name]) for name in names)
    assert (value(result, "directions"), value(result, "boundaries")) == (4, 3)
    assert "Across 3 first changes of 4 rays" in result.sentence
    assert not math.isnan(value(result, "median_jump"))


def test_no_change_anywhere_is_no_jump_anywhere():
    result = jump(lambda X: X[:, :1], torch.eye(4)[1:], max_cells=5)
    assert value(result, "boundaries") == 0
    unknown = set(result.readings) - {"directions", "boundaries", "noise_floor", "sigma_1"}
    assert all(math.isnan(value(result, name)) for name in unknown)
    assert result.sentence == "None of 3 rays has a first change in the range searched, so there is no jump to look at."
    assert result.readings["output_jump"].place == {}


def test_the_plane_is_searched_as_the_fan_searches_it():
    matrix = torch.diag(torch.tensor([8.0, 4.0, 1.0, 2.0]))
    subject = FunctionSubject(lambda X: X @ matrix, X0, batch=4)
    found, fan = measure(BoundaryJump(angles=12), subject), measure(StabilityFan(angles=12), subject)
    assert np.array_equal(found.arrays["directions"], fan.arrays["directions"])
    for name in ("angle_deg", "radius", "s_first_changed", "input_step", "output_jump", "output_digest"):
        assert [row[name] for row in found.rows] == [row[name] for row in fan.rows]
    for name in ("input_step", "output_jump", "smooth_jump"):
        assert found.arrays[name].tolist() == [row[name] for row in found.rows]
    assert (BoundaryJump.study().angles, BoundaryJump.study().plane) == (1000, ("v1", "v2"))


def test_one_ray_is_said_to_be_one():
    assert "Across the first change the input moves by" in jump(lambda X: X, torch.eye(4)[:1]).sentence


def test_every_ray_costs_a_product():
    subject = FunctionSubject(lambda X: X * SCALE, X0)
    few, many = (BoundaryJump(angles=angles).cost(subject) for angles in (5, 8))
    assert many.backwards - few.backwards == 3
    one, three = (BoundaryJump(torch.eye(4)[:rays]).cost(subject) for rays in (1, 3))
    assert three.backwards - one.backwards == 2
    assert few.backwards - one.backwards == 4


def test_a_single_coordinate_has_a_sigma_of_its_own():
    assert value(jump(lambda X: 3 * X, torch.ones(1, 1), x0=torch.tensor([0.75])), "sigma_1") == pytest.approx(3)


# --- models


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_but_the_search_and_the_products_is_run(dtype):
    subject = CausalLMSubject(load("tiny:llama", dtype=dtype), IDS, path="decode", batch=8)
    directions = torch.randn(16, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    directions[:, subject.x0.abs() < 0.02] = 0
    subject.noise_floor()
    search = measure(FirstChange(direction=directions), subject).execution
    result = measure(BoundaryJump(directions), subject)
    assert result.execution.forwards == search.forwards - 8, "the baseline was there already"
    assert result.execution.tangents <= 16 + 40, "a row a ray, and five rounds of eight for v1"
    stated = BoundaryJump(directions).cost(subject)
    assert result.execution.forwards <= stated.forwards
    assert result.execution.tangents + result.execution.backwards <= stated.backwards


def test_logits_at_the_boundary_are_those_of_the_model():
    loaded = load("tiny:llama")
    subject = CausalLMSubject(loaded, IDS, path="decode", batch=4)
    directions = torch.randn(6, 64, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    directions[:, subject.x0.abs() < 0.02] = 0
    result = measure(BoundaryJump(directions), subject)
    head = CausalLMSubject(loaded, IDS, path="decode", batch=4, site="logits")
    for row, d in zip(result.rows, directions, strict=True):
        X = head.copies(4)
        X[row["slot"]] = (subject.x0.double() + row["s_first_changed"] * d).float()
        L, L0 = head.evaluate(X)[row["slot"]].double(), head.baseline[row["slot"]].double()
        assert row["logit_change"] == float((L - L0).abs().max()) > 0
        assert row["argmax_changed"] is False
    assert value(result, "logit_change") == max(row["logit_change"] for row in result.rows)
    assert value(result, "argmax_changes") == 0
    assert "and never another token comes first." in result.sentence
    assert value(result, "smooth_jump") < value(result, "median_jump")


def test_changes_of_the_largest_logit_are_counted(monkeypatch):
    """Planted changes of logits, at the boundaries only: the censored ray in the middle has none."""
    planted = iter([(0.5, True), (2.0, False), (0.25, True)])
    seen = []

    def changes(subject, Y, slots):
        seen.extend(slots)
        return [next(planted) for _ in Y]

    monkeypatch.setattr("stabilitykit.measurements.jumps.logit_changes", changes)
    result = jump(lambda X: X[:, [0, 2, 3]], torch.eye(4), batch=4, max_cells=5)
    assert [row["logit_change"] for row in result.rows] == pytest.approx([0.5, math.nan, 2.0, 0.25], nan_ok=True)
    assert [row["argmax_changed"] for row in result.rows] == [True, None, False, True]
    assert seen == [0, 2, 3]
    assert value(result, "argmax_changes") == 2
    assert value(result, "logit_change") == 2
    assert result.readings["logit_change"].place == {"direction": "2", "slot": "2"}
    assert "A logit moves by at most 2, and 2 times another token comes first." in result.sentence


def test_what_has_no_derivative_has_no_prediction():
    class Plain(FunctionSubject):
        def jvp(self, V):
            return super(FunctionSubject, self).jvp(V)

    result = measure(BoundaryJump(torch.eye(4)), Plain(lambda X: X.detach(), X0))
    for name in ("sigma_1", "smooth_jump", "jump_over_smooth", "logit_change", "argmax_changes"):
        assert math.isnan(value(result, name)), name
    assert "calculus" not in result.sentence
    assert "logit" not in result.sentence
    assert value(result, "amplification") == 1


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda: BoundaryJump(angles=0), "angles=0 is no count"),
        (lambda: BoundaryJump(plane=("v1", "v2", "v3")), "does not name two directions"),
        (lambda: BoundaryJump(max_cells=0), "max_cells=0 is no count"),
        (lambda: jump(lambda X: X, torch.ones(5)), r"directions have shape \(5,\)"),
    ],
)
def test_what_cannot_be_searched_is_refused(call, fragment):
    with pytest.raises(UsageError, match=fragment):
        call()


def test_how_far_steps_differ_is_said_of_several_alone():
    said = "The jump is 0.5 times the noise floor. A last bit of the input re-rolls"
    assert said in jump(noisy, torch.eye(4)[:1], batch=4).sentence
