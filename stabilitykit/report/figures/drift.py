"""Two runs side by side: their drift along the tokens and through the stages, and where their decision parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.drift_tables import tables
from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    SCALE,
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
from stabilitykit.report.figures.profiles import logarithm
from stabilitykit.report.figures.thresholds import positive, values

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Row = Mapping[str, Any]
Rows = Sequence[Row]

_TOKEN = {
    "prompt": "prompt",
    "position": "token",
    "changed": "elements changed",
    "relative_l2": "|Δh| / |h|",
    "angle": "degrees",
    "max_scaled_ulp": "scaled ULP",
    "max_ulp": "ULP",
    "same_token": "same token",
}
_STAGE = {
    "stage": "",
    "changed": "elements changed",
    "changed_share": "share",
    "relative_l2": "|Δh| / |h|",
    "amplification": "times the stage before",
    "max_scaled_ulp": "scaled ULP",
}
_PREFERENCE = {
    "stage": "",
    "word_a": "a says",
    "word_b": "b says",
    "ahead_a": "run a",
    "ahead_b": "run b",
    "prefers_a": "a prefers",
    "prefers_b": "b prefers",
}
_PANELS = (("relative_l2", "|Δh| / |h|"), ("angle", "degrees"), ("max_scaled_ulp", "scaled ULP"))
_OTHERS = 20


def draw(result: Result) -> list[Figure]:
    """Return the drift along the tokens, through the stages, in maps and tables, and the preference of both runs."""
    parts: dict[str, list[Row]] = {}
    for row in result.rows:
        parts.setdefault(str(row.get("part")), []).append(row)
    tokens = [row for row in parts.get("token", []) if finite(row.get("position")) is not None]
    if not tokens:
        return []
    number = next((row.get("number") for row in tokens if row.get("same_token") is False), tokens[0].get("number"))
    stages, precise, preferred, flips = (
        [row for row in parts.get(name, []) if row.get("number") == number]
        for name in ("stage", "precision", "preference", "flip")
    )
    drawn = [
        _along(tokens, number),
        _growth(stages),
        _map(stages, "relative_l2", "log₁₀ |Δh| / |h|", "Which submodule drifts"),
        _map(stages, "changed_share", "share changed", "How many elements differ"),
        *tables(precise),
        _preference(preferred, flips),
    ]
    return [figure for figure in drawn if figure is not None]


def _along(tokens: Rows, number: Any) -> Figure | None:
    """Draw three panels over one axis of tokens; the prompt that is looked into stands out."""
    if not any(positive(row.get("relative_l2")) for row in tokens):
        return None
    others = list(dict.fromkeys(row.get("number") for row in tokens if row.get("number") != number))[:_OTHERS]
    traces: list[Trace] = []
    for panel, (name, _) in enumerate(_PANELS):
        for which in (*others, number):
            own = [row for row in tokens if row.get("number") == which]
            traces.append(_curve(own, name, panel, which == number))
    ends = [row["position"] for row in tokens if row.get("number") == number and row.get("same_token") is False]
    dashed = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": INK, "dash": "dash", "width": 1}}
    domains = ([0.72, 1], [0.36, 0.64], [0, 0.28])
    uprights = {
        f"yaxis{panel + 1 if panel else ''}": log_axis(title, values(tokens, name), domain=domains[panel])
        for panel, (name, title) in enumerate(_PANELS)
    }
    shape = layout(
        520,
        xaxis=axis("token", rangemode="tozero", anchor="y3"),
        shapes=[{**dashed, "x0": ends[0], "x1": ends[0]}] if ends else [],
        **uprights,
    )
    same = sum(row.get("changed") == 0 for row in tokens)
    said = (
        f"The dashed line, token {ends[0]}, is the first that differs; to there both runs read the same. "
        if ends
        else ""
    )
    caption = (
        f"How far apart the states are that the head reads, of prompt {label(number)} (blue)"
        f"{f' and {len(others)} more' if others else ''}. {said}In {same} of {len(tokens)} steps not one bit differs: "
        "nothing is drawn there."
    )
    return Figure("Drift along the tokens", caption, [one for one in traces if any(one["y"])], shape, wide=True)


def _curve(rows: Rows, name: str, panel: int, chosen: bool) -> Trace:
    return {
        "type": "scatter",
        "x": [row["position"] for row in rows],
        "y": [positive(row.get(name)) for row in rows],
        "xaxis": "x",
        "yaxis": f"y{panel + 1}" if panel else "y",
        "mode": "lines+markers" if chosen else "lines",
        "line": {"color": BLUE if chosen else FAINT, "width": 1.8 if chosen else 0.8},
        "opacity": 1 if chosen else 0.45,
        "marker": {"size": 4},
        "hovertext": [hover(row, _TOKEN) for row in rows],
        "hoverinfo": "text",
    }


def _growth(stages: Rows) -> Figure | None:
    """Draw the relative L2 of every stage in the order in which they run; blocks stand out."""
    if not any(positive(row.get("relative_l2")) for row in stages):
        return None
    blocks = [row for row in stages if row.get("submodule") == "block"]
    x, y = [row["order"] for row in stages], [positive(row.get("relative_l2")) for row in stages]
    hidden = {"hovertext": [hover(row, _STAGE) for row in stages], "hoverinfo": "text"}
    traces: list[Trace] = [
        {"type": "scatter", "x": x, "y": y, "mode": "lines", "name": "every stage", **hidden}
        | {"line": {"color": FAINT, "width": 1}},
        {
            "type": "scatter",
            "x": [row["order"] for row in blocks],
            "y": [positive(row.get("relative_l2")) for row in blocks],
            "mode": "lines+markers",
            "name": "blocks",
            "line": {"color": BLUE, "width": 2},
            "marker": {"size": 5},
            "hovertext": [hover(row, _STAGE) for row in blocks],
            "hoverinfo": "text",
        },
    ]
    shape = layout(
        380, showlegend=True, xaxis=_blocks(stages), yaxis=log_axis("|Δh| / |h|", values(stages, "relative_l2"))
    )
    first = next(row for row in stages if positive(row.get("relative_l2")))
    steep = [row for row in stages if positive(row.get("amplification"))]
    most = max(steep, key=lambda row: row["amplification"]) if steep else None
    said = f" The largest step is {rough(most['amplification'])} times, at {label(most['stage'])}." if most else ""
    caption = f"Step {stages[0].get('position')}: the first stage that differs is {label(first['stage'])}.{said}"
    return Figure("Growth through the stages", caption, traces, shape)


def _blocks(rows: Rows) -> dict[str, Any]:
    """Return an axis over the order of stages with the numbers of blocks on it, ten at the most."""
    ends = {row["block"]: row["order"] for row in rows if finite(row.get("block")) is not None}
    kept = list(ends.items())[:: max(1, -(-len(ends) // 10))]
    return axis("block", tickmode="array", tickvals=[x for _, x in kept], ticktext=[str(block) for block, _ in kept])


def _map(stages: Rows, name: str, title: str, heading: str) -> Figure | None:
    inside = [row for row in stages if finite(row.get("block")) is not None]
    if not any(positive(row.get(name)) for row in inside):
        return None
    blocks = sorted({row["block"] for row in inside})
    submodules = list(dict.fromkeys(str(row.get("submodule")) for row in inside))
    found = {(row["block"], str(row.get("submodule"))): row for row in inside}
    cells = [[found.get((block, one), {}) for one in submodules] for block in blocks]
    scaled = logarithm if name == "relative_l2" else positive
    trace: Trace = {
        "type": "heatmap",
        "x": [label(one.replace(":input", " in")) for one in submodules],
        "y": [str(block) for block in blocks],
        "z": [[scaled(row.get(name)) for row in line] for line in cells],
        "hovertext": [[hover(row, _STAGE) for row in line] for line in cells],
        "hoverinfo": "text",
        "colorscale": SCALE,
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 10, "outlinewidth": 0},
    }
    shape = layout(
        max(320, 170 + 12 * len(blocks)),
        xaxis=axis("", type="category", showgrid=False, tickangle=-60),
        yaxis=axis("block", type="category", showgrid=False, autorange="reversed", nticks=16),
    )
    top = max((row for row in inside if positive(row.get(name))), key=lambda row: row[name])
    blank = sum(not row.get("changed") for row in inside)
    caption = (
        f"Step {inside[0].get('position')}, submodules in the order in which they run. Largest in "
        f"{label(top['stage'])}: {rough(top[name])}. Blank: no element differs ({blank} of {len(inside)})."
    )
    return Figure(heading, caption, [trace], shape)


def _preference(rows: Rows, flips: Rows) -> Figure | None:
    """Draw how far the token of run a is ahead of that of run b, behind each stage, in both runs."""
    kept = [row for row in rows if finite(row.get("ahead_a")) is not None and finite(row.get("ahead_b")) is not None]
    if not kept:
        return None
    between = [row["ahead_b"] - row["ahead_a"] for row in kept]
    apart = {"type": "scatter", "x": [row["order"] for row in kept], "y": between, "yaxis": "y2", "showlegend": False}
    traces: list[Trace] = [_ahead(kept, run, color) for run, color in (("a", BLUE), ("b", ORANGE))]
    traces.append({**apart, "mode": "lines", "line": {"color": INK, "width": 1.2}, "name": "run b minus run a"})
    level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0}
    dotted = {**level, "line": {"color": INK, "dash": "dot", "width": 1}}
    shape = layout(
        440,
        showlegend=True,
        xaxis={**_blocks(kept), "anchor": "y2"},
        yaxis=axis("a's logit - b's logit", domain=[0.4, 1]),
        yaxis2=axis("run b - run a", domain=[0, 0.3]),
        shapes=[dotted, {**dotted, "yref": "y2"}],
    )
    parted = next((row.get("parted_from") for row in flips if row.get("parted_from")), None)
    said = f" The runs disagree to the end from {label(parted)} on." if parted else ""
    caption = (
        f"Step {kept[0].get('position')}: what norm and head would make of each stage. Above 0 the token of run a is "
        f"ahead, below it that of run b; hollow: both logits round to one number. Below: how far the runs are apart."
        f"{said}"
    )
    return Figure("Whose token is ahead", caption, traces, shape)


def _ahead(rows: Rows, run: str, color: str) -> Trace:
    symbols = ["circle-open" if row.get(f"prefers_{run}") == "tie" else "circle" for row in rows]
    return {
        "type": "scatter",
        "x": [row["order"] for row in rows],
        "y": [row[f"ahead_{run}"] for row in rows],
        "mode": "lines+markers",
        "name": f"run {run}",
        "line": {"color": color, "width": 1.5, "dash": "solid" if run == "a" else "dash"},
        "marker": {"color": color, "size": 6, "symbol": symbols},
        "hovertext": [hover(row, _PREFERENCE) for row in rows],
        "hoverinfo": "text",
    }
