"""Who spent the margin: layer by layer, which operations most, and where rounding is as a rule."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    ORANGE,
    SCALE,
    Figure,
    Trace,
    axis,
    finite,
    hover,
    label,
    layout,
    rough,
)
from stabilitykit.report.figures.profiles import logarithm

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Row = Mapping[str, Any]
Rows = Sequence[Row]

_HOVER = {
    "module": "module",
    "op": "operation",
    "kind": "kind",
    "layer": "layer",
    "contribution": "moves the margin by",
    "share": "share of the deviation",
    "typical": "typically",
    "typical_share": "share of what is typical",
    "scaled_ulp": "error in ULP",
    "operations": "operations",
}
_SHOWN, _BAR = 24, 22
_OUTSIDE = "outside"


def draw(result: Result) -> list[Figure]:
    """Return the way from the true margin to the native one, the largest operations, a map, and the kinds."""
    prompts = list(dict.fromkeys(row.get("subject") for row in result.rows))
    rows = [
        row for row in result.rows if row.get("subject") == prompts[0] and finite(row.get("contribution")) is not None
    ]
    first = f" Shown: prompt {label(prompts[0])}; the table has all." if len(prompts) > 1 else ""
    parts = {name: [row for row in rows if row.get("part") == name] for name in ("operation", "kind", "layer")}
    drawn = [_way(parts["layer"], first), _largest(parts["operation"]), _map(parts["operation"]), _kinds(parts["kind"])]
    return [figure for figure in drawn if figure is not None]


def _way(rows: Rows, first: str) -> Figure | None:
    if not rows:
        return None
    moves = [row["contribution"] for row in rows]
    ends = list(itertools.accumulate(moves))
    trace: Trace = {
        "type": "bar",
        "x": [*(_layer(row) for row in rows), "sum"],
        "base": [0.0, *ends[:-1], 0.0],
        "y": [*moves, ends[-1]],
        "marker": {"color": [*(BLUE if move >= 0 else ORANGE for move in moves), FAINT]},
        "hovertext": [*(hover({**row, "layer": _layer(row)}, _HOVER) for row in rows), f"sum {rough(ends[-1])}"],
        "hoverinfo": "text",
    }
    shape = layout(
        360,
        xaxis=axis("layer", type="category", showgrid=False, nticks=16),
        yaxis=axis("margin, less the true one (logits)", zeroline=True),
    )
    most = max(rows, key=lambda row: abs(row["contribution"]))
    place = "what is outside the blocks" if most.get("layer") is None else f"layer {_layer(most)}"
    caption = (
        "Each bar begins where the one before ends; blue widens the margin, orange narrows it. All together move it by "
        f"{rough(ends[-1])} logits, {place} most, by {rough(most['contribution'])}. {_OUTSIDE.capitalize()} the "
        f"blocks are the embedding, the tables of positions, the last norm and the head.{first}"
    )
    return Figure("From the true margin to the one that was computed", caption, [trace], shape, wide=True)


def _largest(rows: Rows) -> Figure | None:
    kept = sorted(rows, key=lambda row: abs(row["contribution"]))[-_SHOWN:]
    if not kept:
        return None
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": [row["contribution"] for row in kept],
        "y": [_operation(row) for row in kept],
        "marker": {"color": [BLUE if row["contribution"] >= 0 else ORANGE for row in kept]},
        "hovertext": [hover(row, _HOVER) for row in kept],
        "hoverinfo": "text",
    }
    shape = layout(
        110 + _BAR * len(kept),
        xaxis=axis("moves the margin by (logits)", zeroline=True, nticks=4, tickangle=0),
        yaxis=axis("", type="category", showgrid=False),
    )
    top = kept[-1]
    share = finite(top.get("share"))
    said = "" if share is None else f", {rough(100 * share)} % of the deviation"
    caption = (
        f"The {len(kept)} largest of {len(rows)} operations that round. The first is {label(top.get('module'))} "
        f"{label(top.get('op'))}{said}."
    )
    return Figure("Operations that moved the margin most", caption, [trace], shape)


def _map(rows: Rows) -> Figure | None:
    """Layers by kinds: the typical size, since one prompt's signs are a draw."""
    cells: dict[tuple[Any, Any], list[Row]] = defaultdict(list)
    for row in rows:
        if row.get("layer") is not None:
            cells[row["layer"], row.get("kind")].append(row)
    layers, kinds = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    if len(layers) < 2:
        return None
    table = [[_summed(cells.get((layer, kind), [])) for kind in kinds] for layer in layers]
    trace: Trace = {
        "type": "heatmap",
        "x": [label(kind) for kind in kinds],
        "y": [str(layer) for layer in layers],
        "z": [[logarithm(row.get("typical")) for row in line] for line in table],
        "hovertext": [[hover(row, _HOVER) for row in line] for line in table],
        "hoverinfo": "text",
        "colorscale": SCALE,
        "colorbar": {"title": {"text": "log₁₀ logits", "side": "right"}, "thickness": 10, "outlinewidth": 0},
    }
    shape = layout(
        max(320, 170 + 12 * len(layers)),
        xaxis=axis("", type="category", showgrid=False, tickangle=-60),
        yaxis=axis("layer", type="category", showgrid=False, autorange="reversed", nticks=16),
    )
    top = max((row for line in table for row in line if row), key=lambda row: row["typical"])
    caption = (
        f"How far each kind of operation moves the margin if its roundings had random signs; the largest is "
        f"{label(top['kind'])} of layer {top['layer']}, {rough(top['typical'])} logits."
    )
    return Figure("Where rounding is, layer by layer", caption, [trace], shape)


def _summed(rows: Rows) -> Row:
    if not rows:
        return {}
    return {
        "layer": rows[0]["layer"],
        "kind": rows[0].get("kind"),
        "contribution": sum(row["contribution"] for row in rows),
        "typical": sum((finite(row.get("typical")) or 0.0) ** 2 for row in rows) ** 0.5,
        "operations": len(rows),
    }


def _kinds(rows: Rows) -> Figure | None:
    kept = [row for row in rows if finite(row.get("typical_share"))][:_SHOWN][::-1]
    if not kept:
        return None
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": [row["typical_share"] for row in kept],
        "y": [label(row.get("kind"), 28) for row in kept],
        "marker": {"color": BLUE},
        "hovertext": [hover(row, _HOVER) for row in kept],
        "hoverinfo": "text",
    }
    shape = layout(
        110 + _BAR * len(kept),
        xaxis=axis("share of the typical deviation, squared", tickformat=".0%", rangemode="tozero"),
        yaxis=axis("", type="category", showgrid=False),
    )
    top = kept[-1]
    caption = (
        f"Shares of the variance that the margin would have if every rounding's sign were a coin's. "
        f"{label(top.get('kind'))} has {rough(100 * top['typical_share'])} %, in {top.get('operations')} operations."
    )
    return Figure("Kinds of operations by what they spend as a rule", caption, [trace], shape)


def _layer(row: Row) -> str:
    layer = row.get("layer")
    return _OUTSIDE if layer is None else str(layer)


def _operation(row: Row) -> str:
    """Return a short name: the layer and the kind, the operation where that does not say it, and which one it is."""
    kind, op, layer = str(row.get("kind")), str(row.get("op")), row.get("layer")
    name = str(row.get("module") or "model") if layer is None else f"{layer} {kind}"
    said = op == "linear" or kind == "attention" or name.endswith(op)
    again = f"#{row['occurrence']}" if row.get("occurrence") else ""
    return label(f"{name}{'' if said else f' {op}'}{again}", 34)
