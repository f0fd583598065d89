"""First changes: how much of the input's own grid the model absorbs, and how far the output then jumps."""

from __future__ import annotations

from collections import Counter
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
    decades,
    finite,
    hover,
    layout,
    log_axis,
    rough,
)
from stabilitykit.report.figures.islands import returns

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_HOVER = {
    "direction": "direction",
    "radius": "radius",
    "lattice_radius": "lattice radius",
    "rho": "rho",
    "cells": "cells",
    "input_step": "input step",
    "output_jump": "output jump",
    "amplification": "amplification",
    "exact": "exact",
    "censored": "censored",
}
_SINGLE_BARS = 24


def draw(result: Result) -> list[Figure]:
    """Return the radii, the cells, the jumps and the islands; nothing for a single direction: its table says it all."""
    rows = result.rows
    drawn = [radii(rows), _cells(rows), _jumps(rows), returns(rows)] if len(rows) > 1 else []
    return [figure for figure in drawn if figure is not None]


def radii(rows: Rows) -> Figure | None:
    """Return the radius against the lattice radius, a point a direction."""
    kept = [row for row in rows if finite(row.get("radius")) and finite(row.get("lattice_radius"))]
    if not kept:
        return None
    x, y = column(kept, "lattice_radius"), column(kept, "radius")
    low, high = decades([*x, *y])
    diagonal = {
        "type": "scatter",
        "x": [10**low, 10**high],
        "y": [10**low, 10**high],
        "mode": "lines",
        "line": {"color": FAINT, "dash": "dot", "width": 1},
        "hoverinfo": "skip",
    }
    sure = [row.get("exact", True) and not row.get("censored", False) for row in kept]
    points = {**_points(kept, x, y, BLUE), "name": "direction"}
    points["marker"]["symbol"] = ["circle" if known else "circle-open" for known in sure]
    shape = layout(
        xaxis=log_axis("lattice radius: the input changes", x),
        yaxis=log_axis("radius: the output changes", y),
    )
    onto = sum(row["radius"] <= row["lattice_radius"] * (1 + 1e-9) for row in kept)
    caption = (
        f"One point a direction, {len(kept)} in all. On the dotted line the very first change of the input already "
        f"changes the output ({onto} directions); above it the model absorbs some changes. Hollow points are not exact."
    )
    return Figure("Radius against the input's own grid", caption, [diagonal, points], shape)


def _cells(rows: Rows) -> Figure | None:
    cells = [int(value) for value in column([row for row in rows if not row.get("censored")], "cells") if value]
    if not cells:
        return None
    names, heights = _bins(cells)
    trace = {
        "type": "bar",
        "x": names,
        "y": heights,
        "marker": {"color": GREEN},
        "hovertemplate": "cell %{x}: %{y} directions<extra></extra>",
    }
    shape = layout(xaxis=axis("cell of the first change", type="category"), yaxis=axis("directions", tickformat="d"))
    caption = (
        f"A cell is a stretch on which the rounded input stays the same. The output first changes in cell "
        f"{rough(min(cells))} to {rough(max(cells))}, most often in cell {names[heights.index(max(heights))]}."
    )
    return Figure("Cells crossed until the output changes", caption, [trace], shape)


def _jumps(rows: Rows) -> Figure | None:
    kept = [row for row in rows if finite(row.get("input_step")) and finite(row.get("amplification"))]
    if not kept:
        return None
    x, y = column(kept, "input_step"), column(kept, "amplification")
    shape = layout(
        xaxis=log_axis("length of the input step", x),
        yaxis=log_axis("output jump / input step", y),
    )
    largest = max(kept, key=lambda row: row["amplification"])
    caption = (
        f"At the first change the output jumps. The largest jump is {rough(largest['amplification'])} times as long "
        f"as the step of the input that caused it, {rough(largest['input_step'])}."
    )
    return Figure("How far the output jumps there", caption, [_points(kept, x, y, ORANGE)], shape)


def _points(rows: Rows, x: Sequence[float | None], y: Sequence[float | None], color: str) -> Trace:
    return {
        "type": "scatter",
        "x": list(x),
        "y": list(y),
        "mode": "markers",
        "marker": {"size": 8, "color": color, "opacity": 0.85},
        "hovertext": [hover(row, _HOVER) for row in rows],
        "hoverinfo": "text",
    }


def _bins(cells: Sequence[int]) -> tuple[list[str], list[int]]:
    """Return a bar for each number while they are few, else one for each doubling: 1, 2, 3-4, 5-8 and so on."""
    found = Counter(cells)
    if max(cells) <= _SINGLE_BARS:
        return [str(cell) for cell in range(1, max(cells) + 1)], [found[cell] for cell in range(1, max(cells) + 1)]
    tops = [2**power for power in range((max(cells) - 1).bit_length() + 1)]
    edges = [(top // 2 + 1, top) for top in tops]
    names = [str(top) if low >= top else f"{low} to {top}" for low, top in edges]
    return names, [sum(found[cell] for cell in found if low <= cell <= top) for low, top in edges]
