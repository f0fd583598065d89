"""Bounds that a trial is held to: processor time, and what a message may look like."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from stabilitykit.errors import StabilityError


class Slow(BaseException):
    """Not an Exception: nothing that is under test may take it for an error of its own."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise Slow in the main thread once the process has computed for so long."""

    def late(*_: object) -> None:
        raise Slow

    former = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)


def unlike(error: StabilityError) -> str | None:
    """Return what is wrong with a message, None for one printable line of a readable length."""
    said = str(error)
    if not said.isprintable():
        return f"its message does not print: {said[:200]!a}"
    return f"its message has {len(said)} characters: {said[:200]}" if not 10 <= len(said) <= 1_000 else None
