"""The rotation: how many coordinates one tiny step changes as its direction is moved round, and where."""

from __future__ import annotations

import statistics
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
    layout,
    log_axis,
    rough,
)

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_HOVER = {
    "kind": "kind",
    "shift": "turned by",
    "gap": "gap",
    "changed_input": "changed in the input",
    "changed_block0": "after block 0",
    "changed_output": "in the output",
    "output_jump": "output jump",
    "gain": "gain",
}
_SITES = {
    "changed_output": ("output", BLUE),
    "changed_block0": ("after block 0", GREEN),
    "changed_input": ("input", ORANGE),
}
_KINDS = {"shift": ("turned", BLUE), "permutation": ("permuted", GREEN), "signs": ("signs flipped", ORANGE)}
_BARS = 32


def draw(result: Result) -> list[Figure]:
    """Return the counts against the shift, against the gap by kind, and where the changes lie."""
    rows = [row for row in result.rows if finite(row.get("changed_input")) is not None and finite(row.get("gap"))]
    turned = sorted((row for row in rows if row.get("kind") == "shift"), key=lambda row: finite(row.get("shift")) or 0)
    if not turned:
        return []
    drawn = [_by_shift(turned), _by_gap(rows), _places(result)]
    return [figure for figure in drawn if figure is not None]


def _by_shift(turned: Rows) -> Figure:
    widest = max(row["gap"] for row in turned)
    rows = [row for row in turned if row["gap"] == widest]
    traces = []
    for name, (title, color) in _SITES.items():
        counts = [value or None for value in column(rows, name)]  # a logarithm has no place for 0
        if any(counts):
            trace: Trace = {"type": "scatter", "x": column(rows, "shift"), "y": counts, "name": title}
            look = {
                "mode": "lines+markers",
                "line": {"color": color, "width": 1.5},
                "marker": {"size": 6, "color": color},
            }
            traces.append({**trace, **look, "hovertext": [hover(row, _HOVER) for row in rows], "hoverinfo": "text"})
    shape = layout(
        360,
        showlegend=True,
        xaxis=axis("places the direction is turned by"),
        yaxis=log_axis("changed coordinates", [v for trace in traces for v in trace["y"]]),
    )
    none = "" if traces else " No turn changes anything."
    caption = (
        f"One step of {rough(widest)} at each of {len(rows)} turns of the direction: in the input it changes "
        f"{_span(rows, 'changed_input')} coordinates, in the output {_span(rows, 'changed_output')}. Counts of 0 are "
        f"not drawn.{none}"
    )
    return Figure("Does it matter where the step is taken?", caption, traces, shape)


def _by_gap(rows: Rows) -> Figure | None:
    gaps = sorted({row["gap"] for row in rows})
    if len(gaps) < 2:
        return None
    kinds = {**_KINDS, "random": ("random", FAINT)}
    traces = []
    for kind, (title, color) in kinds.items():
        medians = [
            _median([r["changed_input"] for r in rows if r["gap"] == gap and r.get("kind") == kind]) for gap in gaps
        ]
        if any(value is not None for value in medians):
            trace: Trace = {"type": "scatter", "x": gaps, "y": medians, "name": title, "mode": "lines+markers"}
            traces.append({**trace, "line": {"color": color, "width": 1.5}, "marker": {"size": 6, "color": color}})
    shape = layout(
        340,
        showlegend=True,
        xaxis=log_axis("gap between the two steps", gaps),
        yaxis=axis("changed input coordinates", rangemode="tozero"),
    )
    caption = (
        "The median number of input coordinates that one gap changes, for the turned direction and for controls: its "
        "entries permuted, its signs flipped, and random directions of its length. Where the lines agree, the "
        "number is a matter of the floats and of the length, not of this direction."
    )
    return Figure("The same step along other directions", caption, traces, shape)


def _places(result: Result) -> Figure | None:
    here, there = (result.arrays.get(name) for name in ("histogram_input", "histogram_direction"))
    if here is None or there is None or not len(here):
        return None
    per_bar = -(-len(here) // _BARS)
    traces: list[Trace] = []
    for counts, title, color in ((here, "place in the input", ORANGE), (there, "place in the direction", BLUE)):
        sums = [int(counts[k : k + per_bar].sum()) for k in range(0, len(counts), per_bar)]
        first = [k * per_bar for k in range(len(sums))]
        said = [
            f"places {k} to {min(k + per_bar, len(counts)) - 1}<br>{n} changes"
            for k, n in zip(first, sums, strict=True)
        ]
        bars: Trace = {"type": "bar", "x": first, "y": sums, "name": title, "marker": {"color": color}}
        traces.append({**bars, "hovertext": said, "hoverinfo": "text"})
    shape = layout(
        340, showlegend=True, barmode="group", xaxis=axis("coordinate"), yaxis=axis("changes", rangemode="tozero")
    )
    read = {
        name: finite(getattr(result.readings.get(f"concentration_{name}"), "value", None))
        for name in ("input", "direction")
    }
    said_so = (
        f" Their concentration is {rough(read['input'])} at places of the input and {rough(read['direction'])} at "
        "those of the direction; 0 is chance, 1 a single place."
        if read["input"] is not None and read["direction"] is not None
        else ""
    )
    caption = (
        f"Which input coordinates changed at the largest gap, and which entries of the direction they met.{said_so}"
    )
    return Figure("Where the changes lie", caption, traces, shape)


def _span(rows: Rows, name: str) -> str:
    counts = [value for value in column(rows, name) if value is not None]
    if not counts:
        return "an unknown number"
    low, high = min(counts), max(counts)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
