"""What head spectra have together: means of a layer, trends with depth and head number, and the order of matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stabilitykit.numerics.permutation import trend

Row = Mapping[str, Any]

STATISTICS = ("s1", "top10", "first_last", "least10", "top_tenth", "least_tenth", "stable_rank", "entropy_rank")
TRENDS = ("s1", "top10", "first_last", "least10", "entropy_rank")
ORDERS = {"s1": 1, "top10": 1, "first_last": 1, "least10": -1}
"""What Q and K are said to have more of than V and O, 1, or less, -1."""


def layer_rows(heads: Sequence[Row]) -> list[Row]:
    """Return the means over the heads of each matrix of each layer, in order."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in heads:
        groups.setdefault((row["layer"], row["matrix"]), []).append(row)
    return [
        {
            "part": "layer",
            "layer": layer,
            "matrix": matrix,
            "heads": len(rows),
            **{name: float(np.mean([row[name] for row in rows])) for name in STATISTICS},
            **{name: rows[0][name] for name in rows[0] if name.startswith("null_")},
        }
        for (layer, matrix), rows in groups.items()
    ]


def trend_rows(heads: Sequence[Row], layers: Sequence[Row], shuffles: int, seed: int) -> list[Row]:
    """Return each statistic's trend with depth, and with the head's number within each layer.

    Of the heads one row a layer; by chance a p below 0.05 is met in one of twenty. Heads that share k and v are
    shuffled as one. Rows without a trend, of fewer than three values or of equal ones, are left out.
    """
    rows = []
    for matrix in dict.fromkeys(row["matrix"] for row in layers):
        means = [row for row in layers if row["matrix"] == matrix]
        for name in TRENDS:
            rows.append(_trend(matrix, name, "depth", [row[name] for row in means], shuffles, seed))
        for layer in [row["layer"] for row in means]:
            own = [row for row in heads if row["layer"] == layer and row["matrix"] == matrix]
            for name in ("top10", "least10"):
                values = [row[name] for row in own]
                sharing = sum(row["kv_head"] == 0 for row in own)
                rows.append(_trend(matrix, name, f"heads of layer {layer}", values, shuffles, seed, sharing))
    return [row for row in rows if not np.isnan(row["spearman"])]


def _trend(
    matrix: str, name: str, along: str, values: Sequence[float], shuffles: int, seed: int, together: int = 1
) -> Row:
    correlation, p = trend(values, shuffles, seed, together)
    about = {"part": "trend", "table": "head_trends", "matrix": matrix, "statistic": name, "along": along}
    return {**about, "values": len(values), "spearman": correlation, "p": p}


def order_rows(layers: Sequence[Row]) -> list[Row]:
    """Return in how many layers the mean of Q, and of K, lies beyond those of both V and O; nothing without all four.

    Beyond is above, and below for Least-10, of which an even spectrum has most.
    """
    found = {(row["layer"], row["matrix"]): row for row in layers}
    numbers = [
        layer for layer in dict.fromkeys(row["layer"] for row in layers) if all((layer, m) in found for m in "qkvo")
    ]
    rows: list[Row] = []
    for name, sign in ORDERS.items():
        for matrix in ("q", "k") if numbers else ():
            values = [{m: sign * found[layer, m][name] for m in "qkvo"} for layer in numbers]
            beyond = sum(one[matrix] > max(one["v"], one["o"]) for one in values)
            about = {"part": "order", "statistic": name, "matrix": matrix, "sense": "above" if sign > 0 else "below"}
            rows.append({**about, "layers": beyond, "of": len(numbers)})
    return rows
