"""`stabilitykit run`: measure a model with the installed suite and write the report."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stabilitykit.settings import BAD_INPUT, COMMAND, OPTIONS, Option, Settings, arguments, resolve

HELP = "measure a model and write the report"
DESCRIPTION = (
    "Measure a model and write the report (default: reports). Arguments after -- go to pytest. With --record or "
    "--against, and nothing after --, only the generation is measured."
)
_INI = Path(__file__).with_name("run.ini")
_REPORT = "reports"
_TESTS = {"record": "test_trace", "against": "test_cross_device or test_first_divergence or test_drift"}
# pytest's exit status -> ours: 0 pass, 1 differs or fails, 2 usage, 3 unreadable or broken, 130 interrupted.
_STATUS = {-signal.SIGINT: 130, 0: 0, 1: 1, 2: 130, 3: 3, 4: 2, 5: 2, BAD_INPUT + 2: 2, BAD_INPUT + 3: 3}


def add(parser: argparse.ArgumentParser) -> None:
    """Declare every option of the plugin without its prefix."""
    for option in _offered():
        shown = option.explained.replace("%", "%%")
        if option.kind == "flag":
            parser.add_argument(f"--{option.name}", dest=option.key, action="store_true", default=None, help=shown)
        else:
            action = "append" if option.kind == "list" else "store"
            parser.add_argument(
                f"--{option.name}", dest=option.key, action=action, metavar=option.metavar, default=None, help=shown
            )


def run(given: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run the installed suite in a pytest of its own, which reads no configuration file of the user's."""
    options = {option.name: getattr(given, option.key) for option in _offered()}
    asked = {**options, "suite": True, "report": options["report"] or _REPORT}
    _check(resolve(lambda option: asked.get(option.name), lambda _: None, Path.cwd()))
    isolated = ["-c", str(_INI), f"--rootdir={Path.cwd()}"]
    # A recording takes two minutes; the rest of the suite would take five more that nobody asked for.
    asked_for = [tests for option, tests in _TESTS.items() if options[option]]
    chosen = ["-k", " or ".join(asked_for)] if asked_for and not rest else rest
    command = [sys.executable, "-m", "pytest", "-p", "stabilitykit.plugin", *isolated, *arguments(asked), *chosen]
    told = {
        **os.environ,
        COMMAND: shlex.join(["stabilitykit", "run", *_shown(options), *(["--", *rest] if rest else [])]),
    }
    with subprocess.Popen(command, env=told) as process:  # noqa: S603 - our own interpreter, a list of words
        return _STATUS.get(_wait(process), 3)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Return pytest's exit status. The terminal interrupts pytest as well, which then reports what it has measured."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _check(settings: Settings) -> None:
    """Refuse what cannot be read or joined before pytest starts, which has one exit status for it all."""
    for path in filter(None, (settings.baseline, settings.save)):
        from stabilitykit.baselines.store import read as read_baseline

        read_baseline(path)
    replayed = ""
    if settings.replay:
        from stabilitykit.report.read import read

        replayed = read(settings.replay).run.run_id
    if settings.resume and settings.report:
        from stabilitykit.report.journal import resumable

        resumable(settings.report, settings.identity(replayed))


def _shown(given: dict[str, Any]) -> list[str]:
    return [word.replace("--stability-", "--", 1) for word in arguments(given)]


def _offered() -> list[Option]:
    return [option for option in OPTIONS if option.name != "suite"]
