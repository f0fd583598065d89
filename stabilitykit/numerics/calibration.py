"""Whether forecasts of events came true: how often in each bin, and how well they rank events above the rest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stabilitykit.errors import UsageError
from stabilitykit.numerics.statistics import rate_bound

EDGES = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.5, 1.0)


def auc(scores: ArrayLike, events: ArrayLike) -> float:
    """Return the area under the ROC curve: the chance that an event has a higher score than a non-event, ties half.

    (R - n(n + 1) / 2) / (n m) with R the sum of the ranks of n events among n + m. nan without an event or a
    non-event, UsageError for shapes that differ. O(n log n). Source: Mann & Whitney 1947.
    """
    from scipy.stats import rankdata

    score, event = np.asarray(scores, dtype=np.float64), np.asarray(events, dtype=bool)
    if score.shape != event.shape or score.ndim != 1:
        raise UsageError(f"scores have shape {score.shape}, events {event.shape}; give one number and one flag each")
    n, m = int(event.sum()), int((~event).sum())
    if not n or not m:
        return math.nan
    return (float(rankdata(score)[event].sum()) - n * (n + 1) / 2) / (n * m)


def exact_interval(events: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided exact interval of a rate, (0, 1) without trials. Source: Clopper & Pearson 1934."""
    if not trials:
        return 0.0, 1.0
    side = (1 + confidence) / 2
    return 1 - rate_bound(trials - events, trials, side), rate_bound(events, trials, side)


def calibration(
    probabilities: ArrayLike, events: ArrayLike, edges: Sequence[float] = EDGES, confidence: float = 0.95
) -> list[dict[str, Any]]:
    """Return a row for each bin [edge, next edge) that holds a forecast, the last with its upper edge.

    Columns: `from`, `to`, `forecasts`, `expected` (sum of the probabilities), `seen` (events), `rate`, and `low` and
    `high`, the exact interval of the rate. O(n).
    """
    p, event = np.asarray(probabilities, dtype=np.float64), np.asarray(events, dtype=bool)
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = (p >= low) & ((p < high) | (high == edges[-1]))
        if count := int(inside.sum()):
            seen = int(event[inside].sum())
            least, most = exact_interval(seen, count, confidence)
            found = {"from": low, "to": high, "forecasts": count, "expected": float(p[inside].sum()), "seen": seen}
            rows.append({**found, "rate": seen / count, "low": least, "high": most})
    return rows
