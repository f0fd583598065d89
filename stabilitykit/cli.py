"""The command line: `stabilitykit run` measures; the other commands are modules of their own."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from stabilitykit import cli_bisect, cli_compare, cli_devices, cli_margins
from stabilitykit.errors import StabilityError
from stabilitykit.settings import BAD_INPUT, COMMAND, OPTIONS, Option, Settings, arguments, resolve

_INI = Path(__file__).with_name("run.ini")
_REPORT = "reports"
_TESTS = {"record": "test_trace", "against": "test_cross_device or test_first_divergence or test_drift"}
_COMMANDS = {"bisect": cli_bisect, "compare": cli_compare, "devices": cli_devices, "margins": cli_margins}
# pytest's exit status -> ours: 0 pass, 1 differs or fails, 2 usage, 3 unreadable or broken, 130 interrupted.
_STATUS = {-signal.SIGINT: 130, 0: 0, 1: 1, 2: 130, 3: 3, 4: 2, 5: 2, BAD_INPUT + 2: 2, BAD_INPUT + 3: 3}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 pass, 1 differs or fails, 2 usage, 3 unreadable."""
    words = list(sys.argv[1:] if argv is None else argv)
    # What follows `--` is pytest's own; argparse would take its options for ours.
    split = words.index("--") if "--" in words else len(words)
    given = _parser().parse_args(words[:split])
    try:
        if given.command == "models":
            return _models()
        if given.command in _COMMANDS:
            status, lines = _COMMANDS[given.command].run(given, words[1:])
            print(*lines, sep="\n")
            return int(status)
        return _run({option.name: getattr(given, option.key) for option in _offered()}, words[split + 1 :])
    except StabilityError as error:
        print(f"stabilitykit {given.command}: {error}", file=sys.stderr)
        return error.exit_code


def _run(given: dict[str, Any], rest: list[str]) -> int:
    """Run the installed suite in a pytest of its own, which reads no configuration file of the user's."""
    asked = {**given, "suite": True, "report": given["report"] or _REPORT}
    _check(resolve(lambda option: asked.get(option.name), lambda _: None, Path.cwd()))
    isolated = ["-c", str(_INI), f"--rootdir={Path.cwd()}"]
    # A recording takes two minutes; the rest of the suite would take five more that nobody asked for.
    asked_for = [tests for option, tests in _TESTS.items() if given[option]]
    chosen = ["-k", " or ".join(asked_for)] if asked_for and not rest else rest
    command = [sys.executable, "-m", "pytest", "-p", "stabilitykit.plugin", *isolated, *arguments(asked), *chosen]
    told = {
        **os.environ,
        COMMAND: shlex.join(["stabilitykit", "run", *_shown(given), *(["--", *rest] if rest else [])]),
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
    replayed = ""
    if settings.replay:
        from stabilitykit.report.read import read

        replayed = read(settings.replay).run.run_id
    if settings.resume and settings.report:
        from stabilitykit.report.journal import resumable

        resumable(settings.report, settings.identity(replayed))


def _shown(given: dict[str, Any]) -> list[str]:
    return [word.replace("--stability-", "--", 1) for word in arguments(given)]


def _models() -> int:
    from stabilitykit.subjects.models import available

    rows = available()
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print(f"{row['name']:<{width}}  {row['state']}  {row['where']}".rstrip())
    return 0


def _offered() -> list[Option]:
    return [option for option in OPTIONS if option.name != "suite"]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="stabilitykit", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="measure a model and write the report",
        description="Measure a model and write the report (default: reports). Arguments after -- go to pytest. With "
        "--record or --against, and nothing after --, only the generation is measured.",
        allow_abbrev=False,
    )
    for option in _offered():
        shown = option.explained.replace("%", "%%")
        if option.kind == "flag":
            run.add_argument(f"--{option.name}", dest=option.key, action="store_true", default=None, help=shown)
        else:
            action = "append" if option.kind == "list" else "store"
            run.add_argument(
                f"--{option.name}", dest=option.key, action=action, metavar=option.metavar, default=None, help=shown
            )
    for name, module in _COMMANDS.items():
        about = str(module.__doc__).split(": ", 1)[-1]
        module.add(commands.add_parser(name, help=module.HELP, description=about, allow_abbrev=False))
    commands.add_parser("models", help="list the models that can be opened without a network", allow_abbrev=False)
    return parser
