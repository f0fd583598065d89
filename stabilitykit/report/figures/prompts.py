"""Questions of several kinds in several roles: the margins of their answers, and what an interval lets one say."""

from __future__ import annotations

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
    finite,
    hover,
    label,
    layout,
    log_axis,
    rough,
)
from stabilitykit.report.figures.readout import LEGEND_BELOW, kept

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Row = Mapping[str, Any]
Rows = Sequence[Row]

COLORS = (BLUE, ORANGE, GREEN, INK)
_PROMPT = {
    "question": "",
    "role": "role",
    "median_margin": "median margin",
    "first_margin": "first token's margin",
    "min_margin": "smallest margin",
    "tokens": "tokens",
}
_STATISTICS = {
    "median_margin": "median",
    "mean_margin": "mean",
    "first_margin": "first token",
    "min_margin": "smallest",
}


def draw(result: Result) -> list[Figure]:
    """Return margins by kind and role, the differences between kinds, and how small margins get."""
    prompts = kept(result, "prompt", "median_margin")
    if not prompts:
        return []
    drawn = [_by_role(result, prompts), _differences(result), _shares(result, prompts)]
    return [figure for figure in drawn if figure is not None]


def colors(rows: Rows) -> dict[str, str]:
    """Return a colour for each kind, in order of appearance."""
    kinds = dict.fromkeys(str(row.get("kind")) for row in rows)
    return {kind: COLORS[place % len(COLORS)] for place, kind in enumerate(kinds)}


def _by_role(result: Result, prompts: Rows) -> Figure:
    """Draw a point a prompt, kinds side by side in each role, and the kinds' means with their intervals at the left."""
    roles = list(dict.fromkeys(str(row.get("role")) for row in prompts))
    means = {row["kind"]: row for row in kept(result, "kind", "value") if row.get("statistic") == "median_margin"}
    traces: list[Trace] = []
    chosen = colors(prompts)
    for place, (kind, color) in enumerate(chosen.items()):
        off = 0.36 * ((place + 0.5) / len(chosen) - 0.5)
        own = [row for row in prompts if row.get("kind") == kind]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label(kind),
                "x": [1 + roles.index(str(row.get("role"))) + off for row in own],
                "y": [row["median_margin"] for row in own],
                "marker": {"color": color, "size": 7, "opacity": 0.7},
                "hovertext": [hover(row, _PROMPT) for row in own],
                "hoverinfo": "text",
            }
        )
        if kind in means:
            traces.append(_mean(means[kind], off, color))
    shape = layout(
        420,
        showlegend=True,
        legend=LEGEND_BELOW,
        xaxis=axis(
            "role",
            tickmode="array",
            tickvals=list(range(1 + len(roles))),
            ticktext=["mean", *(label(role) for role in roles)],
            range=[-0.5, len(roles) + 0.5],
            showgrid=False,
            tickangle=-30,
        ),
        yaxis=axis("median margin of an answer (logit)", rangemode="tozero"),
    )
    caption = (
        f"A point is one prompt's answer, {label(result.subject.get('form'))} form. Diamonds: the mean over questions, "
        "with an interval that draws questions."
    )
    return Figure("Margins by kind and role", caption, traces, shape, wide=True)


def _mean(row: Row, x: float, color: str) -> Trace:
    low, high = finite(row.get("low")), finite(row.get("high"))
    known = low is not None and high is not None
    return {
        "type": "scatter",
        "mode": "markers",
        "showlegend": False,
        "x": [x],
        "y": [row["value"]],
        "marker": {"color": color, "size": 11, "symbol": "diamond"},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [(high or 0) - row["value"] if known else 0],
            "arrayminus": [row["value"] - (low or 0) if known else 0],
            "color": color,
        },
        "hovertext": [f"mean of {row.get('questions')} questions {rough(row['value'])}"],
        "hoverinfo": "text",
    }


def _differences(result: Result) -> Figure | None:
    """Draw the difference of kinds by four statistics, with the interval over questions and the one over prompts."""
    rows = [row for row in kept(result, "difference", "value", "low", "high") if row.get("statistic") in _STATISTICS]
    if not rows:
        return None
    several = len({row.get("less") for row in rows}) > 1
    names = [_STATISTICS[row["statistic"]] + (f", {label(row.get('less'), 16)}" if several else "") for row in rows]
    sides = (("low", "high", "questions drawn", BLUE, -0.12), ("naive_low", "naive_high", "prompts drawn", FAINT, 0.12))
    traces = [_intervals(rows, *side) for side in sides]
    level = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1}
    shape = layout(
        160 + 46 * len(rows),
        showlegend=True,
        legend={**LEGEND_BELOW, "y": -0.34},
        xaxis=axis("difference of margins (logit)"),
        yaxis=axis("", tickmode="array", tickvals=list(range(len(rows))), ticktext=names, autorange="reversed"),
        shapes=[{**level, "line": {"color": INK, "dash": "dot", "width": 1}}],
    )
    apart = sum(row["low"] > 0 or row["high"] < 0 for row in rows)
    others = " and ".join(dict.fromkeys(label(row.get("less"), 24) for row in rows))
    caption = (
        f"Margins of {label(rows[0].get('kind'), 24)} questions less those of {others} ones. "
        f"Intervals that exclude 0: {apart} of {len(rows)}. Prompts of one question are alike, so questions are "
        "what is drawn; drawing prompts instead (grey) takes them for more than they are."
    )
    return Figure("Is there a difference?", caption, traces, shape)


def _intervals(rows: Rows, low: str, high: str, name: str, color: str, off: float) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [row["value"] for row in rows],
        "y": [place + off for place in range(len(rows))],
        "marker": {"color": color, "size": 8},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [row[high] - row["value"] for row in rows],
            "arrayminus": [row["value"] - row[low] for row in rows],
            "color": color,
        },
        "hovertext": [f"{rough(row['value'])}, {rough(row[low])} to {rough(row[high])}" for row in rows],
        "hoverinfo": "text",
    }


def _shares(result: Result, prompts: Rows) -> Figure | None:
    """Draw for each kind which share of its tokens has at most a margin."""
    tokens = [row for row in kept(result, "token", "margin_ulp") if row["margin_ulp"] > 0]
    if not tokens:
        return None
    traces: list[Trace] = []
    for kind, color in colors(prompts).items():
        own = sorted(row["margin_ulp"] for row in tokens if row.get("kind") == kind)
        every = [row for row in kept(result, "token", "margin_ulp") if row.get("kind") == kind]
        places = sorted({*range(0, len(own), max(1, len(own) // 200)), *range(len(own))[-1:]})
        x = [own[place] for place in places]
        y = [(len(every) - len(own) + place + 1) / len(every) for place in places]
        line = {"color": color, "width": 1.8, "shape": "hv"}
        trace = {"type": "scatter", "mode": "lines", "name": label(kind), "x": x, "y": y, "line": line}
        traces.append({**trace, "hovertemplate": "%{y:.3f} of tokens within %{x:.4g} ULP<extra></extra>"})
    shape = layout(
        360,
        showlegend=True,
        legend=LEGEND_BELOW,
        xaxis=log_axis("margin in ULP of the largest logit", [row["margin_ulp"] for row in tokens]),
        yaxis=axis("share of tokens", range=[0, 1.02]),
    )
    near = [row for row in kept(result, "token", "margin_ulp") if row.get("near_tie") is True]
    least = min(tokens, key=lambda row: row["margin_ulp"])
    caption = (
        f"How many tokens are decided by less than a margin. The smallest is {rough(least['margin_ulp'])} ULP, "
        f"{label(least.get('token'))} before {label(least.get('rival'))}; {len(near)} tokens are near ties."
    )
    return Figure("How small margins get", caption, traces, shape)
