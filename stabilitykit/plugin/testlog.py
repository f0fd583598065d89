"""What one test has measured so far: records by check, along which directions, and how they were judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest

from stabilitykit.errors import StabilityError, UsageError
from stabilitykit.plugin.hygiene import Watch

if TYPE_CHECKING:
    from stabilitykit.measurements.base import Cost
    from stabilitykit.plugin.plan import Planned
    from stabilitykit.plugin.recipes import Key, Trial
    from stabilitykit.report.journal import Finished
    from stabilitykit.results.record import Record
    from stabilitykit.subjects.answers import Kept

CURRENT = pytest.StashKey[pytest.Item]()
_LOG = pytest.StashKey["TestLog"]()


class TestLog:
    """The records of one test, by check id, in the order of their first measurement."""

    __test__ = False

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.watch = Watch()
        self.records: dict[str, Record] = {}
        self.trials: dict[str, dict[Key, Trial]] = {}
        self.planned: dict[str, Planned] = {}
        self.stated: Cost | None = None
        self.kept: Kept | None = None
        self.taken: Finished | None = None
        self.ended: dict[str, Any] = {}
        self.latest: Sequence[Trial] = ()
        self.along: dict[str, dict[str, dict[str, float]]] = {}
        self._sent: set[str] = set()
        self._last = ""

    def check_id(self, name: str) -> str:
        """Return `name[class-parameters]`, or `name[test name]` where there is neither: no path is in it."""
        parts = [getattr(self.item, "cls", None), getattr(self.item, "callspec", None)]
        known = [getattr(part, "__name__", None) or part.id for part in parts if part is not None]
        return f"{name}[{'-'.join(known) or self.item.name}]"

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
        self.latest = [trial for trial in trials if trial.again]
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
        if self.latest and check_id == self._last:
            from stabilitykit.plugin.recipes import failing, key

            self.records[check_id] = failing(self.records[check_id], [trial.entry for trial in self.latest])
            self.trials[check_id] |= {key(trial.entry): trial for trial in self.latest}

    def stated_rows(self) -> dict[str, int]:
        """Return what the last measurement had stated, under the names of what it then took."""
        return {} if self.stated is None else asdict(self.stated)

    def met_along(self) -> list[str]:
        """Return the line that says along which direction was measured last, if it was along one."""
        return [trial.sentence for trial in self.latest]

    def blame(self, error: BaseException) -> None:
        """A test that failed on its own after measuring failed over what it measured last."""
        measured = getattr(getattr(error, "result", None), "check_id", None)
        check_id = self.check_id(measured) if measured else self._last
        check_id = check_id if check_id in self.records else self._last
        if self.records[check_id].verdict != "invalid":
            self.judge(check_id, verdict_of(error), "\n".join([said(error), *self.met_along()]))

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

        log.latest = ()  # whatever fails from here on is not met along what the search measured last
        confirm(log)


def uses_stability(item: pytest.Item) -> bool:
    """Return whether this test measures: it asks for the fixture, directly or through another, or has done so."""
    return "stability" in getattr(item, "fixturenames", ()) or _LOG in item.stash


def verdict_of(error: BaseException) -> str:
    """Return what a test that ended in this error is filed as."""
    if isinstance(error, StabilityError):
        return error.verdict
    # pytest-timeout fails a test with a message of this form, and has no class for it.
    return "timeout" if str(error).startswith("Timeout (>") else "fail"


def said(error: BaseException) -> str:
    """Return an error as a record's message: a sentence of ours as it is, another's with its class."""
    text = str(getattr(error, "msg", None) or error)
    return text if isinstance(error, StabilityError | AssertionError) and text else f"{type(error).__name__}: {text}"
