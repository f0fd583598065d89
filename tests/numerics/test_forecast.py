"""The forecast of a sign, against devices drawn by the very model it assumes, and against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

import stabilitykit as sk
from stabilitykit.numerics.calibration import calibration
from stabilitykit.numerics.forecast import Prior, any_of, forecast, pooled

DEVICES, DECISIONS = 6, 20_000
SCALE, FREEDOM = 0.1, 8.0


def drawn(spacing, seed=0, freedom=FREEDOM):
    """Margins of devices (n + 1, N) by the model itself, rounded to the spacing, those the first takes positive."""
    random = np.random.Generator(np.random.PCG64(seed))
    sigma = SCALE * np.sqrt(freedom / random.chisquare(freedom, DECISIONS))
    mu = random.uniform(-1, 1, DECISIONS)
    latent = mu + sigma * random.standard_normal((DEVICES + 1, DECISIONS))
    margins = np.round(latent / spacing) * spacing
    lower = random.integers(0, 2, DECISIONS).astype(bool)  # which of two equal ones has the lower id: the rival
    sign = np.where((margins[0] > 0) | ((margins[0] == 0) & ~lower), 1.0, -1.0)
    return margins * sign, lower ^ (sign < 0)


def flips(margins, rival_first):
    return (margins < 0) | ((margins == 0) & rival_first)


@pytest.mark.parametrize("spacing", [1e-9, 0.05, 0.25])
def test_the_device_left_out_flips_as_often_as_forecast(spacing):
    """On a fine grid and on one coarser than the noise, where ties decide: in every bin and in sum."""
    margins, rival_first = drawn(spacing)
    seen, new = margins[:-1], flips(margins[-1], rival_first)
    found = forecast(seen, np.full(DECISIONS, spacing), rival_first, pooled([seen]))
    assert found.probability.sum() == pytest.approx(new.sum(), rel=0.1)
    rows = calibration(found.probability, new, (0, 1e-3, 0.03, 0.1, 0.3, 0.6, 1.0), confidence=0.9999)
    assert len(rows) == 6
    for row in rows:
        expected = row["expected"] / row["forecasts"]
        assert row["low"] - 0.02 <= expected <= row["high"] + 0.02, row


def test_a_tie_counts_for_the_lower_id():
    margins, spacing = np.zeros((3, 2)), np.full(2, 0.5)
    found = forecast(margins, spacing, np.array([False, True]), Prior(0.5, 10.0))
    t = stats.t(12)
    expected = t.cdf(np.array([-0.25, 0.25]) / (np.sqrt(10 * 0.25 / 12) * np.sqrt(4 / 3)))
    assert found.probability == pytest.approx(expected)
    assert found.probability.sum() == pytest.approx(1.0)


def test_it_is_the_mean_over_the_posterior_and_its_bounds_the_quantiles():
    """Monte Carlo over sigma^2 and mu, written anew, gives the same number and the same bounds."""
    margins, prior, spacing = np.array([[0.3], [0.1], [0.2], [0.35]]), Prior(0.1, 6.0), 0.02
    found = forecast(margins, np.array([spacing]), np.array([False]), prior)
    random = np.random.Generator(np.random.PCG64(3))
    freedom = 6 + 3
    squares = 6 * 0.1**2 + ((margins - margins.mean()) ** 2).sum()
    sigma = np.sqrt(squares / random.chisquare(freedom, 400_000))
    mu = margins.mean() + sigma / 2 * random.standard_normal(400_000)
    chance = stats.norm.cdf((-spacing / 2 - mu) / sigma)
    assert found.noise[0] == pytest.approx(np.sqrt(squares / freedom))
    assert found.probability[0] == pytest.approx(chance.mean(), rel=0.02)
    assert found.high[0] == pytest.approx(np.quantile(chance, 0.95), rel=0.05)
    assert found.low[0] == pytest.approx(np.quantile(chance, 0.05), rel=0.2)


@pytest.mark.parametrize("freedom", [6.0, 20.0])
def test_scale_and_freedom_of_the_noise_are_recovered(freedom):
    margins, _ = drawn(1e-9, seed=5, freedom=freedom)
    found = pooled([margins[:, : DECISIONS // 2], margins[:4, DECISIONS // 2 :]])
    assert found.scale == pytest.approx(SCALE, rel=0.05)
    assert 0.6 < found.freedom / freedom < 1.7


def test_noise_of_one_size_needs_no_heavy_tail():
    random = np.random.Generator(np.random.PCG64(1))
    found = pooled([0.2 * random.standard_normal((6, 50_000))])
    assert found.scale == pytest.approx(0.2, rel=0.02)
    assert found.freedom > 50


def test_more_devices_make_the_bounds_narrower():
    few, many = (np.tile([[0.1], [0.3]], (n, 1)) for n in (1, 10))
    widths = [
        float((one.high - one.low)[0])
        for one in (forecast(m, np.zeros(1), np.zeros(1, bool), Prior(0.1, 5.0)) for m in (few, many))
    ]
    assert widths[1] < widths[0] / 2


def test_without_any_noise_nothing_is_forecast():
    """One device, or several with the same bits: also not at a tie."""
    for n in (1, 5):
        margins = np.tile([0.0, 1e-9, 3.0], (n, 1))
        found = forecast(margins, np.full(3, 0.1), np.zeros(3, bool), pooled([margins]))
        assert not found.probability.any()
        assert not found.high.any()
    assert pooled([]).scale == 0


def test_two_devices_are_enough_for_a_scale():
    """Their sample variance has one degree of freedom: (a - b)^2 / 2, here 2, 8 and 2 with a mean of 4."""
    found = pooled([np.array([[0.0, 1.0, -3.0], [2.0, 5.0, -1.0]])])
    assert found.scale > 0
    assert found.scale**2 * found.freedom / (found.freedom - 2) == pytest.approx(4)


def test_variances_that_differ_just_as_much_as_samples_of_one_do_have_one_size():
    """Those of three devices are 1 and 0: their mean square is twice the square of their mean, as in chi-squared."""
    found = pooled([np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])])
    assert found.freedom == 1e6
    assert found.scale == pytest.approx(math.sqrt(0.5), rel=1e-5)


def test_the_same_decision_has_the_same_bounds_wherever_it_stands():
    margins = np.tile([[0.1], [0.3]], (1, 1100))
    found = forecast(margins, np.full(1100, 0.05), np.zeros(1100, bool), Prior(0.1, 5.0))
    assert len(set(found.low)) == len(set(found.high)) == 1
    assert 0 < found.low[0] < found.probability[0] < found.high[0]


def test_any_of_is_exact_for_small_and_certain_ones():
    assert any_of(np.array([1e-20, 2e-20])) == pytest.approx(3e-20)
    assert any_of(np.array([0.5, 0.5, 0.2])) == pytest.approx(1 - 0.5 * 0.5 * 0.8)
    assert any_of(np.array([1.0, 0.1])) == 1.0


def test_what_never_happens_has_a_chance_of_plus_zero():
    found = any_of(np.zeros((2, 3)))
    assert found.tolist() == [0.0, 0.0]
    assert not np.signbit(found).any()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(sk.UsageError, match=r"give \(n, N\), \(N,\)"):
        forecast(np.zeros((2, 3)), np.zeros(2), np.zeros(3, bool), Prior(1.0, 4.0))


def test_variances_that_differ_less_than_chance_make_them_leave_no_heavy_tail():
    """Two devices whose margins are as far apart at each decision: the noise is of one size, as in a normal law."""
    found = pooled([np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 1.0]])])
    assert found.scale == pytest.approx(math.sqrt(0.5), rel=1e-5)
    assert stats.t.cdf(-3.0, found.freedom) == pytest.approx(stats.norm.cdf(-3.0), rel=1e-4)


def test_a_probability_that_rounding_put_above_one_is_certain():
    assert any_of(np.array([math.nextafter(1.0, 2.0), 0.1])) == 1.0
