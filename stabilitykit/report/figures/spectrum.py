"""Singular values of the Jacobian, each with its residual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabilitykit.report.figures.figure import BLUE, INK, Figure, axis, column, finite, hover, layout, log_axis, rough

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

_HOVER = {"index": "index", "sigma": "sigma", "residual": "residual"}
_MARKERS_UP_TO = 80


def draw(result: Result) -> list[Figure]:
    """Return sigma against its index, with the residual as the bar."""
    rows = sorted(
        (row for row in result.rows if finite(row.get("sigma")) and finite(row.get("index"))),
        key=lambda row: row["index"],
    )
    if not rows:
        return []
    few = len(rows) <= _MARKERS_UP_TO
    sigma = column(rows, "sigma")
    bars = [value or 0.0 for value in column(rows, "residual")]
    trace = {
        "type": "scatter",
        "x": column(rows, "index"),
        "y": sigma,
        "mode": "lines+markers" if few else "lines",
        "line": {"color": BLUE, "width": 1.5},
        "marker": {"size": 8, "color": BLUE},
        "error_y": {"type": "data", "array": bars, "color": INK, "thickness": 1.2, "width": 4, "visible": few},
        "hovertext": [hover(row, _HOVER) for row in rows],
        "hoverinfo": "text",
    }
    shape = layout(
        330,
        xaxis=axis("index of the singular value", **({"dtick": 1} if len(rows) <= 16 else {})),
        yaxis=log_axis("σ: output change per input change", sigma),
    )
    first, last = (rough(rows[place]["sigma"]) for place in (0, -1))
    caption = (
        f"The {len(rows)} largest singular values, from {first} down to {last}. Bars are residuals, at most "
        f"{rough(max(bars))}; where none is visible it is smaller than the point."
    )
    return [Figure("How strongly the output reacts, direction by direction", caption, [trace], shape)]
