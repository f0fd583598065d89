"""Under Hypothesis one test is one record: the worst of its examples, with no health check suppressed."""

SEARCHED = """
from hypothesis import given, settings, strategies as st

@settings(database=None, deadline=None)
@given(drift=st.integers(0, 9))
def test_searched(stability, drift):
    stability.measure(ToyDrift(float(drift), direction=f"recipe {drift}"), TOY)
"""


def test_examples_become_the_worst_of_them(either):
    run = either(SEARCHED)
    run.result.assert_outcomes(passed=1)
    (record,) = run.records.values()
    readings = {reading["metric"]: reading for reading in record["result"]["readings"]}
    assert record["check_id"] == "toy_drift[test_searched]"
    assert record["examples"] >= 10
    assert record["verdict"] == "differs"
    assert (readings["max_ulp"]["value"], readings["radius"]["value"]) == (9, 91)
    assert readings["max_ulp"]["place"] == {"direction": "recipe 9"}
    assert record["result"]["rows"] == [{"drift": 9}]


def test_a_reading_without_a_better_side_is_of_the_worst_example(inner):
    run = inner(
        """
def test_worst_first(stability):
    for drift in (5.0, 1.0):
        stability.measure(ToyDrift(drift), TOY)
    stability.measure(ToyDrift(-50.0), TOY)
"""
    )
    readings = {r["metric"]: r["value"] for r in run.records["toy_drift[test_worst_first]"]["result"]["readings"]}
    assert readings == {"max_ulp": 5, "radius": 95, "cells": 35}


def test_a_failing_example_stays_failed_and_is_told_by_the_last(inner):
    run = inner(
        """
from hypothesis import given, settings, strategies as st

@settings(database=None, deadline=None)
@given(drift=st.integers(0, 99))
@pytest.mark.stability(limits={"max_ulp": 10})
def test_limited(stability, drift):
    stability.measure(ToyDrift(float(drift)), TOY)
"""
    )
    run.result.assert_outcomes(failed=1)
    record = run.records["toy_drift[test_limited]"]
    assert record["verdict"] == "fail"
    assert "max_ulp 11 breaks <= 10" in record["message"], "the shrunk example is the one to show"
    assert record["result"]["readings"][0]["value"] >= 11
