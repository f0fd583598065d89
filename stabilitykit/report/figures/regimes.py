"""The regimes: gain and error at steps of every size beside the true function, and the share of each regime."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    Figure,
    Trace,
    axis,
    decades,
    finite,
    hover,
    layout,
    log_axis,
    rough,
)
from stabilitykit.report.figures.thresholds import positive, ray_by_ray, values

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Row = Mapping[str, Any]
Rows = Sequence[Row]
Edge = tuple[float | None, float | None, float | None]
Spans = Mapping[str, tuple[float, float]]

_COLOURS = {"stable": GREEN, "chaotic": ORANGE, "signal": BLUE}
_POINT = {
    "direction": "direction",
    "subject": "prompt",
    "eps": "step",
    "regime": "regime",
    "coords_moved": "coordinates moved",
    "realised_norm": "input moved",
    "gain_realised": "gain",
    "gain_true": "true gain",
    "rounding_share": "error / true change",
}
_VISIBLE = 1e-3


def draw(result: Result) -> list[Figure]:
    """Return the picture of the three regimes, the share of each in every decade, and the thresholds ray by ray."""
    points = [row for row in result.rows if row.get("regime") in _COLOURS and positive(row.get("eps"))]
    rays = [row for row in result.rows if row.get("part") == "ray" and positive(row.get("eps_stable"))]
    found = [_picture(result, points), _shares(result, points)] if points else []
    return [*found, ray_by_ray(rays)] if rays else found


def _picture(result: Result, points: Rows) -> Figure:
    edges = {name: _edge(result, name) for name in ("eps_stable", "eps_signal")}
    steps = [*values(points, "eps"), *(value for edge in edges.values() for value in edge if value)]
    low, high = decades(steps, pad=0.02)
    widest = result.readings.get("chaotic_decades")
    spans = _spans(edges, low, high, chaotic=widest is None or widest.value != 0)
    tolerance = _tolerance(result)
    gains = [*values(points, "gain_realised"), *values(points, "gain_true")]
    limit = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y2", "y0": tolerance, "y1": tolerance}
    shape = layout(
        560,
        showlegend=True,
        xaxis={**log_axis("step (input units)", steps, dtick=3, anchor="y2"), "range": [low, high]},
        yaxis=log_axis("gain", gains, domain=[0.4, 1]),
        yaxis2=log_axis("error / change", [*values(points, "rounding_share"), tolerance], domain=[0, 0.3]),
        shapes=[*_regions(edges, spans), {**limit, "line": {"color": INK, "dash": "dot", "width": 1}}],
        annotations=_names(spans),
        legend={"orientation": "h", "x": 0, "y": 1.06, "yanchor": "bottom"},
        margin={"l": 64, "r": 18, "t": 16, "b": 52},
    )
    foot = 10 ** decades(gains)[0]
    traces = [
        *_true_curves(points),
        *(_marks(points, regime, foot) for regime in _COLOURS),
        *(_errors(points, regime) for regime in ("chaotic", "signal")),
    ]
    truth = any(values(points, "gain_true"))
    caption = (
        f"Above: how far the output moves for the step that the input really made, one point a step, {len(points)} in "
        f"all{'; lines are the same in true float64' if truth else ''}. Ticks at the foot: every bit was kept. Below: "
        f"{'the error against the true change' if truth else 'the noise against the change'}, with the limit of "
        f"{tolerance:.0%} dotted. {_found(edges)}"
    )
    return Figure("Stable, chaotic, signal", caption, [trace for trace in traces if trace["x"]], shape, wide=True)


def _edge(result: Result, name: str) -> Edge:
    """Return a threshold and its interval, each None where there is no number to draw."""
    reading = result.readings.get(name)
    return (positive(reading.value), positive(reading.low), positive(reading.high)) if reading else (None, None, None)


def _spans(edges: Mapping[str, Edge], low: float, high: float, *, chaotic: bool) -> Spans:
    """Return where each regime lies for every ray, in log10; a regime without room is left out.

    Without a chaotic band the rays merely begin to follow at different steps.
    """
    stable, signal = (math.log10(edge[0]) if edge[0] else None for edge in edges.values())
    first, last = low if stable is None else stable, high if signal is None else signal
    spans = {"stable": (low, first), "chaotic": (first, last), "signal": (last, high)}
    kept = [name for name, (left, right) in spans.items() if right - left > _VISIBLE]
    return {name: spans[name] for name in kept if chaotic or name != "chaotic"}


def _regions(edges: Mapping[str, Edge], spans: Spans) -> list[dict[str, Any]]:
    """Return the shaded regions, and the borders between them with their intervals."""
    shapes = [
        _upright(10**left, 10**right, fillcolor=_COLOURS[name], opacity=0.1, line={"width": 0})
        for name, (left, right) in spans.items()
    ]
    for value, least, most in edges.values():
        if least and most:
            shapes.append(_upright(least, most, fillcolor=INK, opacity=0.18, line={"width": 0}))
        if value:
            shapes.append(_upright(value, value, type="line", line={"color": INK, "width": 1.2}))
    return shapes


def _upright(left: float, right: float, **parts: Any) -> dict[str, Any]:
    place = {"xref": "x", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    return {"type": "rect", **place, "x0": left, "x1": right, **parts}


def _names(spans: Spans) -> list[dict[str, Any]]:
    """Return the name of each region, above it; annotations take log10 where shapes take the number itself."""
    place = {"xref": "x", "yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False}
    return [
        {**place, "x": (left + right) / 2, "text": name, "font": {"color": _COLOURS[name], "size": 13}}
        for name, (left, right) in spans.items()
    ]


def _true_curves(points: Rows) -> list[Trace]:
    """Return the true gain along each ray."""
    curves = []
    for number, own in enumerate(_by_ray(points)):
        known = [row for row in own if positive(row.get("gain_true"))]
        line = {"color": INK, "width": 1.2}
        curve = {**_scatter(known, "gain_true"), "mode": "lines", "line": line, "opacity": 0.65}
        curves.append({**curve, "name": "true function", "legendgroup": "true", "showlegend": number == 0})
    return curves


def _marks(points: Rows, regime: str, foot: float) -> Trace:
    """Return the points of one regime; those of an output that did not move lie at the foot, where 0 would be."""
    own = [row for row in points if row["regime"] == regime]
    marker: dict[str, Any] = {"size": 6, "color": _COLOURS[regime], "opacity": 0.8}
    if regime == "stable":
        marker = {"size": 9, "symbol": "line-ns-open", "color": _COLOURS[regime]}
    heights = [foot if regime == "stable" else positive(row.get("gain_realised")) or foot for row in own]
    return {**_scatter(own, ""), "y": heights, "mode": "markers", "name": regime, "marker": marker}


def _errors(points: Rows, regime: str) -> Trace:
    own = [row for row in points if row["regime"] == regime and positive(row.get("rounding_share"))]
    marker = {"size": 5, "color": _COLOURS[regime], "opacity": 0.8}
    return {**_scatter(own, "rounding_share"), "mode": "markers", "marker": marker, "showlegend": False, "yaxis": "y2"}


def _scatter(rows: Rows, name: str) -> Trace:
    steps, text = values(rows, "eps"), [hover(row, _POINT) for row in rows]
    return {
        "type": "scatter",
        "x": steps,
        "y": [positive(row.get(name)) for row in rows],
        "hovertext": text,
        "hoverinfo": "text",
    }


def _found(edges: Mapping[str, Edge]) -> str:
    (stable, *_), (signal, *_) = edges.values()
    upto = f"No ray changes a bit up to {rough(stable)}" if stable else "No step was proved to change nothing"
    if not signal:
        return f"{upto}; no step tried is large enough for every ray to follow the true function."
    return f"{upto}; every ray follows the true function from {rough(signal)} on. Grey bands are 95 % intervals."


def _shares(result: Result, points: Rows) -> Figure:
    tried = [row for row in points if finite(row.get("decade")) is not None]
    counts = Counter((int(row["decade"]), row["regime"]) for row in tried)
    places = sorted({place for place, _ in counts})
    totals = {place: sum(counts[place, regime] for regime in _COLOURS) for place in places}
    traces = [
        {
            "type": "bar",
            "x": [place + 0.5 for place in places],
            "y": [100 * counts[place, regime] / totals[place] for place in places],
            "width": 0.9,
            "name": regime,
            "marker": {"color": colour, "opacity": 0.85},
            "hovertext": [f"{regime}: {counts[place, regime]} of {totals[place]} points" for place in places],
            "hoverinfo": "text",
        }
        for regime, colour in _COLOURS.items()
    ]
    unit = {"rel": "|x₀|", "ulp": "spacing", "abs": "unit"}.get(str(result.parameters.get("unit")), "unit")
    shape = layout(
        300,
        barmode="stack",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        xaxis=axis(f"log₁₀ (step / {unit})", dtick=2),
        yaxis=axis("share of points (%)", range=[0, 100]),
    )
    mixed = sum(max(counts[place, regime] for regime in _COLOURS) < totals[place] for place in places)
    caption = f"Each bar is a decade of steps, all rays together. In {mixed} of {len(places)} decades regimes mix."
    return Figure("Which regime, decade by decade", caption, traces, shape)


def _by_ray(points: Rows) -> list[Rows]:
    keys = dict.fromkeys((row.get("subject"), row.get("direction")) for row in points)
    return [[row for row in points if (row.get("subject"), row.get("direction")) == key] for key in keys]


def _tolerance(result: Result) -> float:
    return positive(result.parameters.get("tolerance")) or 0.1
