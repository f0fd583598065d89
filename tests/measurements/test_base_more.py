"""How a stated cost and a title read."""

from dataclasses import dataclass

import pytest

from stabilitykit.measurements.base import Cost, Finding, Measurement


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


def test_what_a_class_is_not_made_with_is_refused():
    """A property written behind the name of the class instead of into it is no property."""
    with pytest.raises(TypeError, match="takes no keyword arguments"):

        class Gate(Measurement, gate=True):
            """Meant to fail on its own."""


def test_a_parameter_of_up_to_40_characters_is_in_the_title_whole():
    """The quotes count."""
    assert Named("x" * 38).title == f"Named(name='{'x' * 38}')"
    assert Named("x" * 39).title == f"Named(name='{'x' * 35} ...)"
