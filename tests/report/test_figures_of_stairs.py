"""Figures of staircases, rotations and blocks: of real results of planted functions, of broken rows, and of nothing."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest
import torch

from stabilitykit.measurements.chains import MatmulChain
from stabilitykit.measurements.rotation import Rotation
from stabilitykit.measurements.staircase import Staircase
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Result
from stabilitykit.subjects.function_subject import FunctionSubject

X0 = torch.tensor([0.75, -1.3125, 0.0123, 5.5])
D = torch.tensor([1.0, 0.5, -0.25, 2.0])


def rounding(X: torch.Tensor) -> torch.Tensor:
    """Three times the input on a coarse grid, with a noise floor."""
    return torch.round(3 * X * 2**20) / 2**20 + 1e-4 * len(X) + 3 * (X - X.detach())


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    subject = FunctionSubject(rounding, X0, batch=4, first=lambda X: X)
    chain = MatmulChain(depth=3, dim=16, directions=2)
    return {
        "Staircase": Staircase(D, n=200).measure(subject),
        "Rotation": Rotation(D, shifts=4, gaps=(0.5, 5.0, 50.0), controls=1).measure(subject),
        "MatmulChain": chain.measure(chain.subject(batch=8)),
    }


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def titled(result: Result, title: str) -> Figure:
    return next(figure for figure in figures(result) if title in figure.title)


def number(value: Any) -> float:
    return float(value) if value is not None else math.nan


@pytest.mark.parametrize(("name", "count"), [("Staircase", 5), ("Rotation", 3), ("MatmulChain", 2)])
def test_every_drawing_is_valid_plotly(results: dict[str, Result], name: str, count: int) -> None:
    found = [(figure, drawn(figure)) for figure in figures(results[name])]
    assert len(found) == count
    for figure, plot in found:
        assert plot.layout.xaxis.title.text, figure.title
        assert plot.layout.yaxis.title.text, figure.title
        assert len(plot.layout.yaxis.title.text) < 32, "a long title does not fit a narrow page"
        assert "nan" not in figure.caption
        assert "None" not in figure.caption
        assert figure.caption.endswith(".")


@pytest.mark.parametrize("name", ["WeightGain", "BlockGain"])
def test_blocks_share_their_figures(results: dict[str, Result], name: str) -> None:
    assert len(figures(replace(results["MatmulChain"], measurement=name))) == 2


@pytest.mark.parametrize("name", ["Staircase", "Rotation", "MatmulChain"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0, 0.0, "text"])
def test_rows_that_hold_no_number_draw_what_is_left(results: dict[str, Result], name: str, value: object) -> None:
    result = results[name]
    columns = {key for row in result.rows for key, given in row.items() if isinstance(given, float)}
    broken = tuple(
        {**row, **{key: value for key in row if key in columns}} if k % 2 else row for k, row in enumerate(result.rows)
    )
    for rows in (broken, broken[1::2], tuple({} for _ in broken)):
        for readings in (result.readings, {}):
            for figure in figures(replace(result, rows=rows, readings=readings, arrays={})):
                drawn(figure)


# --- stairs


def test_the_stairs_mark_where_the_output_jumped(results: dict[str, Result]) -> None:
    rows = [row for row in results["Staircase"].rows if row["part"] == "step"]
    stairs = titled(results["Staircase"], "stairs")
    (trace,) = stairs.traces
    assert trace["x"] == [row["s_first"] - rows[0]["s_first"] for row in rows]
    assert trace["y"] == [row["output_distance"] for row in rows]
    jumps = sum(row["jumped"] for row in rows)
    assert 3 < jumps < len(rows)
    assert [symbol == "circle" for symbol in trace["marker"]["symbol"]] == [row["jumped"] for row in rows]
    assert f"{len(rows)} distinct inputs. At {jumps} of them" in stairs.caption


def test_the_first_jump_is_shown_between_its_neighbours(results: dict[str, Result]) -> None:
    rows = [row for row in results["Staircase"].rows if row["part"] == "step"]
    place = next(row["input"] for row in rows if row["jumped"])
    (trace,) = titled(results["Staircase"], "first jump").traces
    shown = list(range(max(place - 12, 1), min(place + 13, len(rows))))
    assert trace["x"] == shown
    assert trace["y"] == [rows[k]["output_jump"] for k in shown]
    assert [color == "var(--plot-orange)" for color in trace["marker"]["color"]] == [k == place for k in shown]


def test_histograms_count_every_jump(results: dict[str, Result]) -> None:
    jumps = [row for row in results["Staircase"].rows if row.get("jumped")]
    sizes, spacings = (titled(results["Staircase"], title) for title in ("How high", "How wide"))
    assert sum(sizes.traces[0]["y"]) == len(jumps)
    assert sum(spacings.traces[0]["y"]) == len(jumps) - 1
    edges = [x - w / 2 / 0.95 for x, w in zip(sizes.traces[0]["x"], sizes.traces[0]["width"], strict=True)]
    assert edges[0] == pytest.approx(min(row["output_jump"] for row in jumps))
    assert sizes.traces[1]["x"][0] == pytest.approx(7e-4 * 2, rel=1e-4)  # batches of 1 to 8, four float32 outputs
    assert "noise floor" in sizes.caption


def test_equal_jumps_are_one_bar() -> None:
    flat = FunctionSubject(lambda X: torch.floor((X[:, :1] - 0.75) * 2**24 / 5), X0)
    found = titled(Staircase(torch.tensor([1.0, 0, 0, 0]), n=30, scales=()).measure(flat), "How high")
    assert max(found.traces[0]["y"]) == 5
    assert len(found.traces) == 1
    assert not found.layout["showlegend"]


def test_the_slope_is_drawn_with_the_derivative_and_the_crossover(results: dict[str, Result]) -> None:
    result = results["Staircase"]
    figure = titled(result, "derivative's")
    gain, crossing = (result.readings[name].value for name in ("gain", "crossover_scale"))
    assert [trace.get("name") for trace in figure.traces] == ["secant slope", "derivative", "they agree from here"]
    assert set(figure.traces[1]["y"]) == {gain}
    assert (figure.traces[2]["x"], figure.traces[2]["y"]) == ([crossing], [gain])
    assert None not in figure.traces[0]["y"]
    never = {**result.readings, "crossover_scale": replace(result.readings["crossover_scale"], value=math.nan)}
    assert "At no step tried" in titled(replace(result, readings=never), "derivative's").caption
    unknown = {**never, "gain": replace(result.readings["gain"], value=math.nan)}
    assert "no derivative" in titled(replace(result, readings=unknown), "derivative's").caption


def test_stairs_without_a_jump_say_so() -> None:
    result = Staircase(D, n=5, scales=()).measure(FunctionSubject(lambda X: 0 * X, X0))
    (figure,) = figures(result)
    assert "At 0 of them" in figure.caption
    assert figures(Staircase(D, n=1, scales=()).measure(FunctionSubject(lambda X: 0 * X, X0))) == []


# --- rotations


def test_the_counts_at_the_widest_gap_are_drawn_against_the_shift(results: dict[str, Result]) -> None:
    rows = [row for row in results["Rotation"].rows if row["kind"] == "shift"]
    widest = [row for row in rows if row["gap"] == max(r["gap"] for r in rows)]
    figure = titled(results["Rotation"], "where the step is taken")
    assert [trace["name"] for trace in figure.traces] == ["output", "after block 0", "input"]
    for trace, site in zip(figure.traces, ("output", "block0", "input"), strict=True):
        assert trace["x"] == [0, 1, 2, 3]
        assert [value or 0 for value in trace["y"]] == [row[f"changed_{site}"] for row in widest]


def test_controls_are_drawn_beside_the_shifts(results: dict[str, Result]) -> None:
    figure = titled(results["Rotation"], "other directions")
    assert [trace["name"] for trace in figure.traces] == ["turned", "permuted", "signs flipped", "random"]
    alone = tuple(row for row in results["Rotation"].rows if row["kind"] == "shift")
    assert len(titled(replace(results["Rotation"], rows=alone), "other directions").traces) == 1


def test_places_are_summed_into_bars(results: dict[str, Result]) -> None:
    result = results["Rotation"]
    figure = titled(result, "changes lie")
    assert [list(trace["y"]) for trace in figure.traces] == [
        result.arrays[f"histogram_{name}"].tolist() for name in ("input", "direction")
    ]
    wide = {f"histogram_{name}": torch.arange(150).numpy() for name in ("input", "direction")}
    bars = titled(replace(result, arrays=wide), "changes lie").traces[0]
    assert bars["x"] == list(range(0, 150, 5))
    assert bars["y"] == [25 * k + 10 for k in range(30)]
    assert bars["hovertext"][-1].startswith("places 145 to 149")
    assert "0 is chance" in figure.caption


def test_a_rotation_that_changes_nothing_is_drawn_empty() -> None:
    result = Rotation(D, shifts=2, gaps=(0.001,), magnitude=0.1, controls=0).measure(FunctionSubject(lambda X: X, X0))
    (figure,) = figures(result)
    assert "No turn changes anything" in figure.caption
    drawn(figure)


# --- blocks


def test_a_block_is_drawn_with_its_bound_and_its_truth(results: dict[str, Result]) -> None:
    result = results["MatmulChain"]
    figure = titled(result, "magnified")
    moved = sorted((row for row in result.rows if row["coords_moved"]), key=lambda row: row["input_step"])
    assert figure.traces[0]["x"] == [row["input_step"] for row in moved]
    assert [number(y) for y in figure.traces[1]["y"]] == [row["magnification_true"] for row in moved]
    assert figure.traces[2]["name"] == "spectral norm"
    still = len(result.rows) - len(moved)
    assert still > 0
    assert f"{still} steps, not drawn" in figure.caption


def test_the_share_of_rounding_is_drawn_with_its_two_levels(results: dict[str, Result]) -> None:
    result = results["MatmulChain"]
    figure = titled(result, "rounding")
    assert [trace["y"][0] for trace in figure.traces[1:]] == [1.0, 0.1]
    assert f"Steps from {result.readings['eps_rounding'].value:.3g} on" in figure.caption
    endless = Reading(Metric("eps_rounding", "input", "lower", ""), math.inf)
    readings = {**result.readings, "eps_rounding": endless}
    assert "At no step tried" in titled(replace(result, readings=readings), "rounding").caption
    without = tuple({**row, "rounding_share": math.nan} for row in result.rows)
    assert len(figures(replace(result, rows=without))) == 1
