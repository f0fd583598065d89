"""Figures of ties: every input drawn, exact ties visible on a logarithmic axis, flips and third tokens marked."""

import json
import re

import plotly.graph_objects as go
import pytest
import torch

import stabilitykit as sk
from stabilitykit.report.figures import figures


def drawn(figure):
    text = json.dumps(figure.to_dict(), allow_nan=False)
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


@pytest.fixture(scope="module")
def subject():
    return sk.CausalLMSubject(sk.load("tiny"), "Once upon a time", path="decode", site="logits")


def test_the_way_to_a_tie_shows_every_input(subject):
    """As many dots as rows, an exact tie hollow above the axis' lower end, kinds named once each."""
    result = sk.measure(sk.Tie(), subject)
    (figure,) = figures(result)
    drawn(figure)
    dots = [y for trace in figure.traces for y in trace["y"]]
    assert len(dots) == len(result.rows)
    assert all(y > 0 for y in dots)
    hollow = [mark for trace in figure.traces for mark in trace["marker"]["symbol"] if mark.endswith("-open")]
    assert len(hollow) == sum(row["gap"] == 0 for row in result.rows)
    assert len({trace["name"] for trace in figure.traces}) == len(figure.traces)
    assert str(len(result.rows) - 1) in figure.caption


def test_a_scan_draws_the_gap_its_true_course_and_the_flips(subject):
    """One figure a line, in the order of the table."""
    result = sk.measure(sk.FlipScan(("v1", "v2"), points=16, cells=4), subject)
    scans = figures(result)
    assert [figure.title for figure in scans] == ["Which token wins along v1", "Which token wins along v2"]
    for figure, name in zip(scans, ("v1", "v2"), strict=True):
        drawn(figure)
        rows = [row for row in result.rows if row["part"] == "point" and row["direction"] == name]
        by_name = {trace["name"]: trace for trace in figure.traces}
        assert by_name["the model"]["y"] == [row["gap"] for row in rows]
        assert by_name["true float64"]["y"] == [row["gap_oracle"] for row in rows]
        flips = by_name.get("another token than at the tie", {"x": []})
        assert flips["x"] == [row["epsilon"] for row in rows if row["token_changed"]]
        assert ("a third token" in by_name) == any(row["third"] for row in rows)


def test_without_an_oracle_there_is_no_true_course(subject):
    """Nothing is drawn of what was not measured."""
    (figure,) = figures(sk.measure(sk.FlipScan(("v1",), points=8, cells=2, oracle=False), subject))
    drawn(figure)
    assert "true float64" not in [trace["name"] for trace in figure.traces]
    assert "float64" not in figure.caption


def test_distances_from_the_prompt_are_drawn_where_there_are_any(subject):
    """Estimates and what was seen, one row a direction; a distance without end is left out."""
    result = sk.measure(sk.FlipScan(("v1",), at="prompt"), subject)
    (figure,) = figures(result)
    drawn(figure)
    assert set(figure.traces[1]["y"]) <= {"gradient", "v1", "-v1", "tie"}
    seen = [x for x in figure.traces[1]["x"] if x is not None]
    assert min(seen) == result.readings["flip_radius_bound"].value


def test_hostile_names_of_directions_are_no_markup(subject):
    """A recipe's name goes through the escapes of all labels."""
    result = sk.measure(sk.FlipScan(torch.ones(1, len(subject.x0)), points=4, cells=2, oracle=False), subject)
    rows = tuple({**row, "direction": "<b>x</b>"} for row in result.rows)
    (figure,) = figures(type(result)(**{**vars_of(result), "rows": rows}))
    assert "<b>" not in json.dumps(figure.to_dict()) + figure.title


def vars_of(result):
    return {name: getattr(result, name) for name in result.__dataclass_fields__}
