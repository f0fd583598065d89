"""The stability fan: how far the input can move, in every direction of a plane, before one output bit changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    GRID,
    INK,
    ORANGE,
    Figure,
    Trace,
    axis,
    column,
    decades,
    finite,
    hover,
    layout,
    log_axis,
    power,
    rough,
)

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_HOVER = {
    "angle_deg": "angle (degrees)",
    "radius": "radius",
    "lattice_radius": "lattice radius",
    "rho": "rho",
    "cells": "cells",
    "exact": "exact",
    "censored": "censored",
}
# Above this ratio of the largest to the smallest radius a linear plot shows only the largest.
_LINEAR_RATIO = 25.0
_MARKERS_UP_TO = 144
_AXES = {0: "+v₁", 90: "+v₂", 180: "−v₁", 270: "−v₂"}


def draw(result: Result) -> list[Figure]:
    """Return the polar figure and the same radii against the angle."""
    rows = sorted(
        (row for row in result.rows if finite(row.get("radius")) and finite(row.get("angle_deg")) is not None),
        key=lambda row: row["angle_deg"],
    )
    if not rows:
        return []
    reading = result.readings.get("radius")
    unit = reading.unit if reading else ""
    least, most = _extremes(rows)
    summary = (
        f"{len(rows)} angles; the radius is smallest, {rough(least['radius'])}, at {rough(least['angle_deg'])}°, "
        f"and largest, {rough(most['radius'])}, at {rough(most['angle_deg'])}°."
    )
    return [_polar(rows, summary), _flat(rows, unit)]


def _polar(rows: Rows, summary: str) -> Figure:
    radii = [row["radius"] for row in rows]
    scale = math.floor(math.log10(sorted(radii)[len(radii) // 2]))
    spread = max(radii) / min(radii) > _LINEAR_RATIO
    factor = 1.0 if spread else 10.0**-scale
    ring = _closed(rows)
    traces = [
        {**_outline(ring, "lattice_radius", factor), "name": "input lattice", "line": {"color": ORANGE, "dash": "dot"}},
        {**_outline(ring, "radius", factor), "name": "first change", "line": {"color": BLUE, "width": 2}},
        *(_point(row, name, factor, "polar") for row, name in _named_extremes(rows)),
    ]
    traces[1].update(fill="toself", fillcolor="var(--plot-wash)", **_marks(ring))
    low, high = decades([*radii, *column(rows, "lattice_radius")])
    radial = {"type": "log", "range": [low, high], "dtick": 1} if spread else {"rangemode": "tozero", "nticks": 4}
    inside = {"gridcolor": GRID, "linecolor": GRID}
    polar = {
        "bgcolor": "rgba(0,0,0,0)",
        "angularaxis": {**inside, "tickvals": list(range(0, 360, 45)), "ticktext": _ticks()},
        "radialaxis": {**inside, "angle": 22.5, "tickangle": 22.5, "tickfont": {"size": 11, "color": INK}, **radial},
    }
    measure = "the radius, logarithmic" if spread else f"the radius in units of {power(scale)}"
    shape = layout(430, polar=polar, showlegend=True, margin={"l": 44, "r": 44, "t": 30, "b": 36}, legend=_below(-0.08))
    caption = (
        f"Distance from the centre: {measure}. Inside the blue line not one output bit changes; the dotted line is "
        f"where the input itself first changes. v₁ and v₂ are the directions the output reacts to most. {summary}"
    )
    return Figure("How far, in every direction of the plane", caption, traces, shape)


def _flat(rows: Rows, unit: str) -> Figure:
    angles, radii, lattice = (column(rows, name) for name in ("angle_deg", "radius", "lattice_radius"))
    traces: list[Trace] = [
        {"type": "scatter", "x": angles, "y": lattice, "mode": "lines", "name": "input lattice", "hoverinfo": "skip"},
        {"type": "scatter", "x": angles, "y": radii, "name": "first change", "line": {"color": BLUE, "width": 2}},
        *(_point(row, name, 1.0, "flat") for row, name in _named_extremes(rows)),
    ]
    traces[0]["line"] = {"color": ORANGE, "dash": "dot"}
    traces[1].update(**_marks(rows))
    ticks = {"tickvals": list(range(0, 361, 45)), "ticktext": [*_ticks(), _AXES[0]], "range": [-6, 366]}
    shape = layout(
        430,
        showlegend=True,
        xaxis=axis("angle in the plane of v₁ and v₂", **ticks),
        yaxis=log_axis(f"radius ({unit})" if unit else "radius", [*radii, *lattice]),
        margin={"l": 64, "r": 18, "t": 30, "b": 36},
        legend=_below(-0.24),
    )
    caption = "The same radii against the angle, on a logarithmic axis. Hollow points are not exact or censored."
    return Figure("Radius against angle", caption, traces, shape)


def _outline(rows: Rows, name: str, factor: float) -> Trace:
    radii = [None if value is None else value * factor for value in column(rows, name)]
    return {
        "type": "scatterpolar",
        "theta": column(rows, "angle_deg"),
        "r": radii,
        "mode": "lines",
        "hoverinfo": "skip",
    }


def _marks(rows: Rows) -> Trace:
    few = len(rows) <= _MARKERS_UP_TO
    sure = [row.get("exact", True) and not row.get("censored", False) for row in rows]
    return {
        "mode": "lines+markers" if few else "lines",
        "marker": {"size": 5, "color": BLUE, "symbol": ["circle" if known else "circle-open" for known in sure]},
        "hovertext": [hover(row, _HOVER) for row in rows],
        "hoverinfo": "text",
    }


def _point(row: Mapping[str, Any], name: str, factor: float, kind: str) -> Trace:
    place = (
        {"type": "scatterpolar", "theta": [row["angle_deg"]], "r": [row["radius"] * factor]}
        if kind == "polar"
        else {"type": "scatter", "x": [row["angle_deg"]], "y": [row["radius"]]}
    )
    symbol = "triangle-down" if name == "smallest" else "triangle-up"
    marker = {"size": 12, "symbol": symbol, "color": INK, "line": {"width": 1, "color": "var(--card)"}}
    return {
        **place,
        "mode": "markers",
        "name": name,
        "marker": marker,
        "hovertext": hover(row, _HOVER),
        "hoverinfo": "text",
    }


def _closed(rows: Rows) -> Rows:
    """Return the rows with the first again at the end, if they go all the way round."""
    angles = [row["angle_deg"] for row in rows]
    widest = max((b - a for a, b in itertools.pairwise(angles)), default=360.0)
    return [*rows, rows[0]] if angles[0] + 360 - angles[-1] <= 2 * widest else rows


def _extremes(rows: Rows) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return min(rows, key=lambda row: row["radius"]), max(rows, key=lambda row: row["radius"])


def _named_extremes(rows: Rows) -> list[tuple[Mapping[str, Any], str]]:
    least, most = _extremes(rows)
    return [(least, "smallest"), (most, "largest")]


def _ticks() -> list[str]:
    return [_AXES.get(angle, f"{angle}°") for angle in range(0, 360, 45)]


def _below(y: float) -> dict[str, Any]:
    return {"orientation": "h", "x": 0.5, "xanchor": "center", "y": y, "yanchor": "top"}
