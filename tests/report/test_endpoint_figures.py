"""Figures of servers: with flips, without, broken off before any answer, and with text that is markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest
from oracles.planted_server import Planted, serving

import stabilitykit as sk
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.result import Result


def measured(planted: Planted, **parts: object) -> Result:
    asked = sk.ServedDeterminism(("<b>one</b>", "two"), 8, 3, (2, 4))
    with serving(planted) as url:
        return sk.measure(asked, sk.Endpoint(url), progress=False)


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


@pytest.fixture(scope="module")
def result() -> Result:
    return measured(Planted(flips_alone_every=8))


def test_the_share_is_drawn_with_its_bound_and_flips_are_marked(result: Result) -> None:
    by_load, _ = figures(result)
    drawn(by_load)
    (trace,) = by_load.traces
    levels = [row for row in result.rows if row["part"] == "level"]
    assert trace["x"] == ["alone", "2", "4"]
    assert trace["y"] == [row["rate"] for row in levels]
    reach = [y + up for y, up in zip(trace["y"], trace["error_y"]["array"], strict=True)]
    assert reach == pytest.approx([row["rate_bound"] for row in levels])
    marks = ["var(--plot-orange)" if row["flips"] else "var(--plot-blue)" for row in levels]
    assert trace["marker"]["color"] == marks
    assert len(set(marks)) == 2
    assert f"{sum(row['flips'] for row in levels)} of 18 completions differ" in by_load.caption


def test_prompts_that_flip_are_counted_and_their_text_is_no_markup(result: Result) -> None:
    ranking = figures(result)[1]
    drawn(ranking)
    (trace,) = ranking.traces
    flips = {row["number"]: row["flips"] for row in result.rows if row["part"] == "prompt" and row["flips"]}
    assert {int(name.rsplit(" ", 1)[1]): count for name, count in zip(trace["y"], trace["x"], strict=True)} == flips
    assert not [name for name in [*trace["y"], *trace["hovertext"]] if "<b>" in name]


def test_a_quiet_server_has_one_figure_and_a_dead_one_none() -> None:
    (by_load,) = figures(measured(Planted()))
    assert set(by_load.traces[0]["marker"]["color"]) == {"var(--plot-blue)"}
    gone = measured(Planted(dies_after=1))
    assert gone.verdict == "invalid"
    assert figures(gone) == []


def test_many_prompts_are_cut(result: Result) -> None:
    row = next(row for row in result.rows if row["part"] == "prompt" and row["flips"])
    many = replace(result, rows=tuple({**row, "number": n, "flips": n + 1} for n in range(40)))
    (ranking,) = figures(many)
    assert ranking.traces[0]["x"] == list(range(11, 41))
    assert "The 30 with most are drawn." in ranking.caption
