"""The gain averaged over noise: paired, nested, without bias, and run once an input."""

import hashlib
import math

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.smoothing import counts

A = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
X0 = torch.tensor([1.0, -0.75], dtype=torch.float64)
D = torch.tensor([1.0, 0.0], dtype=torch.float64)


def hashed(x, spread):
    """Normal noise that is a function of the bits of x alone."""
    seed = int.from_bytes(hashlib.sha256(x.numpy().tobytes()).digest()[:8])
    return spread * torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(2))


def noisy(spread, **how):
    """A linear map of gain 3 along D, plus noise that every input draws anew: what rounding does, made large."""
    fn = lambda X: X.double() @ A.T + torch.stack([hashed(x, spread) for x in X])  # noqa: E731
    return sk.FunctionSubject(fn, X0, batch=4, name="noisy", **how)


def smoothed(subject, **how):
    asked = {"directions": D, "unit": "abs", "signs": "+", "oracle": False, "noise": "isotropic"}
    result = sk.measure(sk.DirectionalGain(**(asked | how)), subject, progress=False)
    return result, [row for row in result.rows if row["part"] == "smoothed"]


class Plain(sk.FunctionSubject):
    """Hashing has no derivative."""

    def jvp(self, V):
        return V.double() @ A.T


def planted(spread):
    found = noisy(spread)
    return Plain(found.fn, found.x0, batch=4, name="noisy")


@pytest.mark.parametrize("kind", ["isotropic", "along"])
def test_a_linear_map_has_its_gain_whatever_the_noise(kind):
    subject = Plain(lambda X: X @ A.T, X0, batch=4)
    result, rows = smoothed(subject, noise=kind, epsilons=(1e-2,), samples=[3, 8], noise_scale=0.5)
    assert [row["samples"] for row in rows] == [3, 8]
    for row in rows:
        for name in ("gain_raw", "gain_smoothed", "low", "high"):
            assert row[name] == pytest.approx(3, rel=1e-6), name
        assert row["std_error"] < 1e-6
        assert row["n_distinct"] == 2 * row["samples"]
        assert row["alignment"] == pytest.approx(1)
        assert row["realised_ratio"] == pytest.approx(1)
        assert row["sigma"] == pytest.approx(3)
        assert (row["direction"], row["sign"], row["epsilon"]) == ("0", "+", 1e-2)
    reading = result.readings["gain_smoothed"]
    assert reading.value == rows[1]["gain_smoothed"]
    assert (reading.low, reading.high) == (rows[1]["low"], rows[1]["high"])
    assert reading.place["epsilon"] == "0.01"
    assert (
        "Averaged over 8 draws of noise, which reach 16 distinct inputs, the gain there is 3 (3 to 3)."
        in result.sentence
    )


def test_independent_noise_biases_the_raw_gain_by_its_trace_and_not_the_other():
    """eps = 0.1: (3 eps)^2 = 0.09; noise of spread 0.2 in both arms has trace 2 * 2 * 0.04 = 0.16, over n = 4."""
    subject = planted(0.2)
    found = [smoothed(subject, epsilons=(0.1,), samples=[4], seed=seed)[1][0] for seed in range(225)]
    raw, squared = (np.array([(0.1 * row[name]) ** 2 for row in found]) for name in ("gain_raw", "gain_smoothed"))
    assert raw.mean() == pytest.approx(0.09 + 0.16 / 4, abs=5 * raw.std() / 15)
    assert squared.mean() < 0.09 + 0.16 / 8


def test_the_interval_holds_the_true_gain_and_narrows():
    _, rows = smoothed(planted(0.1), epsilons=(0.1,), samples=[10, 100, 1000])
    widths = [row["high"] - row["low"] for row in rows]
    assert widths[0] > 2 * widths[1] > 4 * widths[2]
    assert all(row["low"] <= 3 <= row["high"] for row in rows)
    assert rows[2]["std_error"] == pytest.approx(widths[2] / 4, rel=0.1)


def test_fewer_draws_are_the_first_of_more():
    _, short = smoothed(planted(0.1), epsilons=(0.1,), samples=[5])
    _, both = smoothed(planted(0.1), epsilons=(0.1,), samples=[5, 50])
    assert both[0] == short[0]


def test_the_seed_decides_the_draws():
    first, again, other = (smoothed(planted(0.1), epsilons=(0.1,), samples=[5], seed=s)[1][0] for s in (1, 1, 2))
    assert first == again
    assert first["gain_smoothed"] != other["gain_smoothed"]


def test_both_arms_share_the_noise():
    """Without pairing, noise ten times the step would drown it; the map is linear, so pairs cancel it exactly."""
    _, (row,) = smoothed(Plain(lambda X: X @ A.T, X0, batch=4), epsilons=(1e-2,), noise_scale=10, samples=[3])
    assert row["gain_smoothed"] == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize(
    ("unit", "width"), [("eps", 64 * 1e-2), ("abs", 64), ("rel", 64 * 1.25), ("ulp", 64 * 2.0**-53)]
)
def test_the_width_of_the_noise_is_in_its_unit(unit, width):
    """|x| is 1.25 and x0's spacings are 2**-52 and 2**-53, the median of two being the lower."""
    seen = []
    fn = lambda X: (seen.extend(X.clone()), X)[1]  # noqa: E731
    smoothed(Plain(fn, X0, batch=64), epsilons=(1e-2,), noise_unit=unit, noise_scale=64, samples=[400])
    moved = (torch.stack(seen)[:, 1] - X0[1]).abs()
    assert float(moved.max()) <= width
    assert float(moved.max()) >= 0.95 * width


def test_noise_along_the_direction_stays_on_its_line():
    seen = []
    fn = lambda X: (seen.extend(X.clone()), X)[1]  # noqa: E731
    smoothed(Plain(fn, X0, batch=64), epsilons=(1e-2,), noise="along", noise_scale=0.5, noise_unit="abs", samples=[100])
    far = [x for x in seen if abs(float(x[0] - X0[0])) > 2e-2]
    assert len({float(x[0]) for x in far}) > 150
    assert {float(x[1]) for x in far} == {float(X0[1])}
    assert max(float(x[0] - X0[0]) for x in far) == pytest.approx(0.51, abs=0.02)


def test_noise_restores_a_step_that_rounding_absorbs():
    """float32 at 1: a quarter of a spacing moves nothing; with noise of a spacing it moves a quarter of the times."""
    subject = Plain(lambda X: 3 * X.double(), torch.ones(2), batch=4)
    spacing = 2.0**-23
    asked = {"epsilons": (spacing / 4,), "at": spacing, "noise_unit": "abs", "noise_scale": 2 * spacing}
    result, rows = smoothed(subject, samples=[4000], **asked)
    assert result.rows[0]["regime"] == "absorbed"
    (row,) = rows
    assert row["gain_smoothed"] == pytest.approx(3, rel=0.15)
    assert row["realised_ratio"] == pytest.approx(1, rel=0.15)
    assert row["n_distinct"] < 64, "a few floats each way"


def test_a_recurring_input_is_run_once_also_between_steps():
    subject = Plain(lambda X: 3 * X, torch.ones(2), batch=1)
    subject.noise_floor()
    result, rows = smoothed(subject, epsilons=(1e-9, 1e-10), noise_scale=1e-3, noise_unit="eps", samples=[50])
    assert [row["n_distinct"] for row in rows] == [1, 1]
    assert result.execution.forwards < 20
    assert [row["gain_smoothed"] for row in rows] == [0, 0]


def test_counts_are_a_series_up_to_the_number_or_as_given():
    assert counts(64) == [2, 5, 10, 20, 50, 64]
    assert counts(5) == [2, 5]
    assert counts([10, 3, 3, 1]) == [1, 3, 10]
    for wrong in (2, [1, 2], [], [0, 5]):
        with pytest.raises(sk.UsageError, match="at least 3 draws"):
            counts(wrong)


def test_too_few_draws_have_no_interval():
    _, rows = smoothed(planted(0.1), epsilons=(0.1,), samples=[1, 2, 3])
    assert math.isnan(rows[0]["gain_smoothed"])
    assert not math.isnan(rows[0]["gain_raw"])
    assert math.isnan(rows[1]["low"])
    assert not math.isnan(rows[2]["low"])
