"""The controller's side: records come in on reports, go to the journal, and at the end into the report."""

from __future__ import annotations

import json
import os
import shlex
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stabilitykit.errors import IncomparableError
from stabilitykit.plugin import budget, keep, plan, planting, resume, suite
from stabilitykit.plugin.options import SETTINGS
from stabilitykit.plugin.recorder import CODE, DONE, JSON, KIND, PLAN, REFUSED, TAKEN
from stabilitykit.report.journal import Journal
from stabilitykit.settings import BAD_INPUT, COMMAND

if TYPE_CHECKING:
    from stabilitykit.plugin.places import Places
    from stabilitykit.results.record import Record, Run

ENVIRONMENT = "stability_environment"


class Collector:
    """Everything a run found; the only object that writes files, and only on the controller."""

    def __init__(self, config: pytest.Config, places: Places | None = None) -> None:
        self.config = config
        self.places = places
        self.settings = config.stash[SETTINGS]
        self.started, self.run_id = _now(), uuid.uuid4().hex
        self.resumption = config.stash.get(resume.RESUMED, None)
        kept = None if self.settings.dry_run else self.settings.report
        self.journal = self._open_journal(kept) if kept else None
        self.taken = 0
        self.planned: list[plan.Planned] = []
        self.refused = ""
        self.texts: list[str] = []
        self._records: tuple[int, list[Record]] = (0, [])
        self.kinds: dict[str, str] = {}
        self.environments: dict[str, str] = {}
        self.died: dict[str, str] = {}
        self.notes: list[str] = []
        self.codes: set[int] = set()
        self.index: Path | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Keep the session, to stop it where it must not go on."""
        self.session = session

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the records off a report."""
        self.kinds[report.nodeid] = getattr(report, KIND, "")
        if hasattr(report, REFUSED):
            self.refused = getattr(report, REFUSED)
            self.session.shouldstop = "not resumed"
            return
        if self.journal and self.kinds[report.nodeid] and report.passed and not self.resumption:
            self.journal.begin()  # from here on work may be lost, and it must be known what it was of
        self.planned += plan.from_json(getattr(report, PLAN, "[]"))
        self.codes |= {getattr(report, CODE)} if hasattr(report, CODE) else set()
        taken = hasattr(report, TAKEN)
        for text in getattr(report, JSON, ()):
            self._keep(text, journaled=taken)
        if self.journal and hasattr(report, DONE):
            self.journal.keep(getattr(report, DONE), "done")

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """File a test whose worker died, unless it is known not to measure."""
        worker = report.node.gateway.id
        self.died.pop(worker, None)
        if self.kinds.get(crashitem, "unknown") == "":
            return
        name = crashitem.rsplit("::", 1)[-1].removeprefix("test_")
        check_id = name if name.endswith("]") else f"{name}[test_{name}]"
        self._crashed(check_id, worker, f"the worker process died in {crashitem}", crashitem)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """Take the environment that a worker measured in; a crashed one leaves none."""
        output = getattr(node, "workeroutput", {})
        if output.get(ENVIRONMENT):
            self.environments[node.gateway.id] = output[ENVIRONMENT]
        if error is not None:
            self.died[node.gateway.id] = str(error)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report, and refuse to call a run green in which the suite did not run, or a worker died."""
        self._count_dead(session)
        if self.refused:
            self._refuse(session)
        elif self.texts:
            if self.journal and self.journal.problem:
                self.notes.append(self.journal.problem)
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            self._note(session)
            self._keep_baselines(session)
            if self.settings.report:
                self._write(session, self.settings.report)
        ran = "suite" in self.kinds.values()
        if self.settings.suite and not ran and not session.config.option.collectonly and session.exitstatus in (0, 5):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
            self.notes.append(suite.MISSING)
        if os.environ.get(COMMAND) and self.codes:
            session.exitstatus = BAD_INPUT + max(self.codes)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table and the report's path; under -q the path alone."""
        lines: list[str] = []
        if self.texts and terminalreporter.verbosity >= 0:
            from stabilitykit.report import replay_lines, table

            terminalreporter.section("stability")
            lines += [*table(self.records()), *replay_lines(self.records())]
        if self.settings.dry_run:
            terminalreporter.section("stability: stated cost")
            lines += plan.table(self.planned, self.settings.profile.name)
        lines += self.notes
        if self.index:
            lines.append(f"stability report: {self.index}")
        for line in lines:
            terminalreporter.write_line(line)

    def records(self) -> list[Record]:
        """Return the records by check id, which no two of them share; read once, for the texts are many megabytes."""
        from stabilitykit.results.record import Record

        if self._records[0] != len(self.texts):
            self._records = len(self.texts), distinct([Record.from_dict(json.loads(text)) for text in self.texts])
        return self._records[1]

    def run(self) -> Run:
        """Return the provenance of what is collected."""
        from stabilitykit.results.record import Run

        first = min(self.environments) if self.environments else ""
        text = self.environments[first] if first else environment_json(self.config)
        return Run(
            run_id=self.run_id,
            started=self.started,
            command=self._command(),
            settings=self.settings.to_dict(),
            environment=json.loads(text),
            notes=tuple(self.notes),
            workers=self._workers(),
        )

    def _workers(self) -> dict[str, dict[str, Any]]:
        """Return where each worker measured: its device, if it was given one, and its environment."""
        device = self.places.device if self.places else lambda _: self.settings.device
        return {
            worker: {"device": device(worker), "environment": json.loads(text)}
            for worker, text in sorted(self.environments.items())
        }

    def _count_dead(self, session: pytest.Session) -> None:
        """File a worker that died outside of any test, which xdist does not call a failure; without it, no pass."""
        if not (self.texts or self.settings.suite):
            return
        for worker, error in self.died.items():
            self._crashed(f"worker[{worker}]", worker, f"the worker process died outside of any test: {error}")
            if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _crashed(self, check_id: str, worker: str, message: str, nodeid: str = "") -> None:
        from stabilitykit.results.record import Record

        if self.places and (device := self.places.device(worker)):
            message += f", on {device}"
        record = Record(check_id, nodeid, "crash", message=message, worker=worker)
        self._keep(json.dumps(record.to_dict(), sort_keys=True))

    def _keep(self, text: str, *, journaled: bool = False) -> None:
        self.texts.append(text)
        if journaled:
            self.taken += 1
        elif self.journal:
            self.journal.keep(text)

    def _open_journal(self, folder: Path) -> Journal:
        about = {"run_id": self.run_id, "started": self.started, "command": self._command()}
        header = {**about, "identity": resume.identity(self.config, self.settings)}
        return Journal(folder, json.dumps(header, sort_keys=True), resumed=self.resumption is not None)

    def _command(self) -> str:
        return os.environ.get(COMMAND) or shlex.join(["pytest", *self.config.invocation_params.args])

    def _note(self, session: pytest.Session) -> None:
        """Say what was taken over and how to go on, and which limit held nothing: that looks like a gate passed."""
        self.notes += planting.note(self.settings)
        self.notes += plan.broken(self.records())
        self.notes += resume.notes(self.resumption, self.settings, len(self.texts), self.taken)
        if session.exitstatus == pytest.ExitCode.INTERRUPTED and self.settings.report:
            self.notes.append(resume.offer(self._command(), len(self.texts)))
        checks = [json.loads(text)["check_id"] for text in self.texts]
        for limit in self.settings.limits:
            if not any(limit.applies(check) for check in checks):
                self.notes.append(f"--stability-limit {limit} held no check of this run")
        if self.settings.known:
            from stabilitykit.results.known import stale

            self.notes += stale(self.settings.known, checks, [record.known for record in self.records()])
        self.notes += budget.note(self.settings, self.records())

    def _keep_baselines(self, session: pytest.Session) -> None:
        """Write the baselines that the options name."""
        notes, whole = keep.finish(self.config, self.settings, self.records())
        self.notes += notes
        if not whole:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def _refuse(self, session: pytest.Session) -> None:
        """End a run that would have mixed two; the journal and the former report stay as they are."""
        self.notes.append(f"not resumed: {self.refused}")
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
        if os.environ.get(COMMAND):
            session.exitstatus = BAD_INPUT + IncomparableError.exit_code

    def _write(self, session: pytest.Session, folder: Path) -> None:
        from stabilitykit.report import write

        try:
            self.index = write(self.run(), self.records(), folder)
        except OSError as error:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            has_all = "" if self.journal and self.journal.problem else f"; {folder / 'journal.jsonl'} has all"
            self.notes.append(f"stability report not written to {folder}: {error}{has_all}")


class WorkerEnd:
    """A worker's side: its environment travels to the controller when it ends, if it measured anything."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.measured = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notice a record."""
        self.measured = self.measured or hasattr(report, JSON)

    def pytest_sessionfinish(self) -> None:
        """Say where it was measured."""
        if self.measured:
            self.config.workeroutput[ENVIRONMENT] = environment_json(self.config)  # type: ignore[attr-defined]


def environment_json(config: pytest.Config) -> str:
    """Return this process's environment, with what `pytest_stability_machine_info` adds, as JSON."""
    from stabilitykit.results.plain import to_plain
    from stabilitykit.subjects.environment import environment

    found: dict[str, Any] = dict(environment(None))
    for added in config.hook.pytest_stability_machine_info():
        found.update(added or {})
    return json.dumps(to_plain(found), sort_keys=True)


def distinct(records: list[Record]) -> list[Record]:
    """Return the records with ids that differ, sorted by them.

    Where two tests measure the same thing with the same parameters, each gets its test function's name added; where
    that is not enough, its file's, then its worker's (with `--dist each` all run all), then a number.
    """
    additions: list[Callable[[Record], str]] = [
        lambda record: record.nodeid.rsplit("::", 1)[-1].split("[", 1)[0],
        lambda record: Path(record.nodeid.split("::", 1)[0]).stem,
        lambda record: record.worker,
    ]
    for addition in additions:
        counts = Counter(record.check_id for record in records)
        records = [
            replace(record, check_id=f"{record.check_id}@{addition(record)}") if counts[record.check_id] > 1 else record
            for record in records
        ]
    seen: Counter[str] = Counter()
    numbered = []
    for record in sorted(records, key=lambda record: (record.check_id, record.nodeid)):
        seen[record.check_id] += 1
        number = seen[record.check_id]
        numbered.append(record if number == 1 else replace(record, check_id=f"{record.check_id}#{number}"))
    return numbered


def _now() -> str:
    """Return the time in UTC; SOURCE_DATE_EPOCH fixes it for a report that must be reproduced byte for byte."""
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    return datetime.fromtimestamp(seconds, UTC).isoformat()
