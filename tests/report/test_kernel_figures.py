"""Figures of kernels, from real measurements of toys: valid plotly, finite, true in words, also where all is lost."""

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

from stabilitykit.measurements.kernel_pair import KernelPair
from stabilitykit.measurements.kernels import KernelAccuracy
from stabilitykit.measurements.measure import measure
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.result import Result
from stabilitykit.subjects.kernel import Kernel

SHAPES = [(1, 8), (4, 8), (4, 33)]
DRAWS = ("normal", "wide")


def exact(x: Tensor) -> Tensor:
    return x.clone()


def off(x: Tensor) -> Tensor:
    """Three ULP off in one element of a batch of 4, which it reads as if it were contiguous."""
    y = torch.as_strided(x, x.shape, (x.shape[1], 1)).clone()
    if x.dtype == torch.float32 and len(x) == 4:
        y[0, 1:2].view(torch.int32).add_(3)
    return y


def accuracy(*kernels: Kernel) -> Result:
    return measure(KernelAccuracy(shapes=SHAPES, draws=DRAWS, tries=2), kernels, progress=False)


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    right, wrong = Kernel(exact, "bh->bh", name="<b>right"), Kernel(off, "bh->bh", name="wrong")
    return {
        "right": accuracy(right),
        "wrong": accuracy(wrong),
        "both": accuracy(right, wrong),
        "pair": measure(KernelPair(wrong, shapes=SHAPES, draws=DRAWS, tries=2), right, progress=False),
        "agreed": measure(
            KernelPair(Kernel(lambda x: x + 0, "bh->bh"), shapes=SHAPES, draws=DRAWS, tries=1), right, progress=False
        ),
    }


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    assert "<b>" not in text
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def test_every_kernel_has_its_errors_its_excess_and_its_company(results: dict[str, Result]) -> None:
    counts = {name: [drawn(figure) for figure in figures(result)] for name, result in results.items()}
    assert {name: len(found) for name, found in counts.items()} == {
        "right": 3,
        "wrong": 3,
        "both": 6,
        "pair": 2,
        "agreed": 1,
    }
    assert [figure.title for figure in figures(results["both"])][::3] == [
        "Error beside float64: &lt;b&gt;right",
        "Error beside float64: wrong",
    ]


def test_captions_say_what_was_found(results: dict[str, Result]) -> None:
    right, _, company = figures(results["right"])
    count = len(results["right"].rows)
    assert f"{count} runs, on the lower edge, round every element correctly." in right.caption
    assert "In 19 of 19 cases all bits are the same" in company.caption
    errors, excess, company = figures(results["wrong"])
    lost = sum(math.isnan(row["excess"]) for row in results["wrong"].rows)
    assert lost == 2 * (3 + 2)  # stepped at every shape, padded where there are several rows
    assert f"{lost} more have no size, since an element is not finite." in errors.caption
    largest = max(row["max_scaled_ulp"] for row in results["wrong"].rows if not math.isnan(row["max_scaled_ulp"]))
    assert f"The largest is {largest:.3g} (" in errors.caption
    over = max(row["excess"] for row in results["wrong"].rows if not math.isnan(row["excess"]))
    assert f"the largest is {over:.3g} times as large" in excess.caption
    pair, nearer = figures(results["pair"])
    assert "&lt;b&gt;right is nearer to float64 in 8, wrong in 0, and both are equally far in 0" in nearer.caption
    assert {trace["name"] for trace in pair.traces} == {"&lt;b&gt;right", "wrong"}


def test_axes_name_their_units_and_points_their_places(results: dict[str, Result]) -> None:
    errors, excess, _ = figures(results["wrong"])
    assert errors.layout["yaxis"]["title"]["text"] == "scaled ULP"
    assert excess.layout["yaxis"]["title"]["text"] == "excess"
    assert errors.layout["xaxis"]["title"]["text"] == "shape"
    assert [trace["name"] for trace in errors.traces] == ["normal", "wide"]
    assert errors.layout["xaxis"]["ticktext"] == ["1x8", "4x8", "4x33"]
    for trace in errors.traces:
        shapes = [text.split("<br>")[0].removeprefix("shape ") for text in trace["hovertext"]]
        assert [errors.layout["xaxis"]["ticktext"][round(x)] for x in trace["x"]] == shapes
    assert any("worst at 0, 1" in text for trace in errors.traces for text in trace["hovertext"])
    assert all(y > 0 for trace in (*errors.traces, *excess.traces) for y in trace["y"])
    assert figures(results["pair"])[1].layout["yaxis"]["title"]["text"] == "% of differing elements"


def test_the_map_marks_equal_bits_sizes_and_lost_numbers(results: dict[str, Result]) -> None:
    company = figures(results["wrong"])[2].traces[0]
    words = {
        (kind, shape): company["text"][y][x]
        for y, kind in enumerate(company["y"])
        for x, shape in enumerate(company["x"])
    }
    assert words["again", "4x8"] == "="
    assert words["a row alone", "1x8"] == ""
    assert float(words["a row alone", "4x8"]) > 0
    assert words["padded", "4x8"] == "nan"
    assert words["shifted", "4x33"] == "="
    assert company["z"][company["y"].index("again")][0] == 0


@pytest.mark.parametrize("name", ["wrong", "both", "pair"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0, 0.0, "text"])
def test_rows_that_hold_no_number_draw_what_is_left(results: dict[str, Result], name: str, value: Any) -> None:
    result = results[name]
    columns = [key for key, given in result.rows[0].items() if isinstance(given, int | float)]
    broken = tuple({**row, **dict.fromkeys(columns, value)} if k % 2 else row for k, row in enumerate(result.rows))
    for rows in (broken, broken[1::2], tuple({} for _ in broken)):
        for figure in figures(replace(result, rows=rows)):
            drawn(figure)
