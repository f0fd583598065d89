"""`python tests/torture mutants`: mutants of the rooms, for as long as was given; the same command goes on."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from torture.mutants import record
from torture.mutants.campaign import Ground, Journal, reached, run
from tqdm import tqdm

ROOT = Path(__file__).parents[3]
GROUNDS = {
    "numerics": Ground(ROOT, "stabilitykit/numerics", ("tests/numerics", "tests/settled")),
    "measurements": Ground(ROOT, "stabilitykit/measurements", ("tests/measurements", "tests/settled")),
}
RECORDS = ROOT / "docs" / "reliability"
QUICK = 1.0
"""Processor seconds of tests in the first look at a mutant; the few that pass it are shown to all of their tests."""


def main(words: list[str]) -> int:
    """Run what is asked for and write the records; 1 if a mutant survives that no reason is written down for."""
    given = _parser().parse_args(words)
    given.journals.mkdir(parents=True, exist_ok=True)
    rooms = {name: Journal(given.journals / f"mutants-{name}.jsonl", ground) for name, ground in GROUNDS.items()}
    end = time.monotonic() + given.time
    for name in [given.room] if given.room else GROUNDS:
        _room(GROUNDS[name], rooms[name], given, end)
    found = record.write(given.records, [(GROUNDS[name], journal) for name, journal in rooms.items()])
    if given.records == RECORDS:
        _write_page()
    for place in found:
        print(f"survives without a reason: {place}")
    return int(bool(found))


def _write_page() -> None:
    from torture import page  # imports the kit, which a mutant must be the first to do

    page.write()


def _room(ground: Ground, journal: Journal, given: argparse.Namespace, end: float) -> None:
    """Look at each mutant of the shard for a moment, then long at those that passed and that no reason excuses."""
    reach = reached(ground, journal.path.with_suffix(".reach.json"), end - time.monotonic())
    number, of = (int(part) for part in given.shard.split("/"))
    chosen = ground.order()[: given.sample][number - 1 :: of]
    known = record.reasons()
    for each, again in ((QUICK, ()), (math.inf, ("open", "survived") if given.again else ("open",))):
        verdicts = {one: journal.outcomes[one.name].verdict if one.name in journal.outcomes else "" for one in chosen}
        todo = [one for one, said in verdicts.items() if not said or (said in again and one.place not in known)]
        if reach is None or time.monotonic() > end:
            return
        if not todo:
            continue
        for _ in tqdm(
            run(ground, journal, reach, todo, end - time.monotonic(), each),
            total=len(todo),
            unit=" mutants",
            desc=ground.room,
        ):
            pass


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tests/torture mutants", description=__doc__)
    parser.add_argument("--time", type=float, default=3600.0, help="seconds after which it stops (3600)")
    parser.add_argument("--room", choices=list(GROUNDS), help="one room only")
    parser.add_argument("--sample", type=int, help="only so many of each room, drawn at random and the same each time")
    parser.add_argument("--shard", default="1/1", help="every N-th mutant only, from the I-th: I/N")
    parser.add_argument("--again", action="store_true", help="try the survivors again, after tests were added")
    parser.add_argument("--journals", type=Path, default=ROOT / ".torture", help=argparse.SUPPRESS)
    parser.add_argument("--records", type=Path, default=RECORDS, help=argparse.SUPPRESS)
    return parser
