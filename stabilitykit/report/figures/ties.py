"""The way to a tie, the order of two logits along lines through it, and how far the prompt is from another token."""

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
    axis,
    column,
    finite,
    hover,
    label,
    layout,
    log_axis,
    rough,
)
from stabilitykit.report.figures.rays import LEGEND_BELOW

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_SHOWN = 3
"""Lines drawn one by one; the table holds all."""
_KINDS = {
    "start": (FAINT, "prompt"),
    "newton": (BLUE, "Newton step"),
    "beyond": (ORANGE, "past the tie"),
    "segment": (GREEN, "bisection of a segment"),
    "chain": (GREEN, "one ULP at a time"),
    "around": (ORANGE, "neighbours"),
}
_SYMBOLS = {"chain": "diamond", "around": "square", "beyond": "triangle-up"}
_NAMES = {"kind": "kind", "gap": "gap", "gap_ulp": "gap in ULP", "distance": "distance"}
_POINT = {"epsilon": "step", "gap": "gap", "gap_oracle": "gap in true float64", "token": "token"}


def draw_tie(result: Result) -> list[Figure]:
    """Return |z_a - z_b| of every input tried, in order."""
    rows = [row for row in result.rows if finite(row.get("gap")) is not None]
    if len(rows) < 2:
        return []
    above = [abs(row["gap"]) for row in rows if row["gap"]]
    floor = min(above, default=1.0) / 3
    traces = [_dots(kept, kind, floor) for kind in _KINDS if (kept := [row for row in rows if row.get("kind") == kind])]
    zero = [row for row in rows if not row["gap"]]
    shape = layout(
        360,
        showlegend=True,
        xaxis=axis("input tried, in order"),
        yaxis=log_axis("|z_a − z_b| in logits", [*above, floor]),
        legend={**LEGEND_BELOW, "y": -0.24},
    )
    words = f"From a difference of {rough(abs(rows[0]['gap']))} at the prompt in {len(rows) - 1} inputs"
    end = " to equal logits, which are drawn hollow at the lower edge" if zero else f" to {rough(min(above))}"
    return [Figure("The way to the tie", f"{words}{end}.", traces, shape)]


def _dots(rows: Rows, kind: str, floor: float) -> Trace:
    color, name = _KINDS[kind]
    marks = [_SYMBOLS.get(kind, "circle") + ("" if row["gap"] else "-open") for row in rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": column(rows, "step"),
        "y": [abs(row["gap"]) or floor for row in rows],
        "marker": {"size": 8, "color": color, "symbol": marks},
        "text": [hover(row, _NAMES) for row in rows],
        "hoverinfo": "text",
    }


def draw_scan(result: Result) -> list[Figure]:
    """Return the gap along each of the first lines beside its true course; or the distances from the prompt."""
    lines = [row for row in result.rows if row.get("part") == "direction"]
    points = [row for row in result.rows if row.get("part") == "point" and finite(row.get("gap")) is not None]
    if not points:
        return _outward(lines)
    by_line = {line["direction"]: [row for row in points if row["direction"] == line["direction"]] for line in lines}
    return [_line(line, by_line[line["direction"]]) for line in lines[:_SHOWN] if by_line[line["direction"]]]


def _line(line: Mapping[str, Any], rows: Rows) -> Figure:
    name = label(line["direction"], 24)
    traces = (
        [_course(rows, "gap_oracle", "true float64", GREEN)] if finite(rows[0].get("gap_oracle")) is not None else []
    )
    traces.append({**_course(rows, "gap", "the model", BLUE), "mode": "lines+markers"})
    if flips := [row for row in rows if row.get("token_changed")]:
        traces.append(_marked(flips, "another token than at the tie", ORANGE, "circle"))
    if third := [row for row in rows if row.get("third")]:
        traces.append(_marked(third, "a third token", FAINT, "x"))
    shape = layout(
        400,
        showlegend=True,
        xaxis=axis(f"step ε along {name}"),
        yaxis=axis("z_a − z_b in logits", zeroline=True, zerolinecolor=FAINT),
        legend={**LEGEND_BELOW, "y": -0.22},
    )
    words = [f"{len(rows)} distinct inputs through the tie. Sign changes of the gap: {line.get('sign_changes')}"]
    truth = finite(line.get("true_sign_changes"))
    words.append(f", in true float64 {truth:.0f}." if truth is not None else ".")
    if flips:
        words.append(f" The nearest input with another token is {rough(line['flip_eps'])} away.")
    return Figure(f"Which token wins along {name}", "".join(words), traces, shape, wide=True)


def _course(rows: Rows, name: str, title: str, color: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": title,
        "x": column(rows, "epsilon"),
        "y": column(rows, name),
        "line": {"color": color, "width": 1.5, "shape": "linear"},
        "marker": {"color": color, "size": 4},
        "text": [hover(row, _POINT) for row in rows],
        "hoverinfo": "text",
    }


def _marked(rows: Rows, title: str, color: str, symbol: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": title,
        "x": column(rows, "epsilon"),
        "y": column(rows, "gap"),
        "marker": {"color": color, "size": 7, "symbol": symbol},
        "text": [hover(row, _POINT) for row in rows],
        "hoverinfo": "text",
    }


def _outward(lines: Rows) -> list[Figure]:
    """Return how far each direction goes to another token: what the slope promises, and what was seen."""
    kept = [row for row in lines if finite(row.get("realised")) or finite(row.get("estimate"))]
    if not kept:
        return []
    names = [label(row["direction"], 24) for row in kept]
    traces: list[Trace] = [
        _distances(names, kept, "estimate", "to first order", FAINT, "circle-open"),
        _distances(names, kept, "realised", "seen", ORANGE, "circle"),
    ]
    values = [*column(kept, "estimate"), *column(kept, "realised")]
    shape = layout(
        120 + 26 * len(kept),
        showlegend=True,
        xaxis=log_axis("distance from the prompt's embedding", values),
        yaxis=axis("", type="category", autorange="reversed"),
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
    seen = [row["realised"] for row in kept if finite(row.get("realised"))]
    least = f"The nearest input that was seen to give another token is {rough(min(seen))} away. " if seen else ""
    return [
        Figure(
            "How far to another token",
            f"{least}A hollow circle is where the tangent would cross; where it rises there is none.",
            traces,
            shape,
        )
    ]


def _distances(names: Sequence[str], rows: Rows, name: str, title: str, color: str, symbol: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": title,
        "x": column(rows, name),
        "y": list(names),
        "marker": {"size": 10, "color": color, "symbol": symbol},
    }
