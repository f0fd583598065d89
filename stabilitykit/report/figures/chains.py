"""Blocks alone: how much they magnify a change of each size, and how much of that is rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    Figure,
    Trace,
    column,
    finite,
    hover,
    layout,
    log_axis,
    rough,
)

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_HOVER = {
    "direction": "direction",
    "step": "step meant",
    "input_step": "input step",
    "coords_moved": "coordinates moved",
    "output_jump": "output change",
    "magnification_realised": "magnification",
    "magnification_true": "in float64",
    "rounding_share": "rounding share",
}


def draw(result: Result) -> list[Figure]:
    """Return the magnification and the share of rounding against the step as it really was."""
    rows = sorted((row for row in result.rows if finite(row.get("input_step"))), key=lambda row: row["input_step"])
    still = sum(finite(row.get("input_step")) == 0 for row in result.rows)
    drawn = [_magnification(rows, still, result), _share(rows, result)]
    return [figure for figure in drawn if figure is not None]


def _magnification(rows: Rows, still: int, result: Result) -> Figure | None:
    found = [value for value in column(rows, "magnification_realised") if value]
    if not found:
        return None
    steps = column(rows, "input_step")
    true = {**_points(rows, "magnification_true", GREEN, "in true float64"), "marker": _marker(GREEN, "circle-open")}
    traces = [_points(rows, "magnification_realised", BLUE, "as it is"), true]
    norm = _reading(result, "spectral_norm")
    if norm:
        traces.append(_level(steps, norm, FAINT, "spectral norm"))
    everything = [*found, *column(rows, "magnification_true"), norm]
    shape = layout(
        380,
        showlegend=True,
        xaxis=log_axis("input step, as rounded", steps),
        yaxis=log_axis("output change over step", everything),
    )
    plateau = _reading(result, "plateau")
    settled = f" Where rounding makes less than a tenth it is {rough(plateau)} in the median." if plateau else ""
    bound = f" The derivative allows {rough(norm)}." if norm else ""
    unmoved = f" {still} steps, not drawn, left the input as it was." if still else ""
    caption = f"One point a step and direction. At most {rough(max(found))} times.{settled}{bound}{unmoved}"
    return Figure("How much a change is magnified", caption, traces, shape)


def _share(rows: Rows, result: Result) -> Figure | None:
    kept = [row for row in rows if finite(row.get("rounding_share"))]
    if not kept:
        return None
    steps = column(kept, "input_step")
    traces = [
        _points(kept, "rounding_share", ORANGE, "rounding share"),
        _level(steps, 1.0, FAINT, "as much as the step"),
        _level(steps, 0.1, FAINT, "a tenth", "dash"),
    ]
    shape = layout(
        340,
        showlegend=True,
        xaxis=log_axis("input step, as rounded", steps),
        yaxis=log_axis("rounding over true change", [*column(kept, "rounding_share"), 1.0, 0.1]),
    )
    edge = _reading(result, "eps_rounding")
    said = (
        f"Steps from {rough(edge)} on change the output more than rounding does."
        if edge
        else "At no step tried is rounding the smaller part at it and all larger ones."
    )
    caption = f"|dy − dy₆₄| over |dy₆₄|, at the very same inputs. {said} A share of 0 is not drawn."
    return Figure("How much of it is rounding", caption, traces, shape)


def _points(rows: Rows, name: str, color: str, title: str) -> Trace:
    return {
        "type": "scatter",
        "x": column(rows, "input_step"),
        "y": [value or None for value in column(rows, name)],
        "mode": "markers",
        "name": title,
        "marker": _marker(color, "circle"),
        "hovertext": [hover(row, _HOVER) for row in rows],
        "hoverinfo": "text",
    }


def _marker(color: str, symbol: str) -> dict[str, Any]:
    return {"size": 7, "color": color, "symbol": symbol, "opacity": 0.85}


def _level(steps: Sequence[float | None], value: float, color: str, title: str, dash: str = "dot") -> Trace:
    known = [step for step in steps if step is not None]
    return {
        "type": "scatter",
        "x": [min(known), max(known)],
        "y": [value, value],
        "mode": "lines",
        "name": title,
        "line": {"color": color, "dash": dash},
        "hoverinfo": "name",
    }


def _reading(result: Result, name: str) -> float | None:
    return finite(getattr(result.readings.get(name), "value", None))
