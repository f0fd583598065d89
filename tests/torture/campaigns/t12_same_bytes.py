"""T12: the same results give the same bytes of page, csv, arrays and JSON, wherever and however the process runs.

The second part measures: runs of toys under other workers, time zones and hash seeds differ only in what is declared to
be of a run: its times, its command, its places (`OF_A_RUN`).
"""

from __future__ import annotations

import csv
import functools
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

from oracles.forge import environment
from torture.campaign import Campaign, draw, scratch
from torture.campaigns.t14_dead_workers import toys

OF_A_RUN = ("run_id", "started", "command", "report", "seconds", "worker", "workers", "time_utc", "load_average")
OF_A_RUN += ("env.PYTHONHASHSEED",)
ZONES = ("UTC", "Pacific/Kiritimati", "America/St_Johns", "Asia/Kathmandu")
LOCALES = ("C", "C.UTF-8", "POSIX")
WRITE = """
import os, sys
os.umask(int(sys.argv[2]))
from oracles import made_run
from stabilitykit.report import write
DEFECT
write(made_run.made_run(), made_run.made_records(), sys.argv[1])
"""
DEFECT = "made_run.HOSTILE = tuple(set(made_run.HOSTILE)); made_run.SUBJECT['proofs'] = {n: 1 for n in set('abcdef')}"
SOURCE = """
import pytest
from toys import *

@pytest.mark.parametrize("drift", [float(number) for number in range(8)])
def test_toy(stability, drift):
    stability.measure(ToyDrift(drift), TOY)
"""
UNSTABLE = SOURCE.replace(
    "from toys import *",
    """
from toys import *
from toys import ToyDrift as Former

class ToyDrift(Former):
    causes = tuple({str(n) for n in range(9)})
""",
)


def _varied(number: int, id: str) -> tuple[dict[str, str], int]:
    """Return variables of a process and its umask, drawn."""
    random = draw(id, number)
    variables = {"TZ": str(random.choice(ZONES)), "LC_ALL": str(random.choice(LOCALES))}
    variables |= {"PYTHONHASHSEED": str(random.integers(1 << 32)), "COLUMNS": str(random.integers(40, 200))}
    return variables, int(random.choice([0o022, 0o077, 0o002]))


def _written(number: int, defect: str = "") -> dict[str, bytes]:
    variables, mask = _varied(number, "T12a")
    place = scratch("written")
    command = [sys.executable, "-c", WRITE.replace("DEFECT", defect), str(place / "report"), str(mask)]
    done = subprocess.run(command, cwd=place, env={**environment(), **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]
    return _contents(place / "report")


def _contents(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    shutil.rmtree(folder)
    return found


@functools.cache
def _first(defect: str) -> dict[str, bytes]:
    return _written(10_000, defect)


def rewritten(number: int, defect: str = "") -> str | None:
    """Write the same records in a process that runs otherwise."""
    first, now = _first(defect), _written(number, defect)
    odd = [name for name in {*first, *now} if first.get(name) != now.get(name)]
    return f"{sorted(odd)[0]} has other bytes under {_varied(number, 'T12a')}" if odd else None


def _measured(number: int, source: str) -> dict[str, object]:
    """Run the toys with one, two or four workers; return what the files say, but for what is of a run."""
    variables, mask = _varied(number, "T12b")
    place = scratch("measured")
    (place / "toys.py").write_text(toys())
    (place / "test_it.py").write_text(source)
    workers = ((), ("-n", "2"), ("-n", "4"))[number % 3]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark", *workers]
    done = subprocess.run(
        [*command, "--stability-report=out"], cwd=place, env={**environment(), **variables}, umask=mask,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:]
    out = place / "out"
    rows = {name: _rows((out / name).read_bytes().decode()) for name in ("results.csv", "summary.csv")}
    return {**rows, "run.json": _without(json.loads((out / "run.json").read_text(encoding="utf-8")))}


def _rows(content: str) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    return [{name: cell for name, cell in row.items() if name not in OF_A_RUN} for row in rows]


def _without(data: object) -> object:
    if isinstance(data, dict):
        return {name: _without(one) for name, one in data.items() if name not in OF_A_RUN}
    return [_without(one) for one in data] if isinstance(data, list) else data


@functools.cache
def _first_run(source: str) -> dict[str, object]:
    return _measured(0, source)


def measured(number: int, source: str = SOURCE) -> str | None:
    """Measure the same toys in processes that run otherwise."""
    first, now = _first_run(source), _measured(number + 1, source)
    odd = _other(first, now, "")
    return f"{odd} under {_varied(number + 1, 'T12b')}" if odd else None


def _other(first: object, now: object, at: str) -> str:
    """Return the first place at which two trees differ, with both sides."""
    if type(first) is type(now) and isinstance(first, dict | list) and len(first) == len(now):
        names = first if isinstance(first, dict) else range(len(first))
        if isinstance(first, dict) and set(first) != set(now):
            return f"{at} has the fields {sorted(set(first) ^ set(now))[:3]} on one side"
        return next((odd for name in names if (odd := _other(first[name], now[name], f"{at}/{name}"))), "")
    return "" if first == now else f"{at} was {str(first)[:60]!a} and is {str(now)[:60]!a}"


CAMPAIGNS = [
    Campaign(
        "T12a",
        "the same records are written under another time zone, locale, folder, hash seed and umask: equal bytes of all",
        "processes",
        full=60,
        ci=1,
        trial=rewritten,
        planted={"a set decides an order": lambda number: rewritten(number, DEFECT)},
        long=True,
    ),
    Campaign(
        "T12b",
        "the same is measured by 1, 2 and 4 workers under other surroundings: equal but for what is of a run",
        "runs",
        full=18,
        ci=1,
        trial=measured,
        planted={"a set decides an order": lambda number: measured(number, UNSTABLE)},
        long=True,
        note=f"of a run are {', '.join(OF_A_RUN)}",
    ),
]
