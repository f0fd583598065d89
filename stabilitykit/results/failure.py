"""The one exception a failed gate raises, and the only place that lays out its message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stabilitykit.results.limit import Bound
    from stabilitykit.results.metric import Reading
    from stabilitykit.results.result import Result

_LINES = 15


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
    below = [
        [line for line in (str(result.worst) if result.worst else "", _noise(result)) if line],
        [*([f"This usually means {_listed(result.causes)}."] if result.causes else []), *commands],
    ]
    room = _LINES - 2 - sum(1 + len(block) for block in below if block)
    blocks = [[_headline(result, bounds, broken)], _table(result, bounds, broken, room), *below]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _headline(result: Result, bounds: Mapping[str, Bound], broken: Sequence[str]) -> str:
    name = broken[0]
    reading = result.readings[name]
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    return (
        f"{result.title}: {name} {_observed(reading, bounds.get(name))} breaks {bounds[name]}{more} "
        f"on {describe(result.subject)}"
    )


def describe(subject: Mapping[str, Any]) -> str:
    """Return `name [dtype, device, path]` from a subject's description, leaving out what it does not say."""
    setting = [str(subject[key]) for key in ("dtype", "device", "path", "site") if subject.get(key)]
    name = str(subject.get("name", "subject"))
    return f"{name} [{', '.join(setting)}]" if setting else name


def _table(result: Result, bounds: Mapping[str, Bound], broken: Sequence[str], room: int) -> list[str]:
    """Return the readings in schema order; where there is no room for all, those with a limit first."""
    ranked = sorted(result.readings, key=lambda name: (name not in broken, name not in bounds))
    left_out = ranked[max(room - 2, 1) :] if len(ranked) > room - 1 else []
    rows = [("metric", "observed", "limit", "unit")]
    for name, reading in result.readings.items():
        if name not in left_out:
            limit = str(bounds[name]) if name in bounds else "-"
            rows.append((name, _observed(reading, bounds.get(name)), limit, reading.unit))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    return [*lines, f"  and {len(left_out)} more readings"] if left_out else lines


def _observed(reading: Reading, bound: Bound | None) -> str:
    """Return the value as text: in full where fewer digits would seem to keep a bound that the value breaks."""
    text = reading.metric.format(reading.value)
    if bound is None or bound.holds(reading.value) or not bound.holds(float(text)):
        return text
    return repr(float(reading.value))


def _noise(result: Result) -> str:
    return f"noise floor: {result.noise}" if result.noise else ""


def _listed(causes: Sequence[str]) -> str:
    lettered = [f"({letter}) {cause}" for letter, cause in zip("abcdef", causes, strict=False)]
    return ", ".join(lettered[:-1]) + (", or " if len(lettered) > 1 else "") + lettered[-1]
