"""The page of two runs side by side: what is different about them, and each check that moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stabilitykit.report.figures import Figure, figures
from stabilitykit.report.page import text
from stabilitykit.report.templating import render
from stabilitykit.report.text import shown
from stabilitykit.report.verdicts import Verdict, verdict
from stabilitykit.results.drift import URGENCY, Drift
from stabilitykit.results.record import Record, Run

Change = tuple[str, Any, Any]
"""A field, its value then, its value now."""

# In reading order: what needs a person first.
STATUSES = ("worse", "changed", "verdict", "gone", "better", "added", "asked", "same")
MEANINGS = {
    "worse": "A reading is worse.",
    "changed": "A reading without a better side has moved.",
    "verdict": "The readings are the same, the verdict is not.",
    "gone": "Only the first run has it.",
    "better": "What moved is better.",
    "added": "Only the second run has it.",
    "asked": "The two runs asked different questions under this name.",
    "same": "The same verdict and the same readings, to the last bit; of sampled ones the intervals overlap.",
}


@dataclass(frozen=True)
class Pair:
    """A check in two runs: its records, the readings that moved, and what it was asked otherwise."""

    check: str
    then: Record | None
    now: Record | None
    drifts: tuple[Drift, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def moved(self) -> list[Drift]:
        """The readings that are not the same, what is worse first."""
        other = (drift for drift in self.drifts if drift.kind != "same")
        return sorted(other, key=lambda drift: URGENCY.index(drift.kind))

    @property
    def verdicts(self) -> tuple[str, str]:
        """The two verdicts, a dash where there is no record."""
        return self.then.verdict if self.then else "-", self.now.verdict if self.now else "-"

    @property
    def status(self) -> str:
        """One word of `STATUSES`."""
        if self.then is None or self.now is None:
            return "added" if self.then is None else "gone"
        if self.changes:
            return "asked"
        kinds = {drift.kind for drift in self.drifts}
        for word, of in (("worse", {"worse", "gone"}), ("changed", {"changed"}), ("better", {"better", "followed"})):
            if kinds & of:
                return word
        return "same" if len(set(self.verdicts)) == 1 else "verdict"


@dataclass(frozen=True)
class Runs:
    """Two runs: what differs in their machines and settings, and their checks."""

    then: Run
    now: Run
    environment: tuple[Change, ...]
    settings: tuple[Change, ...]
    pairs: tuple[Pair, ...]

    @property
    def fields(self) -> tuple[tuple[str, tuple[Change, ...]], ...]:
        """The fields that differ, under what they are of."""
        return (("Environment", self.environment), ("Settings", self.settings))

    @property
    def moved(self) -> tuple[Pair, ...]:
        """The checks that are not the same, what needs a person first."""
        other = (pair for pair in self.pairs if pair.status != "same")
        return tuple(sorted(other, key=lambda pair: (STATUSES.index(pair.status), pair.check)))

    @property
    def sentence(self) -> str:
        """E.g. `55 checks: 2 worse, 53 same`."""
        found = Counter(pair.status for pair in self.pairs)
        told = ", ".join(f"{found[status]} {status}" for status in STATUSES if found[status])
        return f"{len(self.pairs)} {'check' if len(self.pairs) == 1 else 'checks'}: {told}".removesuffix(": ")


@dataclass(frozen=True)
class Side:
    """One side of a check as the page shows it."""

    title: str
    verdict: Verdict | None
    sentence: str
    figures: Sequence[Figure]


def page(found: Runs) -> str:
    """Return the page; the figures of a check that moved stand next to each other, the first of each side."""
    checks: list[dict[str, Any]] = [
        {
            "anchor": f"check-{number}",
            "id": shown(pair.check),
            "status": pair.status,
            "meaning": MEANINGS[pair.status],
            "sides": [_side("Then", pair.then), _side("Now", pair.now)],
            "rows": [_row(drift) for drift in pair.moved],
            "changes": _fields(pair.changes),
        }
        for number, pair in enumerate(found.moved, 1)
    ]
    return render(
        "beside.html.j2",
        drawn=any(side.figures for check in checks for side in check["sides"]),
        sentence=found.sentence,
        runs=[_about("Then", found.then), _about("Now", found.now)],
        fields=[(name, _fields(changes)) for name, changes in found.fields],
        checks=checks,
        same=[shown(pair.check) for pair in found.pairs if pair.status == "same"],
        same_means=MEANINGS["same"],
    )


def _side(title: str, record: Record | None) -> Side:
    if record is None:
        return Side(title, None, "Not measured.", ())
    sentence = record.result.sentence if record.result else record.message.split("\n")[0]
    return Side(title, verdict(record.verdict), shown(sentence), figures(record.result)[:1] if record.result else ())


def _row(drift: Drift) -> tuple[str, ...]:
    now = "gone" if drift.now is None else f"{drift.now:.9g}"
    return drift.kind, shown(drift.label), f"{drift.then:.9g}", now, drift.change, shown(drift.unit)


def _fields(changes: Sequence[Change]) -> list[tuple[str, str, str]]:
    return [(shown(name), text(then) or "none", text(now) or "none") for name, then, now in changes]


def _about(title: str, run: Run) -> tuple[str, str]:
    return title, shown(f"{run.started}, run {run.run_id[:12]}: {run.command}")
