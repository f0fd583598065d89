"""Invariances as maps: prompt length against the other way to compute, one map a path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from stabilitykit.report.figures.figure import SCALE, Figure, axis, finite, label, layout

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Row = Mapping[str, Any]
Cell = tuple[Any, Any]


class Kind(NamedTuple):
    """How one invariance is drawn: what its columns are, in the words of axis, title, caption and hover."""

    column: Callable[[Row], Any]
    axis: str
    title: str
    reference: str
    hover: str


KINDS = {
    "BatchInvariance": Kind(
        lambda row: row.get("size"), "rows in the batch", "Same row, other batch", "the row run alone", "batch of %{x}"
    ),
    "PaddingInvariance": Kind(
        lambda row: f"{row['pads']} {row['side']}" if row.get("pads") else "mask alone",
        "padding tokens and their side",
        "Same prompt, beside padding",
        "the prompt alone",
        "padding: %{x}",
    ),
    "CacheInvariance": Kind(
        lambda row: row.get("kind"),
        "how the prompt was fed",
        "Same prompt, through the cache",
        "the prompt run at once",
        "%{x}",
    ),
    "ThreadInvariance": Kind(
        lambda row: row.get("threads"), "threads", "Same prompt, other threads", "the ambient threads", "%{x} threads"
    ),
    "ProcessInvariance": Kind(
        lambda row: row.get("process"), "fresh process", "Same prompt, other process", "this process", "process %{x}"
    ),
}


def draw(result: Result) -> list[Figure]:
    """Return one map a path; the colour scale is shared, so that paths compare."""
    paths = list(dict.fromkeys(row.get("path") for row in result.rows))
    top = max((finite(row.get("max_scaled_ulp")) or 0.0 for row in result.rows), default=0.0)
    kind = KINDS[result.measurement]
    return [_map(kind, path, [row for row in result.rows if row.get("path") == path], top) for path in paths]


def _map(kind: Kind, path: Any, rows: Sequence[Row], top: float) -> Figure:
    lengths = sorted({row["length"] for row in rows if row.get("length") is not None})
    ways = list(dict.fromkeys(kind.column(row) for row in rows))
    if all(isinstance(way, int) for way in ways):
        ways.sort()
    worst = _worst(kind, rows)
    values = [[worst.get((length, way), (None, True))[0] for way in ways] for length in lengths]
    words = [[_word(worst.get((length, way))) for way in ways] for length in lengths]
    trace = {
        "type": "heatmap",
        "x": [str(way) for way in ways],
        "y": [str(length) for length in lengths],
        "z": values,
        "text": words,
        "texttemplate": "%{text}",
        "hovertemplate": f"{kind.hover}, prompt of %{{y}} tokens<br>largest difference %{{z}} scaled ULP"
        "<extra></extra>",
        "colorscale": SCALE,
        "zmin": 0,
        "zmax": top or 1,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"title": {"text": "scaled ULP", "side": "right"}, "thickness": 10, "outlinewidth": 0},
    }
    shape = layout(
        min(150 + 44 * len(lengths), 520),
        xaxis=axis(kind.axis, type="category", showgrid=False),
        yaxis=axis("tokens in the prompt", type="category", showgrid=False),
    )
    equal = sum(same for _, same in worst.values())
    caption = (
        f"In {equal} of {len(worst)} cells the bits equal those of {kind.reference}, marked =. "
        "A number is the largest difference found there, in units in the last place scaled to the output."
    )
    title = f"{kind.title}, path {label(path)}" if path else kind.title
    return Figure(title, caption, [trace], shape)


def _worst(kind: Kind, rows: Sequence[Row]) -> dict[Cell, tuple[float, bool]]:
    """Return for each cell the largest difference over its rows, and whether all bits were equal."""
    found: dict[Cell, tuple[float, bool]] = {}
    for row in rows:
        cell = (row.get("length"), kind.column(row))
        value, same = found.get(cell, (0.0, True))
        found[cell] = (max(value, finite(row.get("max_scaled_ulp")) or 0.0), same and bool(row.get("bits_equal")))
    return found


def _word(found: tuple[float, bool] | None) -> str:
    if found is None:
        return ""
    return "=" if found[1] else f"{found[0]:.3g}" if found[0] else "≠"
