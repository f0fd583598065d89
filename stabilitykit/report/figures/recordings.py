"""Two recordings side by side: how long each text agrees, and which layers differ at which token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    ORANGE,
    SCALE,
    Figure,
    Trace,
    axis,
    hover,
    label,
    layout,
)

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_PROMPT = {
    "prompt": "prompt",
    "kind": "kind",
    "agreed": "tokens that agree",
    "divergence_index": "parts at token",
    "token": "reference says",
    "margin": "by",
    "other_token": "this says",
    "other_margin": "by ",
    "first_step": "first differing bits at step",
    "stage": "stage",
    "op": "operation",
}
_OPERATION = {
    "op": "",
    "kind": "kind",
    "cause": "class",
    "number": "operation",
    "operations": "of",
    "later": "later ones that differ",
    "local": "of them on their own inputs",
}
_SHOWN = 40


def draw(result: Result) -> list[Figure]:
    """Return the timeline of tokens, the map of layers and tokens, that of layers and submodules, and the survival."""
    prompts, stages = _part(result, "prompt"), _part(result, "stage")
    figures = [_timeline(prompts)]
    if "map" in result.arrays and stages:
        figures += [_tokens(np.asarray(result.arrays["map"]), stages), _submodules(stages)]
    if operations := [row for row in _part(result, "operation") if row["op"]]:
        figures.append(_operations(operations))
    if len(prompts) > 1:
        figures.append(_survival(_part(result, "survival")))
    return figures


def _part(result: Result, name: str) -> Rows:
    return [row for row in result.rows if row.get("part") == name]


def _timeline(prompts: Rows) -> Figure:
    shown = list(prompts[:_SHOWN])
    names = [f"{row['number']}. {label(row['prompt'], 34)}" for row in shown]
    agreed: Trace = {
        "type": "bar",
        "orientation": "h",
        "name": "tokens agree",
        "y": names,
        "x": [row["agreed"] for row in shown],
        "marker": {"color": BLUE},
        "text": [hover(row, _PROMPT) for row in shown],
        "textposition": "none",
        "hovertemplate": "%{text}<extra></extra>",
    }
    after: Trace = {
        "type": "bar",
        "orientation": "h",
        "name": "other tokens follow",
        "y": names,
        "x": [max(row["tokens"], row["other_tokens"]) - row["agreed"] for row in shown],
        "marker": {"color": ORANGE, "opacity": 0.55},
        "hoverinfo": "skip",
    }
    parted = [row for row in prompts if row["divergence_index"] is not None]
    explained = sum(bool(row["explained"]) for row in parted)
    caption = f"Blue: tokens that both texts share; orange: from where they part. {len(parted)} of {len(prompts)} part"
    caption += f", {explained} of them where the margins moved by as much as was left." if parted else "."
    if len(prompts) > _SHOWN:
        caption += f" The first {_SHOWN} are drawn."
    shape = layout(
        110 + 26 * len(shown),
        barmode="stack",
        showlegend=True,
        xaxis=axis("tokens generated"),
        yaxis=axis("", autorange="reversed", showgrid=False, tickfont={"size": 10}),
    )
    return Figure("Where the texts part", caption, [agreed, after], shape, wide=True)


def _tokens(differs: Any, stages: Rows) -> Figure:
    """Return block against step: the share of the block's stages whose bits differ, of the prompt that parts first."""
    groups = [_group(row) for row in stages]
    order = list(dict.fromkeys(groups))
    shares = [differs[:, [index for index, one in enumerate(groups) if one == group]].mean(axis=1) for group in order]
    trace = {
        "type": "heatmap",
        "x": list(range(len(differs))),
        "y": order,
        "z": [[round(float(value), 4) for value in row] for row in shares],
        "colorscale": SCALE,
        "zmin": 0,
        "zmax": 1,
        "hovertemplate": "%{y}, step %{x}<br>%{z:.0%} of its stages differ<extra></extra>",
        "colorbar": {"title": {"text": "share", "side": "right"}, "thickness": 10, "outlinewidth": 0},
    }
    shape = layout(
        min(160 + 11 * len(order), 560),
        xaxis=axis("step (token that is decided)", showgrid=False),
        yaxis=axis("", type="category", autorange="reversed", showgrid=False, tickfont={"size": 9}),
    )
    first = np.argwhere(differs)
    where = f" The first is {label(stages[first[0][1]]['stage'])} of step {first[0][0]}." if len(first) else ""
    caption = f"The prompt whose bits part first; a cell is the share of a block's stages with other bits.{where}"
    return Figure("Which layer differs at which token", caption, [trace], shape)


def _submodules(stages: Rows) -> Figure:
    """Return block against submodule: at which share of the steps of all prompts its bits differ."""
    inside = [row for row in stages if row["block"] is not None]
    blocks = sorted({row["block"] for row in inside})
    parts = list(dict.fromkeys(row["submodule"] for row in inside))
    shares = {(row["submodule"], row["block"]): row["share"] for row in inside}
    trace = {
        "type": "heatmap",
        "x": blocks,
        "y": [label(part) for part in parts],
        "z": [[shares.get((part, block)) for block in blocks] for part in parts],
        "colorscale": SCALE,
        "zmin": 0,
        "zmax": 1,
        "hovertemplate": "%{y} of block %{x}<br>differs in %{z:.0%} of the steps<extra></extra>",
        "colorbar": {"title": {"text": "share", "side": "right"}, "thickness": 10, "outlinewidth": 0},
    }
    shape = layout(
        150 + 20 * len(parts),
        xaxis=axis("block", showgrid=False),
        yaxis=axis("", type="category", autorange="reversed", showgrid=False, tickfont={"size": 10}),
    )
    firsts = max(stages, key=lambda row: row["first_in_steps"])
    said = f" Most often first: {label(firsts['stage'])}, in {firsts['first_in_steps']} of {firsts['steps']} steps."
    caption = "Share of the compared steps, over all prompts, at which a stage has other bits; rows in running order."
    return Figure("Which parts differ", caption + (said if firsts["first_in_steps"] else ""), [trace], shape)


def _operations(rows: Rows) -> Figure:
    """Return how far into each recorded forward the first differing operation lies, and which one it is."""
    shown = list(rows[:_SHOWN])
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "y": [f"{label(row['prompt'], 24)}, step {row['step']}" for row in shown],
        "x": [row["number"] for row in shown],
        "marker": {"color": [ORANGE if row["kind"] == "local" else FAINT for row in shown]},
        "text": [label(f"{row['op']}: {row['kind']} {row['cause']}", 70) for row in shown],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [hover(row, _OPERATION) for row in shown],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    most = max(row["operations"] for row in shown)
    shape = layout(
        110 + 30 * len(shown),
        xaxis=axis("operations of the forward", range=[0, most]),
        yaxis=axis("", type="category", autorange="reversed", showgrid=False, tickfont={"size": 10}),
    )
    local = sum(row["kind"] == "local" for row in rows)
    caption = (
        f"The first operation that gave other bits. In {local} of {len(rows)} forwards it is local (orange): it read "
        "the same bits, weights included. stabilitykit bisect runs it again alone."
    )
    return Figure("Which operation parts first", caption, [trace], shape, wide=True)


def _survival(rows: Rows) -> Figure:
    steps = [row["tokens"] for row in rows]
    edge = {"type": "scatter", "mode": "lines", "x": steps, "line": {"width": 0, "shape": "hv"}, "hoverinfo": "skip"}
    low: Trace = {**edge, "y": [row["low"] for row in rows], "showlegend": False}
    band: Trace = {
        **edge,
        "y": [row["high"] for row in rows],
        "fill": "tonexty",
        "fillcolor": "var(--plot-wash)",
        "name": "95% interval",
    }
    curve: Trace = {
        "type": "scatter",
        "mode": "lines",
        "x": steps,
        "y": [row["share"] for row in rows],
        "line": {"color": BLUE, "shape": "hv", "width": 2},
        "customdata": [row["at_risk"] for row in rows],
        "hovertemplate": "%{y:.0%} agree in their first %{x} tokens (%{customdata} watched)<extra></extra>",
        "name": "share that agrees",
    }
    shape = layout(
        showlegend=True,
        xaxis=axis("tokens", rangemode="tozero"),
        yaxis=axis("share of texts that agree so far", range=[0, 1.03], tickformat=".0%"),
    )
    caption = (
        "Kaplan-Meier estimate of the share of texts whose first tokens agree; one that ended in agreement counts as "
        "watched up to its end."
    )
    return Figure("How long texts agree", caption, [low, band, curve], shape)


def _group(row: Mapping[str, Any]) -> str:
    return label(row["stage"], 30) if row["block"] is None else f"block {row['block']}"
