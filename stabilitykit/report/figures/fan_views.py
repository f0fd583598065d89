"""Two more views of a fan: the boundary as a curve in the plane itself, and the radius against the angle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    GRID,
    ORANGE,
    SCALE,
    Figure,
    Trace,
    axis,
    column,
    layout,
    log_axis,
    power,
    rough,
)
from stabilitykit.report.figures.rays import CARDINAL, LEGEND_BELOW, AxisNames, cardinals, extremes, hover_of, mark

Rows = Sequence[Mapping[str, Any]]


def around(rows: Rows, names: AxisNames, unit: str) -> Figure:
    """Return the boundary in the plane, each point coloured by its radius; the input sits in the middle."""
    scale = math.floor(math.log10(max(row["radius"] for row in rows)))
    factor = 10.0**-scale
    boundary = {
        **_placed(rows, factor),
        "mode": "lines+markers",
        "name": "first change",
        "line": {"color": GRID, "width": 1},
        "marker": {
            "size": 6,
            "color": [row["radius"] * factor for row in rows],
            "colorscale": SCALE,
            "colorbar": {"title": {"text": "radius", "side": "right"}, "thickness": 10, "outlinewidth": 0},
        },
        **hover_of(rows),
    }
    middle: Trace = {"type": "scatter", "x": [0], "y": [0], "mode": "markers", "name": "x₀", "hoverinfo": "name"}
    middle["marker"] = {"symbol": "cross-thin-open", "size": 10, "color": FAINT}
    marks = [
        *({**_placed([row], factor), **mark([row], name)} for row, name in extremes(rows)),
        {**_placed(cardinals(rows), factor), **mark(cardinals(rows), "axes")},
    ]
    unit = f"{power(scale)} {unit}".rstrip()
    shape = layout(
        430,
        showlegend=True,
        xaxis=axis(f"along {names.at(0)} ({unit})", zeroline=True, zerolinecolor=GRID),
        yaxis=axis(f"along {names.at(90)} ({unit})", zeroline=True, zerolinecolor=GRID, scaleanchor="x"),
        legend={**LEGEND_BELOW, "y": -0.2},
        margin={"l": 64, "r": 18, "t": 16, "b": 36},
    )
    caption = (
        "The boundary as it lies in the plane, the input in the middle, to equal scales. Colour is the radius. Between "
        "two neighbouring points nothing was searched; the line only joins them."
    )
    return Figure("The boundary in the plane", caption, [boundary, middle, *marks], shape)


def against_angle(rows: Rows, names: AxisNames, unit: str) -> Figure:
    """Return the radii against the angle, with the axes of the plane and the mean as lines."""
    angles, radii, lattice = (column(rows, name) for name in ("angle_deg", "radius", "lattice_radius"))
    mean = sum(row["radius"] for row in rows) / len(rows)
    traces: list[Trace] = [
        {"type": "scatter", "x": angles, "y": lattice, "mode": "lines", "name": "input lattice", "hoverinfo": "skip"},
        {"type": "scatter", "x": angles, "y": radii, "name": "first change", "line": {"color": BLUE, "width": 2}},
        *(
            {"type": "scatter", "x": [row["angle_deg"]], "y": [row["radius"]], **mark([row], name)}
            for row, name in extremes(rows)
        ),
    ]
    traces[0]["line"] = {"color": ORANGE, "dash": "dot"}
    few = len(rows) <= 144
    sure = [row.get("exact", True) and not row.get("censored", False) for row in rows]
    symbols = ["circle" if known else "circle-open" for known in sure]
    traces[1].update(
        mode="lines+markers" if few else "lines", marker={"size": 5, "color": BLUE, "symbol": symbols}, **hover_of(rows)
    )
    level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": mean, "y1": mean}
    upright = {"type": "line", "yref": "paper", "y0": 0, "y1": 1}
    quiet = {"line": {"color": FAINT, "width": 1, "dash": "dash"}, "layer": "below"}
    ticks = {"tickvals": list(range(0, 361, 45)), "ticktext": [*names.ticks(), names.at(0)], "range": [-6, 366]}
    shape = layout(
        430,
        showlegend=True,
        xaxis=axis("angle in the plane", **ticks),
        yaxis=log_axis(f"radius ({unit})" if unit else "radius", [*radii, *lattice]),
        shapes=[{**level, **quiet}, *({**upright, "x0": angle, "x1": angle, **quiet} for angle in CARDINAL)],
        margin={"l": 64, "r": 18, "t": 30, "b": 36},
        legend={**LEGEND_BELOW, "y": -0.24},
    )
    caption = (
        f"The same radii against the angle, on a logarithmic axis; upright lines are the four axes, the level one is "
        f"the mean, {rough(mean)}. Hollow points are not exact or censored."
    )
    return Figure("Radius against angle", caption, traces, shape)


def _placed(rows: Rows, factor: float) -> Trace:
    turns = [math.radians(row["angle_deg"]) for row in rows]
    lengths = [row["radius"] * factor for row in rows]
    return {
        "type": "scatter",
        "x": [length * math.cos(turn) for length, turn in zip(lengths, turns, strict=True)],
        "y": [length * math.sin(turn) for length, turn in zip(lengths, turns, strict=True)],
    }
