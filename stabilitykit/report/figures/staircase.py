"""The staircase: where the output jumps along one direction, how far, and from which step on it follows the slope."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    GREEN,
    INK,
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
    "input": "input",
    "scale": "step over |x0|",
    "s_first": "from s",
    "s_last": "to s",
    "coords_changed": "coordinates changed",
    "input_step": "input step",
    "output_jump": "output jump",
    "slope": "slope",
    "smooth_jump": "derivative predicts",
    "changed": "differs from y0",
}
_BINS = 24
_AROUND = 12
"""Inputs shown on each side of the first jump."""


def draw(result: Result) -> list[Figure]:
    """Return the stairs, the first jump, both histograms and the slope; each where there is something to see."""
    steps = [row for row in result.rows if row.get("part") == "step" and finite(row.get("s_first")) is not None]
    scan = [row for row in result.rows if row.get("part") == "scale" and finite(row.get("slope"))]
    jumps = [row for row in steps if row.get("jumped") is True and finite(row.get("output_jump"))]
    drawn = [
        _stairs(steps, jumps) if len(steps) > 1 else None,
        _first_jump(steps, jumps) if jumps else None,
        _sizes(jumps, _noise(result)) if len(jumps) > 1 else None,
        _spacings(jumps) if len(jumps) > 2 else None,
        _slopes(scan, result) if scan else None,
    ]
    return [figure for figure in drawn if figure is not None]


def _stairs(steps: Rows, jumps: Rows) -> Figure:
    begin = steps[0]["s_first"]
    trace: Trace = {
        "type": "scatter",
        "x": [row["s_first"] - begin for row in steps],
        "y": column(steps, "output_distance"),
        "mode": "lines+markers",
        "line": {"shape": "hv", "color": BLUE, "width": 1.5},
        "marker": {"size": 5, "color": BLUE, "symbol": [_symbol(row) for row in steps]},
        "hovertext": [hover(row, _HOVER) for row in steps],
        "hoverinfo": "text",
    }
    shape = layout(xaxis=axis(_beyond(begin)), yaxis=axis("distance from y₀ (L2)", rangemode="tozero"))
    caption = (
        f"Each point is one of {len(steps)} distinct inputs. At {len(jumps)} of them, the filled points, the output "
        f"differs from the output before; at the hollow ones not one bit of it changes."
    )
    return Figure("The stairs of the output", caption, [trace], shape)


def _first_jump(steps: Rows, jumps: Rows) -> Figure:
    place = next(number for number, row in enumerate(steps) if row is jumps[0])
    near = steps[max(place - _AROUND, 1) : place + _AROUND + 1]
    begin = jumps[0]["s_first"]
    trace: Trace = {
        "type": "bar",
        "x": [row.get("input") for row in near],
        "y": column(near, "output_jump"),
        "marker": {"color": [ORANGE if row is jumps[0] else BLUE for row in near]},
        "hovertext": [hover(row, _HOVER) for row in near],
        "hoverinfo": "text",
    }
    shape = layout(300, xaxis=axis("distinct input, in order", nticks=8), yaxis=axis("output jump (L2)"), bargap=0.35)
    smooth = finite(jumps[0].get("smooth_jump"))
    predicted = f"; the derivative predicts {rough(smooth)}" if smooth is not None else ""
    caption = (
        f"The first jump, at s = {rough(begin)}: the input moves by {rough(jumps[0].get('input_step', math.nan))} and "
        f"the output by {rough(jumps[0]['output_jump'])}{predicted}. No bar: the input moved and the output did not."
    )
    return Figure("Around the first jump", caption, [trace], shape)


def _sizes(jumps: Rows, noise: float | None) -> Figure:
    values = [value for value in column(jumps, "output_jump") if value is not None]
    trace, tallest = _histogram(values, BLUE, "jumps")
    traces = [trace]
    if noise:
        line = {"type": "scatter", "x": [noise, noise], "y": [0, tallest], "mode": "lines", "name": "noise floor"}
        traces.append({**line, "line": {"color": ORANGE, "dash": "dot"}, "hoverinfo": "name"})
    shape = layout(300, xaxis=axis("output jump (L2)"), yaxis=axis("jumps", rangemode="tozero"), showlegend=bool(noise))
    against = f" The dotted line is the noise floor, {rough(noise)}." if noise else ""
    caption = f"{len(values)} jumps, from {rough(min(values))} to {rough(max(values))}.{against}"
    return Figure("How high the steps are", caption, traces, shape)


def _spacings(jumps: Rows) -> Figure:
    places = [row["s_first"] for row in jumps]
    values = [b - a for a, b in itertools.pairwise(places)]
    trace, _ = _histogram(values, GREEN, "pairs")
    shape = layout(300, xaxis=axis("s from one jump to the next"), yaxis=axis("pairs of jumps", rangemode="tozero"))
    caption = f"The output stays the same for {rough(min(values))} to {rough(max(values))} of s between two jumps."
    return Figure("How wide the steps are", caption, [trace], shape)


def _slopes(scan: Rows, result: Result) -> Figure:
    scales, slopes = column(scan, "scale"), column(scan, "slope")
    gain, crossing = (finite(getattr(result.readings.get(name), "value", None)) for name in ("gain", "crossover_scale"))
    traces: list[Trace] = [
        {
            "type": "scatter",
            "x": scales,
            "y": slopes,
            "mode": "lines+markers",
            "name": "secant slope",
            "line": {"color": BLUE, "width": 1.5},
            "marker": {"size": 6, "color": BLUE},
            "hovertext": [hover(row, _HOVER) for row in scan],
            "hoverinfo": "text",
        }
    ]
    if gain:
        ends = [value for value in (scales[0], scales[-1]) if value is not None]
        line = {"type": "scatter", "x": ends, "y": [gain] * len(ends), "mode": "lines", "name": "derivative"}
        traces.append({**line, "line": {"color": FAINT, "dash": "dot"}, "hoverinfo": "name"})
    if gain and crossing:
        marker = {"size": 12, "symbol": "star", "color": INK}
        star = {"type": "scatter", "x": [crossing], "y": [gain], "mode": "markers", "name": "they agree from here"}
        traces.append({**star, "marker": marker, "hoverinfo": "name"})
    shape = layout(
        360,
        showlegend=True,
        xaxis=log_axis("step over |x₀|", scales),
        yaxis=log_axis("output over input step", [*slopes, gain]),
    )
    if not gain:
        said = "There is no derivative to compare them with."
    elif crossing:
        said = f"From {rough(crossing)} |x₀| on they follow the derivative along this direction, {rough(gain)}."
    else:
        said = f"At no step tried do they settle at the derivative along this direction, {rough(gain)}."
    caption = f"Single steps from the input. Short ones show rounding, not slope: at most {rough(_top(slopes))}. {said}"
    return Figure("From which step on the slope is the derivative's", caption, traces, shape)


def _histogram(values: Sequence[float], color: str, unit: str) -> tuple[Trace, int]:
    """Return bars of equal width over the values, and the height of the tallest."""
    low, high = min(values), max(values)
    bins = min(_BINS, max(1, round(math.sqrt(len(values)) * 2)))
    width = (high - low) / bins or abs(high) / 10 or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / width), bins - 1)] += 1
    lefts = [low + number * width for number in range(bins)]
    trace: Trace = {
        "type": "bar",
        "x": [left + width / 2 for left in lefts],
        "y": counts,
        "width": [width * 0.95] * bins,
        "name": unit,
        "marker": {"color": color},
        "hovertext": [
            f"{rough(left)} to {rough(left + width)}<br>{n} {unit}" for left, n in zip(lefts, counts, strict=True)
        ],
        "hoverinfo": "text",
    }
    return trace, max(counts)


def _noise(result: Result) -> float | None:
    """Return the noise floor, which the result states as a ratio."""
    top, over = (finite(getattr(result.readings.get(name), "value", None)) for name in ("jump_max", "jump_over_noise"))
    return top / over if top and over else None


def _beyond(begin: float) -> str:
    return f"s beyond {rough(begin)}" if begin else "s"


def _symbol(row: Mapping[str, Any]) -> str:
    return "circle" if row.get("jumped") is True else "circle-open"


def _top(values: Sequence[float | None]) -> float:
    return max(value for value in values if value is not None)
