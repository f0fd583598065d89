"""Whether a test passes: which limits hold a result, and what breaking them says."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from stabilitykit.errors import StabilityError
from stabilitykit.plugin.excused import excused
from stabilitykit.plugin.held import HELD
from stabilitykit.plugin.merge import named
from stabilitykit.plugin.options import SETTINGS
from stabilitykit.plugin.recipes import trials
from stabilitykit.plugin.recorder import worker
from stabilitykit.plugin.replay import REPLAY
from stabilitykit.plugin.rerun import rerun
from stabilitykit.plugin.testlog import TestLog
from stabilitykit.results.failure import StabilityFailure
from stabilitykit.results.limit import Bound, select
from stabilitykit.results.record import Record
from stabilitykit.results.result import Result

if TYPE_CHECKING:
    from stabilitykit.measurements.base import Measurement

_FAILS = {"fail", "invalid"}
_CHANGED = "A recorded direction, replayed in the same setting, gave other bits."

Ask = Callable[["Measurement[Any]"], Result]


def record_and_judge(log: TestLog, measurement: Measurement[Any], result: Result, name: str, ask: Ask) -> None:
    """File the result as check `name`, then hold it to its limits: StabilityFailure where one is broken.

    `ask` answers the question for another measurement of the same subjects.
    """
    __tracebackhide__ = True
    gate, marked = _marker(log.item, measurement)
    required = dict(measurement.requires) if gate else {}
    check_id, result = log.check_id(name), named(result)
    tried = trials(measurement, result, ask)
    replay = log.item.config.stash.get(REPLAY, None)
    replays = replay.compared(measurement, result) if replay else ()
    if held := log.item.config.stash.get(HELD, None):
        held.note(log, check_id, tried, result)
    if any(one["promised"] and not one["same"] for one in replays) and result.verdict in ("pass", "measured"):
        result = replace(result, verdict="differs", sentence=f"{result.sentence} {_CHANGED}")
    record = Record(
        check_id,
        log.item.nodeid,
        result.verdict,
        result,
        gate=gate,
        worker=worker(),
        replays=replays,
        stated=log.stated_rows(),
    )
    log.file(record, tried)
    try:
        asked = select(log.item.config.stash[SETTINGS].limits, check_id, result.readings)
        _judge(log, check_id, result, gate, {**required, **marked, **asked})
    except StabilityError as error:
        log.judge(check_id, error.verdict, str(error))
        raise


def unmeasured(log: TestLog, measurement: Measurement[Any], name: str, error: StabilityError, ask: Ask) -> None:
    """File a question that has no answer here, with the sentence that says why."""
    check_id = log.check_id(name)
    record = Record(check_id, log.item.nodeid, error.verdict, message=str(error), worker=worker())
    log.file(record, trials(measurement, None, ask))
    if error.verdict == "invalid":
        log.judge(check_id, "invalid", str(error))


def _judge(log: TestLog, check_id: str, result: Result, gate: bool, limits: Mapping[str, Any]) -> None:
    __tracebackhide__ = True
    texts = {name: str(bound) for name, bound in limits.items()}
    log.records[check_id] = replace(log.records[check_id], limits=texts, gate=gate or bool(limits))
    try:
        if limits:
            result.judge(limits, _commands(log, check_id, limits, result))
            if result.verdict != "not-distinct":  # limits hold of a thing and itself, which shows nothing
                log.judge(check_id, "pass")
        elif result.verdict in _FAILS or (gate and result.verdict == "differs"):
            raise StabilityFailure(f"{result.title}: {result.sentence}\n\n{rerun(log.item)}", result)
    except StabilityFailure as failure:
        if not excused(log, check_id, str(failure)):
            log.judge(check_id, "fail", str(failure))
            raise


def _marker(item: pytest.Item, measurement: Measurement[Any]) -> tuple[bool, Mapping[str, Any]]:
    """Return whether the result is a gate, and the marker's limits; the nearest marker speaks first."""
    gate = measurement.gate or item.config.stash[SETTINGS].strict
    limits: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("stability"))):
        gate = marker.kwargs.get("gate", gate)
        limits = {**limits, **marker.kwargs.get("limits", {})}
    return gate, limits


def _commands(log: TestLog, check_id: str, limits: Mapping[str, Any], result: Result) -> tuple[str, ...]:
    """Return what to do next about a broken limit: repeat this test alone, or accept what was measured."""
    for name, limit in limits.items():
        reading = result.readings.get(name)
        if reading is not None and not (bound := Bound.parse(limit, reading)).holds(reading.value):
            sign = ">=" if bound.comparison.startswith(">") else "<="
            accepted = f"{check_id}.{name}{sign}{reading.value!r}"
            return rerun(log.item), f"Accept: --stability-limit {shlex.quote(accepted)}"
    return ()
