"""What one test measured: filed before it is judged, merged by measurement, and sent once on the test's report."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from stabilitykit.errors import StabilityError, UnsupportedError, UsageError
from stabilitykit.plugin import suite
from stabilitykit.plugin.hygiene import Watch

if TYPE_CHECKING:
    from stabilitykit.plugin.recipes import Key, Trial
    from stabilitykit.report.journal import Finished
    from stabilitykit.results.record import Record

CURRENT = pytest.StashKey[pytest.Item]()
_LOG = pytest.StashKey["TestLog"]()
# xdist carries plain strings on a report; a numpy number there would kill the whole run.
JSON, KIND, CODE = "_stability_json", "_stability_kind", "_stability_code"
# Beside the records: that they were taken over, that the test is over, and that the run must not go on.
TAKEN, DONE, REFUSED = "_stability_taken", "_stability_done", "_stability_refused"


class TestLog:
    """The records of one test, by check id, in the order of their first measurement."""

    __test__ = False

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.watch = Watch()
        self.records: dict[str, Record] = {}
        self.trials: dict[str, dict[Key, Trial]] = {}
        self.taken: Finished | None = None
        self.ended: dict[str, Any] = {}
        self._latest: Sequence[Trial] = ()
        self._sent: set[str] = set()
        self._last = ""

    def check_id(self, name: str) -> str:
        """Return `name[parameters]`, or `name[test name]` without parameters: no path is in it."""
        callspec = getattr(self.item, "callspec", None)
        return f"{name}[{callspec.id if callspec else self.item.name}]"

    def file(self, record: Record, trials: Sequence[Trial] = ()) -> None:
        """Add a record, merged with what this test has already measured of the same kind; its directions are trials."""
        from stabilitykit.plugin.merge import merge
        from stabilitykit.plugin.recipes import key

        record = replace(record, recipes=tuple(trial.entry for trial in trials))
        held, known = self.records.get(record.check_id), self.trials.setdefault(record.check_id, {})
        self.records[record.check_id] = merged = record if held is None else merge(held, record)
        known |= {key(trial.entry): trial for trial in trials}
        needed = {key(entry) for entry in merged.recipes}
        self.trials[record.check_id] = {name: trial for name, trial in known.items() if name in needed}
        self._latest = [trial for trial in trials if trial.again]
        self._last = record.check_id

    def judge(self, check_id: str, verdict: str, message: str = "") -> None:
        """Set the verdict of a record; among several examples a failure stays, with the last failure's message."""
        record = self.records[check_id]
        if record.verdict in ("fail", "invalid") and verdict not in ("fail", "invalid"):
            return
        self.records[check_id] = replace(record, verdict=verdict, message=message or record.message)
        if verdict in ("fail", "invalid"):
            self._mark(check_id)

    def _mark(self, check_id: str) -> None:
        """Keep the direction along which the failure was met."""
        if self._latest and check_id == self._last:
            from stabilitykit.plugin.recipes import failing, key

            self.records[check_id] = failing(self.records[check_id], [trial.entry for trial in self._latest])
            self.trials[check_id] |= {key(trial.entry): trial for trial in self._latest}

    def met_along(self) -> list[str]:
        """Return the line that says along which direction was measured last, if it was along one."""
        return [trial.sentence for trial in self._latest]

    def blame(self, error: BaseException) -> None:
        """A test that failed on its own after measuring failed over what it measured last."""
        measured = getattr(getattr(error, "result", None), "check_id", None)
        check_id = self.check_id(measured) if measured else self._last
        check_id = check_id if check_id in self.records else self._last
        if self.records[check_id].verdict != "invalid":
            self.judge(check_id, verdict_of(error), "\n".join([_said(error), *self.met_along()]))

    def unsent(self) -> list[Record]:
        """Return the records that no report has carried yet, with the bits of their recipes."""
        waiting = [check_id for check_id in self.records if check_id not in self._sent]
        self._sent.update(waiting)
        return [self.whole(check_id) for check_id in waiting]

    def whole(self, check_id: str) -> Record:
        """Return a record with the bits of its recipes."""
        if not self.records[check_id].recipes or self.taken:
            return self.records[check_id]
        from stabilitykit.plugin.recipes import with_bits

        return with_bits(self.records[check_id], self.trials[check_id])


def log_of(item: pytest.Item) -> TestLog:
    """Return the test's log; it is made when first asked for."""
    return item.stash.setdefault(_LOG, TestLog(item))


def current(config: pytest.Config) -> TestLog:
    """Return the log of the test that is running; UsageError outside of one."""
    item = config.stash.get(CURRENT, None)
    if item is None:
        raise UsageError("stability measures inside a test; no test is running now")
    return log_of(item)


@contextmanager
def naming(item: pytest.Item) -> Iterator[None]:
    """Add to a failure the direction that was measured last: it can be pasted into a test, or replayed."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        for line in log_of(item).met_along():
            error.add_note(line)
        raise


def confirm(item: pytest.Item) -> None:
    """Measure the worst of a search once more."""
    log = log_of(item)
    if any(record.examples > 1 and record.recipes for record in log.records.values()) and not log.taken:
        from stabilitykit.plugin.confirm import confirm

        confirm(log)


def uses_stability(item: pytest.Item) -> bool:
    """Return whether this test measures: it asks for the fixture, directly or through another, or has done so."""
    return "stability" in getattr(item, "fixturenames", ()) or _LOG in item.stash


def attach(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Put the test's records on its report, and their numbers where JUnit finds them."""
    if not uses_stability(item):
        return
    setattr(report, KIND, "suite" if suite.contains(item.path) else "test")
    log = log_of(item)
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


def verdict_of(error: BaseException) -> str:
    """Return what a test that ended in this error is filed as."""
    if isinstance(error, StabilityError):
        return error.verdict
    # pytest-timeout fails a test with a message of this form, and has no class for it.
    return "timeout" if str(error).startswith("Timeout (>") else "fail"


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
    log.file(Record(check_id, log.item.nodeid, verdict, message=_said(error), worker=worker()))


def _shorten(item: pytest.Item, error: BaseException, report: pytest.TestReport) -> None:
    """Of bad input the suite shows the sentence: a way through our own code would tell its reader nothing."""
    if isinstance(error, StabilityError):
        setattr(report, CODE, error.exit_code)
        if suite.contains(item.path):
            report.longrepr = f"{type(error).__name__}: {error}"


def worker() -> str:
    """Return the name of this xdist worker, or nothing."""
    return os.environ.get("PYTEST_XDIST_WORKER", "")


def _said(error: BaseException) -> str:
    text = str(getattr(error, "msg", None) or error)
    return text if isinstance(error, StabilityError | AssertionError) and text else f"{type(error).__name__}: {text}"


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
