"""`stabilitykit report DIR`: show a run again, make its page or figures anew, or set another run beside it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stabilitykit.cli import files
from stabilitykit.errors import UsageError

if TYPE_CHECKING:
    from stabilitykit.report.read import Report

HELP = "show a run again, make its page anew, or compare it with another run; exit 1 where a check moved"
_FORMATS = ("svg", "pdf", "png")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", metavar="DIR", help="report folder that a run wrote")
    parser.add_argument("other", metavar="NOW", nargs="?", help="another run, to compare with the first")
    parser.add_argument("--page", metavar="DIR", help="write the report anew, or the comparison, into this folder")
    parser.add_argument("--markdown", metavar="FILE", help="write what needs a look, and every check, as Markdown")
    parser.add_argument("--figures", metavar="DIR", help="write each figure into this folder, as a file of its own")
    parser.add_argument("--format", metavar="NAME", default="svg", help=f"of the figures: {', '.join(_FORMATS)}")


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Read, write what is asked for; return 0, of two runs 1 where a check moved, and the lines to print."""
    if given.format not in _FORMATS:
        raise UsageError(f"format {given.format!r} is none of {', '.join(_FORMATS)}")
    if given.other:
        return _compare(given)
    from stabilitykit.report import read, table, write

    found = read.read(given.folder)
    written: list[object] = []
    if given.page:
        written.append(write(found.run, found.records, _folder("page", given.page)))
    if given.markdown:
        written.append(_markdown(found, Path(given.markdown)))
    if given.figures:
        from stabilitykit.report.stills import draw

        drawn = draw(found.records, _folder("figures", given.figures), given.format)
        written.append(f"{given.figures}: {len(drawn)} figures")
    return 0, [*table(found.records), *(f"written: {one}" for one in written)]


def _compare(given: argparse.Namespace) -> tuple[int, list[str]]:
    if given.markdown or given.figures:
        raise UsageError("markdown and figures are made of one run; name one folder")
    from stabilitykit.baselines.runs import beside, lines
    from stabilitykit.report.beside import page
    from stabilitykit.report.read import read
    from stabilitykit.results.atomic import atomic_write

    found = beside(read(given.folder), read(given.other))
    written = []
    if given.page:
        folder = _folder("page", given.page)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "index.html", page(found))
        written.append(f"written: {folder / 'index.html'}")
    return int(bool(found.moved)), [*lines(found), *written]


def _markdown(found: Report, path: Path) -> Path:
    from stabilitykit.report.markdown import summary
    from stabilitykit.results.atomic import atomic_write

    files.file("markdown", str(path))
    atomic_write(path, summary(found.run, found.records))
    return path


def _folder(name: str, text: str) -> Path:
    files.folder(name, text)
    return Path(text)
