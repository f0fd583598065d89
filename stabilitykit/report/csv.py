r"""Data files: results.csv, summary.csv, one table and one array file a check, run.json.

Numbers are written by `repr` (the shortest text that reads back to the same float) and readings also as `float.hex`.
Infinity is `inf`, nan and nothing are empty cells. Text cells are guarded (see `stabilitykit.report.text`), so a row is
always one line and no cell is computed by a spreadsheet. Tokens may be spelled `NaN` or `None`: read text columns with
`pandas.read_csv(..., keep_default_na=False, dtype=str)`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import stabilitykit
from stabilitykit.report.rows import (
    CHECK_COLUMNS,
    NUMBER_COLUMNS,
    READING_COLUMNS,
    SCHEMA_VERSION,
    check_rows,
    readings_rows,
)
from stabilitykit.report.text import guarded
from stabilitykit.report.verdicts import counts
from stabilitykit.results.atomic import atomic_write
from stabilitykit.results.plain import to_plain
from stabilitykit.results.record import Record, Run

_NUMBER = re.compile(r"-?(\d+\.?\d*([eE][-+]?\d+)?|inf|0x[01](\.[0-9a-f]+)?p[-+]\d+)|nan")


def write_tables(run: Run, records: Sequence[Record], slugs: Sequence[str], directory: Path) -> list[str]:
    """Write everything but run.json; return the names of the tables and arrays written, relative to `directory`."""
    atomic_write(directory / "results.csv", table(READING_COLUMNS, readings_rows(run, records), NUMBER_COLUMNS))
    atomic_write(directory / "summary.csv", table(CHECK_COLUMNS, check_rows(run, records), NUMBER_COLUMNS))
    written = []
    for record, slug in zip(records, slugs, strict=True):
        result = record.result
        if result is not None and result.rows:
            columns = tuple(dict.fromkeys(key for row in result.rows for key in row))
            atomic_write(_folder(directory, "tables") / f"{slug}.csv", table(columns, result.rows))
            written.append(f"tables/{slug}.csv")
        if result is not None and result.arrays:
            atomic_write(_folder(directory, "arrays") / f"{slug}.npz", archive(result.arrays))
            written.append(f"arrays/{slug}.npz")
    return [*written, *_write_named(records, directory)]


def _write_named(records: Sequence[Record], directory: Path) -> list[str]:
    """Write the tables that rows of several checks share: a row says in which one it stands too."""
    named: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        for row in record.result.rows if record.result is not None else ():
            if "table" in row:
                about = {"check_id": record.check_id, "status": record.verdict}
                named.setdefault(row["table"], []).append({**about, **row})
    for name, rows in named.items():
        columns = dict.fromkeys(key for row in rows for key in row if key not in ("part", "table"))
        atomic_write(_folder(directory, "tables") / f"{name}.csv", table(tuple(columns), rows))
    return [f"tables/{name}.csv" for name in named]


def write_run(run: Run, records: Sequence[Record], files: Sequence[str], directory: Path) -> None:
    """Write run.json, strict JSON: provenance, what it cost, and every record with its rows but not its arrays."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "stabilitykit": stabilitykit.__version__,
        "run": run.to_dict(),
        "verdicts": {verdict.name: number for verdict, number in counts(record.verdict for record in records)},
        "work": _total(records),
        "files": list(files),
        "digests": {name: _digest(directory / name) for name in files if name.startswith("arrays/")},
        "records": [_plain(record) for record in records],
    }
    atomic_write(directory / "run.json", json.dumps(data, allow_nan=False, indent=1) + "\n")


def table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], numbers: Iterable[str] = ()) -> str:
    """Return csv text with a header; a string in a column of `numbers` that spells a number stays as it is."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([guarded(column) for column in columns])
    numeric = [column in set(numbers) for column in columns]
    for row in rows:
        writer.writerow([cell(row.get(c), number=n) for c, n in zip(columns, numeric, strict=True)])
    return text.getvalue()


def cell(value: Any, *, number: bool = False) -> str:
    """Return one cell: numbers exact and unguarded, text guarded, nested values as JSON."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping | list | tuple):
        value = json.dumps(to_plain(value), allow_nan=False)
    return str(value) if number and _NUMBER.fullmatch(str(value)) else guarded(value)


def archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an .npz file: no pickle, and the same bytes for the same arrays at any hour."""
    data = io.BytesIO()
    pack(data, arrays.items())
    return data.getvalue()


def pack(file: IO[bytes], arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Write an .npz file one array after the other, as `archive` does with all of them in memory."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archived:
        for name, array in arrays:
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            # A fresh ZipInfo carries the epoch of the format, where writing by name would carry the clock.
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archived.writestr(entry, member.getvalue())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(record: Record) -> dict[str, Any]:
    """Return the record as `Record.from_dict` reads it back; its arrays lie in their own file."""
    result = record.result
    bare = Record(**{**{n: getattr(record, n) for n in record.__dataclass_fields__}, "result": None})
    return {**bare.to_dict(), "result": None if result is None else result.to_dict(arrays=False)}


def _total(records: Sequence[Record]) -> dict[str, float]:
    spent = [record.result.execution for record in records if record.result is not None]
    names = ("forwards", "screened", "backwards", "tangents", "calls", "seconds")
    return {name: sum(getattr(execution, name) for execution in spent) for name in names}


def _folder(directory: Path, name: str) -> Path:
    folder = directory / name
    folder.mkdir(exist_ok=True)
    return folder
