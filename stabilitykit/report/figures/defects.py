"""Singular defects: norms along the depth, angles of the blocks, tokens that explode, and what 8 bits cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures import pathways
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

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_LAYER = {
    "block": "block",
    "role": "",
    "angle": "angle in degrees",
    "growth": "norm grows",
    "s1_over_s2": "sigma 1 / sigma 2",
    "rayleigh": "Rayleigh quotient",
    "step": "really adds",
    "ulp_over_median": "ULP over median norm",
}
_VECTOR = {"index": "vector", "sigma": "sigma", "output_plus": "output", "output_minus": "other side"}
_PROJECTION = {"block": "block", "role": "", "error": "error", "zeroed": "share rounded to 0", "largest": "largest"}
_COLORS = {"explosion": ORANGE, "decay": GREEN}
_SHOWN = 64


def draw(result: Result) -> list[Figure]:
    """Return the norms, the angles, the ways to explode, the right vectors and the down-projections."""
    needed = {
        "layer": ("angle", "norm_behind"),
        "pathway": ("norm_initial", "norm_second"),
        "right vector": ("output_plus", "output_minus"),
        "down projection": ("error",),
    }
    parts = {
        part: [row for row in result.rows if row.get("part") == part and _drawable(row, names)]
        for part, names in needed.items()
    }
    drawings = (
        (_norms, _angles, _rayleigh),
        (pathways.shares, pathways.norms, pathways.coefficients),
        (_vectors,),
        (_projections,),
    )
    return [figure(rows) for rows, figures in zip(parts.values(), drawings, strict=True) if rows for figure in figures]


def _drawable(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    return all((finite(row.get(name)) or 0) > 0 for name in names)


def draw_signature(result: Result) -> list[Figure]:
    """Return the largest coordinates of the direction, next to the other model's where there is one."""
    rows = [row for row in result.rows if row.get("part") == "coordinate" and finite(row.get("component")) is not None]
    return [_coordinates(rows)] if rows else []


def draw_kept(result: Result) -> list[Figure]:
    """Return the perplexity of each choice of down-projections that are kept."""
    rows = [row for row in result.rows if row.get("part") == "kept" and (finite(row.get("perplexity")) or 0) > 0]
    return [_kept(rows)] if rows else []


def _kept(rows: Rows) -> Figure:
    names = [label(row.get("choice"), 40) for row in rows]
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": column(rows, "perplexity"),
        "y": names,
        "marker": {"color": [BLUE if name.startswith("control") else ORANGE for name in names]},
        "hovertext": [hover(row, {"choice": "", "kept": "blocks kept", "perplexity": "perplexity"}) for row in rows],
        "hoverinfo": "text",
    }
    values = {name: finite(row.get("perplexity")) or 0 for name, row in zip(names, rows, strict=True)}
    caption = (
        "Weights and inputs of all matrices of the blocks on a grid of small integers, but for the down-projections of "
        "the blocks named: " + ", ".join(f"{name} {rough(value)}" for name, value in list(values.items())[:4]) + "."
    )
    shape = layout(
        140 + 22 * len(rows),
        xaxis=log_axis("perplexity", column(rows, "perplexity")),
        yaxis=axis("", autorange="reversed"),
    )
    return Figure("Down-projections that are kept", caption, [trace], shape)


def _norms(rows: Rows) -> Figure:
    traces = [
        _line(rows, "norm_behind", "long tokens", ORANGE),
        _line(rows, "typical_norm", "other tokens", BLUE),
    ]
    steepest = max(rows, key=lambda row: finite(row.get("growth")) or 0)
    values = [*column(rows, "norm_behind"), *column(rows, "typical_norm")]
    shape = layout(380, showlegend=True, xaxis=axis("block"), yaxis=log_axis("median norm of the state", values))
    caption = (
        f"The state behind each block. Behind block {label(steepest.get('block'))} the long tokens are "
        f"{rough(steepest.get('growth') or 0)} times longer than before it; the final norm comes after the last block."
    )
    return Figure("Tokens that explode", caption, traces, shape, wide=True)


def _line(rows: Rows, name: str, title: str, color: str) -> Trace:
    return {
        "type": "scatter",
        "x": column(rows, "block"),
        "y": [value if value and value > 0 else None for value in column(rows, name)],
        "mode": "lines+markers",
        "line": {"color": color, "width": 1.5},
        "marker": {"color": color, "size": 5},
        "name": title,
        "hovertext": [hover(row, _LAYER) for row in rows],
        "hoverinfo": "text",
    }


def _angles(rows: Rows) -> Figure:
    kinds = {"explosion": "explodes", "decay": "decays", "": "no role"}
    traces = []
    for role, title in kinds.items():
        chosen = [row for row in rows if row.get("role") == role]
        color = _COLORS.get(role, BLUE)
        trace: Trace = {
            "type": "scatter",
            "x": column(chosen, "block"),
            "y": column(chosen, "angle"),
            "mode": "markers",
            "name": title,
            "marker": {
                "size": 9,
                "color": color,
                "symbol": ["circle" if row.get("defined") else "circle-open" for row in chosen],
            },
            "hovertext": [hover(row, _LAYER) for row in chosen],
            "hoverinfo": "text",
        }
        traces += [trace] if chosen else []
    shape = layout(360, showlegend=True, xaxis=axis("block"), yaxis=axis("angle (degrees)", range=[-3, 93]))
    smallest = min(rows, key=itemgetter("angle"))
    caption = (
        "Between the direction that a block stretches most, by its weights alone, and that of the long tokens. "
        f"The smallest is {rough(smallest['angle'])} degrees, at block {label(smallest.get('block'))}. Open: the block "
        "stretches a second direction nearly as much, so its first is none."
    )
    return Figure("What the weights foretell", caption, traces, shape)


def _rayleigh(rows: Rows) -> Figure:
    trace: Trace = {
        "type": "bar",
        "x": column(rows, "block"),
        "y": column(rows, "rayleigh"),
        "marker": {"color": [_COLORS.get(str(row.get("role")), BLUE) for row in rows]},
        "hovertext": [hover(row, _LAYER) for row in rows],
        "hoverinfo": "text",
    }
    lowest = min(rows, key=lambda row: finite(row.get("rayleigh")) or 0)
    shape = layout(320, xaxis=axis("block"), yaxis=axis("u′(A + F)u", zeroline=True, zerolinecolor=FAINT))
    caption = (
        "What a block's weights add along the long tokens' direction u: below zero they take it away. The lowest is "
        f"{rough(finite(lowest.get('rayleigh')) or 0)}, at block {label(lowest.get('block'))}, which really adds "
        f"{rough(finite(lowest.get('step')) or 0)}. Orange explodes, green decays."
    )
    return Figure("The sign of the weights", caption, [trace], shape)


def _vectors(rows: Rows) -> Figure:
    kept = sorted(rows, key=itemgetter("index"))[:_SHOWN]
    values = [*column(kept, "output_plus"), *column(kept, "output_minus")]
    traces: list[Trace] = [
        {
            "type": "scatter",
            "x": column(kept, "index"),
            "y": column(kept, name),
            "mode": "markers",
            "marker": {"size": 6, "color": color},
            "name": title,
            "hovertext": [hover(row, _VECTOR) for row in kept],
            "hoverinfo": "text",
        }
        for name, title, color in (("output_plus", "v", ORANGE), ("output_minus", "−v", BLUE))
    ]
    shape = layout(
        340,
        showlegend=True,
        xaxis=axis("right singular vector of the feed-forward layer", range=[-1, len(kept) + 2]),
        yaxis=log_axis("length of its output", values),
    )
    first = kept[0]
    caption = (
        f"The real layer of block {label(first.get('block'))}, given each vector in both signs: "
        f"{rough(values[0] or 0)} for the first, {rough(finite(first.get('output_minus')) or 0)} for its negative. "
        f"{len(kept)} of {len(rows)} "
        "vectors are drawn."
    )
    return Figure("One direction makes the explosion", caption, traces, shape)


def _projections(rows: Rows) -> Figure:
    trace: Trace = {
        "type": "bar",
        "x": column(rows, "block"),
        "y": column(rows, "error"),
        "marker": {"color": [_COLORS.get(str(row.get("role")), BLUE) for row in rows]},
        "hovertext": [hover(row, _PROJECTION) for row in rows],
        "hoverinfo": "text",
    }
    keep = [str(row.get("block")) for row in rows if row.get("keep") is True]
    shape = layout(320, xaxis=axis("block"), yaxis=axis("relative error", rangemode="tozero"))
    caption = (
        "Error of the down-projection for ordinary tokens in 8 bits with one scale a tensor. To keep in 16 bits: "
        f"block{'s' * (len(keep) != 1)} {', '.join(keep) or 'none'}. Orange explodes, green decays."
    )
    return Figure("Down-projections in 8 bits", caption, [trace], shape)


def _coordinates(rows: Rows) -> Figure:
    sides = [("this", "this model", BLUE), ("other", "the other", ORANGE)]
    traces: list[Trace] = []
    for side, title, color in sides:
        chosen = [row for row in rows if row.get("side") == side]
        trace: Trace = {
            "type": "scatter",
            "x": column(chosen, "rank"),
            "y": [abs(value or 0) or None for value in column(chosen, "component")],
            "mode": "markers+text" if side == "this" else "markers",
            "text": [label(row.get("coordinate")) for row in chosen],
            "textposition": "top center",
            "textfont": {"size": 9},
            "marker": {"size": 7, "color": color, "symbol": "circle" if side == "this" else "x"},
            "name": title,
            "hovertext": [f"coordinate {label(row.get('coordinate'))}: {row['component']:.4g}" for row in chosen],
            "hoverinfo": "text",
        }
        traces += [trace] if chosen else []
    values = [abs(value or 0) for value in column(rows, "component")]
    shape = layout(
        340,
        showlegend=len(traces) > 1,
        xaxis=axis("rank", range=[0, 21]),
        yaxis=log_axis("size in the unit direction", values),
    )
    first = min(rows, key=lambda row: (row.get("side") != "this", finite(row.get("rank")) or 0))
    caption = (
        f"The largest components, with their coordinates: {label(first.get('coordinate'))} has "
        f"{rough(abs(first['component']))}. Near 1, the direction is hardly more than one coordinate."
    )
    return Figure("Coordinates of the long tokens' direction", caption, traces, shape)
