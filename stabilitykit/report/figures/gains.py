"""The gain of directions: against the length of the step, against the draws it is averaged over, and over prompts."""

from __future__ import annotations

from collections import Counter
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
    label,
    layout,
    log_axis,
    number,
    rough,
)

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_HOVER = {
    "subject": "prompt",
    "direction": "direction",
    "sign": "sign",
    "regime": "regime",
    "eps_abs": "step asked for",
    "eps_rel": "over |x0|",
    "eps_ulp": "in median ULP",
    "realised_norm": "step made",
    "alignment": "alignment",
    "coords_moved": "coordinates moved",
    "gain_realised": "gain",
    "directional_sigma": "|J δ| / |δ|",
    "gain_true": "gain in true float64",
    "token_before": "token",
    "token_after": "token after",
}
_SMOOTHED = {
    "samples": "draws",
    "n_distinct": "distinct inputs",
    "gain_smoothed": "gain, unbiased",
    "low": "from",
    "high": "to",
    "gain_raw": "gain, biased",
    "alignment": "alignment of the mean step",
}
_COLORS = (BLUE, ORANGE, GREEN)
_SYMBOLS = {"linear": "circle", "rounding": "x", "nonlinear": "diamond-open", "unknown": "circle-open"}


def draw(result: Result) -> list[Figure]:
    """Return the gain against the step, its convergence and its spread; each where there is something to see."""
    cells = [row for row in result.rows if row.get("part") == "cell" and finite(row.get("eps_abs"))]
    smoothed = [row for row in result.rows if row.get("part") == "smoothed" and finite(row.get("samples"))]
    found = result.readings.get("gain_realised")
    epsilon = str(found.place.get("epsilon", "")) if found else ""
    drawn = [_curve(cells) if cells else None, _convergence(smoothed, result), _spread(cells, epsilon)]
    return [figure for figure in drawn if figure is not None]


def _curve(cells: Rows) -> Figure | None:
    """Return the gain against the length of the step, for the first prompt and up to three directions."""
    first = [row for row in cells if row.get("subject") == cells[0].get("subject")]
    names = list(dict.fromkeys(row.get("direction") for row in first))
    traces: list[Trace] = []
    for name, color in zip(names, _COLORS, strict=False):
        own = [row for row in first if row.get("direction") == name]
        traces += [_native(own, sign, color) for sign in ("+", "-")]
        named = {"name": label(name, 24), "showlegend": True}
        traces += [_line(own, "gain_true", color, "dot"), {**_line(own, "sigma", color, "solid"), **named}]
    values = [value for trace in traces for value in trace["y"]]
    if not any(values):
        return None
    shape = layout(
        400,
        showlegend=True,
        xaxis=log_axis("step length (input units)", column(first, "eps_abs")),
        yaxis=log_axis("output change / step", values),
        margin={"l": 64, "r": 18, "t": 40, "b": 52},
    )
    return Figure("Gain against the length of the step", _words(first, len(names)), traces, shape)


def _words(rows: Rows, directions: int) -> str:
    counted = Counter(str(row.get("regime")) for row in rows)
    said = ", ".join(f"{number} {regime}" for regime, number in counted.items())
    some = f" The first {len(_COLORS)} of {directions} directions are drawn." if directions > len(_COLORS) else ""
    whose = f" Prompt: {label(rows[0]['subject'])}." if rows[0].get("subject") else ""
    return (
        f"Each point is one step, forward (solid) or back (dashed) along its direction: {said}. Filled points follow "
        "the function, crosses are rounding, open diamonds the function's own curvature; steps that rounding absorbs "
        "have no gain. Thin: |J d|, the exact slope. Dotted: the same steps in true float64, which leave it where "
        f"rounding has turned the step out of its direction.{some}{whose}"
    )


def _native(rows: Rows, sign: str, color: str) -> Trace:
    own = sorted((row for row in rows if row.get("sign") == sign), key=lambda row: row["eps_abs"])
    gains = [value or None for value in column(own, "gain_realised")]
    return {
        "type": "scatter",
        "x": column(own, "eps_abs"),
        "y": gains,
        "mode": "lines+markers",
        "showlegend": False,
        "line": {"color": color, "width": 1.5, "dash": "solid" if sign == "+" else "dash"},
        "marker": {
            "color": color,
            "size": 8,
            "symbol": [_SYMBOLS.get(str(row.get("regime")), "circle-open") for row in own],
        },
        "hovertext": [hover(row, _HOVER) for row in own],
        "hoverinfo": "text",
    }


def _line(rows: Rows, name: str, color: str, dash: str) -> Trace:
    """Return a column along one side of a ray."""
    sign = "+" if any(row.get("sign") == "+" for row in rows) else "-"
    own = sorted((row for row in rows if row.get("sign") == sign), key=lambda row: row["eps_abs"])
    return {
        "type": "scatter",
        "x": column(own, "eps_abs"),
        "y": [value or None for value in column(own, name)],
        "mode": "lines",
        "line": {"color": color, "width": 1, "dash": dash},
        "opacity": 0.7,
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _convergence(rows: Rows, result: Result) -> Figure | None:
    """Return the smoothed gain against the number of draws, at the place of its reading."""
    found = result.readings.get("gain_smoothed")
    own = [row for row in rows if found and _is_at(row, found.place) and finite(row.get("gain_smoothed")) is not None]
    if len(own) < 2:
        return None
    x, y, sigma, raw = (column(own, name) for name in ("samples", "gain_smoothed", "sigma", "gain_raw"))
    plain = {"type": "scatter", "x": x, "mode": "lines", "hoverinfo": "skip"}
    traces: list[Trace] = [
        {**plain, "y": sigma, "name": "|J d|", "line": {"color": INK, "width": 1, "dash": "dash"}},
        {**plain, "y": raw, "name": "biased", "line": {"color": ORANGE, "dash": "dot"}},
        {**plain, "y": y, "name": "unbiased", "mode": "lines+markers", "line": {"color": BLUE}, **_interval(own, y)},
    ]
    shape = layout(
        showlegend=True,
        xaxis=log_axis("draws of the noise", x),
        yaxis=axis("gain, averaged over noise", rangemode="tozero"),
        margin={"l": 64, "r": 18, "t": 40, "b": 52},
    )
    last = own[-1]
    low, high, slope = (finite(last.get(name)) for name in ("low", "high", "sigma"))
    interval = "" if low is None or high is None else f", between {rough(low)} and {rough(high)} (95 % over the noise)"
    caption = (
        f"At a step of {number(last.get('eps_abs'))} the gain averaged over {last['samples']} draws is "
        f"{rough(last['gain_smoothed'])}{interval}"
        f"{'' if slope is None else f'; the slope of exact arithmetic is {rough(slope)}'}. The draws reached "
        f"{number(last.get('n_distinct'))} distinct inputs. Uncorrected, the noise biases the average upward."
    )
    return Figure("Gain averaged over noise, against the number of draws", caption, traces, shape)


def _is_at(row: Mapping[str, Any], place: Mapping[str, str]) -> bool:
    """Whether a row is of the direction, sign, length and prompt that a reading names."""
    wanted = {name: value for name, value in place.items() if name != "epsilon" and row.get(name) is not None}
    length = finite(row.get("epsilon"))
    same = length is not None and f"{length:g}" == place.get("epsilon")
    return same and all(row.get(name) == value for name, value in wanted.items())


def _interval(rows: Rows, middle: Sequence[float | None]) -> dict[str, Any]:
    low, high = column(rows, "low"), column(rows, "high")
    up = [None if b is None or y is None else b - y for y, b in zip(middle, high, strict=True)]
    down = [None if a is None or y is None else y - a for y, a in zip(middle, low, strict=True)]
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": BLUE, "thickness": 1.2}
    return {"error_y": bars, "hovertext": [hover(row, _SMOOTHED) for row in rows], "hoverinfo": "text"}


def _spread(cells: Rows, epsilon: str) -> Figure | None:
    """Return the gains of all prompts at the chosen length, with their medians."""
    own = [
        row
        for row in cells
        if row.get("subject") is not None
        and finite(row.get("epsilon"))
        and f"{row['epsilon']:g}" == epsilon
        and finite(row.get("gain_realised"))
    ]
    if len({row["subject"] for row in own}) < 2:
        return None
    rays = list(dict.fromkeys(_ray(row) for row in own))
    medians = [_median([row["gain_realised"] for row in own if _ray(row) == ray]) for ray in rays]
    points: Trace = {
        "type": "scatter",
        "x": [_ray(row) for row in own],
        "y": column(own, "gain_realised"),
        "mode": "markers",
        "marker": {"color": BLUE, "size": 8, "opacity": 0.7},
        "hovertext": [hover(row, _HOVER) for row in own],
        "hoverinfo": "text",
    }
    middle: Trace = {
        "type": "scatter",
        "x": rays,
        "y": medians,
        "mode": "markers",
        "marker": {"color": FAINT, "size": 24, "symbol": "line-ew-open", "line": {"width": 2, "color": INK}},
        "hoverinfo": "skip",
    }
    gains = column(own, "gain_realised")
    shape = layout(xaxis=axis("direction and sign", type="category"), yaxis=log_axis("gain", gains))
    least, most = (end(own, key=lambda row: row["gain_realised"]) for end in (min, max))
    caption = (
        f"One point a prompt, {len({row['subject'] for row in own})} in all, at steps of {epsilon} in the unit asked "
        f"for; bars are medians. The smallest gain is {rough(least['gain_realised'])} ({label(least['subject'], 30)}), "
        f"the largest {rough(most['gain_realised'])} ({label(most['subject'], 30)})."
    )
    return Figure("The same gain over prompts", caption, [middle, points], shape)


def _ray(row: Mapping[str, Any]) -> str:
    return label(f"{row.get('sign')}{row.get('direction')}", 16)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
