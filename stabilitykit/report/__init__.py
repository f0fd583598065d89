"""Rows, csv and html: what people look at. `write` makes the folder, `table` the terminal's lines."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabilitykit.report.replays import lines as replay_lines
from stabilitykit.report.terminal import table

if TYPE_CHECKING:
    from stabilitykit.results.record import Record, Run
    from stabilitykit.results.result import Result

__all__ = ["replay_lines", "table", "write", "write_one"]


def write(run: Run, records: Sequence[Record], directory: Path | str) -> Path:
    """Write index.html, the csv files, arrays and run.json into `directory`; return the path of index.html.

    Each file is replaced as a whole. Tables and arrays that a former run left and this one does not have are removed,
    nothing else is. run.json is written last: it lists what is there.
    """
    # Numpy, jinja2 and plotly are heavy, and most test runs that load the plugin never report.
    from stabilitykit.report import csv, files, html
    from stabilitykit.results.atomic import atomic_write

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    slugs = files.slugs(record.check_id for record in records)
    former = files.listed(directory)
    written = csv.write_tables(run, records, slugs, directory)
    index = directory / "index.html"
    atomic_write(index, html.page(run, records, slugs))
    files.clean(directory, former - set(written))
    csv.write_run(run, records, written, directory)
    return index


def write_one(result: Result, directory: Path | str, check_id: str, command: str, settings: Mapping[str, Any]) -> Path:
    """Write the report of a command that measured one thing; return the path of index.html."""
    from stabilitykit.results.record import Record, Run

    started = datetime.now(UTC).isoformat(timespec="seconds")
    run = Run(uuid.uuid4().hex, started, command, settings, result.environment)
    return write(run, [Record(check_id, "", result.verdict, result)], directory)
