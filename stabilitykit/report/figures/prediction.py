"""A document word by word: margins and probabilities along it, the words that hang by a thread, and the ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    GREEN,
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

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_HOVER = {
    "number": "word",
    "word": "comes",
    "weakest": "predicted",
    "weakest_rival": "nearly",
    "weakest_margin": "margin",
    "weakest_margin_ulp": "in ULP",
    "flip_probability": "chance of a flip",
    "probability": "probability",
    "rank": "rank of its first token",
}
_POINTS, _BAND = 1500, 25


def draw(result: Result) -> list[Figure]:
    """Return the margins and the probabilities along the document, and the ranks of what came."""
    columns = ("number", "weakest_margin", "nll", "rank")
    rows = [
        row
        for row in result.rows
        if row.get("part") == "word" and all(finite(row.get(name)) is not None for name in columns) and row["rank"] > 0
    ]
    if not rows:
        return []
    noise = result.readings.get("noise")
    return [_margins(rows, finite(noise.value) if noise else None), _probabilities(rows), _ranks(rows)]


def _margins(rows: Rows, noise: float | None) -> Figure:
    kept = sorted(rows, key=itemgetter("weakest_margin"))[:_POINTS]
    positive = [row["weakest_margin"] for row in kept if row["weakest_margin"] > 0]
    floor = min([*positive, noise or math.inf]) if positive or noise else 1.0
    groups = {True: ("fragile", ORANGE, "x"), False: ("firm", BLUE, "circle")}
    traces = []
    for fragile, (name, color, symbol) in groups.items():
        own = [row for row in kept if (row.get("fragile") is True) == fragile]
        traces.append(_points(own, [max(row["weakest_margin"], floor) for row in own], name, color, symbol))
    if noise:
        ends = [min(row["number"] for row in rows), max(row["number"] for row in rows)]
        line = {"color": FAINT, "dash": "dash", "width": 1.2}
        traces.append(
            {"type": "scatter", "x": ends, "y": [noise] * 2, "mode": "lines", "name": "noise", "line": line}
            | {"hoverinfo": "skip"}
        )
    values = [*positive, floor, *([noise] if noise else [])]
    shape = layout(360, showlegend=True, xaxis=axis("word"), yaxis=log_axis("smallest margin (logits)", values))
    ties = sum(row["weakest_margin"] == 0 for row in rows)
    near = min(rows, key=itemgetter("weakest_margin"))
    tied = f" {ties} words have an exact tie, drawn at the lower edge." if ties else ""
    fewer = f" The {_POINTS} smallest are drawn." if len(rows) > _POINTS else ""
    caption = (
        f"One point a word: by how much its first prediction leads, at the token of the word where that is smallest. "
        f"{sum(row.get('fragile') is True for row in rows)} of {len(rows)} words are fragile; the smallest margin is "
        f"{rough(near['weakest_margin'])}, where {label(repr(near.get('weakest')), 24)} leads "
        f"{label(repr(near.get('weakest_rival')), 24)}.{tied}{fewer}"
    )
    return Figure("Margins along the document", caption, [one for one in traces if one["x"]], shape, wide=True)


def _points(rows: Rows, y: Sequence[float], name: str, color: str, symbol: str) -> Trace:
    return {
        "type": "scatter",
        "x": [row["number"] for row in rows],
        "y": list(y),
        "name": name,
        "mode": "markers",
        "marker": {"color": color, "size": 6, "symbol": symbol, "opacity": 0.7},
        "hovertext": [hover(row, _HOVER) for row in rows],
        "hoverinfo": "text",
    }


def _probabilities(rows: Rows) -> Figure:
    """Draw -log2 p of each word in bits, thinned evenly, and its running mean over all words."""
    bits = [row["nll"] / math.log(2) for row in rows]
    step = -(-len(rows) // _POINTS)
    shown = rows[::step]
    points = _points(shown, bits[::step], "word", BLUE, "circle")
    points["marker"] = {**points["marker"], "opacity": 0.35}
    width = min(_BAND, len(rows))
    means = [math.fsum(bits[k : k + width]) / width for k in range(0, len(rows) - width + 1, step)]
    middles = [rows[k + width // 2]["number"] for k in range(0, len(rows) - width + 1, step)]
    mean: Trace = {
        "type": "scatter",
        "x": middles,
        "y": means,
        "mode": "lines",
        "name": f"mean of {width} words",
        "line": {"color": ORANGE, "width": 2},
        "hoverinfo": "skip",
    }
    shape = layout(
        showlegend=True, xaxis=axis("word"), yaxis=axis("surprise, −log₂ of the probability (bits)", rangemode="tozero")
    )
    hardest = max(rows, key=itemgetter("nll"))
    fewer = f" One word in {step} is drawn." if step > 1 else ""
    average = rough(math.fsum(bits) / len(bits))
    caption = (
        f"0 bits: the model was certain of the word. On average a word costs {average} bits; "
        f"the hardest one is {label(repr(hardest.get('word')), 24)}, word {hardest['number']}, with "
        f"{rough(hardest['nll'] / math.log(2))}.{fewer}"
    )
    return Figure("Surprise along the document", caption, [points, mean], shape)


def _ranks(rows: Rows) -> Figure:
    """Count the ranks of the words' first tokens in classes that double: 1, 2, 3-4, 5-8 and so on."""
    classes = [math.ceil(math.log2(row["rank"])) for row in rows]
    counts = [classes.count(k) for k in range(max(classes) + 1)]
    trace: Trace = {
        "type": "bar",
        "x": [_span(k) for k in range(len(counts))],
        "y": counts,
        "marker": {"color": [GREEN, *[BLUE] * (len(counts) - 1)]},
        "hovertext": [f"rank {_span(k)}: {count} words" for k, count in enumerate(counts)],
        "hoverinfo": "text",
    }
    shape = layout(xaxis=axis("rank of the word's first token", type="category"), yaxis=axis("words"))
    whole = sum(row.get("match") is True for row in rows)
    caption = (
        f"Of {len(rows)} words {counts[0]} begin with the first prediction (green); of {whole} every token is. "
        f"{sum(row['rank'] > 100 for row in rows)} words were not among the first 100."
    )
    return Figure("How far down the list the next word stood", caption, [trace], shape)


def _span(k: int) -> str:
    low, high = 2 ** (k - 1) + 1 if k else 1, 2**k
    return str(high) if low == high else f"{low}–{high}"
