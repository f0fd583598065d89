"""Where errors settle, by plain loops; and how often the intervals hold what was planted."""

import math

import numpy as np
import pytest

from stabilitykit.measurements.scan import Plan
from stabilitykit.measurements.thresholds import departs, interval, redrawn, settles, spread

LEVEL = 0.1


def by_loop(steps, errors):
    """The settling step of one ray, a point at a time from above."""
    k = len(steps)
    while k and errors[k - 1] <= LEVEL:
        k -= 1
    if k == len(steps):
        return math.inf
    if k == 0:
        return steps[0]
    (s, e), (t, f) = (steps[k - 1], errors[k - 1]), (steps[k], errors[k])
    if not (math.isfinite(e) and f > 0):
        return t
    slope = (math.log(f) - math.log(e)) / (math.log(t) - math.log(s))
    return math.exp(math.log(s) + (math.log(LEVEL) - math.log(e)) / slope)


@pytest.mark.parametrize("seed", range(40))
def test_errors_settle_where_a_plain_loop_says(seed):
    random = np.random.default_rng(seed)
    steps = np.sort(10.0 ** random.uniform(-9, 0, size=(7, 12)), axis=-1)
    errors = 10.0 ** random.uniform(-3, 1, size=steps.shape)
    errors[random.random(errors.shape) < 0.1] = random.choice([0.0, math.inf, math.nan])
    found = settles(steps, errors, LEVEL)
    assert found == pytest.approx([by_loop(s, e) for s, e in zip(steps, errors, strict=True)], rel=1e-12)


def test_a_power_law_settles_exactly():
    steps = np.geomspace(1e-6, 1, 13)
    assert settles(steps, 3e-4 / steps**1.5, LEVEL) == pytest.approx((3e-4 / LEVEL) ** (1 / 1.5), rel=1e-12)
    assert departs(steps, 7 * steps**2, LEVEL) == pytest.approx((LEVEL / 7) ** 0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("errors", "settled", "departed"),
    [
        ([0.05, 0.05, 0.05], 1.0, math.inf),
        ([1.0, 1.0, 1.0], math.inf, 1.0),
        ([0.1, 0.1, 0.1], 1.0, math.inf),  # the level itself is kept
        ([1.0, 0.0, 0.0], 2.0, 1.0),
        ([0.0, 0.0, 1.0], math.inf, 2.0),
        ([math.inf, 0.05, 0.05], 2.0, 1.0),
        ([0.05, math.nan, 0.05], 4.0, 1.0),
        ([0.0, 1.0, 0.0], 4.0, 1.0),  # a lucky point below the last bad one counts for nothing
    ],
)
def test_the_ends_of_both_rules(errors, settled, departed):
    steps = np.array([1.0, 2.0, 4.0])
    assert settles(steps, np.array(errors), LEVEL) == settled
    assert departs(steps, np.array(errors), LEVEL) == departed


def test_of_several_rows_each_departs_by_itself():
    """As many rows as steps: one is never beyond the level, the others from the first and the last step on."""
    errors = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert departs(np.tile([1.0, 2.0, 4.0], (3, 1)), errors, LEVEL).tolist() == [math.inf, 1.0, 2.0]


def test_between_two_points_the_crossing_lies_on_their_line():
    steps = np.array([1.0, 100.0])
    assert settles(steps, np.array([1.0, 0.01]), LEVEL) == pytest.approx(10)
    assert departs(steps, np.array([0.01, 1.0]), LEVEL) == pytest.approx(10)


def test_redraws_stay_within_their_stratum():
    strata = np.array([0, 0, 0, 9, 1, 1])
    drawn = redrawn(strata, 2000, np.random.default_rng(0))
    assert drawn.shape == (2000, 6)
    assert (np.diff(drawn, axis=1) >= 0).all()
    assert ((drawn <= 2).sum(axis=1) == 3).all()
    assert ((drawn == 3).sum(axis=1) == 1).all()
    assert ((drawn >= 4).sum(axis=1) == 2).all()
    shares = [(drawn == index).mean() * 6 for index in range(6)]
    assert shares == pytest.approx([1] * 6, abs=0.05)
    assert {tuple(row) for row in drawn[:, 4:].tolist()} == {(4, 4), (4, 5), (5, 5)}


def test_named_rays_stay_and_drawn_ones_are_drawn_again():
    replicas = np.array([[1.0, 1.1], [10.0, 10.0], [20.0, 20.0]])
    sums = spread(replicas, np.array([False, True, True]), np.sum, np.random.default_rng(0).spawn(1)[0])
    assert sums.shape == (2,)
    many = np.repeat(replicas, 500, axis=1)
    sums = spread(many, np.array([False, True, True]), np.sum, np.random.default_rng(0))
    assert {round(float(total), 6) for total in sums} == {21.0, 21.1, 31.0, 31.1, 41.0, 41.1}
    assert np.mean(np.isclose(sums, 31) | np.isclose(sums, 31.1)) == pytest.approx(0.5, abs=0.06)
    assert {round(float(x), 6) for x in spread(many, np.zeros(3, bool), np.max, np.random.default_rng(0))} == {20.0}


def test_an_interval_is_two_of_the_replicates():
    values = np.arange(1000.0)
    low, high = interval(np.random.default_rng(1).permutation(values))
    assert (low, high) == (25, 974)  # 25 of the 1000 lie below, and 25 above
    assert interval(np.array([1.0] * 10 + [math.inf] * 90)) == (1, math.inf)
    assert interval(np.full(100, math.inf)) == (math.inf, math.inf)


# --- coverage: thresholds that are known because they were planted


def planted(trial, ray, points, truth):
    """Steps of a plan and errors that fall as 1 / s through the level at `truth`, each with 15 % of its own."""
    plan = Plan(1.0, (-6, 1), points, trial, LEVEL)
    steps = plan.steps(ray)
    scatter = np.exp(0.15 * np.random.default_rng([trial, ray]).standard_normal(steps.size))
    return plan, steps, LEVEL * truth / steps * scatter


def replicas(trial, ray, points, truth):
    plan, steps, errors = planted(trial, ray, points, truth)
    drawn = redrawn(plan.bins, 500, np.random.default_rng([trial, ray, 1]))
    return settles(steps[drawn], errors[drawn], LEVEL)


@pytest.mark.parametrize(("points", "least", "most"), [(4, 0.77, 0.87), (16, 0.86, 0.95)])
def test_coverage_within_a_ray(points, least, most):
    """The interval of one ray holds the planted threshold in the share of 300 cases that the page states."""
    held = []
    for trial in range(300):
        low, high = interval(replicas(trial, 0, points, 1e-2))
        held.append(low <= 1e-2 <= high)
    assert least <= np.mean(held) <= most


@pytest.mark.parametrize(("rays", "least", "most"), [(2, 0.45, 0.62), (16, 0.91, 0.98)])
def test_coverage_over_rays(rays, least, most):
    """Thresholds are drawn from a known distribution; the interval of the median holds its median."""
    held = []
    for trial in range(200):
        truths = 10 ** (-2 + 0.4 * np.random.default_rng([trial, 99]).standard_normal(rays))
        found = np.stack([replicas(trial, ray, 4, truth) for ray, truth in enumerate(truths)])
        low, high = interval(spread(found, np.ones(rays, bool), np.median, np.random.default_rng([trial, 98])))
        held.append(low <= 1e-2 <= high)
    assert least <= np.mean(held) <= most


def test_the_estimate_itself_is_hardly_biased():
    found = []
    for trial in range(300):
        _, steps, errors = planted(trial, 0, 4, 1e-2)
        found.append(math.log10(settles(steps, errors, LEVEL) / 1e-2))
    assert abs(np.mean(found)) < 0.01
    assert np.std(found) < 0.07
