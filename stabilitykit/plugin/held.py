"""`--stability-baseline`: what a test measured is held to what was there before, inside the test."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from stabilitykit.baselines.store import Baseline, read
from stabilitykit.errors import IncomparableError, StabilityError
from stabilitykit.plugin.excused import excused

if TYPE_CHECKING:
    from stabilitykit.baselines.compare import Comparison
    from stabilitykit.baselines.entry import Course, Entry
    from stabilitykit.plugin.recipes import Trial
    from stabilitykit.plugin.testlog import TestLog
    from stabilitykit.results.result import Result
    from stabilitykit.settings import Settings
    from stabilitykit.strategies.recorded import Recorded

JUDGED = ("pass", "measured", "differs")
"""Verdicts that a baseline has a say in: whatever failed on its own stays as it is."""

UPDATED = {
    "": (),
    "new": ("new", "elsewhere"),
    "all": ("new", "elsewhere", "other question", "foreign", "drifted", "better"),
}
"""What each mode of `--stability-update` writes, by what became of a check."""

_UNCOMPARED = {"new": "new", "elsewhere": "incomparable", "other question": "incomparable"}


class Held:
    """The baseline of a run, as it was when the run began, and what is compared with it."""

    def __init__(self, baseline: Baseline, settings: Settings) -> None:
        self.baseline = baseline
        self.settings = settings

    def directions(self, check_ids: list[str], dim: int) -> list[Recorded]:
        """Return the recorded directions of a check, to be measured again before any are drawn.

        IncomparableError where they have another dimension, UnreadableError where their bits are damaged.
        """
        found = {course.digest: (course, entry) for entry in self.of(check_ids) for course in entry.courses}
        for course, entry in found.values():
            if course.recipe.get("dim") != dim:
                raise IncomparableError(
                    f"{course.direction} of {entry.check} in {self.baseline.name} has {course.recipe.get('dim')} "
                    f"coordinates and the input has {dim}; compare with the baseline of this model"
                )
        return [_recorded(course, entry) for course, entry in found.values()]

    def note(self, log: TestLog, check_id: str, tried: Sequence[Trial], result: Result) -> None:
        """Remember what was measured along a direction that the baseline has readings along: the same bits."""
        known = {course.digest for entry in self.of(names(log.item, check_id)) for course in entry.courses}
        for trial in tried:
            if trial.entry["digest"] in known:
                measured = {name: float(reading.value) for name, reading in result.readings.items()}
                log.along.setdefault(check_id, {})[trial.entry["digest"]] = measured

    def judge(self, log: TestLog, rerun: Callable[[pytest.Item], str]) -> None:
        """Compare what the test measured: StabilityFailure where it has drifted, or had to be there and is not."""
        __tracebackhide__ = True
        failures = [self._judge(log, check_id, rerun) for check_id in list(log.records)]
        if found := [failure for failure in failures if failure is not None]:
            raise found[0]

    def _judge(self, log: TestLog, check_id: str, rerun: Callable[[pytest.Item], str]) -> Exception | None:
        from stabilitykit.baselines.compare import compare
        from stabilitykit.baselines.measured import entry_of
        from stabilitykit.baselines.words import sentence
        from stabilitykit.results.failure import StabilityFailure

        record = log.records[check_id]
        now = entry_of(log.whole(check_id)) if record.verdict in JUDGED else None
        if now is None or record.result is None:
            return None
        found = compare(now, self.of(names(log.item, check_id)), self.settings.compare_fail, log.along.get(check_id))
        log.records[check_id] = replace(record, baseline=_plain(found), gate=record.gate or found.compared)
        told = sentence(found, self.baseline.name)
        if self._fails(found):
            again = rerun(log.item)
            message = self._drift(found, record.result, again) if found.broken else f"{check_id}: {told}\n\n{again}"
            if excused(log, check_id, message):
                return None
            log.judge(check_id, "fail", message)
            return StabilityFailure(message, replace(record.result, check_id=check_id.split("[", 1)[0]))
        if found.status in UPDATED[self.settings.update]:
            told = f"not held to {self.baseline.name}, which is updated"
        log.judge(check_id, self._verdict(found, record.verdict), told)
        return None

    def _fails(self, found: Comparison) -> bool:
        if found.status in UPDATED[self.settings.update]:
            return False
        return found.status in ("drifted", "foreign") or (
            found.status in _UNCOMPARED and self.settings.require_baseline
        )

    @staticmethod
    def _verdict(found: Comparison, verdict: str) -> str:
        """Return the check's verdict: a finding in red does not turn into another colour for want of a baseline."""
        if found.status in ("same", "better"):
            return "pass"
        if found.status in _UNCOMPARED and verdict != "differs":
            return _UNCOMPARED[found.status]
        return verdict

    def _drift(self, found: Comparison, result: Result, rerun: str) -> str:
        from stabilitykit.baselines.words import explanation
        from stabilitykit.results.failure import render_drift

        accept = f"Accept: --stability-baseline={shlex.quote(self.baseline.name)} --stability-update=all"
        return render_drift(result, found.drifts, explanation(found.changes), (rerun, accept))

    def of(self, check_ids: list[str]) -> list[Entry]:
        """Return the entries of a check under the first of its names that has any."""
        return next((found for check_id in check_ids if (found := self.baseline.of(check_id))), [])


def opened(settings: Settings) -> Held | None:
    """Return the run's baseline, None without the option; pytest.UsageError for an unreadable one, before all else."""
    if settings.baseline is None:
        return None
    try:
        found = read(settings.baseline)
    except StabilityError as error:
        raise pytest.UsageError(f"--stability-baseline: {error}") from None
    if settings.require_baseline and not found.exists and not settings.update:
        raise pytest.UsageError(
            f"--stability-require-baseline: there is no {found.name}; write it with --stability-update=new"
        )
    return Held(found, settings)


def judge(log: TestLog, rerun: Callable[[pytest.Item], str]) -> None:
    """Hold what a test measured to the run's baseline, if there is one and the test was not taken over."""
    held = log.item.config.stash.get(HELD, None)
    if held and log.records and not log.taken:
        held.judge(log, rerun)


def names(item: pytest.Item, check_id: str) -> list[str]:
    """Return under which names a check may be kept: where two tests measure the same, each has its test's added."""
    function = item.nodeid.rsplit("::", 1)[-1].split("[", 1)[0]
    return [f"{check_id}@{function}@{item.path.stem}", f"{check_id}@{function}", check_id]


def _plain(found: Comparison) -> dict[str, Any]:
    told = {drift.label: {"then": drift.then, "allowed": drift.allowed, "kind": drift.kind} for drift in found.drifts}
    return {"status": found.status, "readings": told, "changes": [list(change) for change in found.changes]}


def _recorded(course: Course, entry: Entry) -> Recorded:
    import torch

    from stabilitykit.strategies.recorded import Recorded

    raw = entry.bits.get(course.digest)
    vector = None if raw is None else torch.frombuffer(bytearray(raw), dtype=torch.float64).clone()
    return Recorded.from_dict(course.recipe, vector, course.digest)


HELD = pytest.StashKey[Held | None]()
"""What the run's checks are compared with."""
