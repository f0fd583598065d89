"""The stability fan: how far the input can move, in every direction of a plane, before one output bit changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.fan_views import against_angle, around
from stabilitykit.report.figures.figure import (
    BLUE,
    GRID,
    INK,
    ORANGE,
    Figure,
    Trace,
    column,
    decades,
    finite,
    layout,
    power,
    rough,
)
from stabilitykit.report.figures.rays import LEGEND_BELOW, AxisNames, cardinals, extremes, hover_of, mark, names_of

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

# Above this ratio of the largest to the smallest radius a linear plot shows only the largest.
_LINEAR_RATIO = 25.0
_MARKERS_UP_TO = 144


def draw(result: Result) -> list[Figure]:
    """Return the polar figure, the same curve in the plane itself, and the same radii against the angle."""
    rows = sorted(
        (row for row in result.rows if finite(row.get("radius")) and finite(row.get("angle_deg")) is not None),
        key=lambda row: row["angle_deg"],
    )
    if not rows:
        return []
    reading = result.readings.get("radius")
    unit, names = reading.unit if reading else "", names_of(result)
    return [_polar(rows, names), around(closed(rows), names, unit), against_angle(rows, names, unit)]


def _polar(rows: Rows, names: AxisNames) -> Figure:
    radii = [row["radius"] for row in rows]
    scale = math.floor(math.log10(sorted(radii)[len(radii) // 2]))
    spread = max(radii) / min(radii) > _LINEAR_RATIO
    factor = 1.0 if spread else 10.0**-scale
    ring = closed(rows)
    traces = [
        {**_outline(ring, "lattice_radius", factor), "name": "input lattice", "line": {"color": ORANGE, "dash": "dot"}},
        {**_outline(ring, "radius", factor), "name": "first change", "line": {"color": BLUE, "width": 2}},
        *(_point([row], name, factor) for row, name in extremes(rows)),
        _point(cardinals(rows), "axes", factor),
    ]
    traces[1].update(fill="toself", fillcolor="var(--plot-wash)", **_marks(ring))
    low, high = decades([*radii, *column(rows, "lattice_radius")])
    radial = {"type": "log", "range": [low, high], "dtick": 1} if spread else {"rangemode": "tozero", "nticks": 4}
    inside = {"gridcolor": GRID, "linecolor": GRID}
    polar = {
        "bgcolor": "rgba(0,0,0,0)",
        "angularaxis": {**inside, "tickvals": list(range(0, 360, 45)), "ticktext": names.ticks()},
        "radialaxis": {**inside, "angle": 22.5, "tickangle": 22.5, "tickfont": {"size": 11, "color": INK}, **radial},
    }
    measure = "the radius, logarithmic" if spread else f"the radius in units of {power(scale)}"
    legend = {**LEGEND_BELOW, "y": -0.08}
    shape = layout(430, polar=polar, showlegend=True, margin={"l": 44, "r": 44, "t": 30, "b": 36}, legend=legend)
    caption = (
        f"Distance from the centre: {measure}. Inside the blue line not one output bit changes; the dotted line is "
        f"where the input itself first changes. {names.meaning()}{_summary(rows)}"
    )
    return Figure("How far, in every direction of the plane", caption, traces, shape)


def _summary(rows: Rows) -> str:
    (least, _), (most, _) = extremes(rows)
    return (
        f"{len(rows)} angles; the radius is smallest, {rough(least['radius'])}, at {rough(least['angle_deg'])}°, "
        f"and largest, {rough(most['radius'])}, at {rough(most['angle_deg'])}°."
    )


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
        **hover_of(rows),
    }


def _point(rows: Rows, name: str, factor: float) -> Trace:
    place = {"theta": column(rows, "angle_deg"), "r": [row["radius"] * factor for row in rows]}
    return {"type": "scatterpolar", **place, **mark(rows, name)}


def closed(rows: Rows) -> Rows:
    """Return the rows with the first again at the end, if they go all the way round."""
    angles = [row["angle_deg"] for row in rows]
    widest = max((b - a for a, b in itertools.pairwise(angles)), default=360.0)
    return [*rows, rows[0]] if angles[0] + 360 - angles[-1] <= 2 * widest else rows
