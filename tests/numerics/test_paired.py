"""The length of a mean of noisy differences: without bias, with an interval that covers, against plain sums."""

import itertools
import math

import numpy as np
import pytest
import torch

from stabilitykit.numerics.paired import mean_length


def draws(mean, spread, n, runs, seed=0):
    random = np.random.Generator(np.random.PCG64(seed))
    noise = random.standard_normal((runs, n, len(mean))) * spread
    return torch.from_numpy(noise) + torch.tensor(mean, dtype=torch.float64)


def test_the_square_is_the_mean_of_all_products_of_two_different_draws():
    (D,) = draws([1.0, -2.0, 0.5], 1.0, 6, 1)
    pairs = [float(a @ b) for a, b in itertools.permutations(D, 2)]
    found = mean_length(D)
    assert found.squared == pytest.approx(np.mean(pairs), rel=1e-12)
    assert found.length == pytest.approx(math.sqrt(np.mean(pairs)), rel=1e-12)
    assert found.raw == pytest.approx(float(D.mean(dim=0).norm()), rel=1e-12)
    assert found.n == 6


def test_the_error_is_the_jackknife_of_the_square():
    (D,) = draws([1.0, -2.0], 0.5, 7, 1)
    without = [mean_length(torch.cat([D[:i], D[i + 1 :]])).squared for i in range(7)]
    expected = math.sqrt(6 / 7 * sum((one - np.mean(without)) ** 2 for one in without))
    found = mean_length(D)
    assert found.squared_error == pytest.approx(expected, rel=1e-9)
    assert found.error == pytest.approx(expected / (2 * found.length), rel=1e-9)


def test_the_interval_is_student_s_on_the_square():
    (D,) = draws([3.0, 4.0], 0.5, 10, 1)
    found = mean_length(D)
    reach = 2.2621571628 * found.squared_error  # the 97.5 % quantile with 9 degrees of freedom, from a printed table
    assert found.low == pytest.approx(math.sqrt(found.squared - reach), rel=1e-8)
    assert found.high == pytest.approx(math.sqrt(found.squared + reach), rel=1e-8)


def test_the_raw_length_is_biased_by_the_trace_over_n_and_the_other_is_not():
    """|E D|^2 = 1 with noise of trace 4: at n = 4 the raw square is 2 on average, the unbiased one 1."""
    found = [mean_length(D) for D in draws([1.0, 0.0, 0.0, 0.0], 1.0, 4, 4000)]
    raw, squared = (np.array([getattr(one, name) for one in found]) for name in ("raw", "squared"))
    error = squared.std() / math.sqrt(4000)
    assert np.mean(raw**2) == pytest.approx(2, abs=5 * error)
    assert np.mean(squared) == pytest.approx(1, abs=5 * error)


@pytest.mark.parametrize("mean", [[1.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, 0.0, 0.0]])
def test_the_interval_covers_the_true_length(mean):
    """95 % nominal; approximate, so at least 90 % of 1000 runs, and conservative at zero."""
    found = [mean_length(D) for D in draws(mean, 1.0, 30, 1000, seed=3)]
    covered = sum(one.low <= mean[0] <= one.high for one in found)
    assert covered >= 900


def test_equal_draws_have_no_error():
    found = mean_length(torch.tensor([[3.0, 4.0]]).repeat(5, 1))
    assert (found.raw, found.length, found.low, found.high, found.error) == (5, 5, 5, 5, 0)


def test_opposite_draws_have_no_mean_and_their_square_is_negative():
    found = mean_length(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
    assert found.raw == 0
    assert found.squared == pytest.approx(-1 / 3)
    assert found.length == 0
    assert math.isnan(found.error)


def test_too_few_draws_have_no_estimate_or_no_error():
    one, two = (mean_length(torch.ones(n, 2)) for n in (1, 2))
    assert one.raw == pytest.approx(math.sqrt(2))
    assert math.isnan(one.squared)
    assert math.isnan(one.length)
    assert two.length == pytest.approx(math.sqrt(2))
    assert all(math.isnan(value) for value in (two.squared_error, two.error, two.low, two.high))


def test_three_draws_are_enough_for_an_error():
    """Without one of 1, 2 and 4 the products are 8, 4 and 2; their jackknife is the root of 2/3 of 56/3."""
    found = mean_length(torch.tensor([[1.0], [2.0], [4.0]]))
    assert found.squared == pytest.approx(14 / 3)
    assert found.squared_error == pytest.approx(math.sqrt(2 / 3 * 56 / 3))
    assert found.error == pytest.approx(found.squared_error / (2 * found.length))
    assert found.low == 0 < found.length < found.high
