"""Figures of the propagation, of real measurements of a tiny model: valid plotly, finite, and true in words."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.measure import combine
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.result import Result

NAMES = ("LayerProfile", "SubmoduleProfile", "ModuleSpectrum", "Fate")
D = torch.linspace(-1, 1, 64, dtype=torch.float64)


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    loaded = sk.load("tiny")
    subject = sk.CausalLMSubject(loaded, "The capital of France is", batch=2)
    other = sk.CausalLMSubject(loaded, "<b>Another</b>", batch=2)
    asked = sk.LayerProfile(direction=D, epsilons=(1e-12, 1e-7, 1e-5, 1e-3))
    return {
        "LayerProfile": sk.measure(asked, subject),
        "SubmoduleProfile": sk.measure(sk.SubmoduleProfile(direction=D), subject),
        "ModuleSpectrum": sk.measure(sk.ModuleSpectrum(inside=1), subject),
        "Fate": sk.measure(sk.Fate(directions=torch.stack([D, -D]), cells=30), subject),
        "one block": sk.measure(sk.SubmoduleProfile(block=1, direction=D), subject),
        "named": sk.measure(sk.ModuleSpectrum(modules=("model.norm",), replace=False), subject),
        "prompts": combine([sk.measure(asked, one) for one in (subject, other)]),
        "spectra": combine([sk.measure(sk.ModuleSpectrum(inside=0), one) for one in (other, subject)]),
    }


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    assert "<b>" not in text
    assert "<b>" not in figure.caption
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def titles(result: Result) -> list[str]:
    found = figures(result)
    for figure in found:
        drawn(figure)
        assert figure.caption.endswith(".")
    return [figure.title for figure in found]


def test_every_drawing_is_valid_plotly_with_titles(results: dict[str, Result]) -> None:
    assert {name: titles(result) for name, result in results.items()} == {
        "LayerProfile": ["A change on its way through the model", "Block against step", "Which dimensions carry it"],
        "SubmoduleProfile": ["Rounding, module by module", "Gain, module by module"],
        "ModuleSpectrum": [
            "How far a block can stretch a change, and does",
            "Branches of the residual stream",
            "Whose rounding is it",
        ],
        "Fate": ["Where a change dies"],
        "one block": ["Rounding, module by module", "Gain, module by module"],
        "named": ["How far a block can stretch a change, and does", "Whose rounding is it"],
        "prompts": ["A change on its way through the model", "Block against step", "Which dimensions carry it"],
        "spectra": ["How far a block can stretch a change, and does", "Whose rounding is it"],
    }


def test_curves_have_every_site_and_the_true_one_beside(results: dict[str, Result]) -> None:
    result = results["LayerProfile"]
    figure = figures(result)[0]
    assert len(figure.traces) == 2 * 3  # three steps that move, as evaluated and exactly
    solid, dotted = figure.traces[0], figure.traces[1]
    assert solid["x"] == dotted["x"] == ["embed", "0", "1", "2", "pre norm", "post norm"]
    rows = [row for row in result.rows if row["epsilon"] == 1e-7 and row["sign"] == 1]
    assert solid["y"] == [row["relative_l2"] for row in rows]
    assert dotted["y"] == [row["relative_l2_exact"] for row in rows]
    assert figure.layout["yaxis"]["type"] == "log"
    assert "sign 1" in figure.caption
    assert "from 1e-12 to 0.001" in figure.caption


def test_a_legend_is_shown_whichever_step_moves_first(results: dict[str, Result]) -> None:
    shown = [trace["name"] for trace in figures(results["LayerProfile"])[0].traces if trace["showlegend"]]
    assert shown == ["as evaluated", "true float64"]


def test_the_map_of_steps_leaves_blank_what_did_not_change(results: dict[str, Result]) -> None:
    figure = figures(results["LayerProfile"])[1]
    (trace,) = figure.traces
    assert trace["x"] == ["1e-12", "1e-07", "1e-05", "0.001"]
    assert [line[0] for line in trace["z"]] == [None] * 6
    row = next(r for r in results["LayerProfile"].rows if r["epsilon"] == 1e-5 and r["site"] == "block:1")
    assert trace["z"][2][2] == math.log10(row["relative_l2"])
    assert "6 of 24 fields are blank" in figure.caption


def test_the_map_of_dimensions_takes_the_largest_of_each_group(results: dict[str, Result]) -> None:
    result = results["LayerProfile"]
    (plain,) = figures(result)[2].traces
    assert np.shape(plain["z"]) == (6, 64)
    assert "neighbouring" not in figures(result)[2].caption
    change = np.zeros((6, 250))
    change[1, 7], change[1, 8], change[4, 249] = -3.0, 2.0, 0.5
    wide = figures(replace(result, arrays={**result.arrays, "change": change}))[2]
    (trace,) = wide.traces
    assert np.shape(trace["z"]) == (6, 84)
    assert trace["x"][:3] == [0, 3, 6]
    assert trace["z"][1][2] == math.log10(3)
    assert trace["z"][4][-1] == math.log10(0.5)
    assert sum(value is not None for line in trace["z"] for value in line) == 2
    assert "the largest of 3 neighbouring dimensions" in wide.caption
    assert "is in dimension 7." in wide.caption
    without = replace(result, arrays={})
    assert len(figures(without)) == 2


def test_one_block_is_drawn_as_bars_and_all_as_a_map(results: dict[str, Result]) -> None:
    (bars,) = figures(results["one block"])[0].traces
    assert bars["type"] == "bar"
    assert bars["y"][0] == "whole block"
    assert len(bars["y"]) == 13
    (cells,) = figures(results["SubmoduleProfile"])[0].traces
    assert cells["type"] == "heatmap"
    assert np.shape(cells["z"]) == (3, 13)
    top = results["SubmoduleProfile"].readings["excess"]
    assert top.place["module"] in figures(results["SubmoduleProfile"])[0].caption


def test_blocks_show_what_they_can_and_what_they_do(results: dict[str, Result]) -> None:
    result = results["ModuleSpectrum"]
    most, does = figures(result)[0].traces
    blocks = [row for row in result.rows if row["part"] == "block"]
    assert most["x"] == ["0", "1", "2"]
    assert most["y"] == [row["sigma_1"] for row in blocks]
    assert does["y"] == [row["gain_observed"] for row in blocks]
    assert "times too large" in figures(result)[0].caption
    shares = figures(result)[2]
    assert shares.traces[0]["x"] == ["embed", "0", "1", "2", "model.norm"]
    assert sum(shares.traces[0]["y"]) == pytest.approx(1, abs=1e-3)
    assert "They add up to 1." in shares.caption
    branches = figures(result)[1]
    assert branches.traces[0]["x"] == ["0 self_attn", "0 mlp"]


def test_fates_are_counted_in_order_and_never_comes_last(results: dict[str, Result]) -> None:
    result = results["Fate"]
    rows = (
        *({"fate": "block:10"}, {"fate": "block:2"}, {"fate": "never"}),
        *({"fate": "embed"}, {"fate": "post_norm"}, {"fate": "block:2"}),
    )
    (trace,) = figures(replace(result, rows=rows))[0].traces
    assert trace["x"] == ["embed", "block 2", "block 10", "final norm", "nowhere"]
    assert trace["y"] == [1, 2, 1, 1, 1]
    none = figures(replace(result, rows=({"fate": "never"},)))[0]
    assert none.caption == "Of 1 changed inputs 1 change the output, and 0 lose their change."
    real = figures(result)[0]
    assert sum(real.traces[0]["y"]) == 60
    assert "Of 60 of 60 the state after block 0 tells the fate." in real.caption


def test_several_prompts_are_said_to_be_several(results: dict[str, Result]) -> None:
    curves = figures(results["prompts"])
    assert "prompt The capital of France is" in curves[0].caption
    assert len(curves[0].traces) == 6
    assert len(curves) == 3  # the arrays of the first prompt
    assert "prompt &lt;b&gt;Another&lt;/b&gt;" in figures(results["spectra"])[0].caption


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0, 0.0, -1.0, "text"])
def test_rows_that_hold_no_number_draw_what_is_left(results: dict[str, Result], name: str, value: Any) -> None:
    result = results[name]
    columns = [key for key, given in result.rows[-1].items() if isinstance(given, float)]
    columns += [key for key, given in result.rows[0].items() if isinstance(given, float)]
    broken = tuple({**row, **dict.fromkeys(columns, value)} if k % 2 else row for k, row in enumerate(result.rows))
    for rows in (broken, broken[1::2], tuple({} for _ in broken)):
        for figure in figures(replace(result, rows=rows)):
            drawn(figure)


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_the_same_after_a_result_was_stored(results: dict[str, Result], name: str) -> None:
    stored = Result.from_dict(json.loads(results[name].to_json()))
    assert [figure.to_dict() for figure in figures(stored)] == [f.to_dict() for f in figures(results[name])]
