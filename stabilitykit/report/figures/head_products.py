"""What heads compare and carry: over how many directions, block by block, and the widest spread of each product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    ORANGE,
    Figure,
    Trace,
    axis,
    column,
    finite,
    label,
    layout,
    rough,
)

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_MATRICES = {"qk": ("Q′K, what a head compares", BLUE, -0.14), "ov": ("OV, what it carries", ORANGE, 0.14)}


def draw(result: Result) -> list[Figure]:
    """Return each head's entropy rank by layer."""
    first = next((row["subject"] for row in result.rows if "subject" in row), None)
    rows = [
        row
        for row in result.rows
        if row.get("subject") == first
        and row.get("part") == "head"
        and (finite(row.get("entropy_rank")) or 0) > 0
        and finite(row.get("layer")) is not None
    ]
    return [_ranks(rows)] if rows else []


def _ranks(rows: Rows) -> Figure:
    traces = []
    for matrix, (title, color, aside) in _MATRICES.items():
        chosen = [row for row in rows if row.get("matrix") == matrix]
        trace: Trace = {
            "type": "scatter",
            "x": [row["layer"] + aside for row in chosen],
            "y": [float(rough(row["entropy_rank"])) for row in chosen],
            "mode": "markers",
            "marker": {"size": 5, "color": color, "opacity": 0.7},
            "name": title,
            # Only the number of each head, and what is said of it once: there are hundreds.
            "text": [label(row.get("head")) for row in chosen],
            "hovertemplate": "head %{text}, %{y} dimensions<extra></extra>",
        }
        traces += [trace] if chosen else []
    null = next((value for value in column(rows, "null_entropy_rank") if value), None)
    layers = [row["layer"] for row in rows]
    if null is not None:
        ends = [min(layers) - 0.5, max(layers) + 0.5]
        line = {"color": FAINT, "width": 1, "dash": "dash"}
        traces.append({"type": "scatter", "x": ends, "y": [null] * 2, "mode": "lines", "line": line, "name": "random"})
    least = min(rows, key=lambda row: row["entropy_rank"])
    caption = (
        "Over how many directions the squares of the product's singular values spread; a point a head. The least is "
        f"{rough(least['entropy_rank'])}, of head {label(least.get('head'))} in layer {label(least.get('layer'))}."
    )
    shape = layout(360, showlegend=True, xaxis=axis("layer"), yaxis=axis("entropy rank", rangemode="tozero"))
    return Figure("What heads compare and carry", caption, traces, shape, wide=True)
