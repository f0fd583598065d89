"""Radius and sigma: does the output change earlier along the directions it reacts to most?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.changes import radii
from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    Figure,
    Trace,
    axis,
    column,
    finite,
    layout,
    log_axis,
    rough,
)
from stabilitykit.report.figures.islands import returns
from stabilitykit.report.figures.rays import LEGEND_BELOW, hover_of

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_CORRELATIONS = {
    "spearman_sigma": "with sigma {}",
    "spearman_lattice": "with the lattice radius {}",
    "partial_sigma": "with sigma at fixed lattice radius {}",
}


def draw(result: Result) -> list[Figure]:
    """Return the radius against sigma, against the index and against the lattice radius, and the rays that return."""
    rows = [row for row in result.rows if finite(row.get("radius"))]
    along = [row for row in rows if row.get("kind") == "singular" and finite(row.get("index"))]
    control = [row for row in rows if row.get("kind") == "random"]
    if len(along) < 2:
        return []
    drawn = [_against_sigma(along, control, result), _against_index(along), radii(along), returns(along)]
    return [figure for figure in drawn if figure is not None]


def _against_sigma(along: Rows, control: Rows, result: Result) -> Figure | None:
    known = [row for row in along if finite(row.get("sigma"))]
    live = [row for row in known if not row.get("null")]
    if not live:
        return None
    edge = min(row["sigma"] for row in live) / 3
    null = [{**row, "sigma": edge} for row in known if row.get("null")]
    kinds = [
        _points([row for row in live if row.get("sign", 1) > 0], "sigma", "+v", "circle", BLUE),
        _points([row for row in live if row.get("sign", 1) < 0], "sigma", "−v", "triangle-down", ORANGE),
        _points(null, "sigma", "null", "circle-open", FAINT),
        _points([row for row in control if finite(row.get("gain"))], "gain", "random", "cross", GREEN),
    ]
    traces = [trace for trace in kinds if trace["x"]]
    shape = layout(
        380,
        showlegend=True,
        xaxis=log_axis("σ: output change per input change", [x for trace in traces for x in trace["x"]]),
        yaxis=log_axis("radius", [y for trace in traces for y in trace["y"]]),
        legend={**LEGEND_BELOW, "y": -0.24},
    )
    arbitrary = f" {len(null)} rays along null vectors are drawn at the left edge." if null else ""
    caption = (
        f"One point a ray: {len(known)} along singular vectors, {len(control)} along random directions, which stand at "
        f"their own gain.{_said(result)}{arbitrary}"
    )
    return Figure("Radius against sigma", caption, traces, shape)


def _said(result: Result) -> str:
    """Return the rank correlations with their intervals, those that are known."""
    found = [
        words.format(f"{reading.value:.2f} ({reading.low:.2f} to {reading.high:.2f})")
        for name, words in _CORRELATIONS.items()
        if (reading := result.readings.get(name)) and finite(reading.value) is not None
        if reading.low is not None and reading.high is not None
    ]
    return f" Rank correlation of the radius {', '.join(found)}." if found else ""


def _against_index(along: Rows) -> Figure:
    ordered = sorted(along, key=lambda row: row["index"])
    values = sorted(row["radius"] for row in ordered)
    mean, median = sum(values) / len(values), values[len(values) // 2]
    traces = [
        {**_points(ordered, "index", "radius", "circle", BLUE), "marker": {"size": 5, "color": BLUE}},
        _level(ordered, mean, "mean", "dash"),
        _level(ordered, median, "median", "dot"),
    ]
    shape = layout(
        340,
        showlegend=True,
        xaxis=axis("number of the singular vector"),
        yaxis=log_axis("radius", list(values)),
        legend={**LEGEND_BELOW, "y": -0.26},
    )
    caption = (
        f"From the direction the output reacts to most, on the left, to those it hardly notices. Mean {rough(mean)}, "
        f"median {rough(median)}."
    )
    return Figure("Radius from the first singular vector to the last", caption, traces, shape)


def _points(rows: Rows, x: str, name: str, symbol: str, color: str) -> Trace:
    return {
        "type": "scatter",
        "x": column(rows, x),
        "y": column(rows, "radius"),
        "mode": "markers",
        "name": name,
        "marker": {"size": 7, "symbol": symbol, "color": color, "opacity": 0.8},
        **hover_of(rows),
    }


def _level(rows: Rows, value: float, name: str, dash: str) -> Trace:
    return {
        "type": "scatter",
        "x": [rows[0]["index"], rows[-1]["index"]],
        "y": [value, value],
        "mode": "lines",
        "name": name,
        "line": {"color": FAINT, "width": 1, "dash": dash},
        "hoverinfo": "skip",
    }
