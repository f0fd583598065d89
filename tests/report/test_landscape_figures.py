"""Figures of real maps of planted functions: true cells in true places, a legend that is right, small and harmless."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from oracles.planted_maps import PLANE, SPAN, X0, flat, line, noise

import stabilitykit as sk
from stabilitykit.measurements.measure import combine
from stabilitykit.report.figures import Figure, figures
from stabilitykit.report.figures.map_panel import exponent
from stabilitykit.report.html import page
from stabilitykit.results.record import Record, Run
from stabilitykit.results.result import Result
from stabilitykit.subjects.function_subject import FunctionSubject

HOSTILE = "<script>alert(1)</script>\u202e"
TITLES = [
    "The difference of the two logits",
    "Which token wins",
    "What the derivative predicts",
    "How steep it is",
    "Where the two mix",
    "The same with “1” enlarged",
]


def measured(fn: Any, n: int = 17, **how: Any) -> Result:
    asked = sk.Landscape(PLANE, **{"span": SPAN, "n": n, "unit": "abs", "at": "prompt", "again": 0, **how})
    return sk.measure(asked, FunctionSubject(fn, X0, batch=32))


@pytest.fixture(scope="module")
def straight() -> Result:
    return measured(line)


@pytest.fixture(scope="module")
def rough() -> Result:
    return measured(noise, n=201, span=4 * SPAN)


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def heat(figure: Figure) -> dict[str, Any]:
    return next(trace for trace in figure.traces if trace["type"] == "heatmap")


def test_every_map_is_valid_plotly_with_titles(straight: Result, rough: Result) -> None:
    for result in (straight, rough):
        found = figures(result)
        assert [figure.title for figure in found][:5] == TITLES[:5]
        for figure in found:
            drawn(figure)
            assert figure.caption.endswith(".")
            assert figure.layout["yaxis"]["scaleanchor"] == "x"
    assert [figure.title for figure in figures(straight)] == TITLES


def test_cells_lie_at_their_own_steps_with_e1_to_the_right(straight: Result) -> None:
    trace, D = heat(figures(straight)[0]), straight.arrays["D"]
    assert np.shape(trace["z"]) == (17, 17)
    scale = exponent(SPAN)
    assert trace["x"] == pytest.approx((straight.arrays["e1"] / 10.0**scale).tolist(), rel=1e-5)
    assert trace["y"] == pytest.approx((straight.arrays["e2"] / 10.0**scale).tolist(), rel=1e-5)
    assert "10⁻⁹" in figures(straight)[0].layout["xaxis"]["title"]["text"]
    assert scale == -9
    for i, j in ((0, 3), (16, 2), (5, 5)):
        assert trace["z"][j][i] == pytest.approx(D[i, j], abs=0.006)
    assert trace["zmin"] == -trace["zmax"]
    assert trace["zmid"] == 0
    assert trace["zmax"] == np.abs(D).max()


def test_the_drawn_colour_of_a_token_is_that_of_its_legend() -> None:
    """The study drew the first token black under a title that called it white."""
    for pair, colour, name in (((0, 1), 1, "0"), ((1, 0), 0, "0")):
        result = measured(flat, pair=pair)
        figure = figures(result)[1]
        trace = heat(figure)
        assert {value for row in trace["z"] for value in row} == {colour}
        place = (colour + 0.5) / 3  # of zmin -0.5 to zmax 2.5
        left = [step for step in trace["colorscale"] if step[0] <= place][-1]
        (named,) = [t for t in figure.traces if t.get("marker") and name in t["name"]]
        assert named["marker"]["color"] == left[1]
        assert f"“{name}” in {17 * 17}" in figure.caption


def test_the_legend_counts_what_is_drawn(straight: Result) -> None:
    first = int((straight.arrays["D"] >= 0).sum())
    figure = figures(straight)[1]
    assert f"“0” in {first} cells, “1” in {289 - first}." in figure.caption
    assert sum(value == 1 for row in heat(figure)["z"] for value in row) == first
    assert "another" not in str(figure.to_dict())
    bare = replace(straight, arrays={k: array for k, array in straight.arrays.items() if k != "third"})
    assert heat(figures(bare)[1])["z"] == heat(figure)["z"]
    third = np.zeros((17, 17), dtype=bool)
    third[2, 3] = True
    other = figures(replace(straight, arrays={**straight.arrays, "third": third}))[1]
    assert heat(other)["z"][3][2] == 2
    assert "another token in 1." in other.caption
    assert other.traces[3]["name"] == "another"


def test_the_dashed_line_is_where_the_prediction_is_zero(straight: Result) -> None:
    for figure in figures(straight)[:3]:
        (dashed,) = [trace for trace in figure.traces if trace.get("name") == "predicted"]
        step = SPAN / 8 / 10.0 ** exponent(SPAN)
        for x, y in zip(dashed["x"], dashed["y"], strict=True):
            assert 3 * x / step + y / step + 0.5 == pytest.approx(0, abs=1e-6)
        assert max(abs(v) for v in dashed["y"]) == pytest.approx(8 * step)
        assert "Dashed" in figures(straight)[0].caption
    assert not [t for f in figures(measured(flat)) for t in f.traces if t.get("name") == "predicted"]
    assert "Dashed" not in figures(measured(flat))[0].caption


def test_the_entropy_lies_over_the_middle_of_its_windows(straight: Result) -> None:
    whole, windows = heat(figures(straight)[0]), heat(figures(straight)[4])
    assert windows["x"] == whole["x"][2:-2]
    assert np.shape(windows["z"]) == (13, 13)
    assert windows["z"][4][6] == pytest.approx(straight.arrays["entropy"][6, 4], abs=0.006)


def test_gradients_are_told_over_the_derivative(straight: Result) -> None:
    figure = figures(straight)[3]
    assert "1 times the derivative's" in figure.caption
    slope = math.hypot(3, 1) / (SPAN / 8)
    assert heat(figure)["z"][3][3] == pytest.approx(slope / 10.0 ** exponent(slope), abs=0.06)


def test_the_enlarged_map_says_that_it_is_no_data(straight: Result) -> None:
    figure = figures(straight)[5]
    assert "Not data" in figure.caption
    assert "3 x 3" in figure.caption
    before, after = (np.array(heat(f)["z"]) for f in (figures(straight)[1], figure))
    assert (after == 0).sum() > (before == 0).sum()
    flipped = replace(straight, arrays={**straight.arrays, "D": -straight.arrays["D"]})
    assert figures(flipped)[5].title == "The same with “0” enlarged"
    assert len(figures(measured(flat))) == 5, "one token alone is not enlarged"


def test_a_large_map_is_thinned_and_stays_small(rough: Result) -> None:
    for figure in figures(rough):
        trace = heat(figure)
        assert max(np.shape(trace["z"])) <= 101
        assert "One cell in 2 of each axis is drawn" in figure.caption
    first = heat(figures(rough)[0])
    assert first["x"][0] == -first["x"][-1], "both ends are drawn"
    assert first["z"][7][3] == pytest.approx(rough.arrays["D"][6, 14], abs=0.006)
    assert sum(len(json.dumps(figure.to_dict())) for figure in figures(rough)) < 600_000


def test_tokens_and_directions_are_no_markup(straight: Result) -> None:
    arrays = {**straight.arrays, "tokens": np.array([HOSTILE, "<b>&"]), "plane": np.array([HOSTILE, "<i>"])}
    for figure in figures(replace(straight, arrays=arrays)):
        text = json.dumps(figure.to_dict(), ensure_ascii=False)
        assert "<script>" not in text
        assert "<b>" not in text
        assert "<i>" not in text
        assert "\u202e" not in text + figure.title + figure.caption
    assert "&lt;script&gt;" in json.dumps(figures(replace(straight, arrays=arrays))[1].to_dict())


def test_the_page_escapes_tokens_in_captions_once(straight: Result, run: Run) -> None:
    hostile = replace(straight, arrays={**straight.arrays, "tokens": np.array([HOSTILE, "<b>&"])})
    text = page(run, [Record("landscape", "t.py::t", "pass", hostile)], ["landscape"])
    assert "z(“&lt;script&gt;alert(1)&lt;...”) - z(“&lt;b&gt;&amp;”)" in text
    assert "&amp;lt;" not in text.split("<script>")[0]
    assert "<script>alert" not in text


def test_what_holds_no_map_draws_nothing(straight: Result) -> None:
    bare = replace(straight, arrays={})
    assert figures(bare) == []
    hole = straight.arrays["D"].copy()
    hole[3, 3] = math.nan
    assert figures(replace(straight, arrays={**straight.arrays, "D": hole})) == []
    without = {name: array for name, array in straight.arrays.items() if name not in ("linear", "entropy", "gradient")}
    assert [figure.title for figure in figures(replace(straight, arrays=without))] == [TITLES[0], TITLES[1], TITLES[5]]


def test_a_zoom_and_several_prompts_are_drawn() -> None:
    subject = FunctionSubject(noise, X0, batch=32)
    asked = sk.Landscape(PLANE, span=SPAN, n=17, unit="abs", at="prompt", again=0)
    zoom = sk.measure(sk.Zoom(asked, ((0.0, SPAN), (-SPAN / 2, 0.0)), n=9, again=0), subject)
    trace = heat(figures(zoom)[0])
    assert (trace["x"][0], trace["y"][-1]) == (0, 0)
    assert trace["x"][-1] == pytest.approx(SPAN / 10.0 ** exponent(SPAN), rel=1e-5)
    both = combine([sk.measure(asked, subject), sk.measure(asked, FunctionSubject(line, X0, batch=32))])
    assert len(figures(both)) == 6


@pytest.mark.parametrize(
    ("value", "power"), [(5.9e-5, -6), (1e-6, -6), (9.9e-7, -9), (0.5, -3), (3.0, 0), (2e4, 3), (0.0, 0)]
)
def test_lengths_are_told_in_thousands(value: float, power: int) -> None:
    assert exponent(value) == power
