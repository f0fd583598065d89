"""One tie a subject: solved once, kept in memory, and shared with other workers through the folder of directions."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements.derived import memory_of, shared, subject_key
from stabilitykit.measurements.tie_point import TiePoint, reading_logits
from stabilitykit.measurements.tie_solver import MAX_ULP, tie_point
from stabilitykit.numerics.digest import digest
from stabilitykit.results.plain import from_plain, to_plain
from stabilitykit.subjects.subject import Subject

Kept = TiePoint | UnsupportedError

_memory: dict[str, Kept] = {}
_places: WeakKeyDictionary[Subject, dict[str, Place]] = WeakKeyDictionary()
_of_functions: WeakKeyDictionary[object, dict[str, Kept]] = WeakKeyDictionary()


def tie_of(
    subject: Subject, pair: tuple[int, int] | None = None, *, equal: str = "logits", max_ulp: float = MAX_ULP
) -> TiePoint:
    """Return `tie_point(subject, pair, ...)`, solved once for a subject, its batch shape and numeric environment.

    A refusal is remembered as well, and raised again. A bare function is known by the object alone. Errors as there.
    """
    subject = reading_logits(subject)
    asked = hashlib.sha256(json.dumps([pair, equal, max_ulp]).encode()).hexdigest()
    key = f"tie-{subject_key(subject, without=())}-{asked[:16]}"
    memory = memory_of(subject, _memory, _of_functions)
    if key not in memory:

        def solve() -> TiePoint:
            return tie_point(subject, pair, equal=equal, max_ulp=max_ulp)

        try:
            memory[key] = shared(subject, key, solve, _packed, partial(_unpacked, dtype=subject.x0.dtype))
        except UnsupportedError as refusal:
            memory[key] = refusal
    kept = memory[key]
    if isinstance(kept, UnsupportedError):
        raise UnsupportedError(str(kept))
    return kept


class Place(NamedTuple):
    """The subject at a tie, proved there, and the gradient J'D of z_a - z_b, (H,) float64 on the CPU."""

    here: Subject
    gradient: Tensor


def at_tie(subject: Subject, tie: TiePoint) -> Place:
    """Return the subject at a tie of its own, made once; UnsupportedError where the gradient vanishes."""
    key = f"{digest(tie.x)}-{tie.pair}"
    places = _places.setdefault(subject, {})
    if key not in places:
        here = subject.at(tie.x.to(subject.x0.device))
        places[key] = Place(here, gradient_of(here, tie.pair))
    return places[key]


def gradient_of(subject: Subject, pair: tuple[int, int]) -> Tensor:
    """Return J'D at x0, (H,) float64 on the CPU; UnsupportedError where it vanishes."""
    u = torch.zeros_like(subject.baseline[:1])
    u[0, pair[0]], u[0, pair[1]] = 1, -1
    gradient = subject.vjp(u)[0].double().cpu()
    if not 0 < float(gradient.norm()) < math.inf:
        raise UnsupportedError(f"{subject.name}: the gradient of z_a - z_b is {float(gradient.norm())}, no way to go")
    return gradient


def _packed(tie: TiePoint) -> dict[str, Any]:
    return {"x": _exact(tie.x), "x0": _exact(tie.x0), "rest": np.array(_rest(tie))}


def _rest(tie: TiePoint) -> str:
    names = [item.name for item in fields(TiePoint) if item.name not in ("x", "x0")]
    return json.dumps(to_plain({name: getattr(tie, name) for name in names}))


def _unpacked(arrays: Mapping[str, Any], dtype: torch.dtype) -> TiePoint:
    x, x0 = (torch.from_numpy(arrays[name]).to(dtype) for name in ("x", "x0"))
    rest = from_plain(json.loads(str(arrays["rest"])))
    pairs = {name: tuple(rest[name]) for name in ("pair", "logits", "probabilities", "other", "trace")}
    return TiePoint(x=x, x0=x0, **{**rest, **pairs})


def _exact(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return numbers that numpy has: every float of the narrower dtypes is one of float64."""
    return np.asarray(x.double().numpy())
