"""Figures of gains, dtypes, noise and representability: of real results of planted functions, broken, and empty."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest
import torch
from torch import Tensor

from stabilitykit.measurements.gain import DirectionalGain
from stabilitykit.measurements.gain_by_dtype import GainByDtype
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.noise_models import Constant, Gaussian, UlpNoise
from stabilitykit.measurements.noise_test import NoiseTest
from stabilitykit.measurements.representability import Representability
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.result import Result
from stabilitykit.subjects.function_subject import FunctionSubject

X0 = torch.tensor([0.75, -1.3125, 0.0123, 5.5])
RAYS = torch.eye(4)
NAMES = ["DirectionalGain", "smoothed", "prompts", "GainByDtype", "NoiseTest", "Representability"]


def bent(X: Tensor) -> Tensor:
    """Three times the first coordinate and a parabola, rounded to a grid; the same in any dtype."""
    scale = torch.tensor([3.0, 2.0, 1.0, 0.5], dtype=X.dtype)
    Y = X * scale + (X - X0.to(X.dtype)) ** 2
    return Y if X.dtype == torch.float64 else torch.round(Y * 2.0**12) / 2.0**12 + 0 * X


def subject(name: str = "bent") -> FunctionSubject:
    return FunctionSubject(bent, X0, batch=4, name=name)


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    smooth = DirectionalGain(RAYS[0], epsilons=(1e-2, 1e-4), noise="isotropic", samples=12, at=1e-2, signs="+")
    return {
        "DirectionalGain": DirectionalGain(RAYS).measure(subject()),
        "smoothed": smooth.measure(subject()),
        "prompts": measure(DirectionalGain(RAYS[:2]), [subject("one"), subject("<two>")], progress=False),
        "GainByDtype": GainByDtype(["bfloat16"]).measure(FunctionSubject(lambda X: X * 2, X0, batch=2)),
        "NoiseTest": NoiseTest([UlpNoise(1), Gaussian(3.0), Constant(-9.0, "abs")], draws=12).measure(subject()),
        "Representability": Representability(direction=RAYS[:2]).measure(subject()),
    }


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def titled(result: Result, title: str) -> Figure:
    return next(figure for figure in figures(result) if title in figure.title)


def test_each_result_has_its_figures(results: dict[str, Result]) -> None:
    counts = {name: len([drawn(figure) for figure in figures(result)]) for name, result in results.items()}
    assert counts == {
        "DirectionalGain": 1,
        "smoothed": 2,
        "prompts": 2,
        "GainByDtype": 3,
        "NoiseTest": 2,
        "Representability": 2,
    }


@pytest.mark.parametrize("name", NAMES)
def test_axes_have_titles_and_captions_are_sentences(results: dict[str, Result], name: str) -> None:
    for figure in figures(results[name]):
        assert figure.caption.endswith(".")
        assert "nan" not in figure.caption.split()
        assert figure.layout["xaxis"]["title"]["text"]
        assert "colorbar" not in str(figure.traces)
        hovers = [trace for trace in figure.traces if trace.get("hovertext") or trace.get("hovertemplate")]
        assert hovers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0, 0.0, "text"])
def test_rows_that_hold_no_number_draw_what_is_left(results: dict[str, Result], name: str, value: object) -> None:
    result = results[name]
    columns = {key for row in result.rows for key, given in row.items() if isinstance(given, float)}
    broken = tuple(
        {**row, **dict.fromkeys(columns & row.keys(), value)} if k % 2 else row for k, row in enumerate(result.rows)
    )
    for rows in (broken, broken[1::2], tuple({} for _ in broken), tuple({"part": row["part"]} for row in broken)):
        for figure in figures(replace(result, rows=rows)):
            drawn(figure)


def test_the_curve_marks_regimes_and_draws_no_absorbed_step(results: dict[str, Result]) -> None:
    result = results["DirectionalGain"]
    figure = titled(result, "length of the step")
    forward = figure.traces[0]
    rows = sorted(
        (row for row in result.rows if (row["direction"], row["sign"]) == ("0", "+")), key=lambda row: row["eps_abs"]
    )
    assert forward["x"] == [row["eps_abs"] for row in rows]
    symbols = {"linear": "circle", "rounding": "x", "nonlinear": "diamond-open"}
    for row, y, symbol in zip(rows, forward["y"], forward["marker"]["symbol"], strict=True):
        assert y == (row["gain_realised"] if row["gain_realised"] > 0 else None)
        assert symbol == symbols.get(row["regime"], "circle-open")
    assert {row["regime"] for row in rows} == {"linear", "rounding", "nonlinear", "absorbed"}
    assert figure.traces[2]["y"] == [None if row["regime"] == "absorbed" else row["gain_true"] for row in rows]
    assert figure.traces[3]["y"] == [3.0] * len(rows)
    assert "first 3 of 4 directions" in figure.caption
    assert figure.traces[1]["line"]["dash"] == "dash"
    assert [trace.get("name") for trace in figure.traces if trace["showlegend"]] == ["0", "1", "2"]


def test_convergence_is_drawn_at_the_place_of_the_reading(results: dict[str, Result]) -> None:
    result = results["smoothed"]
    figure = titled(result, "averaged over noise")
    rows = [row for row in result.rows if row["part"] == "smoothed" and row["epsilon"] == 1e-2]
    slope, biased, unbiased = figure.traces
    assert unbiased["x"] == [row["samples"] for row in rows] == [2, 5, 10, 12]
    assert unbiased["y"] == [row["gain_smoothed"] for row in rows]
    assert biased["y"] == [row["gain_raw"] for row in rows]
    assert slope["y"] == [row["sigma"] for row in rows]
    bars = unbiased["error_y"]
    assert bars["array"][1:] == [row["high"] - row["gain_smoothed"] for row in rows[1:]]
    assert bars["arrayminus"][1:] == [row["gain_smoothed"] - row["low"] for row in rows[1:]]
    assert bars["array"][0] is None, "two draws have no interval"
    assert f"averaged over 12 draws is {rows[-1]['gain_smoothed']:.3g}" in figure.caption


def test_prompts_are_points_and_their_names_no_markup(results: dict[str, Result]) -> None:
    figure = titled(results["prompts"], "over prompts")
    bars, points = figure.traces
    assert len(points["y"]) == 8
    assert bars["x"] == ["+0", "-0", "+1", "-1"]
    assert "2 in all" in figure.caption
    assert "<two>" not in json.dumps(figure.to_dict())
    assert "Prompt: one." in titled(results["prompts"], "length of the step").caption


def test_the_table_compares_every_dtype_with_every_other(results: dict[str, Result]) -> None:
    figure = titled(results["GainByDtype"], "σ₁")
    (trace,) = figure.traces
    assert trace["x"] == trace["y"] == ["true float64", "float32", "bfloat16"]
    assert [trace["text"][k][k] for k in range(3)] == ["=", "=", "="]
    assert trace["z"][0][0] is None
    assert "Relative difference of a row to a column" in figure.caption


def test_flip_rates_have_their_intervals_and_flips_are_marked(results: dict[str, Result]) -> None:
    result = results["NoiseTest"]
    figure = titled(result, "How often")
    rows = sorted(
        (row for row in result.rows if row["part"] == "kind"), key=lambda row: float(row["median_relative_l2"])
    )
    (trace,) = figure.traces
    assert trace["x"] == [row["flip_rate"] for row in rows]
    assert trace["error_x"]["array"] == pytest.approx([row["high"] - row["flip_rate"] for row in rows])
    assert trace["error_x"]["arrayminus"] == pytest.approx([row["flip_rate"] - row["low"] for row in rows])
    flips = sum(row["flips"] for row in rows)
    assert flips > 0
    assert figure.caption.startswith(f"{flips} of 25 draws changed the top token.")
    changes = titled(result, "against input change")
    assert [trace["name"] for trace in changes.traces] == ["same token", "other token"]
    assert len(changes.traces[1]["x"]) == flips
    never = replace(
        result, rows=tuple({**row, "token_changed": False, "flips": 0, "flip_rate": 0.0} for row in result.rows)
    )
    assert titled(never, "against input change").caption.endswith("None brings another token.")
    assert "highest rate" not in titled(never, "How often").caption


def test_each_dtype_has_a_line_of_one_direction(results: dict[str, Result]) -> None:
    result = results["Representability"]
    alignment, moved = figures(result)
    names = [trace["name"] for trace in alignment.traces]
    assert names == ["float32", "float64", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]
    rows = [row for row in result.rows if (row["part"], row["dtype"], row["direction"]) == ("step", "float32", "0")]
    rows.sort(key=lambda row: float(row["eps_abs"]))
    assert moved.traces[0]["y"] == [row["coords_moved"] for row in rows]
    assert [y for y in alignment.traces[0]["y"] if y is not None] == [1.0] * sum(
        row["coords_moved"] > 0 for row in rows
    )
    assert "The direction is kept from a step of" in alignment.caption
