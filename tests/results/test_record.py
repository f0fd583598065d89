"""Records and runs through strict JSON and back."""

from __future__ import annotations

import json
import math

import pytest

from stabilitykit.errors import UnreadableError
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.record import Record, Run
from stabilitykit.results.result import Result

RESULT = Result(
    "Toy", "toy", "differs", "Toy()", "It differs.", {"x": Reading(Metric("x", "", "lower", "planted"), -0.0)}
)
FULL = Record(
    "toy[tiny-float32]",
    "stability_tests/test_toy.py::test_toy[tiny]",
    "fail",
    RESULT,
    message="Toy(): x 1 breaks <= 0",
    limits={"x": "<= 0"},
    gate=True,
    examples=7,
    worker="gw1",
)


def strict(data: object) -> object:
    return json.loads(json.dumps(data, allow_nan=False))


def test_a_record_comes_back_whole() -> None:
    back = Record.from_dict(strict(FULL.to_dict()))
    assert back.result is not None
    assert back.result.to_json() == RESULT.to_json()
    assert math.copysign(1, back.result.readings["x"].value) == -1
    for name in ("check_id", "nodeid", "verdict", "message", "limits", "gate", "examples", "worker"):
        assert getattr(back, name) == getattr(FULL, name)
    assert back.to_dict() == FULL.to_dict()


def test_a_record_of_what_was_not_measured_has_no_result() -> None:
    record = Record("toy", "test_toy.py::test_toy", "unsupported", message="toy has no blocks")
    assert Record.from_dict(strict(record.to_dict())) == record
    assert record.to_dict()["result"] is None


def test_a_record_whose_result_has_another_schema_is_refused() -> None:
    data = FULL.to_dict()
    data["result"]["schema"] = 99
    with pytest.raises(UnreadableError, match="schema 99"):
        Record.from_dict(data)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"message": None}, "message is None, not a text"),
        ({"verdict": "fine"}, "verdict is 'fine', not one of pass, fail"),
        ({"recipes": [{}]}, r"recipes\[0\]\.direction is missing"),
        (
            {"baseline": {"readings": {"r": {"then": "1", "allowed": "", "kind": ""}}}},
            r"readings\.r\.then is '1'",
        ),
        ({"more": 1}, "nothing is known of more"),
    ],
)
def test_a_record_with_a_field_of_another_form_is_refused(change, sentence) -> None:
    whole = Record("a", "b", "measured").to_dict()
    assert Record.from_dict(whole) == Record("a", "b", "measured")
    with pytest.raises(UnreadableError, match=sentence):
        Record.from_dict({**whole, **change})


def test_a_run_comes_back_whole() -> None:
    run = Run(
        "id",
        "2026-01-02T03:04:05Z",
        "pytest --stability-suite",
        settings={"limit": ["a.b<=4"], "seed": 0, "tolerance": math.inf},
        environment={"torch": "2.10", "threads": 2, "cuda": None},
        notes=("one file was left out", "nan"),
    )
    back = Run.from_dict(strict(run.to_dict()))
    assert back == run
    assert type(back.notes) is tuple
