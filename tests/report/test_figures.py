"""Figures are valid plotly, drawn in SVG, finite, and nothing in a label is markup."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest

from stabilitykit.report.figures import Figure, figures
from stabilitykit.report.figures.figure import decades, label
from stabilitykit.results.record import Record
from stabilitykit.results.result import Result

HERE = {"StabilityFan", "SingularSpectrum", "BatchInvariance", "FirstChange"}
"""The measurements of the run made by hand; the figures of all others are tested in a file of their own."""


@pytest.fixture(scope="module")
def results(records: list[Record]) -> dict[str, Result]:
    return {record.check_id.split("[")[0]: record.result for record in records if record.result}


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def test_every_drawing_is_valid_plotly(results: dict[str, Result]) -> None:
    counts = {name: len([drawn(figure) for figure in figures(result)]) for name, result in results.items()}
    assert counts == {
        "stability_fan": 3,
        "singular_spectrum": 1,
        "batch_invariance": 2,
        "run_to_run": 0,
        "first_change": 3,
        "first_change_worst": 0,
        "hostile": 0,
    }


def test_the_fan_is_closed_only_when_it_goes_round(results: dict[str, Result]) -> None:
    fan = results["stability_fan"]
    whole, half = figures(fan)[0], figures(replace(fan, rows=fan.rows[:36]))[0]
    assert whole.traces[1]["theta"][0] == whole.traces[1]["theta"][-1]
    assert half.traces[1]["theta"][0] != half.traces[1]["theta"][-1]


def test_the_fan_marks_its_extremes_in_sensible_units(results: dict[str, Result]) -> None:
    rows = results["stability_fan"].rows
    polar = figures(results["stability_fan"])[0]
    smallest, largest = polar.traces[2], polar.traces[3]
    assert smallest["r"][0] == pytest.approx(min(row["radius"] for row in rows) * 1e9)
    assert largest["r"][0] == pytest.approx(max(row["radius"] for row in rows) * 1e9)
    assert "10⁻⁹" in polar.caption


def test_a_fan_over_decades_is_logarithmic(results: dict[str, Result]) -> None:
    fan = results["stability_fan"]
    rows = tuple({**row, "radius": row["radius"] * 10 ** (k % 5)} for k, row in enumerate(fan.rows))
    assert figures(replace(fan, rows=rows))[0].layout["polar"]["radialaxis"]["type"] == "log"


def test_equal_bits_are_marked_and_differences_numbered(results: dict[str, Result]) -> None:
    prefill, decode = figures(results["batch_invariance"])
    assert set(itertools.chain(*decode.traces[0]["text"])) == {"="}
    assert "5.75" in itertools.chain(*prefill.traces[0]["text"])
    assert "24 of 24" in decode.caption


@pytest.mark.parametrize("name", sorted(HERE))
@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0, 0.0, "text"])
def test_rows_that_hold_no_number_draw_what_is_left(results: dict[str, Result], name: str, value: object) -> None:
    result = next(result for result in results.values() if result.measurement == name and len(result.rows) > 1)
    columns = [key for key, given in result.rows[0].items() if isinstance(given, float)]
    broken = tuple({**row, **dict.fromkeys(columns, value)} if k % 2 else row for k, row in enumerate(result.rows))
    for rows in (broken, broken[1::2], tuple({} for _ in broken)):
        for figure in figures(replace(result, rows=rows)):
            drawn(figure)


def test_labels_hold_no_markup() -> None:
    assert label("<b>&\u202e") == r"&lt;b&gt;&amp;\u202e"


def test_decades_always_have_width() -> None:
    low, high = decades([2.0, None, 0.0])
    assert high - low >= 0.5
    assert low < math.log10(2) < high
