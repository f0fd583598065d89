"""How a verdict is ordered, marked and explained wherever people read one: never by colour alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from stabilitykit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Verdict:
    """A word of the vocabulary with its mark, its tone (`bad`, `new`, `info`, `good`, `mute`) and its meaning."""

    name: str
    mark: str
    tone: str
    meaning: str


# In reading order: what needs a person first.
VERDICTS = (
    Verdict("crash", "☠", "bad", "The process died while measuring; nothing is known."),
    Verdict("timeout", "⏱", "bad", "The measurement did not finish in its time; nothing is known."),
    Verdict("fail", "✗", "bad", "A measured value breaks its limit or its baseline."),
    Verdict("invalid", "!", "bad", "A value that is not a finite number was met, so nothing was computed from it."),
    Verdict("differs", "≠", "bad", "Bits differ where they should ideally be equal. Observed, not held to a limit."),
    Verdict("incomparable", "∦", "bad", "The two sides do not describe the same thing, so they were not compared."),
    Verdict("not-distinct", "≈", "bad", "The two things to compare are one and the same, so equality means nothing."),
    Verdict("new", "+", "new", "Measured for the first time: there is no baseline yet."),
    Verdict("unsupported", "–", "mute", "This question cannot be asked of this model; the sentence names the reason."),
    Verdict("skipped", "–", "mute", "Left out of this run on purpose."),
    Verdict("measured", "•", "info", "Measured; no limit and no baseline applies."),
    Verdict("pass", "✓", "good", "Measured, and every limit and baseline holds."),
)
_BY_NAME = {verdict.name: (place, verdict) for place, verdict in enumerate(VERDICTS)}


def verdict(name: str) -> Verdict:
    """Return the verdict of this name."""
    return _find(name)[1]


def urgency(name: str) -> int:
    """Return the place in reading order: failures first, passes last."""
    return _find(name)[0]


def counts(names: Iterable[str]) -> list[tuple[Verdict, int]]:
    """Return the verdicts that occur, with how often, in reading order."""
    found = Counter(names)
    unknown = sorted(set(found) - set(_BY_NAME))
    if unknown:
        raise UsageError(f"verdict {unknown[0]!r} is not one of {', '.join(_BY_NAME)}")
    return [(item, found[item.name]) for item in VERDICTS if found[item.name]]


def _find(name: str) -> tuple[int, Verdict]:
    if name not in _BY_NAME:
        raise UsageError(f"verdict {name!r} is not one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]
