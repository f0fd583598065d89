"""Figures of the ledger: they add up to the deviation, they name the largest, and they survive broken rows."""

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
    return sk.measure(sk.Ledger(), sk.CausalLMSubject(sk.load("tiny"), "abc"), progress=False)


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def test_the_way_leads_from_the_true_margin_to_the_native_one(result: Result) -> None:
    way = figures(result)[0]
    drawn(way)
    (trace,) = way.traces
    assert trace["x"] == ["0", "1", "2", "outside", "sum"]
    ends = [base + move for base, move in zip(trace["base"], trace["y"], strict=True)]
    assert trace["base"][1:4] == pytest.approx(ends[:3])
    assert ends[3] == pytest.approx(result.readings["deviation"].value, rel=1e-5)
    assert ends[4] == pytest.approx(ends[3])
    blue, orange = "var(--plot-blue)", "var(--plot-orange)"
    assert trace["marker"]["color"][:4] == [blue if move >= 0 else orange for move in trace["y"][:4]]


def test_the_largest_operation_is_on_top(result: Result) -> None:
    largest = figures(result)[1]
    drawn(largest)
    (trace,) = largest.traces
    sizes = [abs(x) for x in trace["x"]]
    assert len(sizes) == 24
    assert sizes == sorted(sizes)
    share = result.readings["largest_share"]
    assert f"The first is {share.place['module']} {share.place['op']}" in largest.caption
    assert f"{100 * share.value:.3g} % of the deviation" in largest.caption


def test_the_map_has_every_operation_of_the_blocks(result: Result) -> None:
    chart = figures(result)[2]
    drawn(chart)
    (trace,) = chart.traces
    assert trace["y"] == ["0", "1", "2"]
    assert {"q_proj", "attention", "residual add"} <= set(trace["x"])
    squares = sum(100.0**z for line in trace["z"] for z in line if z is not None)
    inside = [row for row in result.rows if row["part"] == "layer" and row["layer"] is not None]
    assert squares == pytest.approx(sum(row["typical"] ** 2 for row in inside))


def test_kinds_are_shares_of_a_whole(result: Result) -> None:
    kinds = figures(result)[3]
    drawn(kinds)
    (trace,) = kinds.traces
    assert sum(trace["x"]) == pytest.approx(1, abs=0.01)
    assert trace["x"] == sorted(trace["x"])


def test_one_prompt_of_several_is_drawn_and_named(result: Result) -> None:
    rows = tuple({"subject": name, **row} for name in ("<b>one</b>", "two") for row in result.rows)
    several = figures(replace(result, rows=rows))
    assert several[0].traces == figures(result)[0].traces
    assert "Shown: prompt &lt;b&gt;one&lt;/b&gt;" in several[0].caption


def test_hostile_and_broken_rows_are_drawn_safely(result: Result) -> None:
    def broken(row):  # type: ignore[no-untyped-def]
        names = {name: "<script>" for name in ("module", "kind", "op") if name in row}
        return {**row, **names, "typical": math.nan, "typical_share": math.inf, "share": math.nan}

    shown = figures(replace(result, rows=tuple(broken(row) for row in result.rows)))
    for figure in shown:
        drawn(figure)
        assert "<script>" not in json.dumps(figure.to_dict()) + figure.caption
    assert figures(replace(result, rows=({"part": "layer", "contribution": math.nan},))) == []
