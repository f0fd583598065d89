"""What rounding leaves of a step in each dtype: its direction, and how many coordinates it moves."""

from __future__ import annotations

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

Rows = Sequence[Mapping[str, Any]]

_HOVER = {
    "subject": "prompt",
    "dtype": "dtype",
    "eps_abs": "step asked for",
    "realised_norm": "step made",
    "realised_ratio": "made over asked for",
    "alignment": "alignment",
    "coords_moved": "coordinates moved",
    "max_relative_error": "largest relative error",
}
_STYLES = ((INK, "solid"), (BLUE, "solid"), (ORANGE, "solid"), (GREEN, "solid"), (FAINT, "solid"), (FAINT, "dot"))


def draw(result: Result) -> list[Figure]:
    """Return alignment and moved coordinates against the step, for the first prompt and direction."""
    steps = [row for row in result.rows if row.get("part") == "step" and finite(row.get("eps_abs"))]
    if not steps:
        return []
    first = {name: steps[0].get(name) for name in ("subject", "direction")}
    own = [row for row in steps if all(row.get(name) == value for name, value in first.items())]
    limits = [
        row
        for row in result.rows
        if row.get("part") == "threshold" and all(row.get(name) == value for name, value in first.items())
    ]
    return [_alignment(own, limits), _moved(own)]


def _alignment(steps: Rows, limits: Rows) -> Figure:
    shape = _shape(steps, axis("cosine with the direction", range=[-0.05, 1.05]))
    known = {str(row.get("dtype")): finite(row.get("eps_aligned")) for row in limits}
    said = ", ".join(f"{rough(step)} in {label(dtype)}" for dtype, step in known.items() if step is not None)
    caption = (
        "1 means that the rounded step goes where it was meant to; where a line ends, at the left, no coordinate moves."
        + (f" The direction is kept from a step of {said}." if said else "")
    )
    return Figure("Does the rounded step keep its direction?", caption, _lines(steps, "alignment"), shape)


def _moved(steps: Rows) -> Figure:
    most = max((int(value) for value in column(steps, "coords_moved") if value is not None), default=0)
    shape = _shape(steps, axis("coordinates moved", rangemode="tozero"))
    still = sum(row.get("coords_moved") == 0 for row in steps)
    caption = (
        f"How many coordinates of the input a step moves, {most} at the most. In {still} of {len(steps)} cases it "
        "moves none: no experiment with that step and dtype can find anything."
    )
    return Figure("How many coordinates does it move?", caption, _lines(steps, "coords_moved"), shape)


def _shape(steps: Rows, upright: dict[str, Any]) -> dict[str, Any]:
    return layout(
        370,
        showlegend=True,
        xaxis=log_axis("step length (input units)", column(steps, "eps_abs")),
        yaxis=upright,
        margin={"l": 64, "r": 18, "t": 64, "b": 52},
    )


def _lines(steps: Rows, name: str) -> list[Trace]:
    dtypes = list(dict.fromkeys(str(row.get("dtype")) for row in steps))
    traces: list[Trace] = []
    for place, dtype in enumerate(dtypes):
        color, dash = _STYLES[place % len(_STYLES)]
        own = sorted((row for row in steps if str(row.get("dtype")) == dtype), key=lambda row: row["eps_abs"])
        traces.append(
            {
                "type": "scatter",
                "x": column(own, "eps_abs"),
                "y": column(own, name),
                "name": label(dtype, 16),
                "mode": "lines+markers",
                "line": {"color": color, "dash": dash, "width": 1.5},
                "marker": {"color": color, "size": 6},
                "hovertext": [hover(row, _HOVER) for row in own],
                "hoverinfo": "text",
            }
        )
    return traces
