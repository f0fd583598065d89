"""The product-limit estimate against a written-out product, and what censoring must do."""

from fractions import Fraction

import numpy as np
import pytest

from stabilitykit.errors import UsageError
from stabilitykit.numerics.survival import survival


def written_out(lasted, ended):
    """The shares as exact fractions, by the definition."""
    times = [k + e for k, e in zip(lasted, ended, strict=True)]
    share, found = Fraction(1), [Fraction(1)]
    for step in range(1, max(times) + 1):
        watched = sum(t >= step for t in times)
        gone = sum(t == step and e for t, e in zip(times, ended, strict=True))
        share *= 1 - Fraction(gone, watched)
        found.append(share)
    return found


@pytest.mark.parametrize("seed", range(30))
def test_shares_are_the_product_of_conditional_shares(seed):
    draw = np.random.Generator(np.random.PCG64(seed))
    lasted = draw.integers(0, 12, size=draw.integers(1, 12)).tolist()
    ended = draw.random(len(lasted)) < 0.6
    found = survival(lasted, ended.tolist())
    expected = written_out(lasted, ended.tolist())
    np.testing.assert_allclose(found.share, [float(one) for one in expected], rtol=1e-14)
    assert found.mean == pytest.approx(float(sum(expected[1:])))
    times = [k + e for k, e in zip(lasted, ended, strict=True)]
    assert found.at_risk.tolist() == [sum(t >= step for t in times) for step in range(max(times) + 1)]
    assert (found.low <= found.share + 1e-12).all()
    assert (found.share <= found.high + 1e-12).all()


def test_without_censoring_the_mean_is_the_mean():
    assert survival([0, 3, 9], [True, True, True]).mean == pytest.approx(4.0)


def test_what_is_censored_counts_only_as_long_as_it_was_watched():
    watched = survival([2, 10], [True, False])
    assert watched.share[2] == 1.0
    assert watched.share[3] == 0.5
    assert watched.mean == pytest.approx(2 + 8 * 0.5)


def test_where_nothing_ends_everything_is_left():
    found = survival([4, 7], [False, False])
    assert found.share.tolist() == [1.0] * 8
    assert found.mean == 7.0


@pytest.mark.parametrize(("lasted", "ended"), [([], []), ([1], [])])
def test_nothing_to_watch_is_refused(lasted, ended):
    with pytest.raises(UsageError, match="survival needs"):
        survival(lasted, ended)
