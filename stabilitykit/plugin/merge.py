"""Several measurements of one kind in one test, such as Hypothesis examples, become one record: the worst of each."""

from __future__ import annotations

from dataclasses import fields, replace

from stabilitykit.results.metric import Reading
from stabilitykit.results.record import Record
from stabilitykit.results.result import Execution, Result

# What a reader must see first; a verdict outside this list is as bad as the worst.
_ORDER = ("pass", "measured", "skipped", "unsupported", "differs", "fail", "invalid")


def merge(first: Record, second: Record) -> Record:
    """Return one record of both: worst readings, rows and place of the worse example, all examples counted."""
    worse = second if _severity(second) > _severity(first) else first
    merged = replace(
        second,
        verdict=worse.verdict,
        message=second.message or first.message,
        examples=first.examples + second.examples,
    )
    if first.result is None or second.result is None:
        return replace(merged, result=first.result or second.result)
    return replace(merged, result=merge_results(first.result, second.result))


def merge_results(first: Result, second: Result) -> Result:
    """Return the worse result with the worst reading of each metric, and what both of them cost."""
    worse = second if _is_worse(second, first) else first
    readings = {
        name: _worst(first.readings.get(name), _placed(reading, second)) for name, reading in second.readings.items()
    }
    kept = {name: reading for name, reading in first.readings.items() if name not in readings}
    return replace(worse, readings={**kept, **readings}, execution=_sum(first.execution, second.execution))


def named(result: Result) -> Result:
    """Return the result with its direction, if it was asked about one, in the place of each reading."""
    return replace(result, readings={name: _placed(reading, result) for name, reading in result.readings.items()})


def _placed(reading: Reading, result: Result) -> Reading:
    direction = result.parameters.get("direction")
    if direction is None or "direction" in reading.place:
        return reading
    return replace(reading, place={**reading.place, "direction": str(direction)})


def _is_worse(second: Result, first: Result) -> bool:
    """Decide by the first reading that has a better side and is not equal; else by the verdicts."""
    if _rank(second.verdict) != _rank(first.verdict):
        return _rank(second.verdict) > _rank(first.verdict)
    for name, reading in second.readings.items():
        other = first.readings.get(name)
        if other is not None and reading.metric.better != "neither" and reading.value != other.value:
            return _worst(other, reading) is reading
    return False


def _worst(first: Reading | None, second: Reading) -> Reading:
    if first is None:
        return second
    if second.metric.better == "higher":
        return second if second.value < first.value else first
    return second if second.value > first.value else first


def _severity(record: Record) -> int:
    return _rank(record.verdict)


def _rank(verdict: str) -> int:
    return _ORDER.index(verdict) if verdict in _ORDER else len(_ORDER)


def _sum(first: Execution, second: Execution) -> Execution:
    return Execution(**{f.name: getattr(first, f.name) + getattr(second, f.name) for f in fields(Execution)})
