"""Known differences: checks that may fail or differ without failing their test, each with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stabilitykit.errors import UsageError
from stabilitykit.results.limit import names
from stabilitykit.text_lines import numbered_lines


@dataclass(frozen=True, slots=True)
class Known:
    """One line of the file: a glob on check ids, as in a limit, and why the difference is accepted."""

    check: str
    reason: str
    where: str

    def __str__(self) -> str:
        """Return the line."""
        return f"{self.check} {self.reason}"

    def covers(self, check: str) -> bool:
        """Return whether the line names this check, in full or by its part before the bracket."""
        return names(self.check, check)


def read_known(path: Path) -> tuple[Known, ...]:
    """Return the lines `CHECK REASON` of a file; UsageError, with the line, for one without a reason, or no line."""
    found = []
    for number, line in numbered_lines("known", path):
        check, _, reason = line.partition(" ")
        if not reason.strip():
            raise UsageError(f"known {path} line {number}: {line!r} gives no reason; write CHECK REASON")
        found.append(Known(check, reason.strip(), f"{path.name} line {number}"))
    if not found:
        raise UsageError(f"known file {path} names no check; write CHECK REASON, one a line")
    return tuple(found)


def excuse(known: Sequence[Known], check: str) -> Known | None:
    """Return the first line that names a check."""
    return next((one for one in known if one.covers(check)), None)


def stale(known: Sequence[Known], checks: Sequence[str], excused: Sequence[str]) -> list[str]:
    """Return a sentence for each line that excused no check of a run: `excused` are those that were, by `where`."""
    idle = [one for one in known if one.where not in excused]
    return [
        f"{one.where} is stale: {one.check} failed nothing; remove the line"
        if any(one.covers(check) for check in checks)
        else f"{one.where} met no check of this run: {one.check}"
        for one in idle
    ]
