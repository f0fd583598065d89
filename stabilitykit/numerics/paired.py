"""The length of a mean of noisy differences, without the bias that squaring noise brings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class MeanLength:
    """The length of E[D] estimated from n draws D_1 .. D_n; all but `squared` and its error in the unit of D.

    `raw` = |mean of D_i|, whose square is too large by tr Cov(D) / n. `squared` = mean over i != j of D_i . D_j, which
    has no bias, and `length` = sqrt(max(0, squared)). `squared_error` is the jackknife's standard error of `squared`,
    `low` and `high` the interval of the length, `error` that of the length to first order. What takes more draws than
    there are is nan: `squared` two, the errors three.
    """

    n: int
    raw: float
    squared: float
    length: float
    squared_error: float
    error: float
    low: float
    high: float


def mean_length(D: Tensor, confidence: float = 0.95) -> MeanLength:
    """Return the estimate from D (n, M), computed in float64. O(n M).

    The interval is squared +- t * squared_error with Student's t of n - 1 degrees of freedom, cut at zero and rooted:
    approximate, and conservative where the true length is zero.
    """
    D = D.double()
    n = len(D)
    total = D.sum(dim=0)
    whole, own = float(total @ total), (D * D).sum(dim=1)
    raw = math.sqrt(whole) / n
    if n < 2:
        return MeanLength(n, raw, *(math.nan,) * 6)
    squared = (whole - float(own.sum())) / (n * (n - 1))
    length = math.sqrt(max(0.0, squared))
    if n < 3:
        return MeanLength(n, raw, squared, length, *(math.nan,) * 4)
    without = (((total - D) ** 2).sum(dim=1) - (own.sum() - own)) / ((n - 1) * (n - 2))
    squared_error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    reach = _student(n - 1, confidence) * squared_error
    low, high = (math.sqrt(max(0.0, end)) for end in (squared - reach, squared + reach))
    error = squared_error / (2 * length) if length else math.nan
    return MeanLength(n, raw, squared, length, squared_error, error, low, high)


def _student(freedom: int, confidence: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, freedom))
