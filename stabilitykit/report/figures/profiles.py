"""A change on its way through the model: its size behind every block, beside the true one, and where it sits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stabilitykit.report.figures.figure import (
    BLUE,
    ORANGE,
    SCALE,
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
from stabilitykit.report.figures.thresholds import positive

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Row = Mapping[str, Any]
Rows = Sequence[Row]

_HOVER = {
    "site": "site",
    "epsilon": "step",
    "direction": "direction",
    "changed": "elements changed",
    "relative_l2": "relative change",
    "relative_l2_exact": "in exact arithmetic",
    "gain_realised": "gain",
    "gain_ratio": "change / true change",
    "excess": "rounding / true change",
}
_COLUMNS = 96
"""Columns of the map over dimensions: more than a narrow screen can show are taken together."""


def draw(result: Result) -> list[Figure]:
    """Return the curves, the map over steps, and the map over dimensions; each where there is something to see."""
    rows, first = _one(result.rows)
    rows = [row for row in rows if row.get("site") and finite(row.get("epsilon")) is not None]
    if not any(positive(row.get("relative_l2")) for row in rows):
        return []
    drawn = [_curves(rows, first), _steps(rows, first), _dimensions(result)]
    return [figure for figure in drawn if figure is not None]


def _one(rows: Rows) -> tuple[list[Row], str]:
    """Return the rows of one prompt, direction and sign, the first, and words that say so where there are more."""
    kept, said = list(rows), []
    for name, word in (("subject", "prompt"), ("direction", "direction"), ("sign", "sign")):
        values = list(dict.fromkeys(row.get(name) for row in kept))
        kept = [row for row in kept if row.get(name) == values[0]] if values else kept
        if len(values) > 1:
            said.append(f"{word} {label(values[0])}")
    return kept, f" Shown: {', '.join(said)}; the table has all." if said else ""


def _curves(rows: Rows, first: str) -> Figure:
    sites, steps = _sites(rows), _epsilons(rows)
    traces: list[Trace] = []
    for step in steps:
        profile = [row for row in rows if row["epsilon"] == step]
        traces += [
            _line(profile, "relative_l2", {"color": BLUE, "width": 1.5}, "as evaluated"),
            _line(profile, "relative_l2_exact", {"color": ORANGE, "dash": "dot"}, "true float64"),
        ]
    traces = [trace for trace in traces if any(trace["y"])]
    for name in ("as evaluated", "true float64"):
        next((trace for trace in traces if trace["name"] == name), {})["showlegend"] = True
    values = [value for trace in traces for value in trace["y"]]
    shape = layout(
        420,
        showlegend=True,
        xaxis=axis("block", type="category", categoryorder="array", categoryarray=sites, nticks=12),
        yaxis=log_axis("|Δh| / |h|", values),
    )
    caption = (
        f"One line for each of {len(steps)} steps, from {rough(steps[0])} to {rough(steps[-1])}: how far a state moves "
        f"next to its length. Where the solid line leaves the dotted one, rounding has taken over from the function. "
        f"No line: not one bit changed.{first}"
    )
    return Figure("A change on its way through the model", caption, traces, shape)


def _line(rows: Rows, name: str, line: dict[str, Any], title: str) -> Trace:
    return {
        "type": "scatter",
        "x": [_short(row["site"]) for row in rows],
        "y": [positive(row.get(name)) for row in rows],
        "mode": "lines+markers",
        "marker": {"size": 4},
        "line": line,
        "name": title,
        "legendgroup": title,
        "showlegend": False,
        "hovertext": [hover(row, _HOVER) for row in rows],
        "hoverinfo": "text",
    }


def _steps(rows: Rows, first: str) -> Figure | None:
    sites, steps = _sites(rows), _epsilons(rows)
    if len(steps) < 2:
        return None
    found = {(_short(row["site"]), row["epsilon"]): row for row in rows}
    cells = [[found.get((site, step), {}) for step in steps] for site in sites]
    shape = layout(
        max(260, 60 + 13 * len(sites)),
        xaxis=axis("step", type="category", showgrid=False),
        yaxis=axis("block", type="category", showgrid=False, autorange="reversed", nticks=16),
    )
    unchanged = sum(row.get("relative_l2") == 0 for row in rows)
    caption = (
        f"The same for every step at once, brighter where the change is larger. {unchanged} of {len(rows)} fields are "
        f"blank: there not one bit differs.{first}"
    )
    trace = _map(
        [[logarithm(row.get("relative_l2")) for row in line] for line in cells], [rough(s) for s in steps], sites
    )
    trace["hovertext"] = [[hover(row, _HOVER) for row in line] for line in cells]
    return Figure("Block against step", caption, [{**trace, "hoverinfo": "text"}], shape)


def _dimensions(result: Result) -> Figure | None:
    """Draw |dh| over blocks and dimensions; neighbouring dimensions share a column, which shows their largest."""
    change, sites = (_array(result, name) for name in ("change", "change_sites"))
    if change is None or sites is None or change.ndim != 2 or len(sites) != len(change):
        return None
    sizes = np.abs(np.asarray(change, dtype=np.float64))
    if not np.isfinite(sizes).all() or not sizes.any():
        return None
    group = math.ceil(sizes.shape[1] / _COLUMNS)
    starts = list(range(0, sizes.shape[1], group))
    largest = np.maximum.reduceat(sizes, starts, axis=1)
    z = [[logarithm(float(value)) for value in line] for line in largest]
    shape = layout(
        max(260, 60 + 13 * len(sites)),
        xaxis=axis("dimension", showgrid=False),
        yaxis=axis("block", type="category", showgrid=False, autorange="reversed", nticks=16),
    )
    columns = f"Each column is the largest of {group} neighbouring dimensions. " if group > 1 else ""
    caption = (
        f"|Δh| at the smallest step that changes the output, which of {sizes.shape[1]} dimensions carry it. {columns}"
        f"Blank: no bit differs. The largest, {rough(float(sizes.max()))}, is in dimension "
        f"{int(sizes.argmax() % sizes.shape[1])}."
    )
    trace = _map(z, starts, [_short(str(site)) for site in sites])
    trace["hovertemplate"] = "dimension %{x}, block %{y}<br>log₁₀ |Δh| %{z:.2f}<extra></extra>"
    return Figure("Which dimensions carry it", caption, [trace], shape)


def _map(z: Sequence[Sequence[float | None]], x: Sequence[Any], y: Sequence[str]) -> Trace:
    bar = {"title": {"text": "log₁₀", "side": "right"}, "thickness": 10, "outlinewidth": 0}
    return {
        "type": "heatmap",
        "x": list(x),
        "y": list(y),
        "z": [list(line) for line in z],
        "colorscale": SCALE,
        "colorbar": bar,
    }


def _array(result: Result, name: str) -> Any:
    """Return an array of the result, that of the first prompt where there are several."""
    return result.arrays.get(name, result.arrays.get(f"000/{name}"))


def _sites(rows: Rows) -> list[str]:
    return list(dict.fromkeys(_short(row["site"]) for row in rows))


def _epsilons(rows: Rows) -> list[float]:
    return sorted({row["epsilon"] for row in rows})


def _short(site: str) -> str:
    """Return a block's number, or another site's name."""
    return label(str(site).removeprefix("block:").replace("_", " "))


def logarithm(value: Any) -> float | None:
    """Return log10 of a positive number, or None, which a map leaves blank."""
    number = positive(value)
    return None if number is None else math.log10(number)
