"""The table at the end of a terminal session: what needs a person on top, at most 120 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from stabilitykit.report.text import shortened, shown
from stabilitykit.report.verdicts import counts, urgency

if TYPE_CHECKING:
    from stabilitykit.results.record import Record

WIDTH = 120
_ID_WIDTH = 54
_READINGS = 3


def table(records: Sequence[Record]) -> list[str]:
    """Return the lines: verdict, check, its key readings; the last line counts the verdicts."""
    ordered = sorted(records, key=lambda record: urgency(record.verdict))
    names = [shortened(shown(record.check_id), _ID_WIDTH) for record in ordered]
    first = max((len(record.verdict) for record in ordered), default=0)
    second = max((len(name) for name in names), default=0)
    room = WIDTH - first - second - 4
    lines = [
        f"{record.verdict:<{first}}  {name:<{second}}  {said(record, room)}".rstrip()
        for record, name in zip(ordered, names, strict=True)
    ]
    return [*lines, tally(records)]


def tally(records: Sequence[Record]) -> str:
    """Return e.g. `9 checks: 1 fail, 1 differs, 7 measured`."""
    found = ", ".join(f"{number} {verdict.name}" for verdict, number in counts(r.verdict for r in records))
    noun = "check" if len(records) == 1 else "checks"
    return f"{len(records)} {noun}: {found}" if found else "0 checks"


def said(record: Record, room: int) -> str:
    """Return the readings that matter most, as many as fit, or why there are none; and whether a run was resumed."""
    if record.resumed:
        return f"resumed: {said(replace(record, resumed=False), room - len('resumed: '))}"
    chosen = key_readings(record)
    if record.result is None or not chosen:
        return shortened(shown(record.message.split("\n", 1)[0]), room)
    texts = [shown(f"{name} {record.result.readings[name]}") for name in chosen]
    while len(texts) > 1 and len(", ".join(texts)) > room:
        texts.pop()
    return shortened(", ".join(texts), room)


def key_readings(record: Record) -> list[str]:
    """Return up to three names: those a limit holds, then those with a better side, then in schema order."""
    if record.result is None:
        return []
    found = record.result.readings
    return sorted(found, key=lambda name: (name not in record.limits, found[name].metric.better == "neither"))[
        :_READINGS
    ]
