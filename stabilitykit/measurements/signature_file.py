"""A signature as a small file, so that a model need not be there to be compared with."""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabilitykit.errors import UnreadableError, UsageError
from stabilitykit.results.atomic import atomic_write
from stabilitykit.results.result import Result

FORMAT, VERSION = "stabilitykit signature", 1
_WORDS, _COUNTS, _NUMBERS = ("model", "weights", "corpus"), ("hidden_size", "layers", "long_vectors"), ("tau",)
_LARGEST = 2**24
"""Bytes of a file up to which it is read: a hidden size of more than a million."""


@dataclass(frozen=True, eq=False)
class KnownSignature:
    """The unit direction (H,) of a model's long tokens, and what it was taken from.

    `model` and `weights` name the model and the digest of its weights, `corpus` that of the token ids that were read.
    """

    model: str
    weights: str
    corpus: str
    hidden_size: int
    layers: int
    long_vectors: int
    tau: float
    coherence: float
    direction: NDArray[np.float64]

    def __str__(self) -> str:
        """Return what it is called in tables."""
        return f"signature of {self.model}"


def write_signature(result: Result, path: str | Path) -> None:
    """Write a result of Signature as JSON: numbers, digests, and the direction as base64 of little-endian float64.

    UsageError for another result.
    """
    if result.measurement != "Signature" or "direction" not in result.arrays:
        raise UsageError(f"a result of {result.measurement} is no signature; give one of Signature")
    direction = np.ascontiguousarray(result.arrays["direction"], dtype="<f8")
    about = {
        "model": result.subject["name"],
        "weights": result.subject["model_digest"],
        **{name: result.subject[name] for name in ("corpus", "hidden_size", "layers")},
        **{name: result.readings[name].value for name in ("long_vectors", "tau")},
        # JSON has no nan, which the coherence of a single vector is.
        "coherence": None if math.isnan(result.readings["coherence"].value) else result.readings["coherence"].value,
        "direction": base64.b64encode(direction.tobytes()).decode(),
    }
    text = json.dumps({"format": FORMAT, "version": VERSION, **about}, indent=1, allow_nan=False)
    atomic_write(Path(path), f"{text}\n")


def read_signature(path: str | Path) -> KnownSignature:
    """Read a signature back, every field checked; UnreadableError says what is wrong with the file."""
    try:
        size = Path(path).stat().st_size
        data = json.loads(Path(path).read_text(encoding="utf-8")) if size <= _LARGEST else None
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path} is no signature: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UnreadableError(f"{path} is no signature; write one with write_signature")
    if data.get("version") != VERSION:
        raise UnreadableError(
            f"{path} is a signature of version {ascii(data.get('version'))[:60]}; this kit reads {VERSION}"
        )
    if wrong := _wrong(data):
        raise UnreadableError(f"{path} is a damaged signature: {wrong}")
    coherence = math.nan if data["coherence"] is None else float(data["coherence"])
    fields = {name: data[name] for name in (*_WORDS, *_COUNTS, *_NUMBERS)}
    return KnownSignature(**fields, coherence=coherence, direction=_direction(data["direction"]))


def _wrong(data: Mapping[str, Any]) -> str:
    """Return what is wrong with the fields, nothing if they are sound."""
    for name in _WORDS:
        if not isinstance(data.get(name), str):
            return f"{name} is no text"
    for name in _COUNTS:
        if type(data.get(name)) is not int or data[name] < 1:
            return f"{name} is no count"
    for name in (*_NUMBERS, "coherence"):
        if not _is_size(data.get(name)) and not (name == "coherence" and name in data and data[name] is None):
            return f"{name} is no size"
    try:
        direction = _direction(data.get("direction"))
    except (TypeError, ValueError):
        return "direction is no base64 of float64 numbers"
    if direction.shape != (data["hidden_size"],):
        return f"direction has {len(direction)} numbers, hidden_size is {data['hidden_size']}"
    if not np.isfinite(direction).all() or abs(float(np.linalg.norm(direction)) - 1) > 1e-9:
        return "direction is no unit vector"
    return ""


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _direction(text: Any) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8").astype(np.float64)
