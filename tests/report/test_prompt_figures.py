"""Figures of prompts and of their states: of real results of small models, with planted numbers, broken, and empty."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

import stabilitykit as sk
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.result import Result

ASKED = (
    sk.Prompt("<b>a</b>?", "factual"),
    sk.Prompt("no?", "made <i>up</i>"),
    sk.Prompt("two?", "factual"),
    sk.Prompt("none?", "made <i>up</i>"),
)
ROLES = sk.ROLES[:2]


@pytest.fixture(scope="module")
def suite() -> Result:
    return sk.measure(sk.PromptSuite(ASKED, ROLES, 3), sk.load("tiny"), progress=False)


@pytest.fixture(scope="module")
def tied() -> Result:
    return sk.measure(sk.Geometry(ASKED, ROLES, sample=30), sk.load("tiny:gpt2"), progress=False)


@pytest.fixture(scope="module")
def untied() -> Result:
    loaded = sk.load("tiny", load_args={"tie_word_embeddings": False})
    return sk.measure(sk.Geometry(ASKED, ROLES, sample=30), loaded, progress=False)


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def rows(result: Result, part: str, **where):
    kept = [row for row in result.rows if row["part"] == part]
    return [row for row in kept if all(row[name] == wanted for name, wanted in where.items())]


def test_every_drawing_is_valid_plotly_and_the_first_is_wide(suite, tied, untied):
    for result, count in ((suite, 3), (tied, 5), (untied, 5)):
        assert len([drawn(figure) for figure in figures(result)]) == count
        assert figures(result)[0].wide


def test_every_prompt_is_a_point_in_its_kind_and_role(suite):
    by_role = figures(suite)[0]
    factual, mean, other, other_mean = by_role.traces
    assert (factual["name"], other["name"]) == ("factual", "made &lt;i&gt;up&lt;/i&gt;")
    for trace, kind in ((factual, "factual"), (other, "made <i>up</i>")):
        own = rows(suite, "prompt", kind=kind)
        assert trace["y"] == [row["median_margin"] for row in own]
        assert [round(x) for x in trace["x"]] == [1, 2, 3] * 2, "no role, teacher, captain"
    assert set(factual["x"]).isdisjoint(other["x"]), "kinds stand side by side"
    row = rows(suite, "kind", kind="factual", statistic="median_margin")[0]
    assert mean["y"] == [row["value"]]
    assert mean["error_y"]["array"] == [pytest.approx(row["high"] - row["value"])]
    assert mean["error_y"]["arrayminus"] == [pytest.approx(row["value"] - row["low"])]
    assert other_mean["x"] != mean["x"]
    assert by_role.layout["xaxis"]["ticktext"] == ["mean", "no role", "teacher", "captain"]


def test_both_intervals_of_a_difference_are_drawn(suite):
    figure = figures(suite)[1]
    row = rows(suite, "difference", statistic="median_margin")[0]
    for trace, low, high in zip(figure.traces, ("low", "naive_low"), ("high", "naive_high"), strict=True):
        assert trace["x"][0] == row["value"]
        assert trace["error_x"]["array"][0] == pytest.approx(row[high] - row["value"])
        assert trace["error_x"]["arrayminus"][0] == pytest.approx(row["value"] - row[low])
    assert figure.layout["yaxis"]["ticktext"] == ["median", "mean", "first token", "smallest"]
    planted = tuple({**row, "low": 0.5, "high": 1.0} if row["part"] == "difference" else row for row in suite.rows)
    assert "exclude 0: 4 of 4" in figures(replace(suite, rows=planted))[1].caption


def test_the_share_of_tokens_counts_exact_ties_too(suite):
    """A logarithmic axis has no zero: ties lift the curve from its first point on."""
    planted, ties = [], 0
    for row in suite.rows:
        tie = row["part"] == "token" and row["kind"] == "factual" and ties < 3
        ties += tie
        planted.append({**row, "margin_ulp": 0.0, "near_tie": True} if tie else row)
    figure = figures(replace(suite, rows=tuple(planted)))[2]
    factual, other = figure.traces
    count = len(rows(suite, "token", kind="factual"))
    assert factual["y"][0] == pytest.approx(4 / count)
    assert factual["y"][-1] == other["y"][-1] == 1.0
    assert factual["x"] == sorted(factual["x"])
    assert min(factual["x"]) > 0


def test_a_long_curve_is_thinned_but_reaches_the_end(suite):
    token = rows(suite, "token", kind="factual")[0]
    many = tuple({**token, "margin_ulp": float(place + 1)} for place in range(999))
    kept = tuple(row for row in suite.rows if row["part"] != "token")
    factual = figures(replace(suite, rows=kept + many))[2].traces[0]
    assert 200 <= len(factual["x"]) <= 260
    assert (factual["x"][-1], factual["y"][-1]) == (999.0, 1.0)
    assert factual["y"] == pytest.approx([x / 999 for x in factual["x"]])


def test_one_kind_has_no_difference_to_draw():
    result = sk.measure(sk.PromptSuite(ASKED[:1], (), 2), sk.load("tiny"), progress=False)
    first, shares = figures(result)
    assert first.traces[1]["error_y"]["array"] == [0], "no interval of one question"
    assert shares.title == "How small margins get"
    assert all(drawn(figure) for figure in (first, shares))


def test_the_map_shows_every_state_once_and_leads_to_the_roles(tied):
    figure = figures(tied)[0]
    lines, *groups = figure.traces
    points = {(x, y) for trace in groups for x, y in zip(trace["x"], trace["y"], strict=True)}
    assert points == {tuple(float(one) for one in point) for point in tied.arrays["plane"]}
    assert len(groups) == 6
    plane = tied.arrays["plane"]
    assert lines["x"][:3] == [plane[0, 0], plane[1, 0], None]
    assert lines["y"][3:6] == [plane[0, 1], plane[2, 1], None]
    assert lines["x"].count(None) == 8
    assert [trace["text"] for trace in groups[::3]] == [["1", "3"], ["2", "4"]]
    assert figure.layout["yaxis"]["scaleanchor"] == "x"


def test_role_drift_has_a_cell_for_each_question_and_role(tied):
    (trace,) = figures(tied)[1].traces
    assert trace["x"] == ["teacher", "captain"]
    assert trace["y"][0] == "1. &lt;b&gt;a&lt;/b&gt;?"
    for place, asked in enumerate(ASKED):
        own = [rows(tied, "drift", question=asked.text, role=role)[0]["cosine"] for role in ("teacher", "captain")]
        assert trace["z"][place] == own
    most = max(rows(tied, "drift"), key=lambda row: row["cosine"])
    assert f"The furthest: {most['role']}" in figures(tied)[1].caption


def test_distances_and_cosines_are_those_of_the_arrays(tied):
    distances, similar = figures(tied)[2].traces[0], figures(tied)[3].traces[0]
    assert distances["z"][0][0] is None
    assert distances["z"][1][4] == pytest.approx(tied.arrays["cosine"][1, 4], rel=1e-3)
    assert distances["y"][4] == "2, teacher"
    assert len(set(distances["y"])) == 12
    assert np.array(similar["z"]) == pytest.approx(tied.arrays["similarity"][0], abs=1e-4)
    assert similar["x"][0] == "state"
    assert len(set(similar["x"])) == 6


def test_tied_matrices_have_a_histogram_and_others_a_map(tied, untied):
    one, two = figures(tied)[4], figures(untied)[4]
    assert one.traces[0]["type"] == "bar"
    assert sum(one.traces[0]["y"]) == 30 * 29 // 2
    assert "tied" in one.caption
    (trace,) = two.traces
    joint = untied.arrays["cosine_joint"]
    place = np.unravel_index(joint.argmax(), joint.shape)
    assert trace["z"][place[1]][place[0]] == joint.max(), "the embedding goes from left to right"
    assert sum(count or 0 for line in trace["z"] for count in line) == 30 * 29 // 2
    row = rows(untied, "sample", matrix="head", distance="cosine")[0]
    assert f"Correlation {row['correlation']:.3g}" in two.caption


def test_many_prompts_are_cut_and_said_to_be(tied, monkeypatch):
    monkeypatch.setattr("stabilitykit.report.figures.geometry._CELLS", 5)
    figure = figures(tied)[2]
    assert len(figure.traces[0]["z"]) == 5
    assert "The first 5 of 12." in figure.caption


@pytest.mark.parametrize("number", [math.nan, None, "x"])
def test_numbers_that_are_none_do_not_break_a_drawing(suite, tied, number):
    names = ("median_margin", "value", "low", "high", "margin_ulp", "cosine", "euclidean", "norm", "correlation")
    for result in (suite, tied):
        broken = tuple({key: number if key in names else one for key, one in row.items()} for row in result.rows)
        assert all(drawn(figure) for figure in figures(replace(result, rows=broken)))


def test_nothing_measured_draws_nothing(suite, tied):
    for result in (suite, tied):
        assert figures(replace(result, rows=())) == []
    assert figures(replace(tied, arrays={})) == []
