"""Limits: `max_ulp<=4` on one result, `batch_invariance.max_ulp<=4` over the checks of a whole run."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real

from stabilitykit.errors import UsageError
from stabilitykit.results.metric import Reading

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}
_BOUND = re.compile(r"^\s*(<=|>=|==|<|>)\s*(\S+)\s*$")
_LIMIT = re.compile(r"^\s*([\w*?\[\]/:.@-]+)\.(\w+)\s*((?:<=|>=|==|<|>).+)$")


@dataclass(frozen=True, slots=True)
class Bound:
    """A comparison with a number; a bare number means "at most", or "at least" where higher is better."""

    comparison: str
    value: float

    def __str__(self) -> str:
        """Return e.g. `<= 4`."""
        short = f"{self.value:g}"
        return f"{self.comparison} {short if float(short) == self.value else repr(self.value).removesuffix('.0')}"

    def holds(self, value: float) -> bool:
        """Return whether `value` keeps the bound; nan keeps none."""
        return _OPERATORS[self.comparison](value, self.value)

    @classmethod
    def parse(cls, bound: object, reading: Reading) -> Bound:
        """Read `4`, `"<=4"` or `">= 1e-12"` for a reading; refuse anything else in one sentence."""
        if isinstance(bound, str) and (match := _BOUND.match(bound)):
            return cls(match[1], _number(match[2], bound))
        if isinstance(bound, Real) and not isinstance(bound, bool):
            return cls(">=" if reading.metric.better == "higher" else "<=", _number(bound, bound))
        raise UsageError(f"limit {reading.metric.name}={bound!r}: write a number or a comparison such as '<= 4'")


@dataclass(frozen=True, slots=True)
class Limit:
    """One `--stability-limit`: a glob on check ids, a metric, and a bound."""

    check: str
    metric: str
    bound: str

    def __str__(self) -> str:
        """Return the expression as typed."""
        return f"{self.check}.{self.metric}{self.bound}"

    def applies(self, check: str) -> bool:
        """Return whether the glob names this check, as `names` reads it."""
        return names(self.check, check)

    @classmethod
    def parse(cls, expression: str) -> Limit:
        """Read `CHECK.METRIC<=NUMBER`; raise UsageError with the expected form otherwise."""
        match = _LIMIT.match(expression)
        if match is None or not _BOUND.match(match[3]):
            raise UsageError(
                f"limit {expression!r} is not CHECK.METRIC<=NUMBER, for example 'batch_invariance.max_ulp<=4'"
            )
        _number(_BOUND.match(match[3])[2], expression)  # type: ignore[index]
        return cls(match[1], match[2], match[3].strip())


def names(glob: str, check: str) -> bool:
    """Return whether a glob names this check, in full or by its part before the bracket.

    `*` and `?` are wild; brackets are those of the check id and no character class.
    """
    glob = glob.replace("[", "[[]")
    return fnmatchcase(check, glob) or fnmatchcase(check.split("[", 1)[0], glob)


def select(limits: tuple[Limit, ...], check: str, readings: Mapping[str, Reading]) -> dict[str, str]:
    """Return metric -> bound for the limits that name this check; refuse a metric it does not report."""
    chosen: dict[str, str] = {}
    for limit in limits:
        if not limit.applies(check):
            continue
        if limit.metric not in readings:
            raise UsageError(f"limit {limit}: unknown metric {limit.metric!r}; {check} reports {', '.join(readings)}")
        chosen[limit.metric] = limit.bound
    return chosen


def _number(text: object, expression: object) -> float:
    try:
        value = float(text)  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        raise UsageError(f"limit {expression!r}: {text!r} is not a number") from None
    if math.isnan(value):
        raise UsageError(f"limit {expression!r}: nan is not a limit, every comparison with it is false")
    return value
