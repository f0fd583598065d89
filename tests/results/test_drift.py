"""A reading beside its baseline, in words; the message of a broken baseline, line by line."""

import math

import numpy as np
import pytest

from stabilitykit.results.drift import Drift, ulps
from stabilitykit.results.failure import render_drift
from stabilitykit.results.result import Result

TINY = 5e-324


def drift(name="radius", now=1.0, then=2.0, kind="worse", **more):
    return Drift(name, more.pop("unit", "input"), now, then, more.pop("allowed", "exact"), kind, **more)


@pytest.mark.parametrize(
    ("a", "b", "steps"),
    [
        (1.0, 1.0, 0),
        (0.0, -0.0, 0),
        (-TINY, TINY, 2),
        (1.0, float(np.nextafter(1.0, 2.0)), 1),
        (1.0, 2.0, 2**52),
        (-2.0, -1.0, 2**52),
    ],
)
def test_steps_of_a_float64(a, b, steps):
    assert ulps(a, b) == ulps(b, a) == steps


@pytest.mark.parametrize(
    ("now", "then", "change"),
    [
        (1.0, 2.0, "-50 %"),
        (3.0, 2.0, "+50 %"),
        (-1.0, -2.0, "+50 %"),
        (2.0, 2.0, "-"),
        (float(np.nextafter(2.0, 3.0)), 2.0, "1 float64 ULP"),
        (1.0, 0.0, "moved"),
        (math.inf, 1.0, "moved"),
        (math.nan, 1.0, "moved"),
        (None, 1.0, "gone"),
    ],
)
def test_the_change_in_words(now, then, change):
    assert drift(now=now, then=then).change == change


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        ("worse", True),
        ("changed", True),
        ("gone", True),
        ("same", False),
        ("within", False),
        ("better", False),
        ("followed", False),
    ],
)
def test_what_breaks_a_baseline(kind, broken):
    assert drift(kind=kind).broken == broken


RESULT = Result("Toy", "toy", "measured", "Toy()", "", {}, subject={"name": "s", "dtype": "float32", "device": "cpu"})


def test_the_worst_comes_first_and_what_stayed_is_left_out():
    drifts = [
        drift("better", 3.0, kind="better"),
        drift("same", 2.0, kind="same"),
        drift("cells", 3.0, kind="changed"),
        drift("gone", None, kind="gone"),
        drift("radius"),
    ]
    lines = render_drift(RESULT, drifts, "Changed since: x.", ("Rerun: r", "Accept: a")).splitlines()
    assert lines[0] == "Toy(): radius 1 is worse than its baseline 2 (and 2 more) on s [float32, cpu]"
    assert [line.split()[:2] for line in lines[3:7]] == [
        ["worse", "radius"],
        ["gone", "gone"],
        ["changed", "cells"],
        ["better", "better"],
    ]
    assert lines[8:] == ["Changed since: x.", "", "Rerun: r", "Accept: a"]


@pytest.mark.parametrize(
    ("kind", "told"), [("changed", "cells 1 is not its baseline 2"), ("gone", "has left its baseline 2")]
)
def test_the_first_line_says_how_it_is_broken(kind, told):
    now = None if kind == "gone" else 1.0
    assert told in render_drift(RESULT, [drift("cells", now, kind=kind)], "x").splitlines()[0]


def test_values_that_look_the_same_are_written_in_full():
    message = render_drift(RESULT, [drift(now=1.0000000001, then=1.0000000002)], "x")
    assert "radius 1.0000000001 is worse than its baseline 1.0000000002 on" in message


def test_it_has_fifteen_lines_at_most():
    message = render_drift(RESULT, [drift(f"r{number}") for number in range(30)], "x", ("r", "a"))
    assert len(message.splitlines()) == 15
    assert "  and 24 more readings that moved" in message.splitlines()
    exact = render_drift(RESULT, [drift(f"r{number}") for number in range(7)], "x", ("r", "a"))
    assert len(exact.splitlines()) == 15
    assert "more readings" not in exact
