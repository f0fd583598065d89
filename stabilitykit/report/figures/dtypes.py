"""The same gain in several dtypes: a table of every dtype against every other, and the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    SCALE,
    Figure,
    Trace,
    axis,
    column,
    finite,
    hover,
    label,
    layout,
    log_axis,
    rough,
)

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_HOVER = {
    "dtype": "dtype",
    "eps_abs": "step asked for",
    "alignment": "alignment",
    "coords_moved": "coordinates moved",
    "gain_nominal": "gain over the step asked for",
    "gain_realised": "gain over the step made",
}
_COLORS = (INK, BLUE, ORANGE, GREEN, FAINT)


def draw(result: Result) -> list[Figure]:
    """Return the gain against the step in every dtype, and a table of sigma_1 and one of the gain."""
    steps = [row for row in result.rows if row.get("part") == "gain" and finite(row.get("eps_abs"))]
    pairs = [row for row in result.rows if row.get("part") == "pair"]
    drawn = [
        _curves(steps),
        _table(pairs, "sigma_difference", "σ₁ of one dtype against another"),
        _table(pairs, "gain_difference", "Gain of one dtype against another"),
    ]
    return [figure for figure in drawn if figure is not None]


def _curves(steps: Rows) -> Figure | None:
    names = list(dict.fromkeys(str(row.get("dtype")) for row in steps))
    traces: list[Trace] = []
    for name, color in zip(names, _COLORS, strict=False):
        own = sorted((row for row in steps if str(row.get("dtype")) == name), key=lambda row: row["eps_abs"])
        traces.append(
            {
                "type": "scatter",
                "x": column(own, "eps_abs"),
                "y": [value or None for value in column(own, "gain_realised")],
                "name": label(name, 16),
                "mode": "lines+markers",
                "line": {"color": color, "width": 1.5},
                "marker": {"color": color, "size": 7},
                "hovertext": [hover(row, _HOVER) for row in own],
                "hoverinfo": "text",
            }
        )
    if not any(value for trace in traces for value in trace["y"]):
        return None
    shape = layout(
        showlegend=True,
        xaxis=log_axis("step length (input units)", column(steps, "eps_abs")),
        yaxis=log_axis("output change / step", column(steps, "gain_realised")),
        margin={"l": 64, "r": 18, "t": 52, "b": 52},
    )
    caption = (
        f"The same direction and steps in {len(names)} arithmetics, over the step that rounding left. Where a curve "
        "leaves that of true float64 the gain is the dtype's, not the function's; absorbed steps have none."
    )
    return Figure("Gain against the step, in every dtype", caption, traces, shape)


def _table(pairs: Rows, name: str, title: str) -> Figure | None:
    rows, columns = (list(dict.fromkeys(str(row.get(key)) for row in pairs)) for key in ("dtype", "against"))
    found = {(str(row.get("dtype")), str(row.get("against"))): finite(row.get(name)) for row in pairs}
    values = [[found.get((a, b)) for b in columns] for a in rows]
    known = {pair: value for pair, value in found.items() if value is not None}
    if not known:
        return None
    trace: Trace = {
        "type": "heatmap",
        "x": [label(one, 14) for one in columns],
        "y": [label(one, 14) for one in rows],
        "z": [[None if not value else math.log10(value) for value in line] for line in values],
        "text": [
            ["" if value is None else "=" if value == 0 else f"{100 * value:.2g} %" for value in line]
            for line in values
        ],
        "texttemplate": "%{text}",
        "hovertemplate": "%{y} against %{x}: %{text}<extra></extra>",
        "colorscale": SCALE,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    shape = layout(
        150 + 46 * len(rows),
        xaxis=axis("against", type="category", showgrid=False),
        yaxis=axis("", type="category", showgrid=False, autorange="reversed"),
    )
    (dtype, against), worst = max(known.items(), key=lambda item: item[1])
    caption = (
        f"Relative difference of a row to a column; = is equal. The largest is {rough(100 * worst)} %, of "
        f"{label(dtype)} against {label(against)}."
    )
    return Figure(title, caption, [trace], shape)
