"""Results through strict JSON and back, bit for bit, and the schema that guards them."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from stabilitykit.errors import UnreadableError
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import SCHEMA, VERDICTS, Execution, Result, Worst

BITS = Metric("differing_bits", "elements", "lower", "planted")
GAP = Metric("gap", "", "neither", "planted")


@pytest.fixture
def result() -> Result:
    return Result(
        measurement="Toy",
        check_id="toy",
        verdict="differs",
        title="Toy(n=3)",
        sentence="It differs — twice.",
        readings={
            "differing_bits": Reading(BITS, 3, low=1.0, high=math.inf, place={"token": "nan", "layer": "2"}),
            "gap": Reading(GAP, math.nan),
        },
        rows=({"token": "nan", "value": np.float64(-0.0)}, {"token": "float", "value": math.inf, "none": None}),
        arrays={"radius": np.array([[1e-310, -0.0], [np.nan, np.inf]]), "slot": np.array([3, 1], dtype=np.int64)},
        parameters={"n": 3, "limit": math.inf, "sizes": [2, 3]},
        subject={"name": "tiny", "dtype": "float32", "ids": [1, 2]},
        environment={"torch": "2.10", "threads": None},
        execution=Execution(forwards=5, backwards=4, tangents=3, screened=2, calls=1, seconds=0.125),
        worst=Worst("y[1]", "first", "1 (0x3f80)", "again", "2 (0x4000)"),
        noise="none seen",
        causes=("one", "two"),
    )


def test_a_result_comes_back_whole_and_bit_for_bit(result: Result) -> None:
    text = result.to_json()
    back = Result.from_dict(json.loads(text))
    assert back.to_json() == text
    for name in ("measurement", "check_id", "verdict", "title", "sentence", "noise", "causes", "worst", "execution"):
        assert getattr(back, name) == getattr(result, name), name
    for name in ("parameters", "subject", "environment"):
        assert getattr(back, name) == getattr(result, name), name
    assert back.readings["differing_bits"] == result.readings["differing_bits"]
    assert list(back.readings) == ["differing_bits", "gap"]
    assert back.rows == result.rows
    assert math.copysign(1, back.rows[0]["value"]) == -1
    for name, array in result.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        assert back.arrays[name].tobytes() == array.tobytes()


def test_no_field_is_forgotten(result: Result) -> None:
    assert set(result.to_dict()) == {"schema", *(field.name for field in fields(Result))}
    plain = Result("Toy", "toy", "pass", "Toy()", "", {})
    left = [field.name for field in fields(Result) if getattr(result, field.name) == getattr(plain, field.name)]
    assert left == ["measurement", "check_id"]


def test_json_has_no_literal_that_json_lacks(result: Result) -> None:
    def refuse(literal: str) -> None:
        raise AssertionError(literal)

    json.loads(result.to_json(), parse_constant=refuse)
    with pytest.raises(ValueError, match="JSON"):
        replace(result, execution=Execution(seconds=math.nan)).to_json()


def test_arrays_can_stay_out(result: Result) -> None:
    data = result.to_dict(arrays=False)
    assert "arrays" not in data
    assert Result.from_dict(data).arrays == {}


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, None, "1"])
def test_another_schema_is_refused_with_both_versions(result: Result, schema: object) -> None:
    with pytest.raises(UnreadableError) as caught:
        Result.from_dict({**result.to_dict(), "schema": schema})
    assert str(caught.value) == (
        f"this result has schema {schema!r}, this stabilitykit reads {SCHEMA}; "
        "read it with the version that wrote it, or measure again"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"readings": 3}, "readings is 3, not a list"),
        ({"readings": [{}]}, "a reading is damaged, or was not written here: metric is missing"),
        ({"worst": ["a"]}, "has not its five texts"),
        ({"arrays": {"x": {"dtype": "<f8", "shape": [2], "hex": "00"}}}, "an array of this result is damaged"),
        ({"arrays": {"x": {"dtype": "(", "shape": [2], "hex": ""}}}, "an array of this result is damaged"),
        ({"parameters": {"x": {"float": "1"}}}, "neither inf, -inf nor nan"),
    ],
)
def test_a_field_of_another_form_is_refused(result: Result, change: dict, sentence: str) -> None:
    with pytest.raises(UnreadableError, match=sentence):
        Result.from_dict({**result.to_dict(), **change})


def test_a_reading_in_no_hex_is_refused(result: Result) -> None:
    data = result.to_dict()
    data["readings"][0] |= {"value": 0.5, "value_hex": "0x1p+99999"}
    with pytest.raises(UnreadableError, match="is no number in hex"):
        Result.from_dict(data)


def test_data_without_a_schema_is_refused(result: Result) -> None:
    data = result.to_dict()
    del data["schema"]
    with pytest.raises(UnreadableError, match="schema None"):
        Result.from_dict(data)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_of_the_vocabulary_is_taken(verdict: str) -> None:
    assert Result("Toy", "toy", verdict, "Toy()", "", {}).verdict == verdict


@pytest.mark.parametrize("verdict", ["passed", "FAIL", "", "ok"])
def test_a_verdict_outside_the_vocabulary_is_refused(verdict: str) -> None:
    with pytest.raises(ValueError, match=f"verdict '{verdict}' is not one of pass, fail, measured"):
        Result("Toy", "toy", verdict, "Toy()", "", {})


def test_a_result_cannot_be_changed(result: Result) -> None:
    with pytest.raises(FrozenInstanceError):
        result.verdict = "pass"  # type: ignore[misc]


def test_the_frame_has_a_row_a_row_and_a_column_a_key(result: Result) -> None:
    frame = result.frame()
    assert list(frame.columns) == ["token", "value", "none"]
    assert frame["token"].tolist() == ["nan", "float"]
    assert frame["value"].tolist() == [0.0, math.inf]
    assert Result("Toy", "toy", "pass", "Toy()", "", {}).frame().empty


def test_the_worst_place_names_both_sides(result: Result) -> None:
    assert str(result.worst) == "worst at y[1]: first 1 (0x3f80)   again 2 (0x4000)"


def test_a_row_that_cannot_be_stored_is_refused_when_it_is_stored() -> None:
    bad = Result("Toy", "toy", "pass", "Toy()", "", {}, rows=({"x": np.zeros(2)},))
    with pytest.raises(TypeError, match="ndarray cannot be stored in a result"):
        bad.to_dict()
