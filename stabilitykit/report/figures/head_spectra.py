"""Attention heads by their singular values: layer by layer, head by head, and the spectra themselves."""

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
from stabilitykit.report.figures.thresholds import positive

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Row = Mapping[str, Any]
Rows = Sequence[Row]

_COLORS = {"q": BLUE, "k": ORANGE, "v": GREEN, "o": INK}
_STATISTICS = {
    "first_last": ("First/Last", "the largest singular value over the smallest"),
    "top10": ("Top-10", "the share of the sum that the 10 largest hold"),
    "least10": ("Least-10", "the share of the sum that the 10 smallest hold"),
}
_HOVER = {
    "layer": "layer",
    "matrix": "matrix",
    "head": "head",
    "kv_head": "reads k, v of",
    "s1": "s₁",
    "s_last": "last s",
    "first_last": "First/Last",
    "top10": "Top-10",
    "least10": "Least-10",
    "entropy_rank": "entropy rank",
    "deficient": "within rounding of zero",
}


def draw(result: Result) -> list[Figure]:
    """Return for each ratio its map over heads and its means over layers, then the spectra of some layers."""
    first = next((row["subject"] for row in result.rows if "subject" in row), None)
    rows = [row for row in result.rows if row.get("subject") == first]
    heads = [row for row in rows if row.get("part") == "head"]
    layers = [row for row in rows if row.get("part") == "layer"]
    drawn = [figure for name in _STATISTICS for figure in (_map(heads, name), _means(layers, name))]
    return [figure for figure in (*drawn, _largest(layers), *_spectra(result, heads)) if figure is not None]


def _map(heads: Rows, name: str) -> Figure | None:
    """Draw layer against head, the four matrices side by side, as a multiple of what random elements give."""
    if not heads:
        return None
    title, words = _STATISTICS[name]
    numbers = sorted({row["layer"] for row in heads})
    columns = [(m, h) for m in _COLORS for h in sorted({row["head"] for row in heads if row["matrix"] == m})]
    found = {(row["layer"], row["matrix"], row["head"]): row for row in heads}
    cells = [[found.get((layer, *place), {}) for place in columns] for layer in numbers]
    values = [finite(row.get(f"excess_{name}")) for row in heads]
    known = [value for value in values if value]
    if not known:
        return None
    names = [f"{m.upper()} {h}" for m, h in columns]
    trace = {
        "type": "heatmap",
        "x": names,
        "y": [str(layer) for layer in numbers],
        "z": [[_log2(row.get(f"excess_{name}")) for row in line] for line in cells],
        "colorscale": SCALE,
        "colorbar": {"title": {"text": "log₂", "side": "right"}, "thickness": 10, "outlinewidth": 0},
        "hovertext": [[hover(row, _HOVER) for row in line] for line in cells],
        "hoverinfo": "text",
    }
    shape = layout(
        max(280, 90 + 12 * len(numbers)),
        xaxis=axis("head", type="category", showgrid=False, nticks=12),
        yaxis=axis("layer", type="category", showgrid=False, autorange="reversed", nticks=16),
    )
    caption = (
        f"{title}, {words}, over that of random elements of the same shape, as a power of two: 0 is chance. From "
        f"{rough(min(known))} to {rough(max(known))} times. Q, K, V and O stand side by side; k and v heads, which "
        "several q heads may share, are drawn once."
    )
    return Figure(f"{title} of every head, next to chance", caption, [trace], shape)


def _means(layers: Rows, name: str) -> Figure | None:
    title, words = _STATISTICS[name]
    traces: list[Trace] = []
    for matrix, color in _COLORS.items():
        own = [row for row in layers if row["matrix"] == matrix]
        if own:
            traces.append(_line(own, name, matrix.upper(), {"color": color, "width": 1.6}))
    if not any(value for trace in traces for value in trace["y"]):
        return None
    chance = {row["layer"]: row for row in layers if row["matrix"] == layers[0]["matrix"]}
    traces.append(_line(list(chance.values()), f"null_{name}", "random", {"color": FAINT, "dash": "dash"}))
    values = [value for trace in traces for value in trace["y"]]
    vertical = log_axis(title, values) if name == "first_last" else axis(title, rangemode="tozero")
    shape = layout(340, showlegend=True, xaxis=axis("layer"), yaxis=vertical)
    caption = (
        f"The mean over the heads of each matrix of {words}, layer by layer; dashed is what random elements give. In "
        f"the mean over layers: {', '.join(_mean(layers, name))}."
    )
    return Figure(f"{title} with depth", caption, traces, shape)


def _largest(layers: Rows) -> Figure | None:
    lines = {m: [row for row in layers if row["matrix"] == m and positive(row.get("s1"))] for m in _COLORS}
    traces = [_line(own, "s1", m.upper(), {"color": _COLORS[m], "width": 1.6}) for m, own in lines.items() if own]
    if not traces:
        return None
    values = [value for trace in traces for value in trace["y"]]
    shape = layout(340, showlegend=True, xaxis=axis("layer"), yaxis=log_axis("largest singular value", values))
    caption = (
        "How far a head can stretch a state: the largest singular value, in the mean over the heads of each matrix. In "
        f"the mean over layers: {', '.join(_mean(layers, 's1'))}."
    )
    return Figure("The largest singular value with depth", caption, traces, shape)


def _mean(layers: Rows, name: str) -> list[str]:
    said = []
    for matrix in _COLORS:
        known = [value for row in layers if row["matrix"] == matrix and (value := finite(row.get(name))) is not None]
        said += [f"{matrix.upper()} {rough(sum(known) / len(known))}"] if known else []
    return said


def _line(rows: Rows, name: str, title: str, line: Mapping[str, Any]) -> Trace:
    return {
        "type": "scatter",
        "x": column(rows, "layer"),
        "y": column(rows, name),
        "mode": "lines+markers" if "dash" not in line else "lines",
        "marker": {"size": 4},
        "line": dict(line),
        "name": title,
        "hovertemplate": f"{title}, layer %{{x}}<br>%{{y:.4g}}<extra></extra>",
    }


def _spectra(result: Result, heads: Rows) -> list[Figure]:
    """Draw all heads of the layer with the most uneven one, and of the first, the middle and the last."""
    spectra = result.arrays.get("spectra", result.arrays.get("000/spectra"))
    if spectra is None or len(spectra) < len(heads) or not heads:
        return []
    numbers = sorted({row["layer"] for row in heads})
    worst = max(heads, key=lambda row: finite(row["excess_first_last"]) or 0.0)
    chosen = dict.fromkeys([worst["layer"], numbers[0], numbers[len(numbers) // 2], numbers[-1]])
    return [figure for layer in chosen if (figure := _spectrum(layer, heads, spectra))]


def _spectrum(layer: int, heads: Rows, spectra: Any) -> Figure | None:
    traces: list[Trace] = []
    shown = set[str]()
    for row, s in zip(heads, spectra, strict=False):
        if row["layer"] != layer:
            continue
        values = [positive(float(f"{value:.4g}")) for value in s.tolist() if not math.isnan(value)]
        name = row["matrix"].upper()
        traces.append(
            {
                "type": "scatter",
                "x": list(range(1, len(values) + 1)),
                "y": values,
                "mode": "lines",
                "line": {"color": _COLORS[row["matrix"]], "width": 1},
                "opacity": 0.7,
                "name": name,
                "legendgroup": name,
                "showlegend": name not in shown,
                "hovertemplate": f"{name} of head {row['head']}<br>s %{{x}}: %{{y}}<extra></extra>",
            }
        )
        shown.add(name)
    values = [value for trace in traces for value in trace["y"]]
    if not any(values):
        return None
    shape = layout(
        360,
        showlegend=True,
        xaxis=axis("index of the singular value"),
        yaxis=log_axis("singular value", values),
    )
    own = [row for row in heads if row["layer"] == layer]
    steepest = max(own, key=lambda row: finite(row["first_last"]) or 0.0)
    caption = (
        f"One line a head of each matrix, {len(own)} in all, largest value first. The steepest is "
        f"{label(steepest['matrix']).upper()} of head {steepest['head']}: First/Last {rough(steepest['first_last'])}, "
        f"where random elements have {rough(steepest['null_first_last'])}."
    )
    return Figure(f"Singular values of the heads of layer {layer}", caption, traces, shape)


def _log2(value: Any) -> float | None:
    number = positive(value)
    return None if number is None else round(math.log2(number), 4)
