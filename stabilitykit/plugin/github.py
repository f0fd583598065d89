"""In a GitHub workflow: the run as the step's summary, and a note at each check that needs a look."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stabilitykit.plugin.collector import Collector
    from stabilitykit.results.record import Record

# GitHub shows so many of each kind a step, and drops the others without a word.
_SHOWN = 10
# This plugin annotates every failed test, ours among them.
_ANNOTATOR = "pytest_github_actions_annotate_failures"


class GitHub:
    """The controller's side; registered only where the variables of a workflow are set."""

    def __init__(self, config: pytest.Config, collector: Collector) -> None:
        self.config = config
        self.collector = collector

    @staticmethod
    def wanted() -> bool:
        """Return whether this process runs in a workflow."""
        return os.environ.get("GITHUB_ACTIONS") == "true" or bool(os.environ.get("GITHUB_STEP_SUMMARY"))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Append the summary and print the annotations; neither can change the run's outcome."""
        records = self.collector.records()
        if not records:
            return
        if path := os.environ.get("GITHUB_STEP_SUMMARY"):
            from stabilitykit.report.markdown import summary

            try:
                with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(summary(self.collector.run(), records))
            except OSError as error:
                terminalreporter.write_line(f"step summary not written: {error}")
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for line in commands(records, failures=not self.config.pluginmanager.hasplugin(_ANNOTATOR)):
                terminalreporter.write_line(line)


def commands(records: list[Record], *, failures: bool) -> list[str]:
    """Return workflow commands: an error for what failed, a warning for what only differs, the most urgent first."""
    from stabilitykit.report.verdicts import urgency, verdict

    kinds: dict[str, list[str]] = {"error": [], "warning": []}
    for record in sorted(records, key=lambda record: urgency(record.verdict)):
        if verdict(record.verdict).tone == "bad":
            gone = record.gate or record.verdict in {"fail", "crash", "timeout"}
            kinds["error" if gone else "warning"].append(_command("error" if gone else "warning", record))
    kept = [*(kinds["error"] if failures else [])[:_SHOWN], *kinds["warning"][:_SHOWN]]
    left = sum(map(len, kinds.values())) - len(kept) - (0 if failures else len(kinds["error"]))
    return [*kept, f"::notice title=stability::{left} more checks need a look; see the report"] if left else kept


def _command(kind: str, record: Record) -> str:
    from stabilitykit.report.text import shown

    file = record.nodeid.split("::", 1)[0]
    # A file of the installed suite is not in the repository that the workflow annotates.
    place = f"file={_property(file)}," if file and (Path.cwd() / file).is_file() else ""
    title = _property(f"{record.verdict}: {shown(record.check_id)}")
    return f"::{kind} {place}title={title}::{_data(shown(record.headline))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
