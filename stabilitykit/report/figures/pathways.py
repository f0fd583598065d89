"""Sampled tokens of the vocabulary: which explode in which place, by their norm, by their id, and along v_1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from statistics import fmean, pstdev
from typing import Any

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
    label,
    layout,
    log_axis,
    rough,
)

Rows = Sequence[Mapping[str, Any]]

_WAYS = {
    "initial": "first",
    "second": "behind another",
    "unattended": "without attention",
    "random": "random embedding",
}
_WAY_COLORS = {"initial": ORANGE, "second": BLUE, "unattended": GREEN, "random": FAINT}
_IDS = 256
"""Tokens that are drawn by their id, evenly from all."""


def shares(rows: Rows) -> Figure:
    """Return how many tokens end below each norm, for each way of running them."""
    traces = []
    for way, title in _WAYS.items():
        values = sorted(value for value in column(rows, f"norm_{way}") if value)
        trace: Trace = {
            "type": "scatter",
            "x": values,
            "y": [(place + 1) / len(values) for place in range(len(values))],
            "mode": "lines",
            "line": {
                "shape": "hv",
                "width": 2,
                "color": _WAY_COLORS[way],
                "dash": "dot" if way == "random" else "solid",
            },
            "name": title,
        }
        traces += [trace] if values else []
    shares = {way: sum(bool(row.get(f"explodes_{way}")) for row in rows) / len(rows) for way in _WAYS}
    everything = [value for way in _WAYS for value in column(rows, f"norm_{way}")]
    shape = layout(
        380,
        showlegend=True,
        xaxis=log_axis("norm behind the exploding block", everything),
        yaxis=axis("share of tokens up to it", range=[0, 1.03]),
    )
    caption = (
        f"{len(rows)} tokens of the vocabulary, each alone or in the second place. Those that explode: "
        + ", ".join(f"{title} {100 * shares[way]:.3g} %" for way, title in _WAYS.items())
        + "."
    )
    return Figure("Which tokens explode", caption, traces, shape)


def norms(rows: Rows) -> Figure:
    """Return the norms by the token's id, of tokens and of random embeddings."""
    shown = _evenly(rows)
    traces = [_by_id(shown, f"norm_{way}", way) for way in ("random", "second", "initial")]
    values = [value for trace in traces for value in trace["y"]]
    shape = layout(
        360,
        showlegend=True,
        xaxis=axis("token id"),
        yaxis=log_axis("norm behind the exploding block", values),
    )
    longest = max(rows, key=itemgetter("norm_second"))
    caption = (
        "The same by the token's id; a random embedding stands where its token would. Behind another token the longest "
        f"is {label(longest.get('token'), 20)}, {rough(longest['norm_second'])}.{_drawn(shown, rows)}"
    )
    return Figure("Tokens by their id", caption, traces, shape)


def coefficients(rows: Rows) -> Figure:
    """Return the part along v_1 by the token's id."""
    shown = _evenly(rows)
    traces = [_by_id(shown, f"coefficient_{way}", way) for way in ("second", "initial")]
    shape = layout(
        360,
        showlegend=True,
        xaxis=axis("token id"),
        yaxis=axis("part along v₁", zeroline=True, zerolinecolor=FAINT),
    )
    means = [_mean_and_spread(column(rows, f"coefficient_{way}")) for way in ("initial", "second")]
    caption = (
        "What of the state that the exploding layer reads lies along v₁, the state scaled to √H: "
        f"{means[0]} in the first place, {means[1]} behind another token.{_drawn(shown, rows)}"
    )
    return Figure("What makes them explode", caption, traces, shape)


def _by_id(rows: Rows, name: str, way: str) -> Trace:
    return {
        "type": "scatter",
        "x": [row.get("token_id") for row in rows],
        "y": [None if value is None else float(f"{value:.4g}") for value in column(rows, name)],
        "mode": "markers",
        "marker": {"size": 5, "color": _WAY_COLORS[way], "opacity": 0.8},
        "name": _WAYS[way],
        "hovertemplate": f"{_WAYS[way]}, id %{{x}}<br>%{{y}}<extra></extra>",
    }


def _evenly(rows: Rows) -> Rows:
    known = [row for row in rows if finite(row.get("token_id")) is not None]
    return known[:: -(-len(known) // _IDS) or 1]


def _drawn(shown: Rows, rows: Rows) -> str:
    return f" {len(shown)} of {len(rows)} are drawn." if len(shown) < len(rows) else ""


def _mean_and_spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{rough(fmean(known))} ± {rough(pstdev(known))}" if known else "nothing known"
