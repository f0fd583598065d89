"""Figures of fans, islands, singular vectors and jumps: of real results of planted functions, broken, and empty."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest
import torch
from torch import Tensor

from stabilitykit.measurements.boundary import FirstChange, StabilityFan
from stabilitykit.measurements.boundary_jump import BoundaryJump
from stabilitykit.measurements.stability_spectrum import StabilitySpectrum
from stabilitykit.report.figures import DRAWINGS, Figure, figures
from stabilitykit.report.figures.rays import names_of
from stabilitykit.results.result import Result
from stabilitykit.subjects.function_subject import FunctionSubject

X0 = torch.tensor([0.75, -1.3125, 0.0123, 5.5, 0.3, -2.25])
STRETCH = torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 1e-9]))


def rounding(X: Tensor) -> Tensor:
    """A stretched input on a coarse grid, in company another one by 1e-6; its derivative is the stretch."""
    Y = X @ STRETCH
    return torch.round(Y.detach() * 2**22) / 2**22 + (Y - Y.detach()) + 1e-6 * (len(X) == 1)


def islands(X: Tensor) -> Tensor:
    """Back at the first bits between 4 and 8 floats of the first coordinate."""
    floats = (X[:, :1].contiguous().view(torch.int32) - X0[:1].view(torch.int32)).abs()
    return ((floats == 3) | (floats >= 9)).float()


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    subject = FunctionSubject(rounding, X0, batch=4)
    returning = FunctionSubject(islands, X0, batch=4)
    rays = torch.eye(6)[:1] * torch.tensor([[1.0], [2.0], [4.0]])
    return {
        "StabilityFan": StabilityFan(angles=24).measure(subject),
        "FirstChange": FirstChange(rays, beyond=14).measure(returning),
        "StabilitySpectrum": StabilitySpectrum(control=6).measure(subject),
        "BoundaryJump": BoundaryJump(angles=24).measure(subject),
    }


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def titled(result: Result, title: str) -> Figure:
    return next(figure for figure in figures(result) if title in figure.title)


COUNTS = {"StabilityFan": 3, "FirstChange": 4, "StabilitySpectrum": 3, "BoundaryJump": 2}


@pytest.mark.parametrize(("name", "count"), list(COUNTS.items()))
def test_every_drawing_is_valid_plotly(results: dict[str, Result], name: str, count: int) -> None:
    assert name in DRAWINGS
    found = [(figure, drawn(figure)) for figure in figures(results[name])]
    assert len(found) == count
    for figure, plot in found:
        if "polar" not in figure.layout:
            assert plot.layout.xaxis.title.text, figure.title
            assert plot.layout.yaxis.title.text, figure.title
            assert len(plot.layout.yaxis.title.text) < 32, "a long title does not fit a narrow page"
        assert "nan" not in figure.caption
        assert "None" not in figure.caption
        assert figure.caption.endswith(".")


@pytest.mark.parametrize("name", list(COUNTS))
@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0, 0.0, "text"])
def test_rows_that_hold_no_number_draw_what_is_left(results: dict[str, Result], name: str, value: object) -> None:
    result = results[name]
    columns = {key for row in result.rows for key, given in row.items() if isinstance(given, float)}
    broken = tuple(
        {**row, **{key: value for key in row if key in columns}} if k % 2 else row for k, row in enumerate(result.rows)
    )
    for rows in (broken, broken[1::2], tuple({} for _ in broken)):
        for readings in (result.readings, {}):
            for figure in figures(replace(result, rows=rows, readings=readings, arrays={}, parameters={})):
                drawn(figure)


# --- the fan


def test_the_four_axes_and_both_extremes_are_marked_in_every_view(results: dict[str, Result]) -> None:
    rows = results["StabilityFan"].rows
    least, most = (pick(rows, key=lambda row: row["radius"]) for pick in (min, max))
    polar, plane, flat = figures(results["StabilityFan"])
    for figure in (polar, plane):
        marks = {trace["name"]: trace for trace in figure.traces}
        assert len(marks["axes"]["hovertext"]) == 4
        assert f"radius {least['radius']:.6g}" in marks["smallest"]["hovertext"][0]
        assert f"radius {most['radius']:.6g}" in marks["largest"]["hovertext"][0]
    assert {trace["name"]: trace for trace in polar.traces}["axes"]["theta"] == [0, 90, 180, 270]
    assert [shape["x0"] for shape in flat.layout["shapes"][1:]] == [0, 90, 180, 270]
    mean = results["StabilityFan"].readings["mean_radius"].value
    assert flat.layout["shapes"][0]["y0"] == pytest.approx(mean, abs=0)
    assert f"the mean, {mean:.3g}" in flat.caption


def test_the_plane_shows_the_boundary_where_it_lies(results: dict[str, Result]) -> None:
    rows = results["StabilityFan"].rows
    plane = titled(results["StabilityFan"], "in the plane")
    curve = plane.traces[0]
    power = 10.0 ** -math.floor(math.log10(max(row["radius"] for row in rows)))
    assert len(curve["x"]) == len(rows) + 1
    assert (curve["x"][0], curve["y"][0]) == (curve["x"][-1], curve["y"][-1])
    for row, x, y in zip(rows, curve["x"], curve["y"], strict=False):
        assert math.hypot(x, y) == pytest.approx(row["radius"] * power)
        assert math.degrees(math.atan2(y, x)) % 360 == pytest.approx(row["angle_deg"], abs=1e-9)
    assert curve["marker"]["color"][:24] == [row["radius"] * power for row in rows]
    assert plane.layout["yaxis"]["scaleanchor"] == "x"
    assert plane.layout["xaxis"]["title"]["text"].startswith("along +v₁ (10⁻")


def test_another_plane_has_other_names(results: dict[str, Result]) -> None:
    fan = replace(results["StabilityFan"], parameters={"plane": ["v12", "-v3"]})
    assert names_of(fan).ticks()[::2] == ["+v₁₂", "−v₃", "−v₁₂", "+v₃"]
    polar, plane, flat = figures(fan)
    assert polar.layout["polar"]["angularaxis"]["ticktext"][2] == "−v₃"
    assert plane.layout["yaxis"]["title"]["text"].startswith("along −v₃")
    assert flat.layout["xaxis"]["ticktext"][-1] == "+v₁₂"
    assert "reacts to most" not in polar.caption
    assert names_of(replace(fan, parameters={"plane": ["<b>", 3]})).at(0) == "+&lt;b&gt;"
    for parameters in ({}, {"plane": "v1"}, {"plane": None}):
        assert names_of(replace(fan, parameters=parameters)).at(90) == "+v₂"


def test_half_a_fan_marks_the_axes_it_met(results: dict[str, Result]) -> None:
    fan = results["StabilityFan"]
    half = figures(replace(fan, rows=fan.rows[:11]))[0]
    assert {trace["name"]: trace for trace in half.traces}["axes"]["theta"] == [0, 90]


# --- islands


def test_rays_that_come_back_are_drawn_from_change_to_return(results: dict[str, Result]) -> None:
    rows = results["FirstChange"].rows
    figure = titled(results["FirstChange"], "come back")
    by_name = {trace.get("name"): trace for trace in figure.traces}
    assert sorted(by_name["first change"]["x"]) == sorted(row["radius"] for row in rows)
    assert sorted(by_name["last return"]["x"]) == sorted(row["last_return"] for row in rows)
    assert sorted(by_name["a bisection ends"]["x"]) == sorted(row["bisection_radius"] for row in rows)
    spans = figure.traces[0]
    assert spans["x"][0::3] == by_name["first change"]["x"]
    assert spans["x"][1::3] == by_name["last return"]["x"]
    assert spans["y"][0::3] == by_name["first change"]["y"]
    assert "3 of 3 rays are back" in figure.caption
    assert f"{rows[0]['last_return'] / rows[0]['radius']:.3g} times its radius" in figure.caption


def test_many_islands_are_cut_to_the_farthest(results: dict[str, Result]) -> None:
    row = results["FirstChange"].rows[0]
    rows = [{**row, "direction": str(k), "last_return": row["radius"] * (k + 2)} for k in range(40)]
    figure = titled(replace(results["FirstChange"], rows=tuple(rows)), "come back")
    assert figure.traces[1]["y"] == [str(k) for k in range(16, 40)]
    assert "The 24 that come back farthest are shown." in figure.caption


def test_no_island_no_figure(results: dict[str, Result]) -> None:
    rows = tuple({**row, "islands": 0, "last_return": math.nan} for row in results["FirstChange"].rows)
    assert len(figures(replace(results["FirstChange"], rows=rows))) == 3


# --- every singular vector


def test_each_vector_stands_at_its_sigma(results: dict[str, Result]) -> None:
    result = results["StabilitySpectrum"]
    along = [row for row in result.rows if row["kind"] == "singular"]
    figure = titled(result, "against sigma")
    by_name = {trace["name"]: trace for trace in figure.traces}
    for name, sign in (("+v", 1), ("−v", -1)):
        kept = [row for row in along if row["sign"] == sign and not row["null"]]
        assert by_name[name]["x"] == [row["sigma"] for row in kept]
        assert by_name[name]["y"] == [row["radius"] for row in kept]
    assert len(by_name["null"]["x"]) == 2
    assert set(by_name["null"]["x"]) == {min(row["sigma"] for row in along if not row["null"]) / 3}
    control = [row for row in result.rows if row["kind"] == "random"]
    assert by_name["random"]["x"] == [row["gain"] for row in control]
    reading = result.readings["partial_sigma"]
    said = f"with sigma at fixed lattice radius {reading.value:.2f} ({reading.low:.2f} to {reading.high:.2f})"
    assert said in figure.caption
    assert "2 rays along null vectors are drawn at the left edge." in figure.caption
    assert "12 along singular vectors, 6 along random directions" in figure.caption


def test_the_order_of_the_vectors_has_its_mean_and_median(results: dict[str, Result]) -> None:
    along = [row for row in results["StabilitySpectrum"].rows if row["kind"] == "singular"]
    points, mean, median = titled(results["StabilitySpectrum"], "from the first").traces
    assert points["x"] == [row["index"] for row in along]
    radii = sorted(row["radius"] for row in along)
    assert mean["y"] == [pytest.approx(sum(radii) / len(radii), abs=0)] * 2
    assert median["y"] == [radii[len(radii) // 2]] * 2


# --- jumps


def test_jumps_stand_next_to_the_floor_and_to_the_derivative(results: dict[str, Result]) -> None:
    result = results["BoundaryJump"]
    figure = titled(result, "What a step does")
    by_name = {trace["name"]: trace for trace in figure.traces}
    steps = [row["input_step"] for row in result.rows]
    assert by_name["first change"]["x"] == steps
    assert by_name["first change"]["y"] == [row["output_jump"] for row in result.rows]
    noise = result.readings["noise_floor"].value
    assert noise > 0
    assert by_name["noise floor"]["y"] == [noise, noise]
    sigma = result.readings["sigma_1"].value
    assert by_name["σ₁ × step"]["y"] == [sigma * min(steps), sigma * max(steps)]
    high = titled(result, "noise floors high")
    assert high.traces[0]["y"] == [row["jump_over_noise"] for row in result.rows]
    assert high.traces[0]["x"] == [row["angle_deg"] for row in result.rows]
    assert high.layout["xaxis"]["ticktext"][0] == "+v₁"


def test_jumps_without_angles_are_numbered_and_without_a_floor_not_compared(results: dict[str, Result]) -> None:
    result = results["BoundaryJump"]
    rows = tuple({key: value for key, value in row.items() if key != "angle_deg"} for row in result.rows)
    assert titled(replace(result, rows=rows), "noise floors high").traces[0]["x"] == list(range(24))
    silent = tuple({**row, "jump_over_noise": math.inf} for row in rows)
    readings = {name: reading for name, reading in result.readings.items() if name != "noise_floor"}
    (only,) = figures(replace(result, rows=silent, readings=readings))
    assert "noise" not in only.caption
    assert [trace["name"] for trace in only.traces] == ["first change", "σ₁ × step"]
