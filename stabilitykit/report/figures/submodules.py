"""Modules inside the blocks: how much of each one's change is rounding, and how far it moves at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    SCALE,
    Figure,
    Trace,
    axis,
    hover,
    label,
    layout,
    log_axis,
    rough,
)
from stabilitykit.report.figures.profiles import logarithm
from stabilitykit.report.figures.thresholds import positive

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Row = Mapping[str, Any]
Rows = Sequence[Row]

_HOVER = {
    "module": "module",
    "kind": "class",
    "epsilon": "step",
    "changed": "elements changed",
    "relative_l2": "relative change",
    "gain_realised": "gain",
    "gain_exact": "true gain",
    "excess": "rounding / true change",
}


def draw(result: Result) -> list[Figure]:
    """Return rounding next to the true change, and the gain: a map over blocks, or bars for one block."""
    rows = [row for row in result.rows if row.get("measured") is True and positive(row.get("realised_norm"))]
    if not rows:
        return []
    least = min(rows, key=lambda row: row["realised_norm"])
    same = ("subject", "direction", "sign", "epsilon", "start")
    shown = [row for row in rows if all(row.get(name) == least.get(name) for name in same)]
    at = f"At the smallest step, {rough(least['realised_norm'])}."
    drawn = [
        _picture(shown, "excess", "rounding / true change", "Rounding, module by module", at),
        _picture(shown, "gain_realised", "gain", "Gain, module by module", at),
    ]
    return [figure for figure in drawn if figure is not None]


def _picture(rows: Rows, name: str, title: str, heading: str, at: str) -> Figure | None:
    kept = [row for row in rows if positive(row.get(name))]
    if not kept:
        return None
    top = max(kept, key=lambda row: row[name])
    caption = f"{at} Largest in {label(top.get('module'))}: {rough(top[name])}."
    if name == "excess":
        over = sum(row[name] > 1 for row in kept)
        caption += f" In {over} of {len(rows)} modules rounding is larger than the change itself."
    blocks = list(dict.fromkeys(row.get("block") for row in rows))
    return (
        _map(rows, blocks, name, title, heading, caption)
        if len(blocks) > 1
        else _bars(kept, name, title, heading, caption)
    )


def _map(rows: Rows, blocks: Sequence[Any], name: str, title: str, heading: str, caption: str) -> Figure:
    names = list(dict.fromkeys(row.get("label", "") for row in rows))
    found = {(row.get("block"), row.get("label", "")): row for row in rows}
    cells = [[found.get((block, one), {}) for one in names] for block in blocks]
    trace: Trace = {
        "type": "heatmap",
        "x": [_named(one) for one in names],
        "y": [str(block) for block in blocks],
        "z": [[logarithm(row.get(name)) for row in line] for line in cells],
        "hovertext": [[hover(row, _HOVER) for row in line] for line in cells],
        "hoverinfo": "text",
        "colorscale": SCALE,
        "colorbar": {"title": {"text": f"log₁₀ {title}", "side": "right"}, "thickness": 10, "outlinewidth": 0},
    }
    shape = layout(
        max(300, 150 + 12 * len(blocks)),
        xaxis=axis("", type="category", showgrid=False, tickangle=-60),
        yaxis=axis("block", type="category", showgrid=False, autorange="reversed", nticks=16),
    )
    return Figure(heading, caption, [trace], shape)


def _bars(rows: Rows, name: str, title: str, heading: str, caption: str) -> Figure:
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "y": [_named(row.get("label", "")) for row in rows],
        "x": [row[name] for row in rows],
        "marker": {"color": BLUE},
        "hovertext": [hover(row, _HOVER) for row in rows],
        "hoverinfo": "text",
    }
    values = [row[name] for row in rows]
    shape = layout(
        80 + 22 * len(rows),
        xaxis=log_axis(title, [*values, min(values) / 3]),
        yaxis=axis("", type="category", autorange="reversed"),
    )
    return Figure(heading, caption, [trace], shape)


def _named(name: Any) -> str:
    return label(name) if name else "whole block"
