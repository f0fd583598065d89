"""Results that no kernel changes are what they were: see `oracles/settled.py`, which writes them down."""

import json

import pytest
from oracles.asked import suite
from oracles.settled import TABLE, apart, cells, named

import stabilitykit as sk
from stabilitykit.profile import PROFILES

SETTLED = json.loads(TABLE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def asked():
    return named(suite(PROFILES["quick"], sk.load("tiny")))


def test_every_question_of_the_suite_is_written_down(asked):
    assert list(asked) == list(SETTLED)


@pytest.mark.parametrize("name", SETTLED)
def test_what_no_kernel_changes_stays(asked, name):
    measurement, subject = asked[name]
    assert apart(SETTLED[name], cells(sk.measure(measurement, subject, progress=False))) == {}


def test_what_is_another_by_more_than_rounding_is_told():
    was = {"reading gain": [2.0, float("nan"), "v1", 3]}
    assert apart(was, {"reading gain": [2.0 * (1 + 1e-6), float("nan"), "v1", 3], "row of its own": [1]}) == {}
    for now in ([2.0 * (1 + 1e-4), float("nan"), "v1", 3], [2.0, 1.0, "v1", 3], [2.0, float("nan"), "v2", 3], [2.0]):
        assert apart(was, {"reading gain": now}) == {"reading gain": (was["reading gain"], now)}
    assert apart(was, {}) == {"reading gain": (was["reading gain"], None)}
