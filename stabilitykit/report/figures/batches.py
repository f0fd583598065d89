"""Batch invariance as a map: prompt length against batch size, one for each path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import SCALE, Figure, axis, finite, label, layout

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Cell = tuple[Any, Any]


def draw(result: Result) -> list[Figure]:
    """Return one map a path; the colour scale is shared, so that paths compare."""
    paths = list(dict.fromkeys(row.get("path") for row in result.rows))
    top = max((finite(row.get("max_scaled_ulp")) or 0.0 for row in result.rows), default=0.0)
    return [_map(path, [row for row in result.rows if row.get("path") == path], top) for path in paths]


def _map(path: Any, rows: Sequence[Mapping[str, Any]], top: float) -> Figure:
    lengths, sizes = (sorted({row[name] for row in rows if row.get(name) is not None}) for name in ("length", "size"))
    worst = _worst(rows)
    values = [[worst.get((length, size), (None, True))[0] for size in sizes] for length in lengths]
    words = [[_word(worst.get((length, size))) for size in sizes] for length in lengths]
    trace = {
        "type": "heatmap",
        "x": [str(size) for size in sizes],
        "y": [str(length) for length in lengths],
        "z": values,
        "text": words,
        "texttemplate": "%{text}",
        "hovertemplate": "batch of %{x}, prompt of %{y} tokens<br>largest difference %{z} scaled ULP<extra></extra>",
        "colorscale": SCALE,
        "zmin": 0,
        "zmax": top or 1,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"title": {"text": "scaled ULP", "side": "right"}, "thickness": 10, "outlinewidth": 0},
    }
    shape = layout(
        min(150 + 44 * len(lengths), 520),
        xaxis=axis("rows in the batch", type="category", showgrid=False),
        yaxis=axis("tokens in the prompt", type="category", showgrid=False),
    )
    equal = sum(same for _, same in worst.values())
    caption = (
        f"In {equal} of {len(worst)} shapes the bits equal those of the row run alone, marked =. "
        "A number is the largest difference found in that shape, in units in the last place scaled to the output."
    )
    title = f"Same row, other batch, path {label(path)}" if path else "Same row, other batch"
    return Figure(title, caption, [trace], shape)


def _worst(rows: Sequence[Mapping[str, Any]]) -> dict[Cell, tuple[float, bool]]:
    """Return for each shape the largest difference over slots and neighbours, and whether all bits were equal."""
    found: dict[Cell, tuple[float, bool]] = {}
    for row in rows:
        shape = (row.get("length"), row.get("size"))
        value, same = found.get(shape, (0.0, True))
        found[shape] = (max(value, finite(row.get("max_scaled_ulp")) or 0.0), same and bool(row.get("bits_equal")))
    return found


def _word(found: tuple[float, bool] | None) -> str:
    if found is None:
        return ""
    return "=" if found[1] else f"{found[0]:.3g}" if found[0] else "≠"
