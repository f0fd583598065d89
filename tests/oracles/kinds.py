"""Every measurement that the package offers, with what it reads."""

from __future__ import annotations

import stabilitykit as sk
from stabilitykit.results.metric import Metric


def kinds() -> list[type[sk.Measurement]]:
    """Return the public measurements."""
    things = [getattr(sk, name) for name in sk.__all__]
    base = sk.Measurement
    return [thing for thing in things if isinstance(thing, type) and issubclass(thing, base) and thing is not base]


def schema(kind: type[sk.Measurement]) -> tuple[Metric, ...]:
    """Return its metrics, of the default instance where a parameter decides which they are."""
    return kind.metrics if hasattr(kind, "metrics") else kind().schema()
