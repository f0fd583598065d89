"""Rows, csv and html: what people look at. `write` makes the folder, `table` the terminal's lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stabilitykit.report.replays import lines as replay_lines
from stabilitykit.report.terminal import table

if TYPE_CHECKING:
    from stabilitykit.results.record import Record, Run

__all__ = ["replay_lines", "table", "write"]


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
