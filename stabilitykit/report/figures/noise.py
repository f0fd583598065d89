"""Noise in the input: how often it flips the top token, and how far it moves the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
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

_KIND = {
    "subject": "prompt",
    "noise": "noise",
    "draws": "draws",
    "flips": "flips",
    "flip_rate": "rate",
    "low": "from",
    "high": "to",
    "median_relative_l2": "median size over |x0|",
    "smallest_flip": "smallest flip over |x0|",
}
_DRAW = {
    "subject": "prompt",
    "noise": "noise",
    "relative_l2": "size over |x0|",
    "output_l2": "output change",
    "token_before": "token",
    "token_after": "token after",
    "margin_after": "margin after",
}
_BAR = 26


def draw(result: Result) -> list[Figure]:
    """Return the flip rate of each kind of noise and the output change of each draw."""
    kinds = [row for row in result.rows if row.get("part") == "kind" and finite(row.get("flip_rate")) is not None]
    draws = [
        row
        for row in result.rows
        if row.get("part") == "draw" and finite(row.get("relative_l2")) and finite(row.get("output_l2"))
    ]
    drawn = [_rates(kinds) if kinds else None, _changes(draws) if len(draws) > 1 else None]
    return [figure for figure in drawn if figure is not None]


def _rates(kinds: Rows) -> Figure:
    ordered = sorted(kinds, key=lambda row: finite(row.get("median_relative_l2")) or 0.0)
    rate, low, high = (column(ordered, name) for name in ("flip_rate", "low", "high"))
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [_gap(b, a) for a, b in zip(rate, high, strict=True)],
        "arrayminus": [_gap(a, b) for a, b in zip(rate, low, strict=True)],
        "color": BLUE,
        "thickness": 1.2,
    }
    trace: Trace = {
        "type": "scatter",
        "x": rate,
        "y": [label(row.get("noise"), 24) for row in ordered],
        "mode": "markers",
        "marker": {"color": BLUE, "size": 9},
        "error_x": bars,
        "hovertext": [hover(row, _KIND) for row in ordered],
        "hoverinfo": "text",
    }
    shape = layout(
        110 + _BAR * len({row.get("noise") for row in ordered}),
        xaxis=axis("share of draws that flip", range=[-0.03, 1.03]),
        yaxis=axis("", type="category", showgrid=False),
    )
    flips, draws = (sum(int(value or 0) for value in column(ordered, name)) for name in ("flips", "draws"))
    worst = max(ordered, key=lambda row: row["flip_rate"])
    caption = (
        f"{flips} of {draws} draws changed the top token. Kinds of noise from small (below) to large; bars are 95 % "
        "intervals, and a kind without chance has none. "
        + (f"The highest rate is {rough(100 * worst['flip_rate'])} %, of {label(worst.get('noise'))}." if flips else "")
    ).rstrip()
    return Figure("How often noise changes the next token", caption, [trace], shape)


def _gap(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else max(0.0, above - below)


def _changes(draws: Rows) -> Figure:
    flipped = [row for row in draws if row.get("token_changed") is True]
    kept = [row for row in draws if row.get("token_changed") is not True]
    traces = [_points(kept, "same token", BLUE, "circle"), _points(flipped, "other token", ORANGE, "x")]
    shape = layout(
        showlegend=True,
        xaxis=log_axis("input change over |x0|", column(draws, "relative_l2")),
        yaxis=log_axis("output change (L2)", column(draws, "output_l2")),
        margin={"l": 64, "r": 18, "t": 40, "b": 52},
    )
    least = min(flipped, key=lambda row: row["relative_l2"], default=None)
    caption = f"One point a draw that changed the output, {len(draws)} in all. " + (
        f"The smallest change that brings another token is {rough(least['relative_l2'])} of the input."
        if least
        else "None brings another token."
    )
    return Figure("Output change against input change", caption, [trace for trace in traces if trace["x"]], shape)


def _points(rows: Rows, name: str, color: str, symbol: str) -> Trace:
    return {
        "type": "scatter",
        "x": column(rows, "relative_l2"),
        "y": column(rows, "output_l2"),
        "name": name,
        "mode": "markers",
        "marker": {"color": color, "size": 7, "symbol": symbol, "opacity": 0.8},
        "hovertext": [hover(row, _DRAW) for row in rows],
        "hoverinfo": "text",
    }
