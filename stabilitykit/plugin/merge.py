"""Several measurements of one kind in one test, such as Hypothesis examples, become one record: the worst of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stabilitykit.plugin.recipes import joined
from stabilitykit.results.metric import Reading
from stabilitykit.results.record import Record
from stabilitykit.results.result import Result

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
        stated=_sum(first.stated, second.stated),
        replays=_latest(first.replays + second.replays),
    )
    if first.result is None or second.result is None:
        return replace(merged, result=first.result or second.result, recipes=first.recipes + second.recipes)
    result = merge_results(first.result, second.result)
    return replace(merged, result=result, recipes=joined(result, first, second))


def merge_results(first: Result, second: Result) -> Result:
    """Return the worse result with the worst reading of each metric, and what both of them cost.

    A metric without a better side keeps the worse result's reading, so that it fits its rows.
    """
    worse, other = (second, first) if _is_worse(second, first) else (first, second)
    readings = {name: _worst(reading, other.readings.get(name)) for name, reading in worse.readings.items()}
    return replace(worse, readings=readings, execution=first.execution + second.execution)


def named(result: Result) -> Result:
    """Return the result with its direction, if it was asked about one, in the place of each reading.

    Among the examples of a test it is then known which direction was the worst.
    """
    direction = result.parameters.get("direction")
    if not isinstance(direction, str):
        return result
    return replace(
        result,
        readings={
            name: replace(reading, place={"direction": direction, **reading.place})
            for name, reading in result.readings.items()
        },
    )


def _is_worse(second: Result, first: Result) -> bool:
    """Decide by the verdicts, then by the first reading with a better side that is not equal."""
    if _rank(second.verdict) != _rank(first.verdict):
        return _rank(second.verdict) > _rank(first.verdict)
    for name, reading in first.readings.items():
        other = second.readings.get(name)
        if other is not None and reading.metric.better != "neither" and reading.value != other.value:
            return _worst(reading, other) is other
    return False


def _worst(reading: Reading, other: Reading | None) -> Reading:
    if other is None or reading.metric.better == "neither":
        return reading
    return other if other.badness > reading.badness else reading


def _latest(replays: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
    """Return one comparison for each recorded direction, however often it was tried."""
    return tuple({(one["check_id"], one["direction"]): one for one in replays}.values())


def _sum(first: Mapping[str, int], second: Mapping[str, int]) -> Mapping[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in (first or second)}


def _severity(record: Record) -> int:
    return _rank(record.verdict)


def _rank(verdict: str) -> int:
    return _ORDER.index(verdict) if verdict in _ORDER else len(_ORDER)
