"""Figures of flips by block: what each block's rounding does, and what goes with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
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
    number,
    rough,
)

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_LAYER = {
    "block": "block",
    "role": "",
    "flips": "flips",
    "variance_share": "share of the margin's error",
    "own_error": "own relative error",
    "ulp_over_median": "ULP over median norm",
    "growth": "long tokens grow",
    "sink": "attention to the first token",
    "head_rank": "least entropy rank of Q, K",
}
_POINT = {"block": "block", "role": ""}
_COLORS = {"explosion": ORANGE, "decay": GREEN}
_CARRIERS = {
    "ulp_over_median": "largest ULP over the median norm",
    "growth": "growth of long tokens",
    "sink": "attention to the first token",
    "head_rank": "least entropy rank of a Q or K",
}


def draw(result: Result) -> list[Figure]:
    """Return the flips and shares of each block, and the shares against what may carry them."""
    rows = [row for row in result.rows if row.get("part") == "layer" and (finite(row.get("variance_share")) or 0) > 0]
    links = [row for row in result.rows if row.get("part") == "link" and row.get("effect") == "variance_share"]
    return [_shares(rows), *_carriers(rows, links)] if rows else []


def _shares(rows: Rows) -> Figure:
    shares: Trace = {
        "type": "bar",
        "x": column(rows, "block"),
        "y": column(rows, "variance_share"),
        "marker": {"color": _colors(rows)},
        "name": "share of the margin's error",
        "hovertext": [hover(row, _LAYER) for row in rows],
        "hoverinfo": "text",
    }
    flips: Trace = {
        "type": "scatter",
        "x": column(rows, "block"),
        "y": column(rows, "flip_share"),
        "mode": "markers",
        "marker": {"symbol": "diamond", "size": 7, "color": BLUE},
        "name": "positions it flips",
        "hovertext": [hover(row, _POINT) for row in rows],
        "hoverinfo": "text",
    }
    most = max(rows, key=lambda row: finite(row.get("variance_share")) or 0)
    count = sum(finite(row.get("flips")) or 0 for row in rows)
    caption = (
        "What each block's rounding alone does to the next token, in a model that rounds nowhere else. Block "
        f"{label(most.get('block'))} has most of the margin's error, {rough(most['variance_share'])}; all blocks "
        f"together make {number(count)} flips one by one. Orange explodes, green decays."
    )
    shape = layout(360, showlegend=True, xaxis=axis("block"), yaxis=axis("share", rangemode="tozero"))
    return Figure("Which blocks carry the rounding", caption, [shares, flips], shape, wide=True)


def _colors(rows: Rows) -> list[str]:
    return [_COLORS.get(str(row.get("role")), BLUE) for row in rows]


def _carriers(rows: Rows, links: Rows) -> list[Figure]:
    figures = []
    for name, title in _CARRIERS.items():
        kept = [row for row in rows if (finite(row.get(name)) or 0) > 0]
        link = next((row for row in links if row.get("carrier") == name), None)
        if len(kept) < 4 or link is None or finite(link.get("spearman")) is None:
            continue
        trace: Trace = {
            "type": "scatter",
            "x": column(kept, name),
            "y": column(kept, "variance_share"),
            "mode": "markers",
            "marker": {"size": 8, "color": _colors(kept)},
            "hovertext": [hover(row, _POINT) for row in kept],
            "hoverinfo": "text",
        }
        caption = (
            f"A point a block. Rank correlation {rough(link['spearman'])}, by chance as far from 0 in "
            f"{rough(100 * (finite(link.get('p')) or 0))} % of orders; with the depth held fixed "
            f"{rough(finite(link.get('beside_depth')) or 0)}."
        )
        shape = layout(
            320,
            xaxis=log_axis(title, column(kept, name)),
            yaxis=log_axis("share of the margin's error", column(kept, "variance_share")),
        )
        figures.append(Figure(f"Error against {title}", caption, [trace], shape))
    return figures
