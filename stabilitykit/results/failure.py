"""The one exception a failed gate raises, and the only place that lays out its message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stabilitykit.results.limit import Bound
    from stabilitykit.results.result import Result


class StabilityFailure(AssertionError):  # noqa: N818 - pytest prints the name; a failed test is a failure
    """A measured value broke its limit; `result` holds everything that was measured."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


# Messages and reports show the name users import, not the module that happens to define it.
StabilityFailure.__module__ = "stabilitykit"


def render(result: Result, bounds: Mapping[str, Bound], broken: Sequence[str], commands: Sequence[str] = ()) -> str:
    """Return the message: a first line that stands alone, the table, worst place, noise, causes, commands.

    At most 15 lines; the first says measurement, metric, observed, limit, subject and numeric setting, since
    it is all a summary line shows.
    """
    blocks = [
        [_headline(result, bounds, broken)],
        _table(result, bounds),
        [line for line in (str(result.worst) if result.worst else "", _noise(result)) if line],
        [*([f"This usually means {_listed(result.causes)}."] if result.causes else []), *commands],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _headline(result: Result, bounds: Mapping[str, Bound], broken: Sequence[str]) -> str:
    name = broken[0]
    reading = result.readings[name]
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    return (
        f"{result.title}: {name} {reading.metric.format(reading.value)} breaks {bounds[name]}{more} "
        f"on {describe(result.subject)}"
    )


def describe(subject: Mapping[str, Any]) -> str:
    """Return `name [dtype, device, path]` from a subject's description, leaving out what it does not say."""
    setting = [str(subject[key]) for key in ("dtype", "device", "path", "site") if subject.get(key)]
    return f"{subject.get('name', 'subject')} [{', '.join(setting)}]"


def _table(result: Result, bounds: Mapping[str, Bound]) -> list[str]:
    rows = [("metric", "observed", "limit", "unit")]
    for name, reading in result.readings.items():
        limit = str(bounds[name]) if name in bounds else "-"
        rows.append((name, reading.metric.format(reading.value), limit, reading.unit))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip() for row in rows]


def _noise(result: Result) -> str:
    return f"noise floor: {result.noise}" if result.noise else ""


def _listed(causes: Sequence[str]) -> str:
    lettered = [f"({letter}) {cause}" for letter, cause in zip("abcdef", causes, strict=False)]
    return ", ".join(lettered[:-1]) + (", or " if len(lettered) > 1 else "") + lettered[-1]
