"""The mean of values that come in clusters, such as all prompts of one question, and how sure a few of them make it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from stabilitykit.errors import UsageError
from stabilitykit.numerics.distribution import DRAWS
from stabilitykit.numerics.rounding import Floats


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean or a difference of means with its interval, in the unit of the values; nan where there is none."""

    value: float
    low: float
    high: float


def cluster_means(values: Sequence[float], clusters: Sequence[Hashable]) -> Floats:
    """Return the mean of each cluster's finite values, in order of appearance; clusters without one are left out."""
    if len(values) != len(clusters):
        raise UsageError(f"{len(values)} values have {len(clusters)} clusters; give one cluster for each")
    members: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        if math.isfinite(value):
            members.setdefault(cluster, []).append(value)
    return np.array([math.fsum(own) / len(own) for own in members.values()], dtype=np.float64)


def clustered(first: Floats, second: Floats | None = None, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Return the mean of cluster means (n,), less that of others (m,) where given, with a bootstrap interval.

    Whole clusters are drawn with replacement, each side by itself, `DRAWS` times from PCG64; every cluster counts the
    same. A drawn mean's distance from the mean is widened by sqrt(n / (n - 1)), and its percentiles by t / z with
    Welch's degrees of freedom, without which a few clusters give too narrow an interval (Hesterberg 2014). nan bounds
    for a side of one cluster, nan throughout for one of none. O((n + m) DRAWS).
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie strictly between 0 and 1, not {confidence!r}")
    sides = [first] if second is None else [first, second]
    if not all(side.size for side in sides):
        return Estimate(math.nan, math.nan, math.nan)
    value = float(first.mean()) - (0.0 if second is None else float(second.mean()))
    if any(side.size < 2 for side in sides):
        return Estimate(value, math.nan, math.nan)
    generator = np.random.Generator(np.random.PCG64(seed))
    off = np.zeros(DRAWS)
    for sign, side in zip((1, -1), sides, strict=False):
        n = side.size
        drawn = side[generator.integers(0, n, size=(DRAWS, n))].mean(axis=1)
        off += sign * math.sqrt(n / (n - 1)) * (drawn - side.mean())
    low, high = np.quantile(off, ((1 - confidence) / 2, (1 + confidence) / 2)) * _widening(sides, confidence)
    return Estimate(value, value + float(low), value + float(high))


def _widening(sides: Sequence[Floats], confidence: float) -> float:
    """Return t / z: Student's quantile at Welch's degrees of freedom over the normal one; 1 where nothing varies."""
    from scipy.stats import t

    parts = [(float(side.var(ddof=1)) / side.size, side.size - 1) for side in sides]
    total = math.fsum(part for part, _ in parts)
    if total == 0:
        return 1.0
    freedom = total**2 / math.fsum(part**2 / less for part, less in parts)
    level = (1 + confidence) / 2
    return float(t.ppf(level, freedom)) / NormalDist().inv_cdf(level)
