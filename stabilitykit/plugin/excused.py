"""`--stability-known`: a failure that its file names is shown as a difference, and fails no test."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stabilitykit.plugin.options import SETTINGS

if TYPE_CHECKING:
    from stabilitykit.plugin.testlog import TestLog


def excused(log: TestLog, check_id: str, message: str) -> bool:
    """Return whether the failure of a check is known; its verdict is then `differs`, with the reason."""
    lines = log.item.config.stash[SETTINGS].known
    if not lines:
        return False
    from stabilitykit.results.known import excuse

    if (line := excuse(lines, check_id)) is None:
        return False
    log.records[check_id] = replace(log.records[check_id], known=line.where, gate=False)
    log.judge(check_id, "differs", f"known difference ({line.reason}): {message}")
    return True
