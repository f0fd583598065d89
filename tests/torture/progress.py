"""How far a campaign is: trials in a checksummed journal, so that a run that was stopped at any moment goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from pathlib import Path

import torture.campaign as campaigns
from torture.campaign import Campaign
from torture.tree import ROOT, commit

from stabilitykit.report.journal import NAME, Journal, lines


def sources(campaign: Campaign) -> str:
    """Return the digest of the campaign's sources and the kit's, of its rooms: trials of others are not counted."""
    rooms = [sorted((ROOT / "stabilitykit" / room).rglob("*.py")) for room in campaign.rooms]
    files = [*(path for room in rooms for path in room), campaign.source]
    text = b"".join(path.name.encode() + b"\0" + path.read_bytes() + b"\0" for path in files)
    return hashlib.sha256(text).hexdigest()[:12]


class Progress:
    """The trials of one campaign that were run, by this process and by others, with the faults that they found.

    A process appends to the journal of its shard only, and reads all. `keep` counts trials of other sources too,
    but for those that found a fault, which may have been mended.
    `finished` is set once the shard has no trial left.
    """

    def __init__(self, campaign: Campaign, folder: Path, shard: tuple[int, int] = (1, 1), keep: bool = False) -> None:
        self.campaign = campaign
        self.sources = sources(campaign)
        self.done: set[int] = set()
        self.faults: dict[int, str] = {}
        self.unnoticed: list[str] | None = None
        self.commits: Counter[str] = Counter()
        self.seconds = 0.0
        self.last = 0.0
        about = {"campaign": campaign.id, "sources": self.sources, "commit": commit()}
        number, of = shard
        self._journal = Journal(folder / campaign.key / f"{number}-of-{of}", json.dumps(about), resumed=True)
        for path in sorted((folder / campaign.key).glob(f"*/{NAME}")):
            self._take(path, keep)
        self._commit = about["commit"]
        self._left = iter([trial for trial in range(number - 1, campaign.full, of) if trial not in self.done])
        self.finished = False

    def run(self, seconds: float) -> int:
        """Run trials for about this long, at least one; return how many. They count once they are in the journal."""
        begun, ran, found = time.monotonic(), list[int](), dict[int, str]()
        if self.unnoticed is None:
            self.unnoticed = campaigns.unnoticed(self.campaign)
        try:
            while not ran or time.monotonic() - begun < seconds:
                if (trial := next(self._left, None)) is None:
                    self.finished = True
                    break
                if problem := campaigns.fault(self.campaign.trial, trial):
                    found[trial] = problem
                ran.append(trial)
        finally:
            self._keep({"trials": _ranges(ran), "faults": found, "seconds": time.monotonic() - begun})
        return len(ran)

    def _keep(self, line: dict) -> None:
        text = json.dumps({**line, "unnoticed": self.unnoticed, "at": time.time()})
        self._journal.append(text)
        self._add(json.loads(text), self._commit)

    def _take(self, path: Path, keep: bool) -> None:
        about = {"sources": None, "commit": ""}
        for kind, text in lines(path)[0]:
            if kind == "header":
                about = json.loads(text)
            elif about["sources"] == self.sources:
                self._add(json.loads(text), about["commit"])
            elif keep:
                self._add(json.loads(text) | {"unnoticed": None}, about["commit"], faults=False)

    def _add(self, line: dict, by: str, faults: bool = True) -> None:
        """Count a line's trials; without `faults` those that found none: the others are run again."""
        trials = {trial for first, stop, step in line["trials"] for trial in range(first, stop, step)}
        if not faults:
            trials -= {int(trial) for trial in line["faults"]}
        self.commits[by] += len(trials - self.done)
        self.done |= trials
        self.faults |= {int(trial): problem for trial, problem in line["faults"].items()} if faults else {}
        self.unnoticed = line["unnoticed"] if self.unnoticed is None else self.unnoticed
        self.seconds += line["seconds"]
        self.last = max(self.last, line["at"])


def _ranges(trials: list[int]) -> list[tuple[int, int, int]]:
    """Return rising numbers as (first, stop, step), a few for any regular list."""
    found: list[tuple[int, int, int]] = []
    for trial in trials:
        if found and (found[-1][1] - found[-1][0] == 1 or trial == found[-1][1] - 1 + found[-1][2]):
            first, stop, step = found[-1]
            step = trial - first if stop - first == 1 else step
            found[-1] = (first, trial + 1, step)
        else:
            found.append((trial, trial + 1, 1))
    return found
