"""Figures of singular defects and signatures: of a planted model, with damaged rows, and empty."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
from oracles.defective import DECAYS, EXPLODES, WRITTEN, defective

import stabilitykit as sk
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.result import Result

TEXTS = ("ab,cd", "efg.h", "<b>k")


@pytest.fixture(scope="module")
def result() -> Result:
    return sk.measure(sk.SingularDefects(TEXTS, tokens=258), defective(), progress=False)


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def named(result: Result, title: str) -> Figure:
    (figure,) = [figure for figure in figures(result) if figure.title == title]
    drawn(figure)
    return figure


def test_norms_step_up_behind_the_exploding_block_and_down_behind_the_decaying_one(result: Result) -> None:
    long, others = named(result, "Tokens that explode").traces
    assert long["y"][EXPLODES] > 20 * long["y"][EXPLODES - 1]
    assert long["y"][DECAYS] < long["y"][DECAYS - 1] / 2
    assert max(others["y"]) < 10


def test_angles_are_grouped_by_role_and_open_where_there_is_no_direction(result: Result) -> None:
    figure = named(result, "What the weights foretell")
    explodes, decays, rest = figure.traces
    assert (explodes["x"], decays["x"]) == ([EXPLODES], [DECAYS])
    assert explodes["marker"]["symbol"] == ["circle"]
    assert set(rest["marker"]["symbol"]) == {"circle-open"}
    assert f"at block {DECAYS}" in figure.caption


def test_the_rayleigh_bar_of_the_decay_is_below_zero_and_green(result: Result) -> None:
    (bars,) = named(result, "The sign of the weights").traces
    assert bars["y"][DECAYS] < -1
    assert bars["marker"]["color"][DECAYS] == "var(--plot-green)"


def test_shares_of_the_ways_are_those_of_the_readings(result: Result) -> None:
    figure = named(result, "Which tokens explode")
    share = f"{100 * result.readings['initial_share'].value:.3g}"
    assert f"first {share} %" in figure.caption
    assert [len(trace["x"]) for trace in figure.traces] == [258] * 4
    assert figure.traces[0]["y"][-1] == 1
    assert figure.traces[0]["x"] == sorted(figure.traces[0]["x"])


def test_tokens_lie_by_their_id_and_so_do_their_parts_along_v1(result: Result) -> None:
    rows = [row for row in result.rows if row["part"] == "pathway"][::2]  # 258, of which 256 are drawn at the most
    random, second, initial = named(result, "Tokens by their id").traces
    for trace, way in ((random, "random"), (second, "second"), (initial, "initial")):
        assert trace["x"] == [row["token_id"] for row in rows]
        assert trace["y"] == pytest.approx([row[f"norm_{way}"] for row in rows], rel=1e-3)
    figure = named(result, "What makes them explode")
    assert figure.traces[1]["y"] == pytest.approx([row["coefficient_initial"] for row in rows], rel=1e-3)
    everywhere = [row["coefficient_initial"] for row in result.rows if row["part"] == "pathway"]
    assert f"{np.mean(everywhere):.3g} ± {np.std(everywhere):.3g} in the first place" in figure.caption
    assert figure.caption.endswith("129 of 258 are drawn.")
    few = replace(result, rows=[row for row in result.rows if row["part"] != "pathway" or row["token_id"] < 256])
    assert len(named(few, "Tokens by their id").traces[0]["x"]) == 256
    assert "are drawn" not in named(few, "Tokens by their id").caption


def test_one_vector_stands_out_and_down_projections_to_keep_are_named(result: Result) -> None:
    plus, minus = named(result, "One direction makes the explosion").traces
    assert plus["y"][0] > 100 * max(plus["y"][1:])
    assert minus["y"][0] < 10
    assert f"blocks {EXPLODES}, {DECAYS}" in named(result, "Down-projections in 8 bits").caption


def test_a_signature_draws_both_sides(result: Result) -> None:
    former = sk.measure(sk.Signature(TEXTS), defective(), progress=False)
    alone = named(former, "Coordinates of the long tokens' direction")
    assert len(alone.traces) == 1
    assert alone.traces[0]["text"][0] == str(WRITTEN)
    both = sk.measure(sk.Signature(TEXTS, former), defective(), progress=False)
    assert len(named(both, "Coordinates of the long tokens' direction").traces) == 2


@pytest.mark.parametrize("value", [float("nan"), None, "<script>", -1.0, 0.0])
def test_damaged_rows_are_left_out(result: Result, value: object) -> None:
    names = (
        *("angle", "norm_behind", "norm_initial", "output_plus", "error", "growth", "rayleigh", "typical_norm"),
        *("token_id", "coefficient_initial", "norm_random", "token"),
    )
    rows = tuple({**row, **{name: value for name in names if name in row}} for row in result.rows[::2]) + result.rows
    for figure in figures(replace(result, rows=rows)):
        drawn(figure)
        assert "<script>" not in json.dumps(figure.to_dict())
    assert figures(replace(result, rows=())) == []


@pytest.fixture(scope="module")
def carried() -> Result:
    return sk.measure(sk.BlockFlips(TEXTS, tokens=2), defective(), progress=False)


def test_shares_of_blocks_are_bars_coloured_by_role(carried: Result) -> None:
    bars, flips = named(carried, "Which blocks carry the rounding").traces
    assert sum(bars["y"]) == pytest.approx(1)
    assert bars["marker"]["color"][EXPLODES] == "var(--plot-orange)"
    assert bars["marker"]["color"][DECAYS] == "var(--plot-green)"
    assert flips["y"] == [row["flip_share"] for row in carried.rows if row["part"] == "layer"]


def test_each_carrier_has_its_points_and_its_correlation(carried: Result) -> None:
    figure = named(carried, "Error against growth of long tokens")
    link = next(
        row
        for row in carried.rows
        if row["part"] == "link" and (row["carrier"], row["effect"]) == ("growth", "variance_share")
    )
    assert f"{link['spearman']:.3g}" in figure.caption
    assert figure.traces[0]["x"] == [row["growth"] for row in carried.rows if row["part"] == "layer"]


@pytest.mark.parametrize("value", [float("nan"), None, "<script>", -1.0, 0.0])
def test_damaged_rows_of_flips_are_left_out(carried: Result, value: object) -> None:
    names = ("variance_share", "growth", "sink", "spearman", "p", "flips")
    rows = tuple({**row, **{name: value for name in names if name in row}} for row in carried.rows[::2]) + carried.rows
    for figure in figures(replace(carried, rows=rows)):
        drawn(figure)
        assert "<script>" not in json.dumps(figure.to_dict())
    assert figures(replace(carried, rows=())) == []


def test_choices_that_are_kept_are_bars_of_their_perplexity() -> None:
    found = sk.measure(sk.KeptProjections(TEXTS, controls=2), defective(), progress=False)
    (bars,) = named(found, "Down-projections that are kept").traces
    assert bars["x"] == [row["perplexity"] for row in found.rows]
    assert bars["y"][:2] == ["plain", "all rounded"]
    assert [color == "var(--plot-blue)" for color in bars["marker"]["color"]] == [False] * 4 + [True] * 2
    values = (None, "<b>", -1.0, 2.0, 3.0, 4.0)
    damaged = tuple({**row, "perplexity": value} for row, value in zip(found.rows, values, strict=True))
    (figure,) = figures(replace(found, rows=damaged))
    assert len(figure.traces[0]["x"]) == 3
    assert figures(replace(found, rows=())) == []
