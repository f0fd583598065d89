"""Servers: how many completions differ at each load, and how many may, after so few requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    ORANGE,
    Figure,
    Trace,
    axis,
    finite,
    hover,
    label,
    layout,
    rough,
)

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

_LEVEL = {
    "concurrency": "requests at once",
    "requests": "requests",
    "failed": "without an answer",
    "flips": "differ",
    "rate_bound": "rate below",
    "unique": "completions of one prompt",
    "under_way": "under way together",
    "speed_up": "speed-up",
}
_PROMPT = {
    "prompt": "prompt",
    "unique_alone": "completions alone",
    "unique_under_load": "completions under load",
    "flips": "flips",
    "first_differing_token": "first differing token",
    "margin_at_flip": "margin there",
    "goes_on": "alone it goes on",
    "goes_on_else": "else",
}
_SHOWN, _BAR = 30, 24


def draw(result: Result) -> list[Figure]:
    """Return the share that differs by load, and the prompts by their number of completions where some have several."""
    levels = [row for row in result.rows if row["part"] == "level" and finite(row["rate"]) is not None]
    prompts = [row for row in result.rows if row["part"] == "prompt" and row["flips"]]
    drawn = [_by_load(levels) if levels else None, _by_prompt(prompts) if prompts else None]
    return [figure for figure in drawn if figure is not None]


def _by_load(rows: Sequence[Mapping[str, Any]]) -> Figure:
    trace: Trace = {
        "type": "scatter",
        "x": ["alone" if row["concurrency"] == 1 else str(row["concurrency"]) for row in rows],
        "y": [row["rate"] for row in rows],
        "mode": "markers",
        "marker": {"color": [ORANGE if row["flips"] else BLUE for row in rows], "size": 9},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [row["rate_bound"] - row["rate"] for row in rows],
            "arrayminus": [0.0] * len(rows),
            "color": BLUE,
            "thickness": 1.2,
        },
        "hovertext": [hover(row, _LEVEL) for row in rows],
        "hoverinfo": "text",
    }
    shape = layout(
        xaxis=axis("requests at once", type="category", showgrid=False),
        yaxis=axis("share that differs", range=[-0.03, 1.03]),
    )
    flips, compared = (sum(row[column] for row in rows) for column in ("flips", "compared"))
    worst = max(rows, key=lambda row: row["rate_bound"])
    who = "alone" if worst["concurrency"] == 1 else f"with {worst['concurrency']} at once"
    caption = (
        f"{flips} of {compared} completions differ from the reference. The bar reaches to the rate that so many "
        f"requests cannot rule out: up to {rough(worst['rate_bound'])} {who}."
    )
    return Figure("Completions that differ, by load", caption, [trace], shape, wide=True)


def _by_prompt(rows: Sequence[Mapping[str, Any]]) -> Figure:
    kept = sorted(rows, key=lambda row: -row["flips"])[:_SHOWN][::-1]
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": [row["flips"] for row in kept],
        "y": [f"{label(row['prompt'], 22)} · {row['number']}" for row in kept],
        "marker": {"color": ORANGE},
        "hovertext": [hover(row, _PROMPT) for row in kept],
        "hoverinfo": "text",
    }
    shape = layout(
        110 + _BAR * len(kept),
        xaxis=axis("completions that differ", rangemode="tozero"),
        yaxis=axis("", type="category", showgrid=False),
    )
    most = f" The {_SHOWN} with most are drawn." if len(rows) > _SHOWN else ""
    caption = f"{len(rows)} prompts have completions that differ; the number behind a prompt is its place.{most}"
    return Figure("Prompts with more than one completion", caption, [trace], shape)
