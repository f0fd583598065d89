"""Tiny models and toys: what was stated is kept, and what no kernel changes is as it was (see `oracles/settled.py`)."""

import json

import pytest
from oracles.settled import TABLE, apart, drawn, observed, questions

import stabilitykit as sk
from stabilitykit.measurements.invariance import Invariance
from stabilitykit.measurements.progress import bar

SETTLED = json.loads(TABLE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def asked():
    return questions()


def test_every_question_is_written_down(asked):
    assert list(asked) == list(SETTLED)


@pytest.mark.parametrize("name", SETTLED)
def test_each_check_says_what_it_said_for_what_it_stated(asked, name):
    """It takes no more whole forwards and products than stated; the cheapest not a tenth of them either."""
    measurement, subject = asked[name]
    stated, result, found = observed(measurement, subject)
    assert apart(SETTLED[name], found) == {}
    took = result.execution
    assert took.forwards <= max(stated.forwards, 1)
    assert took.backwards <= stated.backwards
    if isinstance(measurement, sk.RunToRun | Invariance):
        assert took.forwards * 10 >= stated.forwards


def test_what_is_another_by_more_than_rounding_is_told():
    was = {"reading gain": [2.0, float("nan"), "v1", 3]}
    assert apart(was, {"reading gain": [2.0 * (1 + 1e-6), float("nan"), "v1", 3], "row of its own": [1]}) == {}
    for now in ([2.0 * (1 + 1e-4), float("nan"), "v1", 3], [2.0, 1.0, "v1", 3], [2.0, float("nan"), "v2", 3], [2.0]):
        assert apart(was, {"reading gain": now}) == {"reading gain": (was["reading gain"], now)}
    assert apart(was, {}) == {"reading gain": (was["reading gain"], None)}


def test_bars_of_one_name_are_counted_together_and_left_as_they_were():
    with drawn() as bars:
        for done in (2, 3):
            with bar(3, "rays", "ray") as progress:
                progress.update(done)
    assert bars == {"rays": (5, 6, "ray")}
    with bar(3, "rays", "ray") as progress:
        assert progress.disable
