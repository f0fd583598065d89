"""What a run leaves on disk, in small: measures checks one by one into a journal, then baseline, recording, report.

It goes on where a killed process left it. Each check is acknowledged through a pipe once it is in the journal, and the
end once all is written. `at(point, count)` kills the process at the count-th passage of a point.
"""

from __future__ import annotations

import builtins
import functools
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
from oracles import kept, made_run, recordings

from stabilitykit.baselines import store
from stabilitykit.report import csv, html, journal, write
from stabilitykit.results import atomic
from stabilitykit.results.record import Record
from stabilitykit.traces import store as traces

CHECKS = 6
POINTS = (
    *("before open", "after open", "half write", "after write", "before fsync", "after fsync"),
    *("before replace", "after replace", "before folder", "after folder"),
    *("before append", "half append", "after append", "before merge", "before report", "after report"),
)
"""Where a process is killed: at each step of an atomic write, of a line of the journal, of the work between."""

_write = os.write


def warm() -> None:
    """Make the page once for all children: what is tried is how it is written."""
    page = html.page(made_run.made_run(), [record(0, 1)], ["check"])
    html.page = lambda *_: page


def record(number: int, round: int) -> Record:
    """Return what check `number` measures in a round."""
    result = replace(made_run.fan(3), sentence=f"round {round}", arrays={"plane": np.full(9, round + number / 8)})
    return Record(f"toy[{number}]", f"test.py::test_toy[{number}]", "measured", result)


def work(ack: int, folder: str, round: int, point: str = "", count: int = 0) -> None:
    """Do all of one round, as far as no process before has."""
    place, passed = Path(folder), _kill_at(point, count) if point else []
    header = json.dumps({"started": "now", "identity": {"round": round}})
    former = journal.resumable(place, {"round": round}) if (place / journal.NAME).exists() else None
    lines = journal.Journal(place, header, resumed=former is not None)
    for number in range(CHECKS):
        one = record(number, round)
        if former and one.nodeid in former.finished:
            continue
        done = {"nodeid": one.nodeid, "records": 1, "source": "", "outcome": "passed", "message": "", "code": None}
        lines.append(json.dumps(one.to_dict()))
        lines.append(json.dumps(done), "done")
        _write(ack, f"{number}\n".encode())
    _finish(place, round)
    _write(ack, f"passed {len(passed)}\nend\n".encode() if point else b"end\n")


def _finish(place: Path, round: int) -> None:
    finished = journal.read(place / journal.NAME).finished
    records = [Record.from_dict(json.loads(one.records[0])) for _, one in sorted(finished.items())]
    traces.write_recording(recordings.recording(recordings.generation(seed=round)), place / "recording")
    write(replace(made_run.made_run(), run_id=f"round {round}"), records, place / "report")
    _merge(place / "main.jsonl", round)


def _merge(path: Path, round: int) -> None:
    store.write(store.read(path), [kept.made(f"toy[{number}]", radius=float(round)) for number in range(CHECKS)])


def _kill_at(point: str, count: int) -> list[str]:
    """Put the points in place; return the list of passages of this one, which grows."""
    passed: list[str] = []

    def pass_by(name: str) -> None:
        if name == point:
            passed.append(name)
            if len(passed) == count:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(function, name):
        @functools.wraps(function)
        def wrapped(*given, **named):
            pass_by(f"before {name}")
            found = function(*given, **named)
            pass_by(f"after {name}")
            return found

        return wrapped

    def opened(path, mode="r", *given, **named):
        if "x" not in mode:
            return open_file(path, mode, *given, **named)
        pass_by("before open")
        file = open_file(path, mode, *given, **named)
        pass_by("after open")
        return _Halving(file, pass_by)

    def append(descriptor: int, data: bytes) -> int:
        half = _write(descriptor, data[: len(data) // 2])
        pass_by("half append")
        return half + _write(descriptor, data[half:])

    open_file = builtins.open
    builtins.open = opened
    os.fsync = around(os.fsync, "fsync")
    os.replace = around(os.replace, "replace")
    os.write = append
    atomic.sync_folder = around(atomic.sync_folder, "folder")
    journal.Journal.append = around(journal.Journal.append, "append")
    csv.write_run = around(csv.write_run, "report")
    globals()["_merge"] = around(_merge, "merge")
    return passed


class _Halving:
    """A file that writes in two halves, between which the process may be killed."""

    def __init__(self, file, pass_by) -> None:
        self._file, self._pass_by = file, pass_by

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data: bytes) -> None:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        self._pass_by("half write")
        self._file.write(data[len(data) // 2 :])
        self._pass_by("after write")
