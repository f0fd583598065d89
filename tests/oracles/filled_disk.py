"""A process that writes all that a run leaves, then again with a few bytes of room, and says what became of it.

    python filled_disk.py FOLDER BYTES disk|limit [DEFECT]

ends with 0 where each write that failed said so with its path and bytes and left what was there, and none failed in
silence; with 1 and a sentence otherwise.
"""

from __future__ import annotations

import re
import resource
import shutil
import signal
import sys
from pathlib import Path

from oracles import careless_writers, kept, made_run, recordings

from stabilitykit.baselines import store
from stabilitykit.errors import UnwritableError
from stabilitykit.report import html, journal, read, write
from stabilitykit.results.atomic import TEMPORARY
from stabilitykit.traces.store import read_recording, write_recording

NEEDED = 32_000
"""Bytes below which at least one of the files does not fit: the second round writes about so many."""
in_place = careless_writers.in_place


def rounds(place: Path, number: int) -> dict:
    """Return name -> what writes it in this round, and what reads back which round it is of."""
    line = f'{{"check_id": "a", "nodeid": "n", "round": "{number}", "more": "{"x" * 3000}"}}'
    entries = [kept.made(f"toy[{n}]", radius=float(number)) for n in range(20 * number)]
    recorded = recordings.recording(recordings.generation(seed=number))
    records = [record for record in made_run.made_records() if record.check_id.startswith("stability_fan")]
    run = made_run.made_run()
    return {
        "journal": lambda: journal.Journal(place, '{"identity": {}}', resumed=True).append(line),
        "baseline": lambda: store.write(store.read(place / "main.jsonl"), entries),
        "recording": lambda: write_recording(recorded, place / "recording"),
        "report": lambda: write(type(run)(**{**vars(run), "run_id": str(number)}), records, place / "report"),
    }


def main(folder: str, left: str, how: str, defect: str = "") -> str | None:
    """Write, fill the disk, write again, look; return what is wrong."""
    html.page = lambda *_: "<p>page</p>" * 3000
    place = Path(folder)
    for do in rounds(place, 1).values():
        do()
    if defect:
        getattr(careless_writers, defect)()
    _fill(place, int(left), how)
    failed = []
    for name, do in rounds(place, 2).items():
        try:
            do()
        except UnwritableError as error:
            failed.append(name)
            if not re.search(rf"{re.escape(folder)}\S+ was not written \(\d+ bytes\): ", str(error)):
                return f"{name}: its error names no path and bytes: {error}"
        except OSError as error:
            return f"{name}: {type(error).__name__}: {error}"
    if not failed:
        return "all was written, so the disk was not full"
    return _damage(place, failed)


def _damage(place: Path, failed: list[str]) -> str | None:
    if parts := [path.name for path in place.rglob(f"*{TEMPORARY}")]:
        return f"{parts[0]} was left"
    held = {entry.readings["radius"].value for entry in store.read(place / "main.jsonl").entries.values()}
    if held != {1.0 if "baseline" in failed else 2.0}:
        return f"the baseline holds {held}"
    if [kind for kind, _ in journal.lines(place / journal.NAME)[0]][:2] != ["header", "record"]:
        return "the journal has lost a line"
    if "recording" not in failed:
        read_recording(place / "recording")
    if "report" not in failed:
        read.read(place / "report")
    return None


def _fill(place: Path, left: int, how: str) -> None:
    """Leave room for so many bytes: fill the file system, or, without one of our own, limit the size of files."""
    if how == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, resource.RLIM_INFINITY))
        return
    free = shutil.disk_usage(place).free - left
    with open(place / "filler", "wb") as file:
        while free > 0:
            free -= file.write(bytes(min(free, 1 << 20)))


if __name__ == "__main__":
    found = main(*sys.argv[1:])
    print(found or "kept")
    sys.exit(1 if found else 0)
