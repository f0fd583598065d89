"""Measured units on disk: a file each, whole or as good as absent, named by the unit's id."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from stabilitykit.report.journal import checked, lines
from stabilitykit.results.atomic import atomic_write
from stabilitykit.results.record import Record
from stabilitykit.sweeps.plan import Unit

FOLDER = "units"
_SUFFIX = ".json"


def path_of(folder: Path, unit: Unit) -> Path:
    """Return the file of a unit."""
    return folder / FOLDER / f"{unit.id}{_SUFFIX}"


def write(folder: Path, record: Record) -> None:
    """Keep what a unit gave: one line with its checksum, as in a run's journal, put there at once."""
    path = folder / FOLDER / f"{record.nodeid}{_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, checked("record", json.dumps(record.to_dict(), allow_nan=False)))


def read(folder: Path, unit: Unit) -> Record | None:
    """Return what a unit gave; None where its file is missing, torn, damaged, or another unit's by another name."""
    path = path_of(folder, unit)
    if not path.exists():
        return None
    whole, damaged = lines(path)
    if damaged or [line.kind for line in whole] != ["record"]:
        return None
    record = Record.from_dict(json.loads(whole[0].text))
    return record if record.nodeid == unit.id else None


def strangers(folder: Path, units: Iterable[Unit]) -> list[Path]:
    """Return the files that are of no unit of the plan, in order."""
    known = {path_of(folder, unit) for unit in units}
    return sorted(path for path in (folder / FOLDER).glob(f"*{_SUFFIX}") if path not in known)


def measured(folder: Path, units: Iterable[Unit]) -> Iterator[tuple[Unit, Record]]:
    """Yield the units whose files are whole, with what they gave, one at a time."""
    for unit in units:
        if (record := read(folder, unit)) is not None:
            yield unit, record
