"""Kernels: errors beside the truth, what other company does to the bits, and which of two is nearer."""

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
    decades,
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

_COLORS = (BLUE, ORANGE, GREEN, INK, FAINT)
_HOVER = {
    "shape": "shape",
    "draw": "inputs",
    "try": "try",
    "run": "run",
    "variant": "",
    "max_scaled_ulp": "scaled ULP",
    "max_ulp": "ULP",
    "excess": "excess",
    "index": "worst at",
    "at": "there",
    "output": "result",
    "truth": "float64",
}
_WHAT = {
    "max_scaled_ulp": ("Error beside float64", "scaled ULP"),
    "excess": ("Error over what rounding excuses", "excess"),
}

_SMALL = 0.01
"""An excess below this one is of no interest, and would take the room of those that are."""


def draw(result: Result) -> list[Figure]:
    """Return for each kernel the errors in ULP, the excess, and the map of what other company changes."""
    drawn: list[Figure | None] = []
    for name, rows in _by_subject(result):
        drawn += [_strip(name, rows, column, "draw") for column in _WHAT]
        drawn.append(_company(name, [row for row in rows if row.get("run") != "whole"]))
    return [figure for figure in drawn if figure is not None]


def draw_pair(result: Result) -> list[Figure]:
    """Return the excess of both kernels, and whose elements are nearer to float64."""
    other = result.subject.get("other")
    names = {"a": result.subject.get("name"), "b": other.get("name") if isinstance(other, Mapping) else None}
    drawn: list[Figure | None] = []
    for title, rows in _by_subject(result):
        same = names["a"] == names["b"]
        called = {side: str(f"{name} ({side})" if same else name or side) for side, name in names.items()}
        sides = [
            {**row, "draw": called[side], "inputs": row.get("draw"), "excess": row.get(f"{side}_excess")}
            for row in rows
            for side in called
        ]
        drawn += [_strip(title, sides, "excess", "draw"), _nearer(title, rows, called)]
    return [figure for figure in drawn if figure is not None]


def _by_subject(result: Result) -> list[tuple[str, Rows]]:
    """Return the rows of each kernel under its name; without several kernels there is no such column."""
    own = result.subject.get("name", "")
    found: dict[Any, list[Row]] = {}
    for row in result.rows:
        found.setdefault(row.get("subject", own), []).append(row)
    return [(label(name or "kernel"), rows) for name, rows in found.items()]


def _strip(name: str, rows: Rows, column: str, group: str) -> Figure | None:
    """Return one point a run over its shape, grouped; zeros lie on the lower edge, since no logarithm shows them."""
    kept = [(row, value) for row in rows if (value := finite(row.get(column))) is not None and row.get("shape")]
    if not kept:
        return None
    positive = [value for _, value in kept if value > 0]
    floor = _SMALL if column == "excess" else 10 ** decades(positive)[0]
    groups, shapes = (list(dict.fromkeys(str(row.get(key)) for row, _ in kept)) for key in (group, "shape"))
    traces = []
    for number, one in enumerate(groups):
        own = [(row, max(value, floor)) for row, value in kept if str(row.get(group)) == one]
        left = (number - (len(groups) - 1) / 2) / (len(groups) + 1)
        traces.append({**_points(own, shapes, left, 1 / (len(groups) + 1)), **_named(one, number)})
    title, unit = _WHAT[column]
    shape = layout(
        380,
        showlegend=True,
        xaxis=axis("shape", tickvals=list(range(len(shapes))), ticktext=[label(one, 24) for one in shapes]),
        yaxis=log_axis(unit, [max(value, floor) for value in (floor, *positive)]),
        shapes=[_line()] if column == "excess" else [],
    )
    return Figure(f"{title}: {name}", _strip_caption(column, kept, len(rows) - len(kept)), traces, shape)


def _points(kept: Sequence[tuple[Row, float]], shapes: Sequence[str], left: float, width: float) -> Trace:
    """Return points around the place of their shape, side by side: golden steps keep neighbours apart."""
    aside = [left + width * 0.6 * ((k * 0.618034) % 1 - 0.5) for k in range(len(kept))]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [shapes.index(str(row["shape"])) + shift for (row, _), shift in zip(kept, aside, strict=True)],
        "y": [value for _, value in kept],
        "hovertext": [hover(row, _HOVER) for row, _ in kept],
        "hoverinfo": "text",
    }


def _named(name: str, number: int) -> Trace:
    marker = {"size": 6, "opacity": 0.8, "color": _COLORS[number % len(_COLORS)]}
    return {"name": label(name, 24), "marker": marker}


def _line() -> dict[str, Any]:
    """Return the line at 1, below which an error is no larger than rounding the inputs could make it."""
    style = {"color": FAINT, "dash": "dot", "width": 1}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": style}


def _strip_caption(column: str, kept: Sequence[tuple[Row, float]], lost: int) -> str:
    row, value = max(kept, key=lambda pair: pair[1])
    right = sum(found == 0 for _, found in kept)
    missing = f" {lost} more have no size, since an element is not finite." if lost else ""
    where = f"shape {label(row['shape'])}, {label(row.get('draw', ''))}"
    if column == "excess":
        within = sum(found <= 1 for _, found in kept)
        return (
            f"One point a run, {len(kept)} in all. On the dotted line the error is as large as rounding, or one ULP of "
            f"the inputs, could make it: {within} runs do not exceed that, and the largest is {rough(value)} times as "
            f"large ({where}). On the lower edge it is at most {_SMALL:g}.{missing}"
        )
    return (
        f"One point a run, {len(kept)} in all: its largest error in ULP of the largest element of its row. The largest "
        f"is {rough(value)} ({where}); {right} runs, on the lower edge, round every element correctly.{missing}"
    )


def _company(name: str, rows: Rows) -> Figure | None:
    """Return a map of runs that should agree: shape against the kind of company."""
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.get("shape") and row.get("differing_bits") is not None:
            cells.setdefault((_kind(row), str(row["shape"])), []).append(row)
    if not cells:
        return None
    kinds, shapes = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    trace = {
        "type": "heatmap",
        "x": [label(shape) for shape in shapes],
        "y": [label(kind) for kind in kinds],
        "z": [[_depth(cells.get((kind, shape), [])) for shape in shapes] for kind in kinds],
        "text": [[_word(cells.get((kind, shape), [])) for shape in shapes] for kind in kinds],
        "texttemplate": "%{text}",
        "hovertemplate": "shape %{x}, %{y}<br>largest change in scaled ULP: %{text}<extra></extra>",
        "colorscale": SCALE,
        "zmin": 0,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    shape = layout(
        120 + 36 * len(kinds),
        xaxis=axis("shape", type="category", showgrid=False),
        yaxis=axis("", type="category", showgrid=False, autorange="reversed"),
    )
    equal = sum(not any(row["differing_bits"] for row in found) for found in cells.values())
    caption = (
        f"Runs that exact arithmetic could not tell from the whole one. In {equal} of {len(cells)} cases all bits are "
        "the same, marked =; a number is the largest change in scaled ULP, nan says that a number became a NaN."
    )
    return Figure(f"In other company: {name}", caption, [trace], shape)


def _kind(row: Row) -> str:
    return "a row alone" if row.get("run") == "batch" else str(row.get("variant"))


def _word(rows: Rows) -> str:
    if not rows:
        return ""
    if not any(row["differing_bits"] for row in rows):
        return "="
    known = [size for row in rows if (size := finite(row.get("changed_max_scaled_ulp"))) is not None]
    return "nan" if len(known) < len(rows) else rough(max(known))


def _depth(rows: Rows) -> float | None:
    """Return a colour that grows with the decade of the change."""
    sizes = [finite(row.get("changed_max_scaled_ulp")) for row in rows if row["differing_bits"]]
    if not rows:
        return None
    return max((8.0 if size is None else math.log10(1 + size) + 0.3 for size in sizes), default=0.0)


def _nearer(name: str, rows: Rows, called: Mapping[str, str]) -> Figure | None:
    """Return a bar a kind of inputs: of the elements whose values differ, whose are nearer to float64."""
    kept = [row for row in rows if finite(row.get("differing_values"))]
    draws = list(dict.fromkeys(str(row.get("draw")) for row in kept))
    totals = {one: _sums([row for row in kept if str(row.get("draw")) == one]) for one in draws}
    if not totals:
        return None
    parts = {f"{called['a']} nearer": 0, "equally far": 1, f"{called['b']} nearer": 2}
    colors = (BLUE, FAINT, ORANGE)
    traces = [
        {
            "type": "bar",
            "name": label(part, 32),
            "x": [label(one) for one in draws],
            "y": [100 * totals[one][place] / sum(totals[one]) for one in draws],
            "marker": {"color": colors[place]},
            "hovertemplate": f"%{{x}}: %{{y:.3g}} %, {label(part, 32)}<extra></extra>",
        }
        for part, place in parts.items()
    ]
    shape = layout(
        barmode="stack",
        showlegend=True,
        xaxis=axis("inputs", type="category"),
        yaxis=axis("% of differing elements", range=[0, 100]),
    )
    a, equal, b = (sum(column) for column in zip(*totals.values(), strict=True))
    caption = (
        f"Of {a + equal + b} elements whose values differ, {label(called['a'])} is nearer to float64 in {a}, "
        f"{label(called['b'])} in {b}, and both are equally far in {equal}."
    )
    return Figure(f"Who is nearer to float64: {name}", caption, traces, shape)


def _sums(rows: Rows) -> tuple[int, int, int]:
    """Return how many elements are nearer in a, equally far, and nearer in b."""
    differing, a, b = (
        sum(int(finite(row.get(key)) or 0) for row in rows) for key in ("differing_values", "a_nearer", "b_nearer")
    )
    return a, max(differing - a - b, 0), b
