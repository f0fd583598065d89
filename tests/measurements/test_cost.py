"""What a measurement states before it starts: nothing is run for it, and `quick` stays quick."""

import pytest
from oracles.asked import PROMPT, processes, suite

import stabilitykit as sk
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


def test_stating_a_cost_runs_nothing(loaded):
    """Neither a row nor a product, also where directions are only named and would have to be computed."""
    decode = sk.CausalLMSubject(loaded, PROMPT, path="decode", batch=64)
    named = [(sk.FirstChange("v3"), decode), (sk.BoundaryJump(directions=("v1", "-v2")), decode)]
    for measurement, subject in [*suite(PROFILES["quick"], loaded), *named]:
        getattr(subject, "baseline", None)
        before = vars(subject.counter).copy()
        measurement.cost(subject)
        assert vars(subject.counter) == before, measurement.title
