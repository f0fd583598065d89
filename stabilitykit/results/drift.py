"""One reading beside its baseline: the two values, what was allowed, and what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["same", "within", "better", "followed", "worse", "changed", "gone"]
"""Gone: the baseline has the reading and this result has not. Changed: neither side is better, and they differ.
Followed: the same, but another reading of the check moved for the better and none for the worse."""

URGENCY: tuple[Kind, ...] = ("worse", "gone", "changed", "within", "followed", "better", "same")
"""In reading order: what needs a person first."""

BROKEN: tuple[Kind, ...] = ("worse", "changed", "gone")


@dataclass(frozen=True, slots=True)
class Drift:
    """A reading now and then. `now` is None where it is gone; `allowed` is a tolerance as typed, or how it is compared.

    `place` is set where the reading is of one recorded direction, and names it.
    """

    name: str
    unit: str
    now: float | None
    then: float
    allowed: str
    kind: Kind
    place: str = ""

    @property
    def label(self) -> str:
        """The reading, with the direction it is along if there is one."""
        return f"{self.name} along {self.place}" if self.place else self.name

    @property
    def broken(self) -> bool:
        """Whether the baseline is broken."""
        return self.kind in BROKEN

    @property
    def change(self) -> str:
        """The change in words: percent where that says something, else units in the last place of a float64."""
        if self.now is None:
            return "gone"
        if self.now == self.then:
            return "-"
        if not (math.isfinite(self.now) and math.isfinite(self.then) and self.then):
            return "moved"
        relative = (self.now - self.then) / abs(self.then)
        return f"{100 * relative:+.3g} %" if abs(relative) >= 1e-9 else f"{ulps(self.then, self.now)} float64 ULP"


def ulps(a: float, b: float) -> int:
    """Return how many float64 steps lie between two finite numbers; both zeros are one."""
    return abs(_ordered(a) - _ordered(b))


def _ordered(value: float) -> int:
    import struct

    bits: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)
