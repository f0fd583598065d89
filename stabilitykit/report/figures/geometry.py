"""States behind prompts: their map, how far roles move them, how far apart they are, and distances in both matrices."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    SCALE,
    Figure,
    Trace,
    axis,
    finite,
    hover,
    label,
    layout,
    rough,
)
from stabilitykit.report.figures.map_panel import bar
from stabilitykit.report.figures.prompts import colors
from stabilitykit.report.figures.readout import LEGEND_BELOW, kept

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Row = Mapping[str, Any]
Rows = Sequence[Row]

_STATE = {"question": "", "role": "role", "kind": "kind", "token": "says", "norm": "length", "nearest": "nearest row"}
_DRIFT = {"question": "", "role": "role", "cosine": "1 - cosine", "euclidean": "distance", "cosine_rank": "rank"}
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
_CELLS = 60


def draw(result: Result) -> list[Figure]:
    """Return the map of the states, role drift, distances, a prompt's first tokens, and embedding against head."""
    states = kept(result, "state", "norm")
    if not states or "plane" not in result.arrays:
        return []
    drawn = [
        _map(result, states),
        _drift(result),
        _distances(result, states),
        _similarity(result, states),
        _matrices(result),
    ]
    return [figure for figure in drawn if figure is not None]


def _map(result: Result, states: Rows) -> Figure:
    plane = result.arrays["plane"]
    roles = list(dict.fromkeys(str(row.get("role")) for row in states))
    questions = list(dict.fromkeys(str(row.get("question")) for row in states))
    traces: list[Trace] = [_ties(plane, states, roles[0])]
    for kind, color in colors(states).items():
        for place, role in enumerate(roles):
            own = [row for row in states if (row.get("kind"), row.get("role")) == (kind, role)]
            numbers = [str(questions.index(str(row.get("question"))) + 1) for row in own]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers" if place else "markers+text",
                    "name": f"{label(kind)}, {label(role)}",
                    "x": [float(plane[row["number"], 0]) for row in own],
                    "y": [float(plane[row["number"], 1]) for row in own],
                    "text": numbers,
                    "textposition": "top center",
                    "marker": {"color": color, "size": 8, "symbol": _SYMBOLS[place % len(_SYMBOLS)]},
                    "hovertext": [hover(row, _STATE) for row in own],
                    "hoverinfo": "text",
                }
            )
    shares = [share for share in result.subject.get("plane_shares", []) if finite(share) is not None]
    names = [f"axis {place + 1} ({share:.0%} of the variance)" for place, share in enumerate(shares)]
    shape = layout(
        480,
        showlegend=True,
        legend={**LEGEND_BELOW, "y": -0.18},
        xaxis=axis(names[0] if names else "axis 1"),
        yaxis=axis(names[1] if len(names) > 1 else "axis 2", scaleanchor="x"),
    )
    caption = (
        f"{len(states)} states on the plane in which they differ most, {label(result.subject.get('form'))} form. "
        "Numbers count the questions; grey lines lead from a question without a role to the same in a role."
    )
    return Figure("Map of the states", caption, [trace for trace in traces if trace["x"]], shape, wide=True)


def _ties(plane: Any, states: Rows, plain: str) -> Trace:
    base = {row.get("question"): row["number"] for row in states if row.get("role") == plain}
    x: list[float | None] = []
    y: list[float | None] = []
    for row in states:
        start = base.get(row.get("question"))
        if start is not None and row.get("role") != plain:
            x += [float(plane[start, 0]), float(plane[row["number"], 0]), None]
            y += [float(plane[start, 1]), float(plane[row["number"], 1]), None]
    look = {"mode": "lines", "line": {"color": FAINT, "width": 0.8}, "hoverinfo": "skip", "showlegend": False}
    return {"type": "scatter", "x": x, "y": y, **look}


def _drift(result: Result) -> Figure | None:
    """Draw how far each role moves each question, the questions from top to bottom."""
    rows = kept(result, "drift", "cosine", "euclidean")
    if not rows:
        return None
    questions = list(dict.fromkeys(str(row.get("question")) for row in rows))
    roles = list(dict.fromkeys(str(row.get("role")) for row in rows))
    found = {(str(row.get("question")), str(row.get("role"))): row for row in rows}
    cells = [[found.get((question, role), {}) for role in roles] for question in questions]
    trace: Trace = {
        "type": "heatmap",
        "x": [label(role) for role in roles],
        "y": [f"{place + 1}. {label(question, 18)}" for place, question in enumerate(questions)],
        "z": [[finite(row.get("cosine")) for row in line] for line in cells],
        "hovertext": [[hover(row, _DRIFT) for row in line] for line in cells],
        "hoverinfo": "text",
        "colorscale": SCALE,
        "colorbar": bar("1 - cosine"),
    }
    shape = layout(
        max(300, 140 + 22 * len(questions)),
        xaxis=axis("role", type="category", showgrid=False),
        yaxis=axis("", type="category", showgrid=False, autorange="reversed"),
    )
    most = max(rows, key=lambda row: row["cosine"])
    caption = (
        f"Distance of a question's state in a role from that without one. The furthest: {label(most.get('role'))}, "
        f"{label(most.get('question'))} ({rough(most['cosine'])}, {rough(most['euclidean'])} long)."
    )
    return Figure("Role drift", caption, [trace], shape)


def _distances(result: Result, states: Rows) -> Figure | None:
    cosine = result.arrays.get("cosine")
    if cosine is None or len(states) < 2:
        return None
    shown = min(len(states), _CELLS)
    questions = list(dict.fromkeys(row.get("question") for row in states))
    names = [f"{questions.index(row.get('question')) + 1}, {label(row.get('role'), 12)}" for row in states[:shown]]
    trace: Trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": [[None if i == j else float(f"{cosine[i, j]:.4g}") for j in range(shown)] for i in range(shown)],
        "hoverinfo": "x+y+z",
        "colorscale": SCALE,
        "colorbar": bar("1 - cosine"),
    }
    shape = layout(
        420,
        xaxis=axis("", type="category", showgrid=False, nticks=12, tickangle=-60),
        yaxis=axis("", type="category", showgrid=False, nticks=12, autorange="reversed"),
    )
    cut = f" The first {shown} of {len(states)}." if shown < len(states) else ""
    caption = f"Every pair of prompts: the number of the question, as in the map, and the role.{cut}"
    return Figure("Distances between states", caption, [trace], shape)


def _similarity(result: Result, states: Rows) -> Figure | None:
    table = result.arrays.get("similarity")
    number = states[0]["number"]
    tokens = [row for row in kept(result, "row", "cosine", "logit") if row.get("number") == number]
    if table is None or not tokens:
        return None
    names = ["state", *(f"{row['rank']}. {label(row.get('token'), 12)}" for row in tokens)]
    trace: Trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": [[round(float(one), 4) for one in line] for line in table[number]],
        "hoverinfo": "x+y+z",
        "colorscale": SCALE,
        "zmin": -1,
        "zmax": 1,
        "colorbar": bar("cosine"),
    }
    shape = layout(
        380,
        xaxis=axis("", type="category", showgrid=False, tickangle=-45),
        yaxis=axis("", type="category", showgrid=False, autorange="reversed"),
    )
    caption = f"The state behind {label(states[0].get('question'))} and the rows of its five first tokens."
    return Figure("A state and its first tokens", caption, [trace], shape)


def _matrices(result: Result) -> Figure | None:
    """Draw distances in the embedding against those in the head, or their histogram where the two are one."""
    joint, edges = result.arrays.get("cosine_joint"), result.arrays.get("cosine_edges")
    if joint is None or edges is None:
        return None
    middles = [float(f"{(low + high) / 2:.4g}") for low, high in itertools.pairwise(edges)]
    pairs, tokens = int(joint.sum()), len(result.arrays.get("sample", ()))
    sampled = f"{pairs:,} pairs of {tokens} tokens, drawn over the vocabulary, none with itself."
    if result.subject.get("tying") != "apart":
        trace: Trace = {"type": "bar", "x": middles, "y": joint.sum(axis=1).tolist(), "marker": {"color": BLUE}}
        shape = layout(340, xaxis=axis("1 - cosine of two rows"), yaxis=axis("pairs"), bargap=0.05)
        caption = f"{sampled} Embedding and head are tied: the distances are the same in both."
        return Figure("Distances between tokens", caption, [trace], shape)
    trace = {
        "type": "heatmap",
        "x": middles,
        "y": middles,
        "z": [[int(count) or None for count in line] for line in joint.T],
        "hovertemplate": "embedding %{x}<br>head %{y}<br>%{z} pairs<extra></extra>",
        "colorscale": SCALE,
        "colorbar": bar("pairs"),
    }
    shape = layout(
        400,
        xaxis=axis("1 - cosine in the embedding", showgrid=False, constrain="domain"),
        yaxis=axis("1 - cosine in the head", showgrid=False, scaleanchor="x", constrain="domain"),
    )
    known = [row for row in kept(result, "sample", "correlation") if row.get("distance") == "cosine"]
    said = f" Correlation {rough(known[0]['correlation'])}." if known else ""
    return Figure("Embedding against head", f"{sampled}{said}", [trace], shape)
