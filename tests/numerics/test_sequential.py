"""Claims of plans that stop early: exact for a first event, and valid at every moment for whoever keeps looking."""

import decimal
import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import geom

from stabilitykit.errors import UsageError
from stabilitykit.numerics import statistics
from stabilitykit.numerics.sequential import anytime_bound, first_event, sentence
from stabilitykit.numerics.statistics import rate_bound


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("trial", [1, 2, 7, 59, 100_000])
def test_at_either_bound_a_first_event_so_early_or_so_late_is_exactly_as_unlikely_as_claimed(trial, confidence):
    low, high = first_event(trial, confidence)
    assert geom.cdf(trial, low) == pytest.approx(1 - confidence, rel=1e-9)
    if trial > 1:
        assert geom.sf(trial - 1, high) == pytest.approx(1 - confidence, rel=1e-9)
        assert 0 < low < high < 1
    else:
        assert (high, low) == (1.0, pytest.approx(1 - confidence))


def test_a_later_first_event_bounds_the_rate_closer_and_no_more_than_the_same_count_in_a_fixed_number():
    found = [first_event(trial) for trial in range(1, 60)]
    assert all(a > b for before, after in pairwise(found) for a, b in zip(before, after, strict=True))
    assert all(high <= rate_bound(1, trial) for trial, (_, high) in enumerate(found, 1))


@pytest.mark.parametrize(("events", "trials"), [(0, 1), (0, 59), (3, 59), (58, 59), (1, 2995)])
def test_at_the_bound_the_mixture_is_as_large_as_it_may_be(events, trials):
    """The e-process by exact integers: the integral of p^k (1-p)^(n-k) is k! (n-k)! / (n+1)!."""
    bound = Fraction(anytime_bound(events, trials))
    mixture = Fraction(math.factorial(events) * math.factorial(trials - events), math.factorial(trials + 1))
    assert float(mixture / (bound**events * (1 - bound) ** (trials - events))) == pytest.approx(20, rel=1e-6)
    assert rate_bound(events, trials) < bound < 1
    assert bound > Fraction(events, trials)


def test_whoever_looks_after_every_trial_is_wrong_as_rarely_as_claimed_and_with_the_fixed_bound_more_often():
    random, rate, looks, people = np.random.Generator(np.random.PCG64(1)), 0.1, 200, 400
    events = (random.random((people, looks)) < rate).cumsum(axis=1)
    looked = range(1, looks + 1, 8)
    wrong = {}
    for bound in (anytime_bound, rate_bound):
        table = {(k, n): bound(k, n, 0.9) for n in looked for k in {int(one[n - 1]) for one in events}}
        wrong[bound] = np.mean([min(table[int(one[n - 1]), n] for n in looked) < rate for one in events])
    assert wrong[anytime_bound] <= 0.1 < wrong[rate_bound]


def test_the_known_numbers():
    assert anytime_bound(0, 59) == pytest.approx(0.1133, abs=1e-4)
    assert anytime_bound(4, 4) == 1.0
    assert sentence(7, 59) == "run 7 of at most 59 differed first: rate > 0.73% at 95%"
    assert sentence(1, 59) == "run 1 of at most 59 differed first: rate > 5% at 95%"


@pytest.mark.parametrize(
    "wrong",
    [lambda: first_event(0), lambda: first_event(3, 1.0), lambda: sentence(9, 8), lambda: anytime_bound(5, 4)],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(UsageError):
        wrong()


@pytest.mark.parametrize("said", [lambda: sentence(7, 59), lambda: statistics.sentence(0, 59)])
def test_a_bound_in_percent_sets_no_flag_of_the_callers_context(said):
    with decimal.localcontext() as context:
        context.clear_flags()
        said()
        assert not any(context.flags.values())


@pytest.mark.parametrize(("trial", "planned"), [(0, 59), (-1, 59), (60, 59), (1, 0)])
def test_a_trial_outside_of_its_plan_is_refused_by_the_plans_own_numbers(trial, planned):
    with pytest.raises(UsageError, match=f"^trial {trial} of {planned}: need 1 <= trial <= planned$"):
        sentence(trial, planned)


def test_the_rate_said_is_what_is_proven_cut_to_two_digits():
    """The proven rate as an exact fraction: what is said is not over it, and one more of the last digit would be."""
    for trial in range(1, 300):
        said = sentence(trial, 300).split("rate > ")[1].split("%")[0]
        percent = 100 * Fraction(first_event(trial)[0])
        digit = Fraction(10) ** (math.floor(math.log10(percent)) - 1)
        assert Fraction(said) % digit == 0
        assert Fraction(said) <= percent < Fraction(said) + digit


@pytest.mark.parametrize("trial", [0, -2])
def test_a_first_event_is_refused_as_one_event_in_too_few_trials(trial):
    with pytest.raises(UsageError, match=f"^1 events in {trial} trials"):
        first_event(trial)


def test_the_last_trial_of_a_plan_may_be_the_first_to_differ():
    assert sentence(59, 59) == "run 59 of at most 59 differed first: rate > 0.086% at 95%"
    assert sentence(1, 1) == "run 1 of at most 1 differed first: rate > 5% at 95%"


@pytest.mark.parametrize("trial", [2, 3, 7, 59, 1000])
def test_a_bound_is_said_with_two_digits_and_never_above_itself(trial):
    said = sentence(trial, trial).split("rate > ")[1].split("%")[0]
    exact = 100 * first_event(trial)[0]
    assert len(said.replace(".", "").lstrip("0")) <= 2
    assert 0.9 * exact < float(said) <= exact
