"""Margins of generated tokens: which prompts another device changes, where in the text, and what moved the margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    ORANGE,
    Figure,
    Trace,
    axis,
    decades,
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

_PROMPT = {
    "prompt": "prompt",
    "forecast": "chance",
    "high": "at most",
    "expected_flips": "tokens expected to change",
    "flips_seen": "changed here",
    "exact_ties": "exact ties",
    "keep": "tokens that keep the risk low",
    "weakest_position": "weakest token",
}
_TOKEN = {
    "prompt": "prompt",
    "position": "token",
    "token": "takes",
    "rival": "before",
    "margin": "margin",
    "margin_ulp": "in ULP",
    "noise": "noise",
    "forecast": "chance of a flip",
    "seen_in": "flipped by",
}
_WAY = {
    "way": "",
    "bits_of": "bits of",
    "flips": "tokens flipped",
    "rms_change": "margins move by",
    "max_change": "most",
}
_SHOWN, _POINTS, _BAR = 30, 2000, 24


def draw(result: Result) -> list[Figure]:
    """Return the prompts by risk, the tokens by margin over noise, and the ways by what they moved."""
    parts = {
        name: [row for row in result.rows if row.get("part") == name and finite(row.get(column)) is not None]
        for name, column in (("prompt", "forecast"), ("token", "margin_over_noise"), ("way", "rms_change"))
    }
    drawn = [_ranking(parts["prompt"]), _along(parts["token"]), _ways(parts["way"])]
    return [figure for figure in drawn if figure is not None]


def _ranking(rows: Rows) -> Figure | None:
    if not rows:
        return None
    ranked = sorted(rows, key=lambda row: -row["forecast"])
    kept = ranked[:_SHOWN][::-1]
    highs = [finite(row.get("high")) for row in kept]
    names = [f"{label(row.get('prompt'), 22)} · {row.get('number')}" for row in kept]
    trace: Trace = {
        "type": "scatter",
        "x": [row["forecast"] for row in kept],
        "y": names,
        "mode": "markers",
        "marker": {"color": [ORANGE if row.get("at_risk") is True else BLUE for row in kept], "size": 9},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, (high or 0.0) - row["forecast"]) for row, high in zip(kept, highs, strict=True)],
            "arrayminus": [0.0] * len(kept),
            "color": BLUE,
            "thickness": 1.2,
        },
        "hovertext": [hover(row, _PROMPT) for row in kept],
        "hoverinfo": "text",
    }
    shape = layout(
        110 + _BAR * len(kept),
        xaxis=axis("chance that another device says something else", range=[-0.03, 1.03]),
        yaxis=axis("", type="category", showgrid=False),
    )
    risky = sum(row.get("at_risk") is True for row in ranked)
    most = f" The {_SHOWN} riskiest are drawn." if len(ranked) > _SHOWN else ""
    caption = (
        f"{risky} of {len(ranked)} prompts are at risk (orange). The bar reaches to the upper bound; the number behind "
        f"a prompt is its place in the list.{most}"
    )
    return Figure("Prompts that another device changes", caption, [trace], shape, wide=True)


def _along(rows: Rows) -> Figure | None:
    positive = [row["margin_over_noise"] for row in rows if row["margin_over_noise"] > 0]
    if not positive:
        return None
    floor = 10 ** decades(positive)[0]
    kept = sorted(rows, key=itemgetter("margin_over_noise"))[:_POINTS]
    flipped = [row for row in kept if finite(row.get("seen"))]
    quiet = [row for row in kept if not finite(row.get("seen"))]
    traces = [_points(quiet, "same in all ways", BLUE, "circle", floor)]
    traces.append(_points(flipped, "flipped by some way", ORANGE, "x", floor))
    ties = sum(row["margin_over_noise"] == 0 for row in rows)
    shape = layout(
        360,
        showlegend=True,
        xaxis=axis("generated token", rangemode="tozero"),
        yaxis=log_axis("margin over its noise", [*positive, floor]),
    )
    fewer = f" The {_POINTS} smallest are drawn." if len(rows) > _POINTS else ""
    near = sum(row["margin_over_noise"] < 3 for row in rows)
    tied = f" {ties} exact ties lie on the lower edge." if ties else ""
    caption = (
        f"One point a token of all prompts, {len(rows)} in all; {near} have a margin below three times its noise, and "
        f"{sum(bool(finite(row.get('seen'))) for row in rows)} were flipped.{tied}{fewer}"
    )
    return Figure("Margin over noise along the text", caption, [one for one in traces if one["x"]], shape)


def _points(rows: Rows, name: str, color: str, symbol: str, floor: float) -> Trace:
    return {
        "type": "scatter",
        "x": [finite(row.get("position")) for row in rows],
        "y": [max(row["margin_over_noise"], floor) for row in rows],
        "name": name,
        "mode": "markers",
        "marker": {"color": color, "size": 7, "symbol": symbol, "opacity": 0.7},
        "hovertext": [hover(row, _TOKEN) for row in rows],
        "hoverinfo": "text",
    }


def _ways(rows: Rows) -> Figure | None:
    others = [row for row in rows if row["rms_change"] > 0]
    if not others:
        return None
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": [row["rms_change"] for row in others][::-1],
        "y": [label(row.get("way"), 26) for row in others][::-1],
        "text": [_flips(row.get("flips")) for row in others][::-1],
        "textposition": "auto",
        "marker": {"color": [ORANGE if finite(row.get("flips")) else BLUE for row in others][::-1]},
        "hovertext": [hover(row, _WAY) for row in others][::-1],
        "hoverinfo": "text",
    }
    shape = layout(
        110 + _BAR * len(others),
        xaxis=axis("change of the margins (logits, rms)", rangemode="tozero"),
        yaxis=axis("", type="category", showgrid=False),
    )
    largest = max(others, key=lambda row: row["rms_change"])
    still = len(rows) - len(others) - 1
    others_still = f" {still} more move nothing." if still > 0 else ""
    caption = (
        f"Against one token at a time, alone. Most of all {label(largest.get('way'))} moves them, by "
        f"{rough(largest['rms_change'])}.{others_still}"
    )
    return Figure("What each way of computing moves", caption, [trace], shape)


def _flips(count: Any) -> str:
    return "" if not finite(count) else "1 flip" if count == 1 else f"{count} flips"
