"""Rays that come back: where the output first changes, where it is the same again, and where halving would end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stabilitykit.report.figures.figure import (
    BLUE,
    GREEN,
    GRID,
    ORANGE,
    Figure,
    Trace,
    axis,
    column,
    finite,
    label,
    layout,
    log_axis,
    rough,
)
from stabilitykit.report.figures.rays import LEGEND_BELOW, hover_of

Rows = Sequence[Mapping[str, Any]]

_SHOWN = 24


def returns(rows: Rows) -> Figure | None:
    """Return a line for each ray with an island, from its radius to its last return; None where there is none."""
    came = [row for row in rows if finite(row.get("islands")) and finite(row.get("last_return"))]
    came = sorted((row for row in came if finite(row.get("radius"))), key=_factor, reverse=True)
    if not came:
        return None
    shown = came[:_SHOWN][::-1]
    names = [label(row.get("direction", place), 24) for place, row in enumerate(shown)]
    spans: Trace = {
        "type": "scatter",
        "x": [value for row in shown for value in (row["radius"], row["last_return"], None)],
        "y": [value for name in names for value in (name, name, None)],
        "mode": "lines",
        "line": {"color": GRID, "width": 4},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    points = [
        _points(shown, names, "radius", "first change", "circle", BLUE),
        _points(shown, names, "last_return", "last return", "diamond", GREEN),
        _points(shown, names, "bisection_radius", "a bisection ends", "x-thin-open", ORANGE),
    ]
    values = [value for name in ("radius", "last_return", "bisection_radius") for value in column(shown, name)]
    shape = layout(
        min(180 + 22 * len(shown), 520),
        showlegend=True,
        xaxis=log_axis("step along the ray", values),
        yaxis=axis("ray", type="category"),
        legend={**LEGEND_BELOW, "y": -0.3},
    )
    farthest = came[0]
    rest = "" if len(came) <= _SHOWN else f" The {_SHOWN} that come back farthest are shown."
    caption = (
        f"{len(came)} of {len(rows)} rays are back at the baseline's identical bits past their first change, the "
        f"farthest at {rough(_factor(farthest))} times its radius. A bisection trusts a single change, so it may end "
        f"at the last one.{rest}"
    )
    return Figure("Rays that come back", caption, [spans, *points], shape)


def _factor(row: Mapping[str, Any]) -> float:
    factor: float = row["last_return"] / row["radius"]
    return factor


def _points(rows: Rows, names: Sequence[str], column_name: str, title: str, symbol: str, color: str) -> Trace:
    return {
        "type": "scatter",
        "x": column(rows, column_name),
        "y": list(names),
        "mode": "markers",
        "name": title,
        "marker": {"size": 9, "symbol": symbol, "color": color, "line": {"width": 2, "color": color}},
        **hover_of(rows),
    }
