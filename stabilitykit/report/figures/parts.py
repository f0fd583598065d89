"""Spectra of parts: how far a block can stretch a change, how far it does, and whose rounding the output holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    GREEN,
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
from stabilitykit.report.figures.thresholds import positive

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Row = Mapping[str, Any]
Rows = Sequence[Row]

_HOVER = {
    "module": "part",
    "sigma_1": "σ₁",
    "sigma_1_residual": "σ₁ with the identity",
    "bound": "analytic bound",
    "gain_observed": "observed gain",
    "alignment": "alignment",
    "share": "share of the error",
    "removed": "error that goes without it",
}
_WHOLE = ("embed", "block", "final_norm", "module")


def draw(result: Result) -> list[Figure]:
    """Return sigma against the observed gain by block, the branches, and the shares of the rounding error."""
    rows, first = _one(result)
    drawn = [_blocks(rows, result, first), _branches(rows, first), _shares(rows, first)]
    return [figure for figure in drawn if figure is not None]


def _one(result: Result) -> tuple[Rows, str]:
    prompts = list(dict.fromkeys(row.get("subject") for row in result.rows))
    rows = [row for row in result.rows if row.get("subject") == prompts[0]]
    return rows, f" Shown: prompt {label(prompts[0])}; the table has all." if len(prompts) > 1 else ""


def _blocks(rows: Rows, result: Result, first: str) -> Figure | None:
    kept = [row for row in rows if row.get("part") in ("block", "module") and positive(row.get("sigma_1"))]
    if not kept:
        return None
    names = [_name(row) for row in kept]
    traces = [
        _line(kept, names, "sigma_1", "σ₁: the most it can", BLUE),
        _line(kept, names, "gain_observed", "observed along v₁", ORANGE),
    ]
    shape = layout(
        showlegend=True,
        xaxis=axis("block", type="category", nticks=12),
        yaxis=log_axis("change out / change in", [value for trace in traces for value in trace["y"]]),
    )
    top = max(kept, key=lambda row: row["sigma_1"])
    caption = f"Largest in {label(top.get('module'))}: a change can leave it {rough(top['sigma_1'])} times as long."
    return Figure("How far a block can stretch a change, and does", f"{caption}{_bound(result)}{first}", traces, shape)


def _bound(result: Result) -> str:
    """Say how loose the product of the blocks is, where it was found."""
    found = {name: finite(one.value) for name, one in result.readings.items()}
    bound, looseness = found.get("chain_bound"), found.get("looseness")
    if bound is None or looseness is None:
        return ""
    told = f" The product over the whole chain is {rough(bound)}, {rough(looseness)} times too large"
    aligned = found.get("alignment")
    return f"{told}; the change meets a block's worst direction with |cos| {rough(aligned)}." if aligned else f"{told}."


def _line(rows: Rows, names: Sequence[str], name: str, title: str, color: str) -> Trace:
    return {
        "type": "scatter",
        "x": list(names),
        "y": [positive(row.get(name)) for row in rows],
        "mode": "lines+markers",
        "name": title,
        "line": {"color": color, "width": 1.5},
        "marker": {"size": 6, "color": color},
        "hovertext": [hover(row, _HOVER) for row in rows],
        "hoverinfo": "text",
    }


def _branches(rows: Rows, first: str) -> Figure | None:
    kept = [row for row in rows if row.get("part") == "branch" and positive(row.get("sigma_1"))]
    if not kept:
        return None
    bars = {
        "sigma_1": ("branch", BLUE),
        "sigma_1_residual": ("identity + branch", GREEN),
        "gain_observed": ("observed", ORANGE),
    }
    names = [f"{row.get('block')} {label(row.get('label'), 20)}" for row in kept]
    traces: list[Trace] = [
        {
            "type": "bar",
            "x": names,
            "y": [positive(row.get(name)) for row in kept],
            "name": title,
            "marker": {"color": color},
            "hovertext": [hover(row, _HOVER) for row in kept],
            "hoverinfo": "text",
        }
        for name, (title, color) in bars.items()
    ]
    values = [value for trace in traces for value in trace["y"] if value]
    shape = layout(
        showlegend=True,
        barmode="group",
        xaxis=axis("block and branch", type="category"),
        yaxis=log_axis("change out / change in", [*values, min(values) / 2]),
    )
    top = max(kept, key=lambda row: row["sigma_1"])
    caption = (
        f"What a block adds to the residual stream, its norm included. The steepest of {len(kept)} branches is "
        f"{label(top.get('label'))} of block {top.get('block')}, σ₁ = {rough(top['sigma_1'])}.{first}"
    )
    return Figure("Branches of the residual stream", caption, traces, shape)


def _shares(rows: Rows, first: str) -> Figure | None:
    kept = [row for row in rows if row.get("part") in _WHOLE and finite(row.get("share")) is not None]
    if not kept:
        return None
    trace: Trace = {
        "type": "bar",
        "x": [_name(row) for row in kept],
        "y": column(kept, "share"),
        "marker": {"color": BLUE},
        "hovertext": [hover(row, _HOVER) for row in kept],
        "hoverinfo": "text",
    }
    shape = layout(
        300,
        xaxis=axis("block", type="category", nticks=12),
        yaxis=axis("share of the error", tickformat=".0%", zeroline=True),
    )
    top = max(kept, key=lambda row: row["share"])
    caption = (
        f"How much of the output's rounding error each part is responsible for; a negative share cancels others. They "
        f"add up to {rough(sum(row['share'] for row in kept))}. The largest is that of {label(top.get('module'))}, "
        f"{rough(top['share'])}.{first}"
    )
    return Figure("Whose rounding is it", caption, [trace], shape)


def _name(row: Row) -> str:
    """Return a block's number, or another part's name."""
    if row.get("part") == "block":
        return str(row.get("block"))
    return label(row.get("label") or row.get("module"), 20)
