"""Figures of the drift, of two recordings made by hand: what is drawn is what was measured, and nothing is made up."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from oracles.recordings import changed, generation, other_machine, recording

import stabilitykit as sk
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.result import Result
from stabilitykit.traces.record import record

PROMPTS = ["The capital of France is", "<b>def</b> area(radius): return"]
TITLES = [
    "Drift along the tokens",
    "Growth through the stages",
    "Which submodule drifts",
    "How many elements differ",
    "At which decimal they differ",
    "By how many ULP they differ",
    "Whose token is ahead",
]


@pytest.fixture(scope="module")
def result() -> Result:
    loaded = sk.load("tiny")
    here = record(loaded, PROMPTS[1:], 8, states="all")
    with other_machine(loaded, "model.layers.1", 0.2):
        there = record(loaded, PROMPTS[1:], 8, states="all")
    return sk.measure(sk.Drift(here, loaded), there)


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    assert "<b>" not in text + figure.caption
    assert figure.caption.endswith(".")
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def the(result: Result, title: str) -> Figure:
    (found,) = [figure for figure in figures(result) if figure.title == title]
    drawn(found)
    return found


def rows(result: Result, part: str, **where: Any) -> list[Any]:
    kept = [row for row in result.rows if row["part"] == part]
    return [row for row in kept if all(row[name] == value for name, value in where.items())]


def test_every_figure_is_valid_and_in_order(result: Result) -> None:
    assert [figure.title for figure in figures(result)] == TITLES
    for figure in figures(result):
        drawn(figure)


def test_the_curves_are_the_tokens_up_to_the_dashed_line(result: Result) -> None:
    figure = the(result, TITLES[0])
    tokens = rows(result, "token")
    names = ("relative_l2", "angle", "max_scaled_ulp")
    assert [trace["y"] for trace in figure.traces] == [[row[name] or None for row in tokens] for name in names]
    assert [trace["yaxis"] for trace in figure.traces] == ["y", "y2", "y3"]
    end = next(row["position"] for row in tokens if not row["same_token"])
    assert end == tokens[-1]["position"]
    (dashed,) = figure.layout["shapes"]
    assert (dashed["x0"], dashed["x1"], dashed["line"]["dash"]) == (end, end, "dash")
    assert f"token {end}, is the first that differs" in figure.caption
    assert all(figure.layout[name]["type"] == "log" for name in ("yaxis", "yaxis2", "yaxis3"))


def test_growth_is_drawn_for_every_stage_and_the_blocks_stand_out(result: Result) -> None:
    every, blocks = the(result, TITLES[1]).traces
    stages = rows(result, "stage")
    assert every["y"] == [row["relative_l2"] or None for row in stages]
    assert blocks["x"] == [row["order"] for row in stages if row["stage"].startswith("block:")]
    first = next(row["stage"] for row in stages if row["relative_l2"])
    assert f"the first stage that differs is {first}" in the(result, TITLES[1]).caption
    assert first == "block:1"  # where the other machine is louder


@pytest.mark.parametrize(("title", "name"), [(TITLES[2], "relative_l2"), (TITLES[3], "changed_share")])
def test_maps_have_a_cell_a_submodule_and_are_blank_where_nothing_differs(
    result: Result, title: str, name: str
) -> None:
    (trace,) = the(result, title).traces
    assert trace["y"] == ["0", "1", "2"]
    assert np.shape(trace["z"]) == (3, len(trace["x"]))
    assert len(set(trace["x"])) == len(trace["x"])
    for row in rows(result, "stage"):
        if row["block"] is not None:
            cell = trace["z"][row["block"]][trace["x"].index(row["submodule"].replace(":input", " in"))]
            value = row[name]
            wanted = None if not value else math.log10(value) if name == "relative_l2" else value
            assert cell == wanted
    assert set(trace["z"][0]) == {None}  # block 0 runs before the other machine is louder
    assert result.arrays[f"map_{name}"].shape == np.shape(trace["z"])


def test_bars_are_the_table_of_the_state_that_the_head_reads(result: Result) -> None:
    (row,) = rows(result, "precision", stage="post_norm")
    bars, added = the(result, TITLES[4]).traces
    assert sum(bars["y"]) == row["changed_values"] == added["y"][-1]
    assert added["y"] == np.cumsum(bars["y"]).tolist()
    counts = dict(zip(bars["x"], bars["y"], strict=True))
    assert counts["≥ 10⁻³"] == row["decade_3"] > 0
    (ulps,) = the(result, TITLES[5]).traces
    assert sum(ulps["y"]) == row["changed_values"]
    assert min(ulps["y"][0], ulps["y"][-1]) > 0


def test_the_preference_shows_both_runs_and_hollow_ties(result: Result) -> None:
    a, b, between = the(result, TITLES[6]).traces
    kept = rows(result, "preference")
    assert a["y"] == [row["ahead_a"] for row in kept]
    assert b["y"] == [row["ahead_b"] for row in kept]
    assert between["y"] == [row["ahead_b"] - row["ahead_a"] for row in kept]
    assert set(a["marker"]["symbol"]) == {"circle"}
    tied = tuple({**row, "prefers_a": "tie"} if row["part"] == "preference" else row for row in result.rows)
    assert set(the(replace(result, rows=tied), TITLES[6]).traces[0]["marker"]["symbol"]) == {"circle-open"}
    (flip,) = rows(result, "flip")
    assert f"disagree to the end from {flip['parted_from']} on" in the(result, TITLES[6]).caption


def test_the_prompt_that_parts_is_drawn_before_others() -> None:
    one, quiet = generation(), generation(text="quiet", ids=(9,), seed=3)
    parted = replace(generation(seed=1), predicted=np.array([1, 2, 7, 4]), tokens=np.array([1, 2, 7, 4]))
    result = sk.measure(
        sk.Drift(recording(quiet, one)), recording(changed(quiet, "post_norm", 0, lambda x: x * 2), parted)
    )
    figure = the(result, TITLES[0])
    assert "of prompt 1 (blue) and 1 more" in figure.caption
    widths = [trace["line"]["width"] for trace in figure.traces[:2]]
    assert widths == [0.8, 1.8]
    assert "Step 2" in the(result, TITLES[1]).caption
    assert [figure.title for figure in figures(result)] == TITLES[:6]  # no model, no preference


def test_twins_have_nothing_to_draw() -> None:
    one = generation()
    result = sk.measure(sk.Drift(recording(one)), recording(one))
    assert figures(result) == []


def test_two_dtypes_have_no_ulp_to_draw() -> None:
    wide = generation()
    narrow = replace(wide, states={name: state.bfloat16() for name, state in wide.states.items()})
    both = {"float32": "a" * 64, "bfloat16": "b" * 64}
    small = recording(narrow, dtype="bfloat16", digests={"bfloat16": "b" * 64})
    result = sk.measure(sk.Drift(recording(wide, digests=both)), small)
    assert [figure.title for figure in figures(result)] == TITLES[:5]
    assert [trace["yaxis"] for trace in the(result, TITLES[0]).traces] == ["y", "y2"]
