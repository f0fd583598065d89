"""Two sides of a comparison timed in turns, in processor seconds: other processes move those less than a clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return processor seconds and the result of one call."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def alternated(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> tuple[float, float, Any, Any]:
    """Return the least processor seconds of each side over `rounds` turns, and the last results."""
    seconds = [(timed(ours), timed(theirs)) for _ in range(rounds)]
    (_, mine), (_, other) = seconds[-1]
    return min(a for (a, _), _ in seconds), min(b for _, (b, _) in seconds), mine, other
