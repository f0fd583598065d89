"""A prediction taken apart: how it comes together component by component, and the head's columns that stick out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    Figure,
    Trace,
    axis,
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

LEGEND_BELOW = {"orientation": "h", "x": 0, "y": -0.24, "yanchor": "top"}
_COLUMN = {"component": "component", "norm": "length", "robust_z": "deviations", "entropy_gap": "ln V − entropy"}
_LABELLED, _NAMED = 8, 4


def draw(result: Result) -> list[Figure]:
    """Return the curve of the prompt that needs least, beside the empty one's, and the state it is made of."""
    rows: dict[Any, Mapping[str, Any]] = {}
    for row in kept(result, "components", "k_first", "k_stay", "share", "line_margin"):
        rows.setdefault(row.get("number"), row)  # of several shares the first
    if not rows or "curve" not in result.arrays:
        return []
    empty = next((number for number, row in rows.items() if row.get("prompt") == "(empty)"), None)
    given = [number for number in rows if number != empty] or [empty]
    least = min(given, key=lambda number: rows[number]["k_first"])
    shown = [least, *([empty] if empty not in (None, least) else [])]
    spread = [row for row in kept(result, "spread", "hidden_sd", "outliers") if row.get("number") == least]
    views = (_state, _unsorted, _density)
    return [_curves(result, rows, shown), *([each(result, spread[0]) for each in views] if spread else [])]


def kept(result: Result, part: str, *names: str) -> Rows:
    """Return the rows of a part in which all these columns hold a number."""
    return [
        row
        for row in result.rows
        if row.get("part") == part and all(finite(row.get(name)) is not None for name in names)
    ]


def _curves(result: Result, rows: Mapping[Any, Mapping[str, Any]], shown: Sequence[Any]) -> Figure:
    traces: list[Trace] = []
    for number, color in zip(shown, (BLUE, GREEN), strict=False):
        name = label(rows[number].get("prompt"), 22)
        for array, dash, more in (("curve", "solid", ""), ("curve_rescaled", "dot", ", rescaled")):
            traces.append(_line(result.arrays[array][number].tolist(), f"{name}{more}", color, dash))
    row = rows[shown[0]]
    plain = result.arrays["curve"][shown[0]]
    height, share = float(row["share"] * plain[-1]), row["share"]
    line = _line([height, height], f"{share:.0%} of the whole", FAINT, "dash")
    traces.append({**line, "x": [0, len(plain) - 1]})
    marks = [row["k_first"], row["k_stay"]]
    traces.append(
        {
            "type": "scatter",
            "x": marks,
            "y": [float(plain[k]) for k in marks],
            "mode": "markers",
            "name": "first, and for good",
            "marker": {"size": 10, "color": ORANGE, "symbol": ["circle", "diamond"]},
            "hovertext": [f"first at {marks[0]}", f"for good from {marks[1]}"],
            "hoverinfo": "text",
        }
    )
    shape = layout(
        420,
        showlegend=True,
        xaxis=axis("components used, the largest first", rangemode="tozero"),
        yaxis=axis("probability of the token", rangemode="tozero"),
        legend=LEGEND_BELOW,
    )
    caption = (
        f"After {label(row.get('prompt'), 30)} the token has {share:.0%} of its probability first with {marks[0]} of "
        f"{len(plain) - 1} components, and for good from {marks[1]} on; no point is nearer to that line than "
        f"{rough(row['line_margin'])}. Dotted: the sums rescaled to the length of the whole state."
    )
    return Figure("How the prediction comes together", caption, traces, shape, wide=True)


def _line(values: Sequence[float], name: str, color: str, dash: str) -> Trace:
    return {
        "type": "scatter",
        "x": list(range(len(values))),
        "y": list(values),
        "mode": "lines",
        "name": name,
        "line": {"color": color, "width": 1.6, "dash": dash},
    }


def _state(result: Result, row: Mapping[str, Any]) -> Figure:
    h = result.arrays["hidden"][row["number"]]
    order = np.argsort(h)
    shape = layout(340, xaxis=axis("components, sorted"), yaxis=axis("value in the state"))
    caption = (
        f"The {len(h)} numbers that the head reads, from {rough(float(h.min()))} to {rough(float(h.max()))}, sd "
        f"{rough(row['hidden_sd'])}; {row['outliers']} lie beyond what normal numbers would reach."
    )
    trace = {**_values(h[order]), "text": order.tolist(), "hovertemplate": "component %{text}<br>%{y}<extra></extra>"}
    return Figure("The state behind it", caption, [trace], shape)


def _unsorted(result: Result, row: Mapping[str, Any]) -> Figure:
    h = result.arrays["hidden"][row["number"]]
    far = sorted(np.argsort(-np.abs(h - h.mean()))[: min(len(h), _NAMED)].tolist())
    named: Trace = {
        "type": "scatter",
        "x": far,
        "y": [float(f"{h[j]:.4g}") for j in far],
        "mode": "markers+text",
        "marker": {"size": 7, "color": ORANGE},
        "text": [str(j) for j in far],
        "textposition": ["top center" if h[j] > 0 else "bottom center" for j in far],
        "hovertemplate": "component %{x}<br>%{y}<extra></extra>",
    }
    reach = 1.15 * float(np.abs(h).max())
    shape = layout(340, xaxis=axis("component"), yaxis=axis("value in the state", range=[-reach, reach]))
    caption = "The same in the order of the components; those furthest from the mean are named."
    return Figure("The state in its order", caption, [_values(h), named], shape)


def _values(values: NDArray[np.float64]) -> Trace:
    return {
        "type": "scatter",
        "x": list(range(len(values))),
        "y": [float(f"{value:.4g}") for value in values.tolist()],
        "mode": "markers",
        "marker": {"size": 5, "color": BLUE},
        "hovertemplate": "component %{x}<br>%{y}<extra></extra>",
    }


def _density(result: Result, row: Mapping[str, Any]) -> Figure:
    h = result.arrays["hidden"][row["number"]]
    trace, width = bars(h.tolist(), 60, BLUE)
    trace = {**trace, "y": [count or None for count in trace["y"]]}
    shape = layout(340, xaxis=axis("value in the state"), yaxis=log_axis("components", [*trace["y"], 0.7]), bargap=0.05)
    caption = (
        f"The same numbers, counted in steps of {rough(width)}. The axis is logarithmic: a few are far from the rest."
    )
    return Figure("Its numbers, counted", caption, [trace], shape)


def draw_basis(result: Result) -> list[Figure]:
    """Return the columns on their principal axes, and how much each one's entropy is below that of no preference."""
    rows = kept(result, "basis", "pc1", "pc2", "robust_z", "entropy_gap", "norm")
    return [_axes(rows), _lengths(rows), _gaps(rows)] if rows else []


def _axes(rows: Rows) -> Figure:
    out = [row for row in rows if row.get("outlier") is True]
    far = sorted(out, key=lambda row: -abs(row["robust_z"]))[:_LABELLED]
    far.sort(key=lambda row: (row["pc2"] > 0, row["pc1"]))  # so that neighbours' names go up and down in turn
    plain = [row for row in rows if row.get("outlier") is not True]
    traces = [
        _points(plain, "pc1", "pc2", "column", BLUE),
        _points([row for row in out if row not in far], "pc1", "pc2", "outlier by its length", ORANGE),
        {
            **_points(far, "pc1", "pc2", "named outlier", ORANGE),
            "mode": "markers+text",
            "text": [str(row["component"]) for row in far],
            "textposition": ["top center" if k % 2 else "bottom center" for k in range(len(far))],
            "showlegend": False,
        },
    ]
    shape = layout(
        400,
        showlegend=True,
        xaxis=axis("first principal axis"),
        yaxis=axis("second principal axis"),
        legend=LEGEND_BELOW,
    )
    caption = (
        f"The distances between the head's {len(rows)} columns, standardised, on their two first axes. {len(out)} are "
        f"outliers by their length; the furthest are named by their component."
    )
    return Figure("Columns of the head", caption, [trace for trace in traces if trace["x"]], shape, wide=True)


def _points(rows: Rows, x: str, y: str, name: str, color: str) -> Trace:
    return {
        "type": "scatter",
        "x": [row[x] for row in rows],
        "y": [row[y] for row in rows],
        "mode": "markers",
        "name": name,
        "marker": {"size": 7, "color": color, "opacity": 0.75},
        "hovertext": [hover(row, _COLUMN) for row in rows],
        "hoverinfo": "text",
    }


def _lengths(rows: Rows) -> Figure:
    traces = [
        _points([row for row in rows if (row.get("outlier") is True) == out], "component", "norm", name, color)
        for out, name, color in ((False, "column", BLUE), (True, "outlier", ORANGE))
    ]
    shape = layout(
        340,
        showlegend=True,
        xaxis=axis("component"),
        yaxis=axis("length of its column", rangemode="tozero"),
        legend=LEGEND_BELOW,
    )
    longest = max(rows, key=lambda row: row["norm"])
    caption = f"Component {longest['component']} has the longest column, {rough(longest['norm'])}."
    return Figure("Lengths of the columns", caption, [trace for trace in traces if trace["x"]], shape)


def _gaps(rows: Rows) -> Figure:
    gaps = [row["entropy_gap"] for row in rows]
    trace, width = bars(gaps, 30, BLUE)
    shape = layout(320, xaxis=axis("ln V − entropy (nats)"), yaxis=axis("columns", rangemode="tozero"), bargap=0.05)
    caption = (
        f"How far the softmax of each column is from no preference at all: {rough(min(gaps))} to {rough(max(gaps))} "
        f"nats, in steps of {rough(width)}. A column that spoke for one token would be near ln V."
    )
    return Figure("What a single component says", caption, [trace], shape)


def bars(
    values: Iterable[float], count: int, color: str, within: tuple[float, float] | None = None
) -> tuple[Trace, float]:
    """Return a histogram of the values as bars, from the least to the most or `within` bounds; and a bar's width."""
    counts, edges = np.histogram(list(values), bins=count, range=within)
    width = float(edges[1] - edges[0])
    trace: Trace = {
        "type": "bar",
        "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "y": counts.tolist(),
        "width": [width] * count,
        "marker": {"color": color},
        "hovertext": [f"{low:.4g} to {low + width:.4g}: {n}" for low, n in zip(edges, counts, strict=False)],
        "hoverinfo": "text",
    }
    return trace, width
