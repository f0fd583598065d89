"""T1: a process that writes journal, baseline, recording and report is killed; nothing acknowledged is lost, and the
next process completes the work.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from oracles import careless_writers
from oracles.forge import Forge
from oracles.persistent_work import CHECKS, POINTS, record
from torture.campaign import Campaign, Trial, draw, scratch

from stabilitykit.baselines import store
from stabilitykit.errors import StabilityError
from stabilitykit.report import journal
from stabilitykit.report.read import read
from stabilitykit.results.atomic import TEMPORARY
from stabilitykit.traces.store import read_recording

WORK = "oracles.persistent_work:work"
AT_POINTS = 25 * len(POINTS)
RANDOM = 300


@functools.cache
def forge(*defects: str) -> Forge:
    return Forge("oracles.persistent_work", *(f"oracles.careless_writers:{name}" for name in defects))


@functools.cache
def passages(work: Forge, point: str) -> int:
    """Return how often a second round passes a point when nobody kills it."""
    place = _begun(work)
    status, acks, said = work.ask(WORK, str(place), 2, point, -1)
    assert status == 0, said
    return int(acks.split("passed ")[1].split()[0])


@functools.cache
def seconds(work: Forge) -> float:
    """Return how long a second round takes when nobody kills it."""
    place, begun = _begun(work), time.monotonic()
    assert work.ask(WORK, str(place), 2)[0] == 0
    return time.monotonic() - begun


def kill(number: int, *defects: str) -> str | None:
    """Kill a second round at a point or at a random moment; look, let the next process go on, look again."""
    work = forge(*defects)
    if number < AT_POINTS:
        point = POINTS[number % len(POINTS)]
        total = passages(work, point)
        if not total:
            return None if defects else f"nothing passes {point}"
        count = total - number // len(POINTS) * 7 % total
        place, where = _begun(work), f"passage {count} of {point}"
        status, acks, said = work.ask(WORK, str(place), 2, point, count)
    else:
        random, status, longest = draw("T1", number), 0, seconds(work)
        while status == 0:  # it had ended before
            place, after = _begun(work), float(random.random()) * longest
            where = f"{after:.3f} s"
            status, acks, said = work.ask(WORK, str(place), 2, kill_after=after)
            longest *= 0.9
    if status != -signal.SIGKILL:
        return f"at {where} it ended with {status}: {said}"
    try:
        found = lost(place, acks.split()) or _resumed(work, place)
    except StabilityError as error:
        found = f"not readable: {error}"
    finally:
        shutil.rmtree(place)
    return found and f"killed at {where}: {found}"


@functools.cache
def _first_round(work: Forge) -> Path:
    place = scratch("kill")
    status, _, said = work.ask(WORK, str(place), 1)
    assert status == 0, said
    (place / journal.NAME).unlink()
    return place


def _begun(work: Forge) -> Path:
    """Return a folder in which a first round is done."""
    place = scratch("kill")
    shutil.copytree(_first_round(work), place, dirs_exist_ok=True)
    return place


def lost(place: Path, acks: list[str]) -> str | None:
    """Hold what lies on disk against what was acknowledged."""
    contents = journal.resumable(place, {"round": 2})
    finished = contents.finished if contents else {}
    for number in [int(one) for one in acks if one != "end"]:
        one = record(number, 2)
        kept = finished.get(one.nodeid)
        if kept is None or json.loads(kept.records[0]) != json.loads(json.dumps(one.to_dict())):
            return f"acknowledged check {number} is not in the journal as it was"
    held = {entry.readings["radius"].value for entry in store.read(place / "main.jsonl").entries.values()}
    if held not in ({1.0}, {2.0}):
        return f"the baseline holds {held}"
    if "end" in acks and held != {2.0}:
        return "the baseline is the former one, though the new one was acknowledged"
    return None


def _resumed(work: Forge, place: Path) -> str | None:
    """Let the next process, hours later, do the rest; look at all that it has written."""
    _age(place)
    status, acks, said = work.ask(WORK, str(place), 2)
    if status or "end" not in acks:
        return f"the next process did not complete: {said}"
    if left := [path.name for path in place.rglob(f"*{TEMPORARY}")]:
        return f"{left[0]} is left of what was being written"
    if found := lost(place, ["end", *map(str, range(CHECKS))]):
        return found
    report, recording = read(place / "report"), read_recording(place / "recording")
    told = [(one.result.sentence, float(one.result.arrays["plane"][0])) for one in report.records]
    if report.run.run_id != "round 2" or told != [("round 2", 2 + n / 8) for n in range(CHECKS)]:
        return f"the report holds {told}"
    return None if len(recording.generations) == 1 else "the recording is another"


def _age(place: Path) -> None:
    for path in place.rglob(f"*{TEMPORARY}"):
        os.utime(path, (time.time() - 7200,) * 2)


def _planted(defect: Callable) -> Trial:
    return lambda number: kill(number, defect.__name__)


CAMPAIGNS = [
    Campaign(
        "T1",
        "a process that writes journal, baseline, recording and report is killed: nothing acknowledged is lost, each "
        "file is whole, the next process completes the work and leaves no litter",
        "kills",
        full=AT_POINTS + RANDOM,
        ci=32,
        trial=kill,
        planted={
            "files are rewritten where they lie": _planted(careless_writers.in_place),
            "lines of the journal are kept in memory": _planted(careless_writers.acknowledged_early),
        },
    )
]
