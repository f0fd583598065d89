"""`python tests/torture`: campaigns in turn, for as long as was given; a run that was stopped goes on where it was."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from torture import page
from torture.campaign import Campaign, campaigns
from torture.progress import Progress
from torture.record import write
from torture.tree import RECORDS, ROOT
from tqdm import tqdm

from stabilitykit.errors import UsageError

SLICE = 5.0
"""Seconds until the next campaign has its turn."""


def main(words: list[str] | None = None) -> int:
    """Run what is asked for, write its records and the page; 1 if a fault is open, 2 for a wrong request."""
    given = _parser().parse_args(words)
    if given.table:
        page.write()
        return 0
    try:
        chosen, shard = _chosen(given.ids), _shard(given.shard)
    except UsageError as error:
        print(error)
        return 2
    running = [Progress(one, given.journals, shard, given.keep) for one in chosen]
    try:
        run(running, given.time)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
    for one in running:
        if one.done:
            write(one, given.records)
        print(_line(one))
    if given.records == RECORDS:
        page.write()
    return int(any(one.faults or one.unnoticed for one in running))


def run(running: list[Progress], seconds: float) -> None:
    """Give each unfinished campaign its turn, round after round, until all are finished or the time is over."""
    end = time.monotonic() + seconds
    left = running
    with tqdm(total=sum(one.campaign.full for one in running), unit=" trials", smoothing=0) as bar:
        bar.update(sum(len(one.done) for one in running))
        while left and time.monotonic() < end:
            for one in left:
                bar.set_description(one.campaign.id)
                bar.update(one.run(min(SLICE, end - time.monotonic())))
                bar.set_postfix(faults=sum(len(each.faults) for each in running))
                if time.monotonic() >= end:
                    break
            left = [one for one in left if not one.finished]


def _line(one: Progress) -> str:
    campaign = one.campaign
    counts = f"{len(one.done) * campaign.each:,} of {campaign.full * campaign.each:,} {campaign.unit}"
    first = [f"trial {trial}: {one.faults[trial]}" for trial in sorted(one.faults)[:3]]
    planted = [f"not noticed: {name}" for name in one.unnoticed or ()]
    return "\n    ".join([f"{campaign.id:<4} {counts}, {len(one.faults)} faults", *first, *planted])


def _chosen(ids: list[str]) -> list[Campaign]:
    found = {one.id: one for one in campaigns()}
    if unknown := [name for name in ids if name not in found]:
        raise UsageError(f"there is no campaign {unknown[0]!r}; there are {', '.join(found)}")
    return [found[name] for name in ids] or list(found.values())


def _shard(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and 0 < int(number) <= int(of)):
        raise UsageError(f"shard {text!r} is not like 1/2")
    return int(number), int(of)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tests/torture", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help="campaigns, such as T3; all without one")
    parser.add_argument("--time", type=float, default=3600.0, help="seconds after which it stops (3600)")
    parser.add_argument("--shard", default="1/1", help="run every N-th trial only, from the I-th: I/N")
    parser.add_argument("--keep", action="store_true", help="count trials of other versions of the kit too")
    parser.add_argument("--table", action="store_true", help="write docs/reliability.md from the records and stop")
    parser.add_argument("--journals", type=Path, default=ROOT / ".torture", help=argparse.SUPPRESS)
    parser.add_argument("--records", type=Path, default=RECORDS, help=argparse.SUPPRESS)
    return parser
