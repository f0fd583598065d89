"""Metrics and readings: text a person reads, and data that comes back bit for bit."""

from __future__ import annotations

import itertools
import json
import math
import struct

import numpy as np
import pytest

from stabilitykit.errors import UsageError
from stabilitykit.results.metric import Metric, Reading, readings

ULP = Metric("max_ulp", "ULP", "lower", "largest distance")
RHO = Metric("rho", "", "higher", "a ratio")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4, "4"),
        (4.0, "4"),
        (-0.0, "0"),
        (123456789.0, "123456789"),
        (999999999999999.0, "999999999999999"),
        (1e15, "1e+15"),
        (-2.0, "-2"),
        (0.1, "0.1"),
        (1 / 3, "0.333333"),
        (1.2345678e-12, "1.23457e-12"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (np.float32(0.5), "0.5"),
        (True, "1"),
    ],
)
def test_integers_are_printed_in_full_and_fractions_with_six_digits(value: float, text: str) -> None:
    assert ULP.format(value) == text


def test_a_reading_is_printed_with_its_unit() -> None:
    assert str(Reading(ULP, 17)) == "17 ULP"
    assert str(Reading(RHO, 2.5)) == "2.5"
    assert Reading(ULP, 17).unit == "ULP"


@pytest.mark.parametrize("value", [0.0, -0.0, 1 / 3, 5e-324, math.inf, -math.inf, math.nan, np.float64(0.1)])
def test_a_reading_comes_back_bit_for_bit(value: float) -> None:
    reading = Reading(RHO, value, low=-math.inf, high=-0.0, place={"layer": "3", "token": "nan"})
    back = Reading.from_dict(json.loads(json.dumps(reading.to_dict(), allow_nan=False)))
    assert struct.pack("d", back.value) == struct.pack("d", value)
    assert type(back.value) is float
    assert (back.metric, back.low, dict(back.place)) == (RHO, -math.inf, {"layer": "3", "token": "nan"})
    assert math.copysign(1, back.high) == -1


@pytest.mark.parametrize("value", [0, 17, 2**62 + 1, np.int64(2**62 + 1)])
def test_an_integer_comes_back_as_the_same_integer(value: int) -> None:
    back = Reading.from_dict(json.loads(json.dumps(Reading(ULP, value).to_dict(), allow_nan=False)))
    assert back.value == int(value)
    assert type(back.value) is int


def test_a_reading_without_an_interval_has_none() -> None:
    back = Reading.from_dict(Reading(ULP, 1).to_dict())
    assert (back.low, back.high, back.place) == (None, None, {})


def test_readings_come_in_schema_order_whatever_order_they_were_found_in() -> None:
    placed = Reading(RHO, 3.0, place={"slot": "1"})
    found = readings((ULP, RHO), {"rho": placed, "max_ulp": 2})
    assert list(found) == ["max_ulp", "rho"]
    assert found["max_ulp"] == Reading(ULP, 2)
    assert found["rho"] is placed


def test_a_metric_without_a_value_is_left_out() -> None:
    assert list(readings((ULP, RHO), {"rho": 1.0})) == ["rho"]


def test_a_value_that_no_metric_declares_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        readings((ULP, RHO), {"rho": 1.0, "sigma": 2.0, "alpha": 0.0})
    assert str(caught.value) == "no metric declares ['alpha', 'sigma']; declared: ['max_ulp', 'rho']"


def test_the_worst_reading_does_not_depend_on_the_order():
    """Larger is worse, smaller where higher is better, and a nan is worse than any number, wherever it stands."""
    for better, values in (("lower", (1.0, 2.0, math.nan)), ("higher", (2.0, 1.0, math.nan))):
        metric = Metric("m", "", better, "")
        ranked = [Reading(metric, value) for value in values]
        for order in itertools.permutations(ranked):
            assert sorted(order, key=lambda reading: reading.badness)[-1] is ranked[-1]
        for order in itertools.permutations(ranked[:2]):
            assert max(order, key=lambda reading: reading.badness) is ranked[1]
