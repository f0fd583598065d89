"""What a measurement states before it starts is what it then takes, and `quick` stays quick."""

import pytest
from oracles.asked import PROMPT, processes, suite

import stabilitykit as sk
from stabilitykit.measurements.invariance import Invariance
from stabilitykit.profile import PROFILES

CAP = 18_000
"""Rows through the whole model that all checks of `quick` may take on one prompt: minutes on 2 cores for SmolLM2."""


@pytest.fixture(scope="module")
def loaded():
    return sk.load("tiny")


def test_quick_keeps_its_cap(loaded):
    """The stated whole forwards and backwards of all checks stay under the profile's cap."""
    quick = PROFILES["quick"]
    asked = [*suite(quick, loaded), *processes(quick, loaded)]
    costs = [measurement.cost(subject) for measurement, subject in asked]
    assert sum(cost.forwards + cost.backwards for cost in costs) <= CAP


def test_stated_cost_bounds_the_work(loaded):
    """Each check of `quick` takes no more whole forwards and products than it said, and not a tenth of it either."""
    for measurement, subject in suite(PROFILES["quick"], loaded):
        stated = measurement.cost(subject)
        result = sk.measure(measurement, subject, progress=False)
        took = result.execution.forwards
        assert took <= max(stated.forwards, 1), measurement.title
        if isinstance(measurement, sk.RunToRun | Invariance):
            assert took * 10 >= stated.forwards, measurement.title
        assert result.execution.backwards <= stated.backwards + 60, measurement.title


def test_stating_a_cost_runs_nothing(loaded):
    """Neither a row nor a product, also where directions are only named and would have to be computed."""
    decode = sk.CausalLMSubject(loaded, PROMPT, path="decode", batch=64)
    named = [(sk.FirstChange("v3"), decode), (sk.BoundaryJump(directions=("v1", "-v2")), decode)]
    for measurement, subject in [*suite(PROFILES["quick"], loaded), *named]:
        getattr(subject, "baseline", None)
        before = vars(subject.counter).copy()
        measurement.cost(subject)
        assert vars(subject.counter) == before, measurement.title
