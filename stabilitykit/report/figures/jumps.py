"""Jumps at first changes: next to the step that caused them, to the noise floor and to what calculus allows."""

from __future__ import annotations

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
    layout,
    log_axis,
    rough,
)
from stabilitykit.report.figures.rays import LEGEND_BELOW, hover_of, names_of

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]


def draw(result: Result) -> list[Figure]:
    """Return the jumps against their steps, and one by one in units of the noise floor; nothing for a single one."""
    rows = [row for row in result.rows if finite(row.get("output_jump")) and finite(row.get("input_step"))]
    if len(rows) < 2:
        return []
    drawn = [_against_step(rows, _value(result, "noise_floor"), _value(result, "sigma_1")), _by_ray(rows, result)]
    return [figure for figure in drawn if figure is not None]


def _value(result: Result, name: str) -> float | None:
    reading = result.readings.get(name)
    return finite(reading.value) if reading else None


def _against_step(rows: Rows, noise: float | None, sigma: float | None) -> Figure:
    steps = [row["input_step"] for row in rows]
    ends = [min(steps), max(steps)]
    traces = [_points(steps, rows, "output_jump", "first change")]
    if noise:
        traces.append(_line(ends, [noise, noise], "noise floor", FAINT, "dash"))
    if sigma:
        traces.append(_line(ends, [sigma * step for step in ends], "σ₁ × step", GREEN, "solid"))
    shape = layout(
        380,
        showlegend=True,
        xaxis=log_axis("length of the input step", steps),
        yaxis=log_axis("output jump (L2)", [y for trace in traces for y in trace["y"]]),
        legend={**LEGEND_BELOW, "y": -0.24},
    )
    words = [
        f"{len(rows)} first changes. The steps reach from {rough(ends[0])} to {rough(ends[1])}, the jumps from "
        f"{rough(min(row['output_jump'] for row in rows))} to {rough(max(row['output_jump'] for row in rows))}."
    ]
    if noise:
        words.append(f"Equal evaluations of the input lie up to {rough(noise)} apart, the dashed line.")
    if sigma:
        words.append("The green line is the most that the derivative allows for such a step.")
    return Figure("What a step does, and what it should do", " ".join(words), traces, shape)


def _by_ray(rows: Rows, result: Result) -> Figure | None:
    kept = [row for row in rows if finite(row.get("jump_over_noise"))]
    if not kept:
        return None
    turned = all(finite(row.get("angle_deg")) is not None for row in kept)
    x: list[float] = [row["angle_deg"] for row in kept] if turned else list(range(len(kept)))
    names = names_of(result)
    ticks = {"tickvals": list(range(0, 361, 45)), "ticktext": [*names.ticks(), names.at(0)]} if turned else {}
    values = column(kept, "jump_over_noise")
    traces = [
        _points(x, kept, "jump_over_noise", "first change"),
        _line([x[0], x[-1]], [1, 1], "noise floor", FAINT, "dash"),
    ]
    shape = layout(
        340,
        showlegend=True,
        xaxis=axis("angle in the plane" if turned else "ray", **ticks),
        yaxis=log_axis("jump over noise floor", [*values, 1.0]),
        legend={**LEGEND_BELOW, "y": -0.26},
    )
    least, most = (rough(pick(value for value in values if value is not None)) for pick in (min, max))
    caption = f"The same jumps ray by ray, in units of the noise floor: {least} to {most}."
    return Figure("How many noise floors high the jumps are", caption, traces, shape)


def _points(x: Sequence[float], rows: Rows, name: str, title: str) -> Trace:
    return {
        "type": "scatter",
        "x": list(x),
        "y": column(rows, name),
        "mode": "markers",
        "name": title,
        "marker": {"size": 7, "color": ORANGE if name == "jump_over_noise" else BLUE, "opacity": 0.8},
        **hover_of(rows),
    }


def _line(x: Sequence[float], y: Sequence[float], name: str, color: str, dash: str) -> Trace:
    line = {"color": color, "width": 1.5, "dash": dash}
    return {
        "type": "scatter",
        "x": list(x),
        "y": list(y),
        "mode": "lines",
        "name": name,
        "line": line,
        "hoverinfo": "skip",
    }
