"""How long things last that were not all watched to their end."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import CensoredData, ecdf

from stabilitykit.errors import UsageError


@dataclass(frozen=True, eq=False)
class Survival:
    """The product-limit estimate of the share that is left after each step 0 .. n.

    `share`, `low`, `high` and `at_risk` are (n + 1,): the estimate, its pointwise interval on the log-log scale, and
    how many are still watched before the step. `mean` is the restricted mean, in steps: how long they last within n,
    the sum of the shares of steps 1 .. n.
    """

    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    at_risk: NDArray[np.int64]
    mean: float


def survival(lasted: Sequence[int], ended: Sequence[bool], confidence: float = 0.95) -> Survival:
    """Return the Kaplan-Meier estimate for things that lasted so many whole steps, and ended or were watched no longer.

    S(t) = prod over s <= t of (1 - d_s / n_s), with d_s that ended at s and n_s that were left and watched until then;
    the interval is Kalbfleisch and Prentice's. What lasted k steps and ended is gone at k + 1; what was watched for k
    steps and had not ended counts up to k. UsageError for no things, or different numbers of
    both. O(n + things). Source: Kaplan and Meier 1958, as in scipy.stats.ecdf.
    """
    if not len(lasted) or len(lasted) != len(ended):
        raise UsageError("survival needs as many durations as ends, and at least one")
    gone = np.asarray(ended, dtype=bool)
    times = np.asarray(lasted, dtype=np.float64) + gone
    steps = np.arange(times.max() + 1)
    at_risk = (times[:, None] >= steps).sum(axis=0)
    if not gone.any():
        whole = np.ones(len(steps))
        return Survival(whole, whole, whole, at_risk, float(len(steps) - 1))
    estimate = ecdf(CensoredData(uncensored=times[gone], right=times[~gone])).sf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
        interval = estimate.confidence_interval(confidence, method="log-log")
    share = estimate.evaluate(steps)
    low, high = (_filled(side.evaluate(steps), share) for side in (interval.low, interval.high))
    return Survival(share, low, high, at_risk, float(share[1:].sum()))


def _filled(side: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where nothing or everything is left the interval is undefined: it is the estimate itself."""
    return np.where(np.isnan(side), share, side)
