"""Plain JSON data and back, bit for bit: infinities and nan have their own form, arrays are hex."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabilitykit.errors import UnreadableError
from stabilitykit.results.forms import check

_FLOAT = "float"


def to_plain(value: Any) -> Any:
    """Return builtins only (a numpy scalar on a test report kills a whole xdist run); refuse other types."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        plain = {str(key): to_plain(item) for key, item in value.items()}
        # A mapping that looks like a stored float is wrapped once more.
        return {_FLOAT: plain} if plain.keys() == {_FLOAT} else plain
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # JSON has no infinity, and a bare string would be mistaken for a token spelled "nan".
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    raise TypeError(f"{type(value).__name__} cannot be stored in a result; convert it first: {value!r}")


def from_plain(value: Any) -> Any:
    """Undo `to_plain`, except that tuples come back as lists; UnreadableError for what it never wrote."""
    if isinstance(value, Mapping):
        if value.keys() == {_FLOAT}:
            if isinstance(value[_FLOAT], str):
                return _float(value[_FLOAT])
            value = value[_FLOAT]
        return {key: from_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    return value


def _float(text: str) -> float:
    if text not in ("inf", "-inf", "nan"):
        raise UnreadableError("a number of this file is neither inf, -inf nor nan; stabilitykit did not write it")
    return float(text)


def array_to_plain(array: NDArray[Any]) -> dict[str, Any]:
    """Return dtype, shape and the raw bytes as hex; refuse object arrays, which would need pickle."""
    if array.dtype.hasobject:
        raise TypeError("object arrays would need pickle; store plain numbers or strings")
    raw = np.ascontiguousarray(array).tobytes()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "hex": raw.hex()}


def array_from_plain(data: Mapping[str, Any]) -> NDArray[Any]:
    """Undo `array_to_plain`; UnreadableError for an object dtype, and for bytes that are not those of the shape."""
    check(data, {"dtype": str, "shape": [int], "hex": str}, "an array of this result")
    try:
        dtype = np.dtype(data["dtype"])
        if dtype.hasobject:
            raise UnreadableError("an array of this result claims to hold objects; stabilitykit did not write it")
        return np.frombuffer(bytes.fromhex(data["hex"]), dtype=dtype).reshape(data["shape"]).copy()
    except (ValueError, TypeError, SyntaxError, OverflowError) as error:
        raise UnreadableError(f"an array of this result is damaged: {ascii(str(error))[:200]}") from None
