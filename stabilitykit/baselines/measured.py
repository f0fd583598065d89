"""From a run's record to the entry that is kept of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from stabilitykit.baselines.entry import Course, Entry, Kept, Setting, is_number
from stabilitykit.results.metric import Reading
from stabilitykit.results.plain import to_plain
from stabilitykit.results.record import Record
from stabilitykit.results.result import Result
from stabilitykit.subjects.environment import KINDS

KEPT = ("pass", "measured", "differs", "new", "incomparable")
"""Verdicts of what was measured to its end; of a crash, a timeout or a failed test nothing is known for sure."""

_MODEL = ("architecture", "layers", "hidden_size")
_ASKED = ("prompt", "token_ids", "site", "path", "batch", "rows", "arithmetic", "dtype", "signature", "mode", "level")
_OWN = ("weight_digest",)  # has a field of its own in an entry
_DRAWN = re.compile(r"Direction\(kind=.*")
BITS = "recipes"
NAMED = "named_direction"
"""The array of a result that holds the bits of the direction that it was asked along by name."""

AS_RECORDED = " as recorded"


def entry_of(record: Record, check: str = "") -> Entry | None:
    """Return what is kept of a record under its check id, or another; None where nothing was measured."""
    result = record.result
    if result is None or result.verdict == "not-distinct":
        return None
    weights, setting = weights_and_setting(result.environment, result.subject)
    named = _named(result)
    searched = [entry for entry in record.recipes if entry["readings"]] if _drawn(result) else []
    return Entry(
        check=check or record.check_id,
        asked=_asked(result),
        model=_model(result.subject),
        weights=weights,
        setting=setting,
        readings={name: _kept(reading) for name, reading in result.readings.items() if is_number(reading.value)},
        courses=tuple(_course(entry) for entry in searched),
        named={name: key for name, (key, _) in named.items()},
        bits={**(_bits(record) if searched else {}), **dict(named.values())},
    )


def weights_and_setting(environment: Mapping[str, Any], subject: Mapping[str, Any]) -> tuple[str, Setting]:
    """Return the digest of the weights, "" where there are none, and the environment as it is kept."""
    weights = str(environment.get("weight_digest") or subject.get("model_digest") or "")
    return weights, Setting(_facts(environment, "identity"), _facts(environment, "context"))


def _facts(environment: Mapping[str, Any], kind: str) -> dict[str, Any]:
    known = {name: environment.get(name) for name, of in KINDS.items() if of == kind and name not in _OWN}
    return {name: to_plain(value) for name, value in known.items() if value is not None}


def _model(subject: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model is but for its weights; of a path the last part, since a folder lies elsewhere elsewhere."""
    named = str(subject.get("model") or subject.get("name", ""))
    name = re.split(r"[/\\]", named.rstrip("/\\"))[-1]
    return {"name": name, **{key: to_plain(subject[key]) for key in _MODEL if subject.get(key) is not None}}


def _asked(result: Result) -> dict[str, Any]:
    """Return the question: the measurement, its parameters, and what of the subject it was asked about.

    Of several subjects as one, which is the worst may change, so their names stand for all of them. A direction that a
    search drew is an answer, and no part of the question.
    """
    drawn = _drawn(result)
    parameters = {name: value for name, value in result.parameters.items() if name not in drawn}
    if NAMED in result.arrays:
        parameters["direction"] = _name(result)
    asked: dict[str, Any] = {"measurement": result.measurement, "parameters": to_plain(parameters)}
    if any("subject" in reading.place for reading in result.readings.values()):
        names = dict.fromkeys(str(row["subject"]) for row in result.rows if "subject" in row)
        return {**asked, "dtype": result.subject.get("dtype"), "subjects": list(names)}
    return {**asked, **{key: to_plain(result.subject[key]) for key in _ASKED if result.subject.get(key) is not None}}


def _drawn(result: Result) -> set[str]:
    """Return the parameters that are one recipe; a list of them is given, and the worst of a list one answer."""
    return {name for name, value in result.parameters.items() if _DRAWN.match(str(value))}


def _name(result: Result) -> str:
    return str(result.parameters["direction"]).removesuffix(AS_RECORDED)


def _named(result: Result) -> dict[str, tuple[str, bytes]]:
    """Return name -> (digest, bits) of the direction that the question names."""
    if NAMED not in result.arrays:
        return {}
    raw = np.ascontiguousarray(result.arrays[NAMED], dtype="<f8").tobytes()
    return {_name(result): (hashlib.sha256(raw).hexdigest()[:32], raw)}


def _kept(reading: Reading) -> Kept:
    sampled = reading.low is not None and reading.high is not None
    low, high = (reading.low, reading.high) if sampled else (None, None)
    interval = [None if end is None else float(end) for end in (low, high)]
    return Kept(float(reading.value), reading.unit, reading.metric.better, *interval)


def _course(entry: Mapping[str, Any]) -> Course:
    readings = {name: float(value) for name, value in entry["readings"].items() if is_number(float(value))}
    return Course(entry["direction"], to_plain(entry["recipe"]), entry["digest"], readings)


def _bits(record: Record) -> dict[str, bytes]:
    """Return the vectors of the courses on a basis; every other recipe expands to its bits anywhere."""
    assert record.result is not None
    rows = record.result.arrays.get(BITS)
    if rows is None:
        return {}
    return {
        entry["digest"]: np.ascontiguousarray(rows[index], dtype="<f8").tobytes()
        for index, entry in enumerate(record.recipes)
        if "basis" in entry["recipe"] and entry["readings"]
    }
