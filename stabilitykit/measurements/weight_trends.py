"""The same weight in every block: how a statistic goes with depth, and which block stands apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from stabilitykit.numerics.permutation import trend
from stabilitykit.numerics.rounding import Floats

Row = Mapping[str, Any]

FOLLOWED = ("mean", "std", "frobenius", "spectral_norm", "skewness", "kurtosis", "mean_abs", "max_over_rms")
JUDGED = ("std", "kurtosis", "max_over_rms")
"""Statistics by which a block may stand apart."""
FEWEST = 5
"""Blocks from which on one can stand apart from the others."""

_ROUNDING = 1e-9


def depth_rows(rows: Sequence[Row], shuffles: int, seed: int) -> list[Row]:
    """Return the trend of each weight's statistics over the blocks, with their mean, spread and extremes."""
    found: list[Row] = []
    for weight, group in _series(rows):
        for name in FOLLOWED:
            values = [row[name] for row in group]
            if any(map(math.isnan, values)) or len(values) < 2:
                continue
            correlation, p = trend(values, shuffles, seed)
            found.append(
                {
                    "part": "depth",
                    "table": "weight_trends",
                    "weight": weight,
                    "statistic": name,
                    "layers": len(values),
                    "average": float(np.mean(values)),
                    "spread": float(np.std(values)),
                    "least": min(values),
                    "least_layer": group[int(np.argmin(values))]["layer"],
                    "most": max(values),
                    "most_layer": group[int(np.argmax(values))]["layer"],
                    "spearman": correlation,
                    "p": p,
                }
            )
    return found


def outlier_rows(rows: Sequence[Row], chance: float) -> list[Row]:
    """Return the blocks that stand apart from all others in a statistic of the same weight.

    t = (value - mean of the others) / (their deviation sqrt(1 + 1 / n)), n others: leaving the block out keeps one that
    is far away from hiding itself. Kept are those whose p, from Student's t with n - 1 degrees of freedom, is below
    `chance` over the number of comparisons: were all normal, `chance` would be that of any row here.
    """
    groups = [(weight, group) for weight, group in _series(rows) if len(group) >= FEWEST]
    comparisons = len(JUDGED) * sum(len(group) for _, group in groups)
    found: list[Row] = []
    for weight, group in groups:
        for name in JUDGED:
            values = np.array([row[name] for row in group])
            for place, row in enumerate(group):
                t = _apart(float(values[place]), np.delete(values, place))
                p = float(2 * student.sf(abs(t), len(values) - 2))
                if p < chance / comparisons:
                    about = {"part": "outlier", "name": row["name"], "layer": row["layer"], "weight": weight}
                    found.append({**about, "statistic": name, "value": float(values[place]), "t": t, "p": p})
    return found


def _apart(value: float, others: Floats) -> float:
    """Return t, infinite for another value than that of equal ones, and nan where one is not finite."""
    away, spread = value - float(others.mean()), float(others.std(ddof=1))
    if spread <= _ROUNDING * abs(float(others.mean())):
        return math.copysign(math.inf, away) if abs(away) > _ROUNDING * abs(value) else 0.0
    return away / (spread * math.sqrt(1 + 1 / len(others)))


def _series(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yield each weight that stands in several blocks, with its rows in the order of these."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["layer"] is not None:
            groups.setdefault(row["weight"], []).append(row)
    for weight, group in groups.items():
        if len(group) > 1:
            yield weight, sorted(group, key=lambda row: int(row["layer"]))
