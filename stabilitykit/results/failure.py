"""The one exception a failed gate raises, and the only place that lays out its message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.results.drift import URGENCY

if TYPE_CHECKING:
    from stabilitykit.results.drift import Drift
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


def render_drift(
    result: Result,
    drifts: Sequence[Drift],
    explanation: str,
    commands: Sequence[str] = (),
) -> str:
    """Return the message of a broken baseline: as `render`, with what was there before and what else has changed."""
    below = [[explanation], list(commands)]
    room = _LINES - 2 - sum(1 + len(block) for block in below if block)
    moved = sorted((drift for drift in drifts if drift.kind != "same"), key=lambda drift: URGENCY.index(drift.kind))
    first = moved[0]
    more = sum(drift.broken for drift in moved) - 1
    told = (
        f"{result.title}: {first.label} {_now(first)} {_VERBS[first.kind]} its baseline {_exact(first, first.then)}"
        f"{f' (and {more} more)' if more else ''} on {describe(result.subject)}"
    )
    blocks = [[told], _drift_table(moved, room), *below]
    return "\n\n".join("\n".join(block) for block in blocks if block)


_VERBS = {"worse": "is worse than", "changed": "is not", "gone": "has left"}


def _drift_table(moved: Sequence[Drift], room: int) -> list[str]:
    """Return the readings that moved, those that break the baseline first."""
    shown = moved if len(moved) <= room - 1 else moved[: max(room - 2, 1)]
    rows = [("", "metric", "observed", "baseline", "allowed", "change", "unit")]
    rows += [
        (drift.kind, drift.label, _now(drift), _exact(drift, drift.then), drift.allowed, drift.change, drift.unit)
        for drift in shown
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    left = "<<>>>>"  # names to the left, numbers to the right
    lines = []
    for *cells, unit in rows:
        placed = [f"{cell:{side}{width}}" for cell, side, width in zip(cells, left, widths, strict=True)]
        lines.append(f"  {'  '.join([*placed, unit])}".rstrip())
    return lines if shown is moved else [*lines, f"  and {len(moved) - len(shown)} more readings that moved"]


def _now(drift: Drift) -> str:
    return "-" if drift.now is None else _exact(drift, drift.now)


def _exact(drift: Drift, value: float) -> str:
    """Return one of the two values: in full where fewer digits would make them look the same."""
    short = [f"{one:.6g}" for one in (drift.now, drift.then) if one is not None]
    return (
        repr(value).removesuffix(".0") if len(set(short)) < len(short) and drift.now != drift.then else f"{value:.6g}"
    )
