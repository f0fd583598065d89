"""The files that a command writes about the one thing it measured: options, what could not be written, writing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stabilitykit.errors import UsageError

if TYPE_CHECKING:
    from stabilitykit.results.result import Result


def add(parser: argparse.ArgumentParser, rows: str) -> None:
    """Declare --json and --csv; `rows` says what the rows are."""
    parser.add_argument("--json", metavar="FILE", help="write the whole result")
    parser.add_argument("--csv", metavar="FILE", help=f"write a row each {rows}")


def writable(given: argparse.Namespace, report: str | None) -> None:
    """Refuse what could not be written after minutes of work."""
    for name in ("json", "csv"):
        path = getattr(given, name)
        if path is not None and (Path(path).is_dir() or not Path(path).absolute().parent.is_dir()):
            raise UsageError(f"{name} {path!r} is no file in a folder that exists; name one")
    if report and Path(report).exists() and not Path(report).is_dir():
        raise UsageError(f"report {report!r} is a file; name a folder")


def write(given: argparse.Namespace, result: Result) -> list[Path]:
    """Write what --json and --csv ask for; return the paths."""
    from stabilitykit.report.csv import table
    from stabilitykit.results.atomic import atomic_write

    written = []
    if given.json:
        written.append(Path(given.json))
        atomic_write(written[-1], result.to_json() + "\n")
    if given.csv:
        written.append(Path(given.csv))
        columns = tuple(dict.fromkeys(key for row in result.rows for key in row))
        atomic_write(written[-1], table(columns, result.rows))
    return written
