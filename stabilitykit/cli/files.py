"""What commands write: options, what could not be written, writing."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stabilitykit.errors import UsageError

if TYPE_CHECKING:
    from stabilitykit.results.result import Result


def add(parser: argparse.ArgumentParser, rows: str) -> None:
    """Declare --json and --csv; `rows` says what the rows are."""
    parser.add_argument("--json", metavar="FILE", help="write the whole result")
    parser.add_argument("--csv", metavar="FILE", help=f"write a row each {rows}")


def writable(given: argparse.Namespace, *names: str) -> None:
    """Refuse files that could not be written after minutes of work."""
    for name in names:
        file(name, getattr(given, name))


def file(name: str, path: str | None) -> None:
    """Refuse a file that could not be written."""
    if path is not None and (Path(path).is_dir() or not Path(path).absolute().parent.is_dir()):
        raise UsageError(f"{name} {path!r} is no file in a folder that exists; name one")


def folder(name: str, path: str | None) -> None:
    """Refuse a folder that is a file."""
    if path and Path(path).exists() and not Path(path).is_dir():
        raise UsageError(f"{name} {path!r} is a file; name a folder")


@contextmanager
def made_or_temporary(name: str, path: str | None) -> Iterator[Path]:
    """Yield the folder that an option names, made if need be, or one that ends with the command where it names none."""
    folder(name, path)
    if path is None:
        with tempfile.TemporaryDirectory(prefix=f"stabilitykit-{name}-") as made:
            yield Path(made)
        return
    Path(path).mkdir(parents=True, exist_ok=True)
    yield Path(path).resolve()


def write_json(path: str, result: Result) -> Path:
    """Write the whole result."""
    from stabilitykit.results.atomic import atomic_write

    atomic_write(Path(path), result.to_json() + "\n")
    return Path(path)


def write(given: argparse.Namespace, result: Result) -> list[Path]:
    """Write what --json and --csv ask for; return the paths."""
    from stabilitykit.report.csv import table
    from stabilitykit.results.atomic import atomic_write

    written = [write_json(given.json, result)] if given.json else []
    if given.csv:
        written.append(Path(given.csv))
        columns = tuple(dict.fromkeys(key for row in result.rows for key in row))
        atomic_write(written[-1], table(columns, result.rows))
    return written
