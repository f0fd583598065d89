"""What a test measured travels on its report: each record once, and at last that the test is over."""

from __future__ import annotations

import hashlib
import json
import math
import os
from typing import TYPE_CHECKING, Any

import pytest

from stabilitykit.errors import IncomparableError, StabilityError, UnreadableError, UnsupportedError, UsageError
from stabilitykit.plugin import plan, suite
from stabilitykit.plugin.options import SETTINGS
from stabilitykit.plugin.testlog import TestLog, log_of, said, uses_stability, verdict_of

if TYPE_CHECKING:
    from stabilitykit.results.record import Record

# xdist carries plain strings on a report; a numpy number there would kill the whole run.
JSON, KIND, CODE = "_stability_json", "_stability_kind", "_stability_code"
# Beside the records: that they were taken over, that the test is over, and that the run must not go on.
TAKEN, DONE, REFUSED = "_stability_taken", "_stability_done", "_stability_refused"
PLAN = "_stability_plan"

# What the user can mend in the command decides its exit status, whatever else was measured; so does a model that
# cannot be set up. An output that is no number is a finding, and what a model does not support skips.
BAD_INPUT = (UsageError, UnreadableError, IncomparableError)


def attach(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Put the test's records on its report, and their numbers where JUnit finds them."""
    if not uses_stability(item):
        return
    setattr(report, KIND, "suite" if suite.contains(item.path) else "test")
    log = log_of(item)
    if item.config.stash[SETTINGS].dry_run:
        setattr(report, PLAN, plan.to_json(log.planned.values()) if report.when == "teardown" else "[]")
        return
    if call.excinfo is not None and report.when != "teardown" and not log.taken:
        _explain(log, call.excinfo.value, report)
        _shorten(item, call.excinfo.value, report)
    if records := [] if report.when == "setup" and report.passed else log.unsent():
        item.user_properties.extend(_properties(records))
        setattr(report, JSON, [_text(item, record) for record in records])
    _end(log, call, report)


def _end(log: TestLog, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Say of a test that is over how it ended, so that a resumed run need not run it; or that it was not run."""
    if log.taken:
        setattr(report, TAKEN, True)
        if log.taken.code is not None:
            setattr(report, CODE, log.taken.code)
        return
    error = None if call.excinfo is None else call.excinfo.value
    if getattr(error, "refuses_run", False):
        report.longrepr = str(error)
        setattr(report, REFUSED, str(error))
        return
    if report.when == "call" and not isinstance(error, pytest.xfail.Exception):
        outcome = "passed" if error is None else "skipped" if isinstance(error, pytest.skip.Exception) else "failed"
        log.ended = {"outcome": outcome, "message": _message(error, report), "code": getattr(report, CODE, None)}
    if report.when == "teardown" and report.passed and log.records and log.ended:
        about = {"nodeid": log.item.nodeid, "records": len(log.records), "source": source(log.item)}
        setattr(report, DONE, json.dumps({**about, **log.ended}, sort_keys=True))


def _message(error: BaseException | None, report: pytest.TestReport) -> str:
    """Return why a test was skipped, or the message of its failure without the way there."""
    if error is None or isinstance(error, pytest.skip.Exception):
        return str(getattr(error, "msg", ""))
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message) if crash else report.longreprtext


def source(item: pytest.Item) -> str:
    """Return a digest of the file that a test is written in."""
    return hashlib.sha256(item.path.read_bytes()).hexdigest()


def _explain(log: TestLog, error: BaseException, report: pytest.TestReport) -> None:
    if log.records:
        if not isinstance(error, pytest.skip.Exception | pytest.xfail.Exception):
            log.blame(error)
        return
    from stabilitykit.results.record import Record

    function = str(getattr(log.item, "originalname", log.item.name))
    verdict = verdict_of(error)
    if isinstance(error, pytest.skip.Exception):
        # A subject that cannot be had skips the test from within the error's handler.
        verdict = "unsupported" if isinstance(error.__context__, UnsupportedError) else "skipped"
    elif report.when == "setup" and verdict == "fail":
        verdict = "invalid"  # a test that never began has not failed a measurement
    check_id = log.check_id(function.removeprefix("test_"))
    log.file(Record(check_id, log.item.nodeid, verdict, message=said(error), worker=worker()))


def _shorten(item: pytest.Item, error: BaseException, report: pytest.TestReport) -> None:
    """Of bad input the suite shows the sentence: a way through our own code would tell its reader nothing."""
    if isinstance(error, StabilityError):
        if isinstance(error, BAD_INPUT) or report.when == "setup":
            setattr(report, CODE, error.exit_code)
        if suite.contains(item.path):
            report.longrepr = f"{type(error).__name__}: {error}"


def worker() -> str:
    """Return the name of this xdist worker, or nothing."""
    return os.environ.get("PYTEST_XDIST_WORKER", "")


def _properties(records: list[Record]) -> list[tuple[str, object]]:
    """Return (name, number) for JUnit; the check's name is in it only where one test has several."""
    found: list[tuple[str, object]] = []
    for record in records:
        prefix = "stability." if len(records) == 1 else f"stability.{record.check_id.split('[', 1)[0]}."
        for name, reading in record.result.readings.items() if record.result else ():
            value = float(reading.value)
            whole = math.isfinite(value) and value.is_integer()
            found.append((prefix + name, int(value) if whole else value))
    return found


def _text(item: pytest.Item, record: Record) -> str:
    from stabilitykit.results.record import Record as Kind

    data: dict[str, Any] = record.to_dict()
    item.config.hook.pytest_stability_update_record(record=data)
    text = json.dumps(data, allow_nan=False, sort_keys=True)
    Kind.from_dict(json.loads(text))  # what a hook made of it must still be a record
    return text
