"""The thresholds of the regimes ray by ray: where each stops being stable, and where it begins to follow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    Figure,
    Trace,
    axis,
    decades,
    finite,
    hover,
    label,
    layout,
    log_axis,
)

Row = Mapping[str, Any]
Rows = Sequence[Row]

_RAY = {
    "direction": "direction",
    "subject": "prompt",
    "eps_stable": "eps_stable",
    "eps_signal": "eps_signal",
    "eps_signal_low": "from",
    "eps_signal_high": "to",
    "chaotic_decades": "decades between",
    "eps_linear_end": "eps_linear_end",
    "islands": "islands",
    "exact": "exact",
}
_NAMES_UP_TO = 30
_RECIPE = re.compile(r"Direction\(kind='(\w+)', data=\((.*)\), dim=\d+\)")


def ray_by_ray(rays: Rows) -> Figure:
    """Return a line for each ray, from its last stable step to the first from which on it follows the function."""
    names = [_title(row) for row in rays]
    ends = [value for name in ("eps_stable", "eps_signal", "eps_signal_high") for value in values(rays, name)]
    low, high = decades([*ends, *values(rays, "eps_linear_end")], pad=0.05)
    bands = []
    for row, name in zip(rays, names, strict=True):
        ends_at = positive(row.get("eps_signal")) or 10**high
        bands += [(row["eps_stable"], name), (ends_at, name), (None, None)]
    band = {
        "type": "scatter",
        "x": [x for x, _ in bands],
        "y": [y for _, y in bands],
        "mode": "lines",
        "hoverinfo": "skip",
    }
    traces: list[Trace] = [
        {**band, "name": "chaotic", "line": {"color": ORANGE, "width": 6}, "opacity": 0.45},
        _ends(rays, names, "eps_stable", GREEN, "circle"),
        {**_ends(rays, names, "eps_signal", BLUE, "circle"), "error_x": _bars(rays)},
        _ends(rays, names, "eps_linear_end", FAINT, "diamond-open"),
    ]
    shape = layout(
        150 + 26 * min(len(rays), _NAMES_UP_TO),
        showlegend=True,
        xaxis={**log_axis("step (input units)", ends, dtick=3), "range": [low, high]},
        yaxis=axis("", type="category", autorange="reversed", showticklabels=len(rays) <= _NAMES_UP_TO),
    )
    late = sum(positive(row.get("eps_signal")) is None for row in rays)
    caption = (
        f"One line a ray, {len(rays)} in all: up to the first mark no bit changes, from the second on the output "
        "follows the true function (with its 95 % interval), between them rounding decides. The diamond is where the "
        "true function itself leaves its tangent."
    ) + (f" {late} never follow it within the steps tried." if late else "")
    return Figure("Thresholds, ray by ray", caption, [trace for trace in traces if trace["x"]], shape)


def _ends(rays: Rows, names: Sequence[str], name: str, colour: str, symbol: str) -> Trace:
    kept = [(row, title) for row, title in zip(rays, names, strict=True) if positive(row.get(name))]
    return {
        "type": "scatter",
        "x": [row[name] for row, _ in kept],
        "y": [title for _, title in kept],
        "mode": "markers",
        "name": name,
        "marker": {"size": 9, "color": colour, "symbol": symbol},
        "hovertext": [hover(row, _RAY) for row, _ in kept],
        "hoverinfo": "text",
    }


def _bars(rays: Rows) -> dict[str, Any]:
    kept = [row for row in rays if positive(row.get("eps_signal"))]
    above, below = (
        [abs((positive(row.get(f"eps_signal_{side}")) or row["eps_signal"]) - row["eps_signal"]) for row in kept]
        for side in ("high", "low")
    )
    return {"type": "data", "array": above, "arrayminus": below, "color": BLUE, "thickness": 1.2, "width": 5}


def _title(row: Row) -> str:
    """Return the ray's name, short enough for an axis: a recipe by its kind and numbers."""
    name = str(row.get("direction", ""))
    if recipe := _RECIPE.fullmatch(name):
        name = f"{recipe[1]} {recipe[2].rstrip(',')}"
    return label(" · ".join(part for part in (name, str(row.get("subject") or "")) if part), 24)


def values(rows: Rows, name: str) -> list[float]:
    """Return what a logarithmic axis can show of a column."""
    return [value for row in rows if (value := positive(row.get(name)))]


def positive(value: Any) -> float | None:
    """Return a number that a logarithmic axis can show, or None."""
    number = finite(value)
    return number if number is not None and number > 0 else None
