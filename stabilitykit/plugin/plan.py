"""What checks say they will cost: told before each, listed by `--stability-dry-run`, held against what they took."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TextIO
from weakref import WeakKeyDictionary

import pytest

if TYPE_CHECKING:
    from stabilitykit.measurements.base import Cost, Measurement
    from stabilitykit.plugin.testlog import TestLog
    from stabilitykit.results.record import Record

COLUMNS = {"forwards": "forwards", "backwards": "backwards", "screened": "first blocks", "calls": "calls"}
_BACKWARD = 3
"""Forwards that a backward is counted as in an estimate of time: one forward, and two for the gradients."""
_LIE, _SLACK = 2, 100
SKIPPED = "dry run: nothing was measured"


@dataclass(frozen=True)
class Planned:
    """One check of a dry run: what it states for all its examples, and how long that may take if that can be known."""

    check_id: str
    cost: Mapping[str, int]
    examples: int = 1
    seconds: float | None = None
    goes_on: bool = False

    def __add__(self, other: Planned) -> Planned:
        """Add what the same check is asked next."""
        known = self.seconds is not None and other.seconds is not None
        return Planned(
            self.check_id,
            {name: count + other.cost[name] for name, count in self.cost.items()},
            self.examples + other.examples,
            (self.seconds or 0) + (other.seconds or 0) if known else None,
            self.goes_on or other.goes_on,
        )


class Unmeasured:
    """Stands in for a result in a dry run: a test that only asks goes on to its next question, any use ends it."""

    def __init__(self, log: TestLog, check_id: str) -> None:
        self._log = log
        self._check_id = check_id

    def __getattr__(self, name: str) -> NoReturn:
        """End the test: what it would do with a number cannot be known."""
        self._log.planned[self._check_id] = _cut(self._log.planned[self._check_id])
        pytest.skip(SKIPPED)


def stated(measurement: Measurement[Any], subjects: Iterable[Any]) -> Cost:
    """Return what the measurement says it costs on these; what it cannot be asked of is left to it to refuse."""
    from stabilitykit.measurements.base import Cost

    return sum((measurement.cost(one) for one in subjects if isinstance(one, measurement.needs)), Cost())


def announce(measurement: Measurement[Any], subjects: Sequence[Any], out: TextIO | None) -> None:
    """Say what a check costs before its work begins, with how often a Hypothesis test may ask it."""
    if out is not None:
        from stabilitykit.strategies import planned

        times = f", up to {planned():,} times" if planned() > 1 else ""
        out.write(f"{type(measurement).__name__}: {stated(measurement, subjects)}{times}\n")


def instead(log: TestLog, check_id: str, measurement: Measurement[Any], subjects: Sequence[Any]) -> Unmeasured:
    """Note a check's cost in place of measuring; a Hypothesis test is counted in full, and ends here."""
    from stabilitykit.strategies import planned

    examples = planned()
    costs = [stated(measurement, [one]) * examples for one in subjects]
    times = [estimate(cost, one) for cost, one in zip(costs, subjects, strict=True)]
    known = [seconds for seconds in times if seconds is not None]
    cost = asdict(sum(costs[1:], costs[0])) if costs else {}
    noted = Planned(check_id, cost, examples, sum(known) if len(known) == len(times) else None)
    log.planned[check_id] = log.planned[check_id] + noted if check_id in log.planned else noted
    if examples > 1:
        pytest.skip(SKIPPED)
    return Unmeasured(log, check_id)


def estimate(cost: Cost, subject: Any) -> float | None:
    """Return a rough time in seconds from one timed forward; None for what has no forward to time.

    A backward counts as three forwards, a first block as its share of the blocks.
    """
    from stabilitykit.subjects.subject import Subject

    if not isinstance(subject, Subject) or cost.calls:
        return None
    if subject not in _paces:
        subject.evaluate(subject.copies(subject.batch))  # the first call of a kind may take long
        begun = time.perf_counter()
        subject.evaluate(subject.copies(subject.batch))
        _paces[subject] = (time.perf_counter() - begun) / subject.batch
    rows = cost.forwards + _BACKWARD * cost.backwards + cost.screened / max(subject.depth, 1)
    return rows * _paces[subject]


def table(planned: Sequence[Planned], profile: str) -> list[str]:
    """Return the lines of a dry run: a check each, the total, and what the numbers leave out."""
    from stabilitykit.report.text import aligned

    shown = [column for column in COLUMNS if any(one.cost.get(column) for one in planned)] or ["forwards"]
    rows = [["check", *(COLUMNS[column] for column in shown), "about"]]
    rows += [[one.check_id, *(f"{one.cost.get(c, 0):,}" for c in shown), _time(one.seconds)] for one in planned]
    known = [one.seconds for one in planned if one.seconds is not None]
    total = [f"{sum(one.cost.get(c, 0) for one in planned):,}" for c in shown]
    rows.append([f"{len(planned)} checks, profile {profile}", *total, _time(sum(known)) if known else "-"])
    return [*aligned(rows, "<>"), *_remarks(planned)]


def broken(records: Iterable[Record]) -> list[str]:
    """Return a sentence for each check that took over twice the rows through the model that it had stated."""
    found = []
    for record in records:
        if record.result is None or record.resumed:
            continue
        told = record.stated.get("forwards", 0) + record.stated.get("backwards", 0)
        spent = record.result.execution
        took = spent.forwards + spent.backwards + spent.tangents
        if took > _LIE * told + _SLACK:
            found.append(
                f"{record.check_id} stated {told:,} rows through the model and took {took:,}; correct its cost"
            )
    return found


def to_json(planned: Iterable[Planned]) -> str:
    """Return the plans of a test, to travel on its report."""
    return json.dumps([asdict(one) for one in planned])


def from_json(text: str) -> list[Planned]:
    """Undo `to_json`."""
    return [Planned(**one) for one in json.loads(text)]


def _remarks(planned: Sequence[Planned]) -> list[str]:
    said = ["Times are rough: one forward of each subject was timed, and a backward counted as three."]
    if unknown := sum(one.seconds is None for one in planned):
        said.append(f"Of {unknown} checks the time is not known; the total is without it.")
    if cut := sum(one.goes_on for one in planned):
        said.append(f"{cut} tests use what they measure: what they may ask after that is not counted.")
    return [*said, "What tests compute beside their measurements is not counted either."]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1g} s" if seconds < 1 else f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"


def _cut(planned: Planned) -> Planned:
    return Planned(**{**asdict(planned), "goes_on": True})


_paces: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
