"""The single flattening: every renderer (csv, html, terminal) reads records through these two functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stabilitykit.results.metric import Reading
    from stabilitykit.results.record import Record, Run
    from stabilitykit.results.result import Execution

SCHEMA_VERSION = 1
"""Version of the csv columns: columns are only ever appended, a change of meaning raises it."""

Row = dict[str, Any]

_SUBJECT = ("model", "model_digest", "dtype", "device", "path", "site", "batch", "prompt", "token_index", "seq_len")
# What a reading's place may name, and its column. A place that a subject column names too gets a column of its own.
_PLACES = {
    "token": "token",
    "stage": "stage",
    "op": "op",
    "module": "module",
    "layer": "layer",
    "slot": "slot",
    "direction": "direction",
    "angle": "angle",
    "batch": "batch_place",
    "prompt": "prompt_place",
    "path": "path_place",
}
# Of the environment, what tells one card from another; the device column has only its number.
_CARD = ("gpu", "gpu_uuid")
_WORK = ("forwards", "screened", "backwards", "tangents")

READING_COLUMNS = (
    *("run_id", "schema_version", "check_id", "measurement", "status"),
    *_SUBJECT,
    *("reading", "value", "value_hex", "unit", "better", "low", "high", "limit"),
    *_PLACES.values(),
    *("place", "examples", "seed", "worker"),
    *_WORK,
    "nodeid",
    "recipe",
    *("baseline", "baseline_hex", "allowed", "drift"),
    *_CARD,
)
"""Columns of results.csv, one row a reading."""

CHECK_COLUMNS = (
    *("run_id", "schema_version", "check_id", "measurement", "status", "gate"),
    *_SUBJECT,
    *("sentence", "message", "limits", "worst", "noise", "readings", "rows", "examples", "seed", "worker"),
    *_WORK,
    *("calls", "seconds", "nodeid"),
    *_CARD,
)
"""Columns of summary.csv, one row a check."""

NUMBER_COLUMNS = frozenset(
    {
        "schema_version",
        "batch",
        "token_index",
        "seq_len",
        "value",
        "value_hex",
        "low",
        "high",
        "baseline",
        "baseline_hex",
        "examples",
        "seed",
    }
    | {"readings", "rows", "calls", "seconds", "layer", "slot", "angle", "batch_place"}
    | set(_WORK)
)
"""Columns that hold numbers and are written as they are; every other cell is text from somewhere."""


def readings_rows(run: Run, records: Sequence[Record]) -> list[Row]:
    """Return one row a reading, in the order of the records; checks without a result have none."""
    rows = []
    for record in records:
        if record.result is not None:
            shared = _shared(run, record)
            recipes = {entry["direction"]: entry["recipe"] for entry in record.recipes}
            rows += [
                shared
                | _reading(name, reading, record.limits)
                | _baseline(record.baseline.get("readings", {}).get(name))
                | {"recipe": recipes.get(reading.place.get("direction", ""))}
                for name, reading in record.result.readings.items()
            ]
    return [{column: row.get(column) for column in READING_COLUMNS} for row in rows]


def check_rows(run: Run, records: Sequence[Record]) -> list[Row]:
    """Return one row a check, those without a result too: their message says why."""
    rows = []
    for record in records:
        row = _shared(run, record) | {
            "gate": record.gate,
            "message": record.message,
            "limits": "; ".join(f"{name} {bound}" for name, bound in record.limits.items()),
        }
        if (result := record.result) is not None:
            row |= {
                "sentence": result.sentence,
                "worst": str(result.worst) if result.worst else None,
                "noise": result.noise,
                "readings": len(result.readings),
                "rows": len(result.rows),
                "calls": result.execution.calls,
                "seconds": result.execution.seconds,
            }
        rows.append({column: row.get(column) for column in CHECK_COLUMNS})
    return rows


def subject_fields(subject: Mapping[str, Any]) -> Row:
    """Return what identifies a subject, under the column names; a name stands in where there is no model."""
    ids = subject.get("token_ids")
    length = subject.get("seq_len", len(ids) if isinstance(ids, Sequence) else None)
    last = length - 1 if isinstance(length, int) else None
    fields = {name: subject.get(name) for name in _SUBJECT}
    return fields | {
        "model": subject.get("model") or subject.get("name"),
        "seq_len": length,
        "token_index": subject.get("token_index", last),
    }


def _shared(run: Run, record: Record) -> Row:
    row: Row = {
        "run_id": run.run_id,
        "schema_version": SCHEMA_VERSION,
        "check_id": record.check_id,
        "status": record.verdict,
        "examples": record.examples,
        "seed": run.settings.get("seed"),
        "worker": record.worker,
        "nodeid": record.nodeid,
    }
    if (result := record.result) is not None:
        row |= {"measurement": result.measurement} | subject_fields(result.subject) | _work(result.execution)
        row |= {name: result.environment.get(name) for name in _CARD}
        row["seed"] = result.parameters.get("seed", row["seed"])
    return row


def _work(execution: Execution) -> Row:
    return {name: getattr(execution, name) for name in _WORK}


def _baseline(held: Mapping[str, Any] | None) -> Row:
    if held is None:
        return {}
    then = float(held["then"])
    return {"baseline": then, "baseline_hex": then.hex(), "allowed": held["allowed"], "drift": held["kind"]}


def _reading(name: str, reading: Reading, limits: Mapping[str, str]) -> Row:
    value = reading.value
    others = {key: text for key, text in reading.place.items() if key not in _PLACES}
    return {
        "reading": name,
        "value": value,
        "value_hex": float(value).hex(),
        "unit": reading.unit,
        "better": reading.metric.better,
        "low": reading.low,
        "high": reading.high,
        "limit": limits.get(name),
        **{_PLACES[key]: text for key, text in reading.place.items() if key in _PLACES},
        "place": "; ".join(f"{key}={text}" for key, text in others.items()) or None,
    }
