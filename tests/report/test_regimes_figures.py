"""Figures of the regimes, of real measurements of planted functions: valid plotly, finite, and true in words."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest
import torch
from torch import Tensor

from stabilitykit import strategies
from stabilitykit.measurements.measure import combine
from stabilitykit.measurements.regimes import Regimes
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.result import Result
from stabilitykit.subjects.function_subject import FunctionSubject

X0 = torch.tensor([0.75, -1.3125, 0.0123, 5.5])


def true(X: Tensor) -> Tensor:
    return 3 * X.double()


def noisy(X: Tensor) -> Tensor:
    """Three times the input, with an error of 1e-4 once the first coordinate has moved four floats."""
    signs = 1.0 - 2.0 * (X.contiguous().view(torch.int32) & 1).double()
    moved = (X.view(torch.int32) - X0.view(torch.int32)).abs()[:, :1] >= 4
    return torch.where(moved, true(X) + 1e-4 * signs, true(X0)[None])


NARROW = torch.full((4, 4), 0.5)


def narrow(X: Tensor) -> Tensor:
    """A function that has no float64: its weights are float32, and no others."""
    return X @ NARROW


def asked(fn: Any, exact: Any = true, directions: Any = None) -> Result:
    rays = ["v1", *strategies.gaussians(2, 4)] if directions is None else directions
    return Regimes(rays, points=3, replicates=100).measure(FunctionSubject(fn, X0, batch=4, exact=exact))


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    two = [asked(noisy), asked(noisy)]
    named = [
        replace(one, subject={**one.subject, "prompt": name}) for one, name in zip(two, ("A", "<b>B"), strict=True)
    ]
    return {
        "noisy": asked(noisy, directions=torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]])),
        "clean": asked(true),
        "never": asked(
            lambda X: true(X) + 1e9 * torch.randn(1, generator=torch.Generator().manual_seed(0)) * (X != X0)
        ),
        "dead": asked(lambda X: true(X) - true(X)),
        "without": asked(narrow, None, torch.eye(4)[0]),
        "prompts": combine(named),
    }


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    assert "<b>" not in text
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def named(figure: Figure, name: str) -> list[Any]:
    return [trace for trace in figure.traces if trace.get("name") == name]


@pytest.mark.parametrize("name", ["noisy", "clean", "never", "dead", "without", "prompts"])
def test_three_valid_figures_with_units_in_every_case(results: dict[str, Result], name: str) -> None:
    found = figures(results[name])
    for figure in found:
        drawn(figure)
    assert [figure.title for figure in found] == [
        "Stable, chaotic, signal",
        "Which regime, decade by decade",
        "Thresholds, ray by ray",
    ]
    assert found[0].layout["xaxis"]["title"]["text"] == "step (input units)"
    assert found[1].layout["yaxis"]["title"]["text"] == "share of points (%)"


def test_the_picture_has_every_point_and_the_true_curve_beside(results: dict[str, Result]) -> None:
    result = results["noisy"]
    picture = figures(result)[0]
    points = [row for row in result.rows if row["part"] == "point"]
    for regime in ("stable", "chaotic", "signal"):
        (marks,) = named(picture, regime)
        assert marks["x"] == [row["eps"] for row in points if row["regime"] == regime]
        assert all("gain" in text for text in marks["hovertext"])
    curves = named(picture, "true function")
    assert len(curves) == 3
    assert [curve["showlegend"] for curve in curves] == [True, False, False]
    assert all(y == pytest.approx(3) for curve in curves for y in curve["y"])
    (stable,) = named(picture, "stable")
    assert len(set(stable["y"])) == 1
    assert math.log10(stable["y"][0]) == pytest.approx(picture.layout["yaxis"]["range"][0])
    assert "10% dotted" in picture.caption
    assert "in true float64" in picture.caption


def test_the_regions_meet_at_the_thresholds(results: dict[str, Result]) -> None:
    result = results["noisy"]
    picture = figures(result)[0]
    stable, signal = (result.readings[name] for name in ("eps_stable", "eps_signal"))
    areas = [shape for shape in picture.layout["shapes"] if shape.get("opacity") == 0.1]
    assert [area["x1"] for area in areas[:2]] == pytest.approx([stable.value, signal.value])
    assert [area["x0"] for area in areas[1:]] == pytest.approx([stable.value, signal.value])
    assert [name["text"] for name in picture.layout["annotations"]] == ["stable", "chaotic", "signal"]
    middle = (math.log10(stable.value) + math.log10(signal.value)) / 2
    assert picture.layout["annotations"][1]["x"] == pytest.approx(middle)
    intervals = [shape for shape in picture.layout["shapes"] if shape.get("opacity") == 0.18]
    assert (intervals[-1]["x0"], intervals[-1]["x1"]) == (signal.low, signal.high)
    low, high = picture.layout["xaxis"]["range"]
    assert low < math.log10(stable.value) < math.log10(signal.value) < high


def test_a_region_without_room_has_no_name(results: dict[str, Result]) -> None:
    texts = {name: [note["text"] for note in figures(results[name])[0].layout["annotations"]] for name in results}
    assert texts["clean"] == ["stable", "signal"]
    assert texts["never"] == ["stable", "chaotic"]
    assert texts["dead"] == ["stable"]


def test_captions_are_true_where_nothing_follows_or_moves(results: dict[str, Result]) -> None:
    assert "no step tried is large enough" in figures(results["never"])[0].caption
    assert "3 never follow it" in figures(results["never"])[2].caption
    assert "never follow" not in figures(results["clean"])[2].caption
    without = figures(results["without"])[0]
    assert "float64" not in without.caption
    assert "the noise against the change" in without.caption
    assert named(without, "true function") == []


def test_shares_of_each_decade_add_up(results: dict[str, Result]) -> None:
    figure = figures(results["noisy"])[1]
    totals = [sum(parts) for parts in zip(*(trace["y"] for trace in figure.traces), strict=True)]
    assert totals == pytest.approx([100] * len(totals))
    assert len(totals) == 14
    assert figure.layout["barmode"] == "stack"
    assert "of 14 decades regimes mix" in figure.caption
    assert "|x₀|" in figure.layout["xaxis"]["title"]["text"]


def test_thresholds_have_a_line_a_ray_with_its_interval(results: dict[str, Result]) -> None:
    result = results["noisy"]
    figure = figures(result)[2]
    rays = [row for row in result.rows if row["part"] == "ray"]
    (stable,), (signal,) = (named(figure, name) for name in ("eps_stable", "eps_signal"))
    assert stable["x"] == [ray["eps_stable"] for ray in rays]
    assert signal["x"] == [ray["eps_signal"] for ray in rays]
    highs = [x + above for x, above in zip(signal["x"], signal["error_x"]["array"], strict=True)]
    lows = [x - below for x, below in zip(signal["x"], signal["error_x"]["arrayminus"], strict=True)]
    assert highs == pytest.approx([ray["eps_signal_high"] for ray in rays])
    assert lows == pytest.approx([ray["eps_signal_low"] for ray in rays])
    assert stable["y"] == ["0", "1", "2"]


def test_recipes_and_prompts_have_short_names(results: dict[str, Result]) -> None:
    (stable,) = named(figures(results["prompts"])[2], "eps_stable")
    assert stable["y"] == [
        f"{ray} · {name}" for name in ("A", "&lt;b&gt;B") for ray in ("v1", "gaussian 0", "gaussian 1")
    ]
    assert len(named(figures(results["prompts"])[0], "true function")) == 6


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0, 0.0, -1.0, "text"])
def test_rows_that_hold_no_number_draw_what_is_left(results: dict[str, Result], value: object) -> None:
    rows = results["noisy"].rows
    names = {key for row in rows for key, given in row.items() if isinstance(given, float)}
    broken = tuple({**row, **dict.fromkeys(names & set(row), value)} if k % 2 else row for k, row in enumerate(rows))
    for part in (broken, broken[1::2], tuple({} for _ in rows), rows[:1], rows[3:]):
        for figure in figures(replace(results["noisy"], rows=part)):
            drawn(figure)
        for figure in figures(replace(results["noisy"], rows=part, readings={}, parameters={})):
            drawn(figure)
