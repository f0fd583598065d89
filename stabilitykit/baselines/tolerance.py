"""How far a reading may fall behind its baseline: `first_change.radius: 5%`, `*.max_ulp: 2ulp`, `gain*.*: x1.5`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from stabilitykit.errors import UsageError
from stabilitykit.results.drift import ulps
from stabilitykit.results.limit import names

_RULE = re.compile(r"\s*([\w*?\[\]/:.@-]+)\.([\w*?]+)\s*:\s*(\S+)\s*")
_NUMBER = r"([0-9]{1,400}\.?[0-9]{0,400}(?:[eE][-+]?[0-9]{1,3})?)"
_FORMS: tuple[tuple[Literal["percent", "ratio", "ulp", "absolute"], re.Pattern[str]], ...] = (
    ("percent", re.compile(_NUMBER + "%")),
    ("ratio", re.compile("x" + _NUMBER)),
    ("ulp", re.compile(r"([0-9]{1,400})ulp")),
    ("absolute", re.compile(_NUMBER)),
)
_FORM = "is not CHECK.METRIC: TOLERANCE with 5%, 0.01, x1.5, 4ulp or any, for example 'first_change.radius: 5%'"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One `--stability-compare-fail`: a glob on check ids, a glob on metrics, and how much worse is no failure.

    It bounds a change for the worse, and a change either way where neither side is better. The bounds are worked out
    in fractions and rounded once: of 2.0 and 5 % the last number allowed is the float 1.9.
    """

    check: str
    metric: str
    kind: Literal["percent", "ratio", "ulp", "absolute", "any"]
    amount: Fraction
    typed: str

    def __str__(self) -> str:
        """Return the expression."""
        return f"{self.check}.{self.metric}: {self.typed}"

    @classmethod
    def parse(cls, expression: str) -> Tolerance:
        """Read `CHECK.METRIC: TOLERANCE`; UsageError with the expected form otherwise."""
        match = _RULE.fullmatch(expression)
        if match is None:
            raise UsageError(f"compare-fail {expression!r} {_FORM}")
        check, metric, typed = match.groups()
        if typed == "any":
            return cls(check, metric, "any", Fraction(0), typed)
        for kind, form in _FORMS:
            if found := form.fullmatch(typed):
                amount = Fraction(found[1])
                if kind == "ratio" and amount < 1:
                    raise UsageError(f"compare-fail {expression!r}: a ratio is x1 or more, since it bounds either side")
                return cls(check, metric, kind, amount, typed)
        raise UsageError(f"compare-fail {expression!r} {_FORM}")

    def applies(self, check: str, metric: str) -> bool:
        """Return whether both globs fit; a check is named in full or by its part before the bracket."""
        return names(self.check, check) and names(self.metric, metric)

    def covers(self, now: float, then: float, unit: str) -> bool:
        """Return whether two values are so near; nothing but `any` covers a step to or from infinity, or nan."""
        if self.kind == "any":
            return True
        if not (math.isfinite(now) and math.isfinite(then)):
            return now == then
        if self.kind == "ulp" and not unit.startswith("ULP"):
            return ulps(now, then) <= self.amount
        low, high = sorted(self._bounds(Fraction(then)))
        return _rounded(low) <= now <= _rounded(high)

    def _bounds(self, then: Fraction) -> tuple[Fraction, Fraction]:
        if self.kind == "ratio":
            return then / self.amount, then * self.amount
        # Of a number that counts ULP, that many more are as many ULP.
        step = self.amount / 100 * then if self.kind == "percent" else self.amount
        return then - step, then + step


def _rounded(bound: Fraction) -> float:
    try:
        return float(bound)
    except OverflowError:
        return math.inf if bound > 0 else -math.inf


def chosen(rules: Sequence[Tolerance], check: str, metric: str) -> Tolerance | None:
    """Return the last rule that applies: a later one is the exception to an earlier one."""
    return next((rule for rule in reversed(rules) if rule.applies(check, metric)), None)
