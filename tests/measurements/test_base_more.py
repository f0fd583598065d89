"""How a stated cost and a title read, and which verdict stands for several subjects."""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.measure import combine
from stabilitykit.results.result import VERDICTS


@dataclass(frozen=True, eq=False)
class Named(Measurement):
    """A question with a name."""

    name: str = ""

    def cost(self, subject):
        return Cost()

    def find(self, subject):
        return Finding({}, "")


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (Cost(forwards=1216, screened=4608), "about 1,216 forwards, 4,608 first blocks"),
        (Cost(forwards=1, backwards=2, calls=1), "about 1 forward, 2 backwards, 1 call"),
        (Cost(), "no rows through the model"),
    ],
)
def test_a_cost_is_said_in_the_kinds_of_rows_that_it_has(cost, said):
    assert str(cost) == said


@dataclass(frozen=True, eq=False)
class Several(Measurement):
    """A question about several numbers."""

    numbers: tuple[float, ...] = (0.5, 1.0, 2.0)

    def cost(self, subject):
        return Cost()

    def find(self, subject):
        return Finding({}, "")


def test_what_is_equal_to_the_default_is_not_in_the_title_though_it_is_another_object():
    """A list of the same numbers is in it: it was typed otherwise."""
    assert Several(tuple(float(one) for one in ("0.5", "1", "2"))).title == "Several()"
    assert Several((0.5, 1.0, 4.0)).title == "Several(numbers=(0.5, 1.0, 4.0))"
    assert Several([0.5, 1.0, 2.0]).title == "Several(numbers=[0.5, 1.0, 2.0])"


def test_what_a_class_is_not_made_with_is_refused():
    """A property written behind the name of the class instead of into it is no property."""
    with pytest.raises(TypeError, match="takes no keyword arguments"):

        class Gate(Measurement, gate=True):
            """Meant to fail on its own."""


def test_a_parameter_of_up_to_40_characters_is_in_the_title_whole():
    """The quotes count."""
    assert Named("x" * 38).title == f"Named(name='{'x' * 38}')"
    assert Named("x" * 39).title == f"Named(name='{'x' * 35} ...)"


@pytest.mark.parametrize(
    ("worse", "better"), list(itertools.pairwise(["crash", "fail", "differs", "not-distinct", "pass"]))
)
def test_the_worst_verdict_of_several_subjects_is_that_of_all_in_any_order(worse, better):
    """What was compared with itself has shown nothing: it does not pass beside one that does."""
    shown = sk.measure(sk.RunToRun(runs=1), sk.FunctionSubject(torch.neg, torch.ones(2)), progress=False)
    one, other = (replace(shown, verdict=verdict) for verdict in (worse, better))
    assert combine([one, other]).verdict == combine([other, one]).verdict == worse


def test_every_verdict_has_a_place_among_the_others():
    shown = sk.measure(sk.RunToRun(runs=1), sk.FunctionSubject(torch.neg, torch.ones(2)), progress=False)
    assert {combine([replace(shown, verdict=one)] * 2).verdict for one in VERDICTS} == set(VERDICTS)
