"""What measurements refuse: every parameter with every value of a list, against the sentences that are written down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from oracles.kinds import kinds
from oracles.refused import TABLE, refusal, refusals

import stabilitykit as sk
from stabilitykit.measurements.misfit import told

SAID = json.loads(TABLE.read_text(encoding="utf-8"))
KINDS = {kind.__name__: kind for kind in kinds()}


def test_every_measurement_is_written_down():
    assert list(SAID) == list(KINDS)


@pytest.mark.parametrize("name", SAID)
def test_each_parameter_refuses_what_it_refused_and_takes_the_rest(name):
    assert refusals(KINDS[name]) == SAID[name]


@pytest.mark.parametrize("name", SAID)
def test_no_refusal_is_an_error_of_python(name):
    """A sentence names the parameter, or the measurement and the parameter; no value ends in a bare TypeError."""
    for parameter, said in SAID[name].items():
        for sentence in said:
            assert not sentence.partition(":")[0].endswith(("TypeError", "ValueError", "Error")), (parameter, sentence)


@dataclass(frozen=True)
class Asked:
    """A question with an argument that has no default, one with a factory, and two with defaults."""

    of: Any
    count: int = 1
    names: tuple[str, ...] = ("a",)
    more: Any = None

    @told
    def __post_init__(self) -> None:
        if self.count < 1:
            raise sk.UsageError(f"count={self.count} is none")
        "".join(self.names)
        if self.of == "broken":
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"of": 1}, ""),
        ({"of": 1, "count": 0}, "count=0 is none"),
        ({"of": 1, "count": "x"}, "Asked was given count='x', but takes int"),
        ({"of": 1, "count": 2, "names": 3, "more": 4}, "Asked was given names=3, but takes tuple[str, ...]"),
        (
            {"of": 1, "count": "x", "names": 3},
            "Asked was given count='x', but takes int; names=3, but takes tuple[str, ...]",
        ),
        ({"of": "broken"}, "Asked was given of='broken', but takes Any"),
        ({"of": 1, "count": "x" * 99}, f"Asked was given count='{'x' * 55} ..., but takes int"),
    ],
)
def test_what_a_check_stumbles_over_is_told_by_name(arguments, sentence):
    assert refusal(Asked, arguments) == sentence


def test_the_error_itself_stays_as_the_cause():
    with pytest.raises(sk.UsageError) as caught:
        sk.FirstChange(s_max="far")
    assert isinstance(caught.value.__cause__, TypeError)
    assert str(caught.value) == "FirstChange was given s_max='far', but takes float"
