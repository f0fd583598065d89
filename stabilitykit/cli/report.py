"""`stabilitykit report DIR`: show a run again, or make its page, its Markdown or its figures anew from its data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stabilitykit.errors import UsageError

if TYPE_CHECKING:
    from stabilitykit.report.read import Report

HELP = "show a run's checks again; make its page, Markdown or figures anew from its data"
_FORMATS = ("svg", "pdf", "png")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", metavar="DIR", help="report folder that a run wrote")
    parser.add_argument(
        "--page", metavar="DIR", help="write the whole report into this folder, its page in today's form"
    )
    parser.add_argument("--markdown", metavar="FILE", help="write what needs a look, and every check, as Markdown")
    parser.add_argument("--figures", metavar="DIR", help="write each figure into this folder, as a file of its own")
    parser.add_argument("--format", metavar="NAME", default="svg", help=f"of the figures: {', '.join(_FORMATS)}")


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Read the folder, write what is asked for; return 0, for nothing is measured or judged, and the lines to print."""
    if given.format not in _FORMATS:
        raise UsageError(f"format {given.format!r} is none of {', '.join(_FORMATS)}")
    from stabilitykit.report import read, table, write

    found = read.read(given.folder)
    written: list[object] = []
    if given.page:
        written.append(write(found.run, found.records, _new_folder("page", given.page)))
    if given.markdown:
        written.append(_markdown(found, Path(given.markdown)))
    if given.figures:
        from stabilitykit.report.stills import draw

        drawn = draw(found.records, _new_folder("figures", given.figures), given.format)
        written.append(f"{given.figures}: {len(drawn)} figures")
    return 0, [*table(found.records), *(f"written: {one}" for one in written)]


def _markdown(found: Report, path: Path) -> Path:
    from stabilitykit.report.markdown import summary
    from stabilitykit.results.atomic import atomic_write

    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"markdown {str(path)!r} is no file in a folder that exists; name one")
    atomic_write(path, summary(found.run, found.records))
    return path


def _new_folder(name: str, text: str) -> Path:
    if Path(text).exists() and not Path(text).is_dir():
        raise UsageError(f"{name} {text!r} is a file; name a folder")
    return Path(text)
