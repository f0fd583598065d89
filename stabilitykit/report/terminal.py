"""The table at the end of a terminal session: what needs a person on top, at most 120 columns."""

from __future__ import annotations

from collections.abc import Sequence
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
    rows = [(record.verdict, shortened(shown(record.check_id), _ID_WIDTH), said(record)) for record in ordered]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    lines = [f"{verdict:<{widths[0]}}  {check:<{widths[1]}}  {text}".rstrip() for verdict, check, text in rows]
    return [shortened(line, WIDTH) for line in lines] + [tally(records)]


def tally(records: Sequence[Record]) -> str:
    """Return e.g. `9 checks: 1 fail, 1 differs, 7 measured`."""
    found = ", ".join(f"{number} {verdict.name}" for verdict, number in counts(r.verdict for r in records))
    noun = "check" if len(records) == 1 else "checks"
    return f"{len(records)} {noun}: {found}" if found else "0 checks"


def said(record: Record) -> str:
    """Return the readings that matter most, or why there are none."""
    chosen = key_readings(record)
    if record.result is None or not chosen:
        return shown(record.message.split("\n", 1)[0])
    return ", ".join(f"{name} {shown(record.result.readings[name])}" for name in chosen)


def key_readings(record: Record) -> list[str]:
    """Return up to three names: those a limit holds, then those with a better side, then in schema order."""
    if record.result is None:
        return []
    found = record.result.readings
    return sorted(found, key=lambda name: (name not in record.limits, found[name].metric.better == "neither"))[
        :_READINGS
    ]
