"""Measure, compare and localise: each command says with --help what it takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from stabilitykit.cli import ab, baseline, bisect, compare, devices, endpoint, margins, models, predict, report, run
from stabilitykit.errors import StabilityError

_COMMANDS = {
    "ab": ab,
    "baseline": baseline,
    "bisect": bisect,
    "compare": compare,
    "devices": devices,
    "endpoint": endpoint,
    "margins": margins,
    "models": models,
    "predict": predict,
    "report": report,
}


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
        if given.command == "run":
            return run.run(given, words[split + 1 :])
        status, lines = _COMMANDS[given.command].run(given, words[1:])
    except StabilityError as error:
        from stabilitykit.report.text import shown

        print(f"stabilitykit {given.command}: {shown(error)}", file=sys.stderr)
        return error.exit_code
    print(*lines, sep="\n")
    return int(status)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="stabilitykit", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run.add(commands.add_parser("run", help=run.HELP, description=run.DESCRIPTION, allow_abbrev=False))
    for name, module in _COMMANDS.items():
        about = str(module.__doc__).split(": ", 1)[-1]
        module.add(commands.add_parser(name, help=module.HELP, description=about, allow_abbrev=False))
    return parser
