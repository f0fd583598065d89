"""How a few numbers of one kind are spread, such as a gain of each prompt: centre, quarters, and the mean's error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stabilitykit.numerics.rounding import Floats

DRAWS = 2000
"""Resamples of the bootstrap."""


def distribution(values: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> dict[str, float]:
    """Return count, mean with bootstrap interval, sd, geometric mean, least, quartiles and most of the finite values.

    `sd` has n - 1 below, and is nan for one value, as is the interval of the mean (percentiles of `DRAWS` resampled
    means, from PCG64). Quartiles interpolate linearly. `geometric_mean` is nan unless all values are positive. Values
    in the unit of the input; nan where no value is finite. O(n DRAWS).
    """
    kept = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    names = ("mean", "mean_low", "mean_high", "sd", "geometric_mean", "least", "q1", "median", "q3", "most")
    if not kept.size:
        return {"count": 0, **dict.fromkeys(names, math.nan)}
    low, high = _interval(kept, confidence, seed)
    sd = float(kept.std(ddof=1)) if kept.size > 1 else math.nan
    geometric = float(np.exp(np.log(kept).mean())) if bool((kept > 0).all()) else math.nan
    quarters = np.quantile(kept, (0, 0.25, 0.5, 0.75, 1)).tolist()
    found = (float(kept.mean()), low, high, sd, geometric, *quarters)
    return {"count": kept.size, **dict(zip(names, found, strict=True))}


def _interval(values: Floats, confidence: float, seed: int) -> tuple[float, float]:
    if values.size < 2:
        return math.nan, math.nan
    draws = np.random.Generator(np.random.PCG64(seed)).integers(0, values.size, size=(DRAWS, values.size))
    means = values[draws].mean(axis=1)
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2)).tolist()
    return float(low), float(high)
