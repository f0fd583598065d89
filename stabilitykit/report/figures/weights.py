"""Weights block by block: their length, tails and largest elements, and the histograms of the heaviest tails."""

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

Row = Mapping[str, Any]
Rows = Sequence[Row]

_COLORS = {"attention": BLUE, "mlp": ORANGE, "norm": GREEN}
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = ("circle", "square", "diamond", "x", "triangle-up")
_DEPTH = (BLUE, ORANGE, GREEN, INK, FAINT)
_FOLLOWED = {
    "frobenius": ("Frobenius norm", "the length of each weight, √Σ w²"),
    "spectral_norm": ("Spectral norm", "the largest singular value: how far the matrix can stretch a state"),
    "max_over_rms": ("Largest |w| over rms", "how far the largest element is from the usual ones"),
    "kurtosis": ("Excess kurtosis", "how heavy the tails are: 0 for a Gaussian, -1.2 for even numbers"),
}
_HOVER = {
    "name": "weight",
    "shape": "shape",
    "rms": "rms",
    "max_abs": "largest |w|",
    "std": "std",
    "kurtosis": "kurtosis",
    "frobenius": "Frobenius norm",
    "spectral_norm": "spectral norm",
}
_HISTOGRAMS = 2


def draw(result: Result) -> list[Figure]:
    """Return each statistic over the blocks, and the histograms of the matrices whose tails are heaviest."""
    first = next((row["subject"] for row in result.rows if "subject" in row), None)
    rows = [row for row in result.rows if row.get("subject") == first and row.get("part") == "weight"]
    drawn = [_depth(rows, name) for name in _FOLLOWED]
    return [figure for figure in (*drawn, *_histograms(result, rows)) if figure is not None]


def _depth(rows: Rows, name: str) -> Figure | None:
    title, words = _FOLLOWED[name]
    series = {
        weight: own
        for weight, own in _series(rows).items()
        if sum(finite(row[name]) is not None for row in own) > 1 and own[0]["kind"] in _COLORS
    }
    if name == "kurtosis":
        series = {weight: own for weight, own in series.items() if own[0]["dims"] > 1}
    if not series:
        return None
    used: dict[str, int] = {}
    traces: list[Trace] = []
    for weight, own in series.items():
        kind = own[0]["kind"]
        dash = _DASHES[used.setdefault(kind, 0) % len(_DASHES)]
        used[kind] += 1
        traces.append(_line(own, name, weight, {"color": _COLORS[kind], "dash": dash, "width": 1.5}))
    values = [value for trace in traces for value in trace["y"]]
    positive = all(value > 0 for value in values if value is not None)
    vertical = log_axis(title, values) if positive else axis(title)
    shape = layout(
        420,
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "font": {"size": 10}},
        xaxis=axis("layer"),
        yaxis=vertical,
        margin={"l": 64, "r": 18, "t": 16, "b": 150},
    )
    row = max(
        (row for own in series.values() for row in own if finite(row[name]) is not None), key=lambda r: float(r[name])
    )
    known = {one["layer"] for own in series.values() for one in own if finite(one[name]) is not None}
    every = {one["layer"] for own in series.values() for one in own}
    some = f" Taken in {len(known)} of {len(every)} layers." if len(known) < len(every) else ""
    caption = f"{title} over the layers: {words}. Largest: {rough(row[name])}, in {label(row['name'])}.{some}"
    return Figure(f"{title} with depth", caption, traces, shape)


def _series(rows: Rows) -> dict[str, list[Row]]:
    """Return the rows of each weight that stands in several layers, in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if finite(row.get("layer")) is not None:
            groups.setdefault(row["weight"], []).append(row)
    return {w: sorted(own, key=lambda row: int(row["layer"])) for w, own in groups.items() if len(own) > 1}


def _line(rows: Rows, name: str, title: str, line: Mapping[str, Any]) -> Trace:
    # Between layers that were not looked at there is nothing to draw a line through.
    values = column(rows, name)
    return {
        "type": "scatter",
        "x": column(rows, "layer"),
        "y": values,
        "mode": "markers" if None in values else "lines",
        "line": dict(line),
        "marker": {"size": 8, "color": line["color"], "symbol": _SYMBOLS[_DASHES.index(line["dash"])]},
        "name": label(title.removesuffix(".weight"), 32),
        "hovertext": [hover(row, _HOVER) for row in rows],
        "hoverinfo": "text",
    }


def _histograms(result: Result, rows: Rows) -> list[Figure]:
    """Draw the matrices that have the heaviest tails in any layer, each in five layers."""
    counts, widths = (result.arrays.get(n, result.arrays.get(f"000/{n}")) for n in ("histograms", "widths"))
    if counts is None or widths is None or len(counts) < len(rows):
        return []
    places = {row["name"]: at for at, row in enumerate(rows)}
    series = [own for own in _series(rows).values() if own[0]["dims"] > 1]
    heavy = sorted(series, key=lambda own: -max(finite(row["kurtosis"]) or 0.0 for row in own))
    return [figure for own in heavy[:_HISTOGRAMS] if (figure := _histogram(own, places, counts, widths))]


def _histogram(own: Rows, places: Mapping[str, int], counts: Any, widths: Any) -> Figure | None:
    last = len(own) - 1
    chosen = [own[at] for at in sorted({round(last * quarter / 4) for quarter in range(5)})]
    traces: list[Trace] = []
    for row, color in zip(chosen, _DEPTH, strict=False):
        number, width = counts[places[row["name"]]], float(widths[places[row["name"]]])
        if math.isnan(width):
            continue
        middle = len(number) // 2
        # The outermost bins have no end: they are counted in the caption's largest |w|, and not drawn.
        bins = range(1, len(number) - 1)
        traces.append(
            {
                "type": "scatter",
                "x": [(at - middle + 0.5) * width for at in bins],
                "y": [float(f"{int(number[at]) / row['params'] / width:.4g}") or None for at in bins],
                "mode": "lines",
                "line": {"color": color, "width": 1.3, "shape": "hvh"},
                "name": f"layer {row['layer']}",
                "hovertemplate": f"layer {row['layer']}<br>w %{{x:.4g}}: density %{{y:.3g}}<extra></extra>",
            }
        )
    if not traces:
        return None
    shape = layout(
        360,
        showlegend=True,
        xaxis=axis("weight"),
        yaxis=log_axis("density", [value for trace in traces for value in trace["y"]]),
    )
    extreme = max(own, key=lambda row: finite(row["max_over_rms"]) or 0.0)
    caption = (
        f"How the elements of {label(own[0]['weight'])} are distributed in {len(traces)} layers: the share of elements "
        f"over the width of a bin. A Gaussian would be a parabola here. Its largest |w| over rms is in layer "
        f"{extreme['layer']}: {rough(extreme['max_abs'])}, which is {rough(extreme['max_over_rms'])} times the rms. "
        "Elements beyond 64 bins are not drawn."
    )
    return Figure(f"Histograms of {label(own[0]['weight'])}", caption, traces, shape)
