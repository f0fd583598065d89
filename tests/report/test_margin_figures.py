"""Figures of margins: of a real result, with planted flips and ties, broken, and empty."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest

import stabilitykit as sk
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.result import Result


@pytest.fixture(scope="module")
def result() -> Result:
    found = sk.measure(sk.Margins(["<b>abc</b>", "once upon"], 5), sk.load("tiny"), progress=False)
    return replace(found, rows=tuple(planted(row) for row in found.rows))


def planted(row):
    """The first prompt at risk; its first token an exact tie that a way flipped."""
    if row["part"] == "prompt":
        return {**row, "forecast": 0.75 if row["number"] == 0 else 0.01, "high": 0.9, "at_risk": row["number"] == 0}
    if row["part"] == "token" and (row["number"], row["position"]) == (0, 0):
        return {**row, "margin": 0.0, "margin_over_noise": 0.0, "seen": 2, "seen_in": "prefill"}
    if row["part"] == "way" and row["way"] == "prefill":
        return {**row, "flips": 1}
    return row


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def test_prompts_are_ranked_with_the_riskiest_on_top_and_marked(result: Result) -> None:
    ranking = figures(result)[0]
    drawn(ranking)
    (trace,) = ranking.traces
    assert trace["x"] == [0.01, 0.75]
    assert trace["y"][-1].startswith("&lt;b&gt;abc&lt;/b&gt;")
    assert trace["marker"]["color"] == ["var(--plot-blue)", "var(--plot-orange)"]
    assert trace["error_x"]["array"] == pytest.approx([0.89, 0.15])
    assert "1 of 2 prompts are at risk" in ranking.caption


def test_a_tie_lies_on_the_lower_edge_and_a_flip_is_crossed(result: Result) -> None:
    along = figures(result)[1]
    drawn(along)
    quiet, flipped = along.traces
    assert (len(quiet["x"]), len(flipped["x"])) == (9, 1)
    assert flipped["marker"]["symbol"] == "x"
    assert flipped["y"][0] == pytest.approx(10 ** along.layout["yaxis"]["range"][0], rel=0.5)
    assert all(y > 0 for y in [*quiet["y"], *flipped["y"]])
    assert "1 exact ties lie on the lower edge" in along.caption


def test_ways_that_move_nothing_are_counted_not_drawn(result: Result) -> None:
    ways = figures(result)[2]
    drawn(ways)
    rows = [row for row in result.rows if row["part"] == "way"]
    assert len(ways.traces[0]["x"]) == sum(row["rms_change"] > 0 for row in rows)
    assert "1 flip" in ways.traces[0]["text"]


def test_many_prompts_are_cut_and_counted(result: Result) -> None:
    row = next(row for row in result.rows if row["part"] == "prompt")
    many = replace(result, rows=tuple({**row, "number": k, "forecast": k / 50} for k in range(40)))
    (ranking,) = figures(many)
    assert len(ranking.traces[0]["x"]) == 30
    assert max(ranking.traces[0]["x"]) == 39 / 50
    assert "The 30 riskiest are drawn" in ranking.caption


def test_of_many_tokens_the_smallest_margins_are_drawn(result: Result) -> None:
    row = next(row for row in result.rows if row["part"] == "token")
    many = replace(result, rows=tuple({**row, "seen": k % 2, "margin_over_noise": k + 1.0} for k in range(3000)))
    (along,) = figures(many)
    assert sum(len(trace["x"]) for trace in along.traces) == 2000
    assert max(max(trace["y"]) for trace in along.traces) == 2000
    assert "1500 were flipped. The 2000 smallest are drawn" in along.caption


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0, 0.0, "text"])
def test_rows_that_hold_no_number_draw_what_is_left(result: Result, value: object) -> None:
    columns = {key for row in result.rows for key, given in row.items() if isinstance(given, float)}
    broken = tuple(
        {**row, **{key: value for key in columns if key in row}} if k % 2 else row for k, row in enumerate(result.rows)
    )
    for rows in (broken, broken[1::2], tuple({} for _ in broken)):
        for figure in figures(replace(result, rows=rows)):
            drawn(figure)
