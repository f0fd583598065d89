"""A run as Markdown, for a step summary or a merge request: what needs a look on top, and no text becomes a link."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stabilitykit.report.terminal import said, tally
from stabilitykit.report.text import shortened, shown
from stabilitykit.report.verdicts import urgency, verdict

if TYPE_CHECKING:
    from stabilitykit.results.record import Record, Run

LARGEST = 200_000
"""Bytes at most: GitHub refuses a whole summary over 1024 kB, and a page of it can hold several runs."""

_MARKS = str.maketrans({mark: f"&#{ord(mark)};" for mark in "\\`*_{}[]()<>#&|~$!"})
# What GitHub turns into a link or a mention even where every mark is an entity; a code span is left alone.
_LIVELY = re.compile(r"@|://|\bwww\.|#\d|\bGH-\d", re.I)
_WIDTH = 300


def summary(run: Run, records: Sequence[Record]) -> str:
    """Return the run as Markdown of at most `LARGEST` bytes; rows that do not fit are counted, not cut."""
    ordered = sorted(records, key=lambda record: urgency(record.verdict))
    head = [f"### Floating-point stability: {plain(tally(records))}", "", *(f"> {plain(note)}\n" for note in run.notes)]
    bad = [record for record in ordered if verdict(record.verdict).tone == "bad"]
    rows = [_row(record, record.headline) for record in bad]
    lines = head + (["| verdict | check | finding |", "|---|---|---|", *rows, ""] if rows else [])
    lines += ["<details><summary>All checks</summary>", "", "| verdict | check | readings |", "|---|---|---|"]
    lines += [_row(record, said(record, _WIDTH)) for record in ordered]
    return _within(lines, ["", "</details>", "", f"run {code(run.run_id)}, {code(run.command)}", ""])


def plain(text: object) -> str:
    """Return text that Markdown shows as it is: marks are entities, what would become a link is a code span."""
    visible = shortened(shown(text), _WIDTH)
    return code(visible) if _LIVELY.search(visible) else visible.translate(_MARKS)


def code(text: object) -> str:
    """Return a code span that its text cannot end, fit for a cell of a table."""
    visible = shown(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", visible)), default=0))
    # A table's cell ends at a bar even within a code span, unless it is escaped.
    return f"{fence} {visible} {fence}".replace("|", "\\|") if visible else ""


def _row(record: Record, text: str) -> str:
    mark = verdict(record.verdict)
    return f"| {mark.mark} {mark.name} | {code(record.check_id)} | {plain(text)} |"


def _within(lines: list[str], end: list[str]) -> str:
    room = LARGEST - sum(len(line.encode()) + 1 for line in end) - 100
    kept: list[str] = []
    for line in lines:
        room -= len(line.encode()) + 1
        if room < 0:
            kept.append(f"\n{len(lines) - len(kept)} more lines are in the report.")
            break
        kept.append(line)
    return "\n".join([*kept, *end])
