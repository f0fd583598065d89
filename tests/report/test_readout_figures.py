"""Figures of the readout: of real results of a small model, with planted outliers and changes, broken, and empty."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest

import stabilitykit as sk
from stabilitykit.report.figures import Figure, figures
from stabilitykit.report.figures.readout import bars
from stabilitykit.results.result import Result

PROMPTS = ("<b>abc</b>", "once upon")


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    loaded = sk.load("tiny")
    asked = [
        sk.PredictionSpread(PROMPTS),
        sk.BasisVectors(),
        *(kind(PROMPTS, 5) for kind in (sk.ReadoutAngles, sk.NormAlignment, sk.HeadReplay)),
    ]
    return {type(one).__name__: sk.measure(one, loaded, progress=False) for one in asked}


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def test_every_drawing_is_valid_plotly_and_the_first_is_wide(results):
    counts = {name: len([drawn(figure) for figure in figures(result)]) for name, result in results.items()}
    assert counts == {
        "PredictionSpread": 4,
        "BasisVectors": 3,
        "ReadoutAngles": 3,
        "NormAlignment": 2,
        "HeadReplay": 2,
    }
    assert all(figures(result)[0].wide for result in results.values())


def test_the_curve_is_that_of_the_prompt_that_needs_least_and_the_empty_one(results):
    result = results["PredictionSpread"]
    rows = [row for row in result.rows if row["part"] == "components" and row["prompt"] != "(empty)"]
    least = min(rows, key=lambda row: row["k_first"])
    first, rescaled, empty, _, line, marks = figures(result)[0].traces
    assert first["y"] == result.arrays["curve"][least["number"]].tolist()
    assert rescaled["y"] == result.arrays["curve_rescaled"][least["number"]].tolist()
    assert empty["y"] == result.arrays["curve"][2].tolist()
    assert empty["name"] == "(empty)"
    assert line["y"] == pytest.approx([0.9 * first["y"][-1]] * 2)
    assert marks["x"] == [least["k_first"], least["k_stay"]]
    assert marks["y"][0] >= line["y"][0]
    assert f"first with {least['k_first']} of 64 components" in figures(result)[0].caption


def test_the_state_is_sorted(results):
    state = figures(results["PredictionSpread"])[1].traces[0]
    assert state["y"] == sorted(state["y"])
    assert len(state["y"]) == 64


def test_the_state_stands_in_its_order_and_the_furthest_are_named(results):
    result = results["PredictionSpread"]
    every, named = figures(result)[2].traces
    least = figures(result)[0].traces[0]["y"]
    (number,) = [k for k, curve in enumerate(result.arrays["curve"]) if curve.tolist() == least]
    h = result.arrays["hidden"][number]
    assert every["y"] == pytest.approx(h.tolist(), rel=1e-3)
    away = abs(h - h.mean())
    assert named["text"] == [str(j) for j in named["x"]]
    assert set(named["x"]) == set(sorted(range(len(h)), key=lambda j: away[j])[-4:])
    order = figures(result)[1].traces[0]["text"]
    assert [h[j] for j in order] == sorted(h)


def test_every_component_is_in_a_bar(results):
    result = results["PredictionSpread"]
    (trace,) = figures(result)[3].traces
    assert sum(count or 0 for count in trace["y"]) == 64
    assert 0 not in trace["y"], "a logarithmic axis has no zero"


def test_every_angle_of_the_first_and_the_last_rank_is_in_a_bar(results):
    first, last = figures(results["ReadoutAngles"])[2].traces
    assert (first["name"], last["name"]) == ("rank 1", "rank 100")
    assert sum(first["y"]) == sum(last["y"]) == 10
    assert first["x"] == last["x"]


def test_outlier_columns_are_marked_and_the_furthest_named(results):
    result = results["BasisVectors"]
    planted = tuple(
        {**row, "outlier": row["component"] < 10, "robust_z": 100.0 - row["component"]}
        if row["part"] == "basis"
        else row
        for row in result.rows
    )
    axes, lengths, gaps = figures(replace(result, rows=planted))
    plain, others, named = axes.traces
    assert [len(trace["x"]) for trace in (plain, others, named)] == [54, 2, 8]
    assert sorted(named["text"]) == [str(j) for j in range(8)]
    assert named["textposition"] == ["bottom center", "top center"] * 4
    assert "10 are outliers" in axes.caption
    assert [len(trace["x"]) for trace in lengths.traces] == [54, 10]
    assert sum(gaps.traces[0]["y"]) == 64


def test_bars_hold_every_value_once():
    trace, width = bars([0.0, 1.0, 1.0, 10.0], 10, "red")
    assert (trace["y"][0], trace["y"][1], trace["y"][-1], width) == (1, 2, 1, 1.0)


def test_angles_have_their_quartiles(results):
    result = results["ReadoutAngles"]
    _, after = figures(result)[0].traces
    row = next(row for row in result.rows if row["part"] == "rank" and row["state"] == "after" and row["rank"] == 10)
    place = after["x"].index("10")
    assert after["y"][place] == row["median"]
    assert after["error_y"]["array"][place] == pytest.approx(row["q3"] - row["median"])
    assert after["error_y"]["arrayminus"][place] == pytest.approx(row["median"] - row["q1"])


def test_ties_with_a_token_behind_the_second_are_told(results):
    result = results["ReadoutAngles"]
    rows = [row for row in result.rows if row["part"] == "position"]
    behind = [row for row in rows if row["nearest_id"] != row["second_id"]]
    ties = figures(result)[1]
    assert sum(len(trace["x"]) for trace in ties.traces) == len(rows) == 10
    assert f"At {len(behind)} of 10 tokens" in ties.caption


def test_positions_whose_nearest_token_changes_are_marked(results):
    result = results["NormAlignment"]
    changed = [row["ranking_changed"] for row in result.rows if row["part"] == "position"]
    turned = figures(result)[0]
    orange = [trace for trace in turned.traces if trace["name"] == "another token nearest"]
    assert sum(len(trace["x"]) for trace in orange) == sum(changed)
    assert f"At {sum(changed)} another of the first tokens" in turned.caption


def test_a_line_a_token_through_the_blocks(results):
    result = results["HeadReplay"]
    lens, redone = figures(result)
    assert len(lens.traces) == 10
    assert [trace["x"] for trace in lens.traces] == [[0, 1, 2]] * 10
    assert redone.traces[1]["x"][0] == result.readings["min_margin"].value
    assert all("<b>" not in line for trace in lens.traces for line in trace["hovertext"])
    stage = next(row for row in result.rows if row["part"] == "stage")
    many = replace(result, rows=tuple({**stage, "position": k} for k in range(40)))
    assert len(figures(many)[0].traces) == 24
    assert "The first 24 are drawn" in figures(many)[0].caption


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "text"])
def test_rows_that_hold_no_number_draw_what_is_left(results, value):
    for result in results.values():
        columns = {key for row in result.rows for key, given in row.items() if isinstance(given, float)}
        broken = tuple(
            {**row, **{key: value for key in columns if key in row}} if k % 2 else row
            for k, row in enumerate(result.rows)
        )
        for rows in (broken, broken[1::2], tuple({} for _ in broken)):
            for figure in figures(replace(result, rows=rows)):
                drawn(figure)
