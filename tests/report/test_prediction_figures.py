"""Figures of a document: of a real result, with planted ties, long, broken, and empty."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest

import stabilitykit as sk
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.result import Result


@pytest.fixture(scope="module")
def result() -> Result:
    document = "When <b>a</b> river leaves the mountains it slows down and what it carried sinks to the ground"
    found = sk.measure(sk.WordByWord(document, sample=8), sk.load("tiny"), progress=False)
    return replace(found, rows=tuple(planted(row) for row in found.rows))


def planted(row):
    """The second word hangs by an exact tie, the third was the first prediction."""
    if row["part"] == "word" and row["number"] == 1:
        return {**row, "weakest_margin": 0.0, "fragile": True, "weakest": "<b>", "weakest_rival": "\x1b"}
    if row["part"] == "word" and row["number"] == 2:
        return {**row, "rank": 1, "match": True}
    return row


def words(result: Result):
    return [row for row in result.rows if row.get("part") == "word"]


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    assert "<b>" not in text
    assert "<b>" not in figure.caption
    assert "\x1b" not in text + figure.caption
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def test_fragile_words_are_crossed_and_ties_lie_on_the_lower_edge(result: Result) -> None:
    along = figures(result)[0]
    drawn(along)
    fragile, firm, noise = along.traces
    assert (fragile["x"], fragile["marker"]["symbol"], fragile["name"]) == ([1], "x", "fragile")
    assert noise["x"] == [0, 15]
    assert fragile["y"] == [result.readings["noise"].value] == noise["y"][:1]
    rows = [row for row in words(result) if row["number"] != 1]
    assert dict(zip(firm["x"], firm["y"], strict=True)) == {row["number"]: row["weakest_margin"] for row in rows}
    low, high = along.layout["yaxis"]["range"]
    assert all(10**low <= y <= 10**high for trace in along.traces for y in trace["y"])
    assert "1 of 16 words are fragile" in along.caption
    assert "1 words have an exact tie" in along.caption


def test_surprise_is_in_bits_and_its_mean_runs_over_all_words(result: Result) -> None:
    surprise = figures(result)[1]
    drawn(surprise)
    points, mean = surprise.traces
    bits = [-math.log2(row["probability"]) for row in words(result)]
    assert points["y"] == pytest.approx(bits)
    assert mean["y"] == pytest.approx([sum(bits) / 16])
    assert mean["name"] == "mean of 16 words"
    hardest = max(words(result), key=lambda row: row["nll"])
    assert f"word {hardest['number']}, with {max(bits):.3g}" in surprise.caption


def test_a_long_document_is_thinned_but_counted_whole(result: Result) -> None:
    row = words(result)[0]
    many = replace(result, rows=tuple({**row, "number": k, "weakest_margin": k + 1.0, "nll": 1.0} for k in range(4000)))
    margins, surprise, ranks = figures(many)
    assert sum(len(trace["x"]) for trace in margins.traces[:1]) == 1500
    assert max(margins.traces[0]["y"]) == 1500
    assert "of 4000 words" in margins.caption
    assert "The 1500 smallest are drawn" in margins.caption
    assert len(surprise.traces[0]["x"]) == len(range(0, 4000, 3))
    assert "One word in 3 is drawn" in surprise.caption
    assert surprise.traces[1]["name"] == "mean of 25 words"
    assert sum(ranks.traces[0]["y"]) == 4000


def test_ranks_are_counted_in_classes_that_double(result: Result) -> None:
    row = words(result)[0]
    ranks = (1, 1, 2, 3, 4, 5, 8, 9, 129)
    some = replace(result, rows=tuple({**row, "number": k, "rank": rank} for k, rank in enumerate(ranks)))
    figure = figures(some)[2]
    drawn(figure)
    (trace,) = figure.traces
    counts = dict(zip(trace["x"], trace["y"], strict=True))
    assert counts == {"1": 2, "2": 1, "3–4": 2, "5–8": 2, "9–16": 1, "17–32": 0, "33–64": 0, "65–128": 0, "129–256": 1}
    assert "Of 9 words 2 begin with the first prediction" in figure.caption
    assert "1 words were not among the first 100" in figure.caption
    assert "of 1 every token is" in figures(result)[2].caption


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0, 0.0, "text"])
def test_rows_that_hold_no_number_draw_what_is_left(result: Result, value: object) -> None:
    columns = {key for row in result.rows for key, given in row.items() if isinstance(given, int | float)}
    broken = tuple(
        {**row, **{key: value for key in columns if key in row}} if k % 2 else row for k, row in enumerate(result.rows)
    )
    for rows in (broken, broken[1::2], tuple({} for _ in broken)):
        for figure in figures(replace(result, rows=rows)):
            drawn(figure)
