"""Plain data and back: every bit of a float, every byte of an array, and nothing that JSON or pickle would bend."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest

from stabilitykit.errors import UnreadableError
from stabilitykit.results.plain import array_from_plain, array_to_plain, from_plain, to_plain


def through_json(value: Any) -> Any:
    return from_plain(json.loads(json.dumps(to_plain(value), allow_nan=False)))


def bits(value: float) -> bytes:
    return struct.pack(">d", value)


@pytest.mark.parametrize("value", [0.0, -0.0, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan])
def test_a_float_comes_back_with_its_bits(value: float) -> None:
    assert bits(through_json(value)) == bits(value)
    assert bits(through_json({"deep": [{"er": (value,)}]})["deep"][0]["er"][0]) == bits(value)


@pytest.mark.parametrize("value", [None, True, False, 0, -7, 2**80, "", "nan", "inf", "Infinity", "text\x00\u2028"])
def test_what_json_can_hold_comes_back_with_its_type(value: object) -> None:
    back = through_json([value])[0]
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("token", ["nan", "inf", "-inf", "float", "NaN"])
def test_a_token_spelled_like_a_number_stays_a_token(token: str) -> None:
    row = {"token": token, "value": float("nan")}
    back = through_json(row)
    assert back["token"] == token
    assert math.isnan(back["value"])
    assert through_json({token: 1.5}) == {token: 1.5}


@pytest.mark.parametrize("inner", ["nan", "word", 1.5, 3, None, math.inf, {"float": "nan"}, {"float": {"float": 2}}])
def test_a_mapping_that_looks_like_a_stored_float_stays_a_mapping(inner: object) -> None:
    assert through_json({"float": inner}) == {"float": inner}
    assert through_json([{"float": inner, "unit": "ULP"}]) == [{"float": inner, "unit": "ULP"}]


@pytest.mark.parametrize(
    ("scalar", "builtin"),
    [
        (np.float64(-0.0), float),
        (np.float32(0.1), float),
        (np.float16(np.inf), float),
        (np.int64(-3), int),
        (np.uint8(255), int),
        (np.bool_(True), bool),
        (np.str_("nan"), str),
    ],
)
def test_numpy_scalars_become_builtins_of_the_same_value(scalar: np.generic, builtin: type) -> None:
    plain = to_plain({"a": [scalar]})["a"][0]
    if builtin is float and not math.isfinite(scalar):
        assert plain == {"float": "inf"}
    else:
        assert type(plain) is builtin
        assert plain == scalar
    assert type(through_json(scalar)) is builtin


def test_tuples_and_keys_become_what_json_has() -> None:
    assert to_plain({1: (2, [3])}) == {"1": [2, [3]]}
    assert type(to_plain((1,))) is list


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, np.zeros(2), np.complex64(1), np.longdouble(1)])
def test_other_types_are_refused_by_name(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be stored in a result; convert it first"):
        to_plain({"deep": [value]})


def test_plain_data_is_not_the_data_itself() -> None:
    data = {"a": [1, {"b": 2}]}
    plain = to_plain(data)
    plain["a"][1]["b"] = 3
    assert data == {"a": [1, {"b": 2}]}


ARRAYS = [
    np.array([0.0, -0.0, np.inf, -np.inf, 5e-324]),
    np.array([0x7FF8000000000001, 0xFFF0000000000123], dtype=np.uint64).view(np.float64),  # payloads of a nan
    np.arange(12, dtype=np.int16).reshape(3, 4)[:, ::-2],
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(3.5),
    np.zeros((0, 3), dtype=np.float32),
    np.array(["", "nan", "ünï"]),
    np.array([True, False]),
    np.array([1.5, 2.5], dtype=">f8"),
    np.array([1 + 2j]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_an_array_comes_back_byte_for_byte(array: np.ndarray) -> None:
    back = array_from_plain(json.loads(json.dumps(array_to_plain(array), allow_nan=False)))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_an_array_of_objects_is_refused_both_ways() -> None:
    with pytest.raises(TypeError, match="object arrays would need pickle"):
        array_to_plain(np.array([object()]))
    with pytest.raises(TypeError, match="object arrays would need pickle"):
        array_to_plain(np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]))
    with pytest.raises(UnreadableError, match="claims to hold objects"):
        array_from_plain({"dtype": "|O", "shape": [1], "hex": "00" * 8})
