"""Stable, chaotic, signal: subjects with planted thresholds, their clean twins, and plain forwards as the oracle."""

import math

import numpy as np
import pytest
import torch

from stabilitykit import strategies
from stabilitykit.errors import UsageError
from stabilitykit.measurements.boundary import FirstChange
from stabilitykit.measurements.measure import combine, measure
from stabilitykit.measurements.regimes import Regimes
from stabilitykit.measurements.scan import Plan, scan
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.perturbation import perturb
from stabilitykit.results.failure import StabilityFailure
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import load

X0 = torch.tensor([0.75, -1.3125, 0.5123, 5.5])
ULP = 2.0**-24  # of 0.75 in float32
AXIS = torch.eye(4)[0]
GAIN = torch.tensor([3.0, 0.5, 20.0, 1.0], dtype=torch.float64)
NORM = float(X0.double().norm())


def exact(X):
    """The true function: each coordinate by its own gain."""
    return X.double() * GAIN.to(X.device)


def sign(X):
    """+1 or -1 by the last bit of each float32: what the rounding of a long computation looks like from outside."""
    return 1.0 - 2.0 * (X.contiguous().view(torch.int32) & 1).double()


def planted(noise=0.0, dead=0.0, x0=X0, **zones):
    """A float32 subject: the true function, noise of a known size on moved coordinates, and unchanged below `dead`.

    `island` (low, high): there the old bits come back; `chaos` (low, high): there the noise is 100 times the change.
    """

    def native(X):
        moved = X.double() - x0.double()
        size = moved.abs()
        Y = exact(X) + noise * sign(X) * (moved != 0)
        low, high = zones.get("chaos", (1.0, 0.0))
        Y = torch.where((low <= size) & (size <= high), Y + 100 * GAIN * moved, Y)
        low, high = zones.get("island", (1.0, 0.0))
        return torch.where((size <= dead) | ((low <= size) & (size <= high)), exact(x0[None]), Y)

    return FunctionSubject(native, x0, exact=exact, **{"batch": 8, **zones.get("subject", {})})


def asked(subject, directions=AXIS, **parameters):
    return measure(Regimes(directions, **{"replicates": 100, **parameters}), subject)


def read(result, name):
    return result.readings[name].value


def part(result, name):
    return [row for row in result.rows if row["part"] == name]


# --- known answers


@pytest.mark.parametrize("noise", [1e-5, 1e-3])
@pytest.mark.parametrize("floats", [3, 40])
def test_planted_noise_above_a_planted_dead_zone(noise, floats):
    """Up to `floats` floats nothing moves; above, an error of the known size lies on a change of the known gain."""
    result = asked(planted(noise, floats * ULP))
    stable, signal = read(result, "eps_stable"), read(result, "eps_signal")
    assert stable == pytest.approx((floats + 0.5) * ULP, rel=1e-12)  # where the next float is rounded to
    assert signal == pytest.approx(noise / (0.1 * 3.0), rel=2e-3)  # |error| = 0.1 gain step, but for the realised step
    assert read(result, "chaotic_decades") == pytest.approx(math.log10(signal / stable), rel=1e-9)
    assert (read(result, "exact"), read(result, "islands"), read(result, "directions")) == (1, 0, 1)
    (ray,) = part(result, "ray")
    assert ray["s_first_changed"] == math.nextafter(ray["s_last_same"], math.inf)
    regimes = [row["regime"] for row in part(result, "point")]
    assert regimes == sorted(regimes, key=("stable", "chaotic", "signal").index)
    assert {"stable", "chaotic", "signal"} == set(regimes)
    assert [ray[name] for name in ("stable", "chaotic", "signal")] == [regimes.count(n) for n in dict.fromkeys(regimes)]


def test_the_stable_radius_is_that_of_the_certificate():
    subject = planted(1e-5, 17 * ULP)
    (row,) = measure(FirstChange(direction=AXIS), subject).rows
    (ray,) = part(asked(subject), "ray")
    assert (ray["s_last_same"], ray["s_first_changed"]) == (row["s_last_same"], row["s_first_changed"])
    assert ray["eps_stable"] == row["radius"]


def test_a_wide_dead_zone_is_bracketed_by_the_scanned_steps():
    """Its 16777 floats are too many to list; the scan ends it within one of its steps, and says that it did."""
    result = asked(planted(1e-5, 1e-3), points=16)
    (ray,) = part(result, "ray")
    assert read(result, "exact") == 0
    assert ray["eps_stable"] < 1e-3 < ray["s_first_changed"]
    assert ray["s_first_changed"] / ray["eps_stable"] < 10 ** (2 / 16)
    steps = [row["eps"] for row in part(result, "point")]
    assert {ray["eps_stable"], ray["s_first_changed"]} <= set(steps)
    assert "1 of 1 stable radii are sampled" in result.sentence


def test_chaos_in_the_middle_of_a_function_that_is_followed_otherwise():
    result = asked(planted(chaos=(1e-4, 1e-2)), points=8)
    (ray,) = part(result, "ray")
    assert ray["eps_stable"] == pytest.approx(ULP / 2)
    assert 1e-2 < ray["eps_signal"] <= 1e-2 * 10 ** (2 / 8)
    assert ray["chaotic_decades"] == pytest.approx(math.log10(ray["eps_signal"] / ray["s_first_changed"]))
    for row in part(result, "point"):
        expected = "stable" if row["realised_norm"] == 0 else "signal"
        assert row["regime"] == ("chaotic" if 1e-4 <= row["realised_norm"] <= 1e-2 else expected)
        assert row["rounding_share"] == pytest.approx(100 if row["regime"] == "chaotic" else row["rounding_share"])


def test_an_island_of_old_bits_is_counted_and_enlarges_nothing():
    plain, result = (asked(planted(1e-6, 5 * ULP, **zones), points=8) for zones in ({}, {"island": (1e-3, 1e-2)}))
    assert read(result, "eps_stable") == read(plain, "eps_stable")
    inside = [row for row in part(result, "point") if 1e-3 <= row["realised_norm"] <= 1e-2]
    assert {row["regime"] for row in inside} == {"stable"}
    assert read(result, "islands") == len(inside) >= 8
    assert part(result, "ray")[0]["last_island"] == max(row["eps"] for row in inside)
    beyond = min(row["eps"] for row in part(result, "point") if row["realised_norm"] > 1e-2)
    # On the island it does not follow either; between its last point and the next one no step was tried.
    assert read(plain, "eps_signal") < 1e-3 < inside[-1]["eps"] <= read(result, "eps_signal") <= beyond
    assert f"At {len(inside)} larger steps the old bits came back." in result.sentence


def test_where_the_true_function_bends():
    """g s + c s^2 leaves its tangent g s by a tenth at s = 0.1 g / c, whatever the subject's rounding does."""

    def bent(X):
        moved = X.double() - X0.double()
        return 3 * moved[:, :1] + 7 * moved[:, :1] ** 2

    for noise in (0.0, 1.0):
        subject = FunctionSubject(lambda X, n=noise: bent(X) + n * sign(X)[:, :1], X0, exact=bent)
        assert read(asked(subject), "eps_linear_end") == pytest.approx(0.1 * 3 / 7, rel=1e-6)
    assert read(asked(planted()), "eps_linear_end") == math.inf
    assert read(asked(subject, decades=(-13, -8)), "eps_linear_end") == math.inf  # none of these steps can tell


def test_the_ray_that_bends_first_is_the_reading():
    curvature = torch.tensor([7.0, 2.0, 1.0, 1.0], dtype=torch.float64)

    def bent(X):
        moved = X.double() - X0.double()
        return GAIN * moved + curvature * moved**2

    result = asked(FunctionSubject(bent, X0), torch.eye(4))
    assert [ray["eps_linear_end"] for ray in part(result, "ray")] == pytest.approx((0.1 * GAIN / curvature).tolist())
    assert read(result, "eps_linear_end") == pytest.approx(0.1 * 0.5 / 2)
    assert result.readings["eps_linear_end"].place == {"direction": "1"}


def test_a_function_that_bends_first_has_no_step_that_shows_its_derivative():
    def bent(X):
        moved = X.double()[:, :1] - 0.75
        return moved + 10 * moved**2

    result = asked(FunctionSubject(lambda X: bent(X) + 1e-2 * sign(X)[:, :1], X0, exact=bent))
    assert read(result, "eps_linear_end") == pytest.approx(1e-2, rel=1e-6)
    assert read(result, "eps_signal") > 1e-2
    assert "Along 1 of 1 the function bends before the output follows it" in result.sentence


# --- clean twins


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("direction", [AXIS, torch.tensor([0.5, -0.5, 0.5, 0.5])])
def test_what_computes_without_error_has_no_chaos_in_any_dtype(dtype, direction):
    """Rounding of the input alone is no chaos: both sides get the same input."""
    result = asked(FunctionSubject(exact, X0.to(dtype)), direction)
    (ray,) = part(result, "ray")
    assert read(result, "chaotic_decades") == ray["chaotic"] == 0
    assert read(result, "eps_signal") == ray["s_first_changed"]
    assert "nothing is chaotic" in result.sentence


def test_a_smooth_float64_function_is_not_chaotic_against_itself():
    result = asked(FunctionSubject(lambda X: torch.sin(3 * X), X0.double()))
    assert read(result, "chaotic_decades") == 0
    assert min(row["eps"] for row in part(result, "point")) < 1e-20


def test_a_float64_subject_is_judged_with_its_own_noise():
    """Its bits depend on the batch by 1e-9, and so do its oracle's: below 1e-9 / (0.1 gain) neither can say."""

    def noisy(X, size):
        return exact(X) + size * (len(X) - 8) / 7 * AXIS

    result = asked(FunctionSubject(lambda X: noisy(X, 1e-9), X0.double(), batch=8))
    assert read(result, "eps_signal") == pytest.approx(1e-9 / 0.3, rel=1e-3)
    float32 = asked(FunctionSubject(lambda X: noisy(X, 1e-6), X0, batch=8))
    assert read(float32, "chaotic_decades") == 0  # its twin's noise is left out


# --- several rays


def test_the_worst_ray_is_the_reading_and_is_named():
    """On the axes the noise is the same and the gains are not, nor are the floats: each ray's answer is known."""
    noise = 1e-4
    result = asked(planted(noise), torch.eye(4))
    spacing = np.spacing(X0.abs().numpy()).astype(float)
    rays = part(result, "ray")
    assert [ray["eps_stable"] for ray in rays] == pytest.approx((spacing / 2).tolist())
    assert [ray["eps_signal"] for ray in rays] == pytest.approx((noise / (0.1 * GAIN)).tolist(), rel=0.02)
    wide = [math.log10(ray["eps_signal"] / ray["eps_stable"]) for ray in rays]
    assert [ray["chaotic_decades"] for ray in rays] == pytest.approx(wide, rel=1e-9)
    expected = {"eps_stable": (min, "0"), "eps_signal": (max, "1"), "chaotic_decades": (max, "1")}
    for name, (worst, place) in expected.items():
        values = [ray[name] for ray in rays]
        assert read(result, name) == worst(values)
        assert result.readings[name].place == {"direction": place}
        assert read(result, f"median_{name}") == np.median(values)
        assert result.arrays[name].tolist() == values
    assert read(result, "directions") == 4
    assert read(result, "points") == len(part(result, "point")) == 4 * (14 * 4 + 1)
    assert read(result, "input_norm") == NORM


def test_rows_of_the_plan_and_of_the_certificate():
    result = asked(planted(1e-5, 5 * ULP), torch.eye(4)[:2], points=3, decades=(-9, -2), seed=5)
    points = part(result, "point")
    assert len({row["eps"] for row in points}) == len(points)
    for index in range(2):
        own = [row for row in points if row["direction"] == str(index)]
        assert [row["eps"] for row in own] == sorted(row["eps"] for row in own)
        planned = Plan(NORM, (-9, -2), 3, 5, 0.1).steps(index)
        assert [row["eps"] for row in own if not row["certified"]] == pytest.approx(planned, rel=1e-15)
        assert sum(row["certified"] for row in own) == 1
        (edge,) = [row["eps"] for row in own if row["certified"]]
        assert edge == part(result, "ray")[index]["s_first_changed"]
        assert all(row["eps_in_units"] == pytest.approx(row["eps"] / NORM) for row in own)
        assert all(10 ** row["decade"] <= row["eps_in_units"] * (1 + 1e-9) for row in own)
        assert all(row["eps_in_units"] <= 10 ** (row["decade"] + 1) * (1 + 1e-9) for row in own)


def test_the_certified_point_is_drawn_with_no_other():
    subject, plan = planted(1e-4), Plan(NORM, (-9, -2), 3, 0, 0.1)
    (ray,) = scan(subject, None, [Lattice(X0, AXIS)], ["x"], plan)
    assert (ray.strata == ray.strata[ray.certified]).sum() == 1
    assert [int((ray.strata == decade).sum()) for decade in range(-9, -2)] == [3] * 7
    assert math.isnan(ray.linear_end)


def test_gains_and_errors_of_a_row():
    noise = 1e-3
    result = asked(planted(noise))
    for row in part(result, "point"):
        assert row["gain_nominal"] == pytest.approx(row["output_change"] / row["eps"])
        if row["realised_norm"]:
            assert row["gain_true"] == pytest.approx(3)
            assert row["gain_realised"] == pytest.approx(row["output_change"] / row["realised_norm"])
            assert row["error"] == pytest.approx(noise, rel=1e-6)
            assert row["rounding_share"] == pytest.approx(noise / (3 * row["realised_norm"]), rel=1e-6)
            assert (row["alignment"], row["coords_moved"]) == (pytest.approx(1), 1)
        else:
            assert (row["output_change"], row["coords_moved"], row["rounding_share"]) == (0, 0, 0)
            assert math.isnan(row["gain_realised"])
            assert math.isnan(row["alignment"])


def test_a_direction_is_measured_by_its_length():
    one, ten = (asked(planted(1e-4, 9 * ULP), factor * AXIS) for factor in (1, 10))
    for name in ("eps_stable", "eps_signal", "chaotic_decades"):
        assert read(one, name) == pytest.approx(read(ten, name), rel=1e-9)
    assert part(ten, "ray")[0]["s_last_same"] == pytest.approx(read(one, "eps_stable") / 10)
    assert part(ten, "point")[-1]["alignment"] == pytest.approx(1)


def test_intervals_hold_what_they_are_drawn_from():
    result = asked(planted(1e-4), torch.eye(4), replicates=400)
    rays = part(result, "ray")
    low, high = (getattr(result.readings["median_eps_stable"], side) for side in ("low", "high"))
    values = sorted(ray["eps_stable"] for ray in rays)
    assert values[0] <= low < np.median(values) < high <= values[-1]
    worst = result.readings["eps_stable"]
    assert worst.low == worst.value < worst.high
    for ray in rays:
        assert ray["eps_signal_low"] <= ray["eps_signal"] * (1 + 1e-9)
        assert ray["eps_signal_high"] >= ray["eps_signal"] * (1 - 1e-9)
        assert ray["eps_signal_high"] / ray["eps_signal_low"] < 1.1  # the planted error falls without scatter
    decades = result.readings["chaotic_decades"]
    assert decades.low <= decades.value <= decades.high + 1e-9
    assert result.readings["eps_linear_end"].low is None


def test_named_directions_are_no_sample():
    result = asked(planted(1e-4), ["v1", "v2"])
    assert [row["direction"] for row in part(result, "ray")] == ["v1", "v2"]
    stable = result.readings["median_eps_stable"]
    assert stable.low == stable.high == stable.value
    mixed = asked(planted(1e-4), ["v1", *strategies.gaussians(3, 4)])
    assert mixed.readings["median_eps_stable"].low < mixed.readings["median_eps_stable"].high


# --- what is not there


def test_no_change_at_all():
    result = asked(FunctionSubject(lambda X: X[:, 1:], X0, exact=lambda X: X[:, 1:] + X[:, :1]))
    assert read(result, "eps_stable") == pytest.approx(NORM * 10, rel=0.5)
    assert (read(result, "eps_signal"), read(result, "chaotic_decades")) == (math.inf, 0)
    assert "no bit of the output changes" in result.sentence
    assert result.worst is None
    assert read(result, "exact") == 0  # 512 inputs are not all that there are
    (ray,) = part(result, "ray")
    assert (ray["chaotic"], ray["signal"], ray["s_first_changed"]) == (0, 0, math.inf)


def test_every_input_up_to_the_end_can_be_listed_in_a_narrow_dtype():
    result = asked(FunctionSubject(lambda X: X[:, 1:], X0.bfloat16()), decades=(-13, -1))
    assert read(result, "exact") == 1
    assert read(result, "islands") == 0
    assert math.isnan(read(result, "eps_linear_end"))  # nor does the true function move


def test_an_output_that_never_follows():
    result = asked(planted(1e6))
    assert (read(result, "eps_signal"), read(result, "chaotic_decades")) == (math.inf, math.inf)
    assert "does not follow the true function up to the largest step" in result.sentence
    with pytest.raises(StabilityFailure, match="eps_signal inf breaks <= 1"):
        result.check(eps_signal=1)


def test_without_float64_the_noise_decides():
    """float32 weights take no float64 input; the planted error of 1e-3 shows at the first change, as noise."""
    weights = torch.tensor([[3.0]])

    def native(X):
        return (X[:, :1] @ weights).double() + 1e-3 * sign(X)[:, :1]

    result = asked(FunctionSubject(native, X0), points=16)
    (ray,) = part(result, "ray")
    (edge,) = [row for row in part(result, "point") if row["certified"]]
    noise = edge["output_change"]
    assert noise == pytest.approx(2e-3, rel=1e-3)
    for row in part(result, "point"):
        expected = "stable" if row["output_change"] == 0 else "chaotic"
        assert row["regime"] == ("signal" if row["output_change"] >= 10 * noise else expected)
        assert math.isnan(row["true_change"])
    assert 10 * noise / 3 / 1.2 < ray["eps_signal"] < 10 * noise / 3 * 1.2
    assert math.isnan(read(result, "eps_linear_end"))
    assert result.readings["eps_linear_end"].place == {}
    assert "Without float64" in result.sentence
    assert "10 times the noise" in result.sentence


def test_a_twin_of_another_shape_is_refused():
    with pytest.raises(UsageError, match=r"gives 4 numbers and its float64 twin 3"):
        asked(FunctionSubject(exact, X0, exact=lambda X: X[:, 1:]))


def test_the_noise_floor_counts_where_it_is_larger_than_the_first_jumps():
    three = torch.tensor([[3.0]])  # float32 whatever the default dtype is: this function has no float64

    def native(X):
        return X[:, :1] @ three + 0.25 * (len(X) == 3)

    result = asked(FunctionSubject(native, X0, batch=4), points=16)
    assert read(result, "eps_signal") == pytest.approx(2.5 / 3, rel=0.01)
    assert "0.25 (L2)" in result.noise


def test_a_radius_among_the_floats_near_zero_is_not_called_exact():
    x0, d = torch.tensor([0.75, 0.0]), torch.tensor([0.6, 0.8], dtype=torch.float64)
    result = asked(FunctionSubject(lambda X: X * (X[:, 1:] > 1e-20), x0, exact=lambda X: X * 1.0), d)
    assert read(result, "exact") == 0
    assert read(result, "eps_stable") == pytest.approx(1e-20 / 0.8)


def test_a_scanned_step_below_the_search_s_own_first_change_decides():
    """The zero of x0 is sampled by the search; a change in a gap of its samples is met by a scanned step alone."""
    x0 = torch.tensor([0.75, 0.0])
    d = torch.tensor([0.6, 0.8], dtype=torch.float64)
    step = float(Plan(float(x0.norm()), (-13, 1), 4, 0, 0.1).steps(0)[10])
    place = float(torch.tensor(0.8 * step).float())

    def native(X, dead):
        window = (X[:, 1:] - place).abs() <= 1e-3 * place
        return torch.where(window | (X[:, :1] > 0.75 + dead), X, x0)

    for dead in (5 * ULP, 1e-3):  # the search finds a later change, or none among its 512 inputs
        result = asked(FunctionSubject(lambda X, dead=dead: native(X, dead), x0, exact=lambda X: X * 1.0), d)
        (ray,) = part(result, "ray")
        assert ray["s_first_changed"] == pytest.approx(step)
        assert max(row["eps"] for row in part(result, "point") if row["eps"] < step * 0.99) == ray["eps_stable"]
        assert ray["exact"] is False
        assert read(result, "islands") > 10


def test_every_slot_has_its_own_baseline():
    def by_slot(X):
        return exact(X) + torch.arange(len(X))[:, None]

    result = asked(FunctionSubject(by_slot, X0, batch=5, exact=exact))
    assert read(result, "chaotic_decades") == 0
    assert part(result, "ray")[0]["stable"] > 10


# --- a model


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def subject(request):
    return CausalLMSubject(load("tiny", dtype=request.param), "The capital of France is", path="decode", batch=16)


@pytest.fixture(scope="module")
def of_model(subject):
    return asked(subject, ["v1", *strategies.gaussians(1, 64)], points=2)


def test_points_of_a_model_by_plain_forwards(subject, of_model):
    """Each row again, by forwards of the subject and of its float64 twin without any of the scan's code."""
    twin = subject.in_float64()
    directions = dict(zip(["v1", "g"], torch.from_numpy(of_model.arrays["directions"]), strict=True))
    for row in part(of_model, "point")[::5]:
        d = directions["v1" if row["direction"] == "v1" else "g"]
        x = perturb(subject.x0, d, row["eps"] / float(d.norm()))
        y, y64 = subject(x[None])[0], twin(x.double()[None])[0]
        same = bits_equal(y, subject.baseline[0])
        change, true = y.double() - subject.baseline[0].double(), y64 - twin.baseline[0]
        excess = float((change - true).norm() / true.norm()) if bool(true.any()) else 0.0
        expected = "stable" if same else "signal" if excess <= 0.1 else "chaotic"
        assert row["regime"] == expected
        assert row["rounding_share"] == pytest.approx(excess, rel=1e-3)
        assert row["true_change"] == pytest.approx(float(true.norm()), rel=1e-3, abs=1e-14)
        moved = x.double() - subject.x0.double()
        assert row["realised_norm"] == float(moved.norm())
        assert row["coords_moved"] == int((moved != 0).sum())


def test_a_narrower_dtype_is_stable_longer_and_follows_later(subject, of_model):
    rows = of_model.rows
    assert [row["part"] for row in rows[:3]] == ["ray", "ray", "point"]
    assert all(row["eps_signal_low"] < row["eps_signal_high"] for row in rows[:2])
    stable, signal = read(of_model, "eps_stable"), read(of_model, "eps_signal")
    eps = torch.finfo(subject.x0.dtype).eps
    assert 1e-4 * eps < stable / float(subject.x0.double().norm()) < eps
    assert 2 < read(of_model, "chaotic_decades") < 6
    assert stable < signal < math.inf


def test_the_same_seed_gives_the_same_bits_and_another_one_other_steps():
    one, again, other = (asked(planted(1e-4), seed=seed) for seed in (3, 3, 4))
    texts = [
        str([result.rows, *(reading.to_dict() for reading in result.readings.values())]) for result in (one, again)
    ]
    assert texts[0] == texts[1]
    steps = [{row["eps"] for row in part(result, "point")} for result in (one, other)]
    assert len(steps[0] & steps[1]) == 1  # the certified step
    assert read(one, "eps_signal") == pytest.approx(read(other, "eps_signal"), rel=0.02)


def test_equal_inputs_run_once_and_the_stated_cost_bounds_the_work(subject, of_model):
    stated = Regimes(["v1", *strategies.gaussians(1, 64)], points=2).cost(subject)
    assert stated.forwards / 4 < of_model.execution.forwards <= stated.forwards
    counted = FunctionSubject(exact, X0.bfloat16(), batch=1)
    result = asked(counted)
    distinct = {perturb(X0.bfloat16(), AXIS, row["eps"]).view(torch.int16)[0].item() for row in part(result, "point")}
    assert len(distinct) < 20
    assert result.execution.forwards < 4 * 20 + 60 + counted.noise_floor().evaluations
    assert result.execution.forwards <= Regimes(AXIS).cost(FunctionSubject(exact, X0.bfloat16(), batch=1)).forwards


# --- use


def test_as_a_gate():
    result = asked(planted(1e-4, 40 * ULP))
    result.check(eps_stable=">= 1e-10", chaotic_decades="<= 4", eps_signal=1e-2)
    with pytest.raises(StabilityFailure) as failure:
        result.check(eps_stable=1e-3)
    assert str(failure.value).startswith("Regimes(directions=tensor(4,)")
    assert "eps_stable 2.41399e-06 breaks >= 0.001" in str(failure.value).splitlines()[0]
    (ray,) = part(result, "ray")
    last, first = ray["s_last_same"], ray["s_first_changed"]
    said = f"worst at ray 0: same bits at s = {last!r} ({last.hex()})   others at s = {first!r} ({first.hex()})"
    assert said in str(failure.value)


def test_over_several_prompts_the_worst_is_kept():
    near, far = asked(planted(1e-4)), asked(planted(1e-2))
    both = combine([near, far])
    assert read(both, "eps_signal") == read(far, "eps_signal")
    assert {row["part"] for row in both.rows} == {"ray", "point"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"decades": (1, -13)}, "two ascending whole exponents"),
        ({"decades": (-13,)}, "two ascending whole exponents"),
        ({"decades": 14}, "two ascending whole exponents"),
        ({"decades": (-1.5, 2)}, "two ascending whole exponents"),
        ({"decades": (-301, 2)}, "two ascending whole exponents"),
        ({"points": 0}, "points=0 is no whole number of at least 1"),
        ({"points": 2.5}, "points=2.5"),
        ({"replicates": 99}, "replicates=99"),
        ({"seed": -1}, "seed=-1"),
        ({"tolerance": 0}, "tolerance=0 is no share"),
        ({"tolerance": 1.0}, "tolerance=1.0"),
        ({"unit": "ly"}, "unit 'ly'"),
        ({"rule": "up"}, "rule 'up'"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(parameters, message):
    with pytest.raises(UsageError, match=message):
        Regimes(**parameters)


def test_a_zero_input_has_no_relative_steps():
    subject = FunctionSubject(lambda X: X * 2, torch.zeros(3))
    with pytest.raises(UsageError, match="the input is zero"):
        asked(subject, torch.eye(3)[0])
    assert read(asked(subject, torch.eye(3)[0], unit="abs"), "chaotic_decades") == 0
