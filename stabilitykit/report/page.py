"""What the page says about each check, as plain values: the template only lays it out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stabilitykit.errors import UsageError
from stabilitykit.report.explanations import question
from stabilitykit.report.figures import Figure, figures
from stabilitykit.report.replays import sentence, worst_of
from stabilitykit.report.rows import subject_fields
from stabilitykit.report.text import shortened, shown
from stabilitykit.report.verdicts import Verdict, verdict
from stabilitykit.results.drift import BROKEN
from stabilitykit.results.failure import describe
from stabilitykit.results.limit import Bound
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.record import Record, Run
from stabilitykit.results.result import Result

ROWS_SHOWN = 100
_CELL_WIDTH = 160
_PLAIN = Metric("", "", "neither", "")
# What a shell reads between double quotes.
_SHELL = set('"$`\\!')
_BETTER = {"lower": "lower is better", "higher": "higher is better", "neither": ""}

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Line:
    """One reading as the page shows it."""

    name: str
    description: str
    value: str
    exact: str
    unit: str
    better: str
    interval: str
    limit: str
    broken: bool
    place: str
    baseline: str = ""
    drifted: bool = False


@dataclass(frozen=True)
class Check:
    """One check as the page shows it."""

    anchor: str
    check_id: str
    verdict: Verdict
    question: str
    about: str
    sentence: str
    message: str
    figures: Sequence[Figure]
    lines: Sequence[Line]
    remarks: Pairs
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    rows_total: int
    files: Sequence[str]
    details: Sequence[tuple[str, Pairs]]
    command: str


def check(record: Record, slug: str, run: Run) -> Check:
    """Return what the page says about a record; what is said of the whole run is not said again."""
    result = record.result
    rows = result.rows[:ROWS_SHOWN] if result else ()
    columns = list(dict.fromkeys(key for row in rows for key in row))  # those of later rows would only be empty
    return Check(
        anchor=f"check-{slug}",
        check_id=shown(record.check_id),
        verdict=verdict(record.verdict),
        question=question(result.measurement) if result else "",
        about=shown(f"{result.title} on {describe(result.subject)}") if result else "",
        sentence=shown(result.sentence) if result else "",
        message=shown(record.message, keep="\n"),
        figures=figures(result) if result else (),
        lines=lines(record),
        remarks=remarks(record),
        columns=[shown(name) for name in columns],
        rows=[[text(row.get(name)) for name in columns] for row in rows],
        rows_total=len(result.rows) if result else 0,
        files=_files(result, slug),
        details=details(record, run.environment),
        command=command(record.nodeid) if record.nodeid else shown(run.command),
    )


def lines(record: Record) -> list[Line]:
    """Return the readings of a record."""
    readings = record.result.readings if record.result else {}
    held = record.baseline.get("readings", {})
    return [line(name, one, record.limits.get(name), held.get(name)) for name, one in readings.items()]


def line(name: str, reading: Reading, limit: str | None, held: Mapping[str, Any] | None = None) -> Line:
    """Return a reading with its limit and its baseline judged, so that what is broken stands out in the table."""
    show = reading.metric.format
    sides = (reading.low, reading.high)
    interval = " to ".join("unknown" if side is None else show(side) for side in sides) if any_known(sides) else ""
    return Line(
        name=shown(name),
        description=shown(reading.metric.description),
        value=show(reading.value),
        exact=f"{reading.value!r} = {float(reading.value).hex()}",
        unit=shown(reading.unit),
        better=_BETTER[reading.metric.better],
        interval=interval,
        limit=shown(limit or ""),
        broken=limit is not None and _breaks(reading, limit),
        place=", ".join(f"{shown(key)} {shown(value)}" for key, value in reading.place.items() if value),
        baseline=f"{show(held['then'])} ({held['kind']})" if held else "",
        drifted=held is not None and held["kind"] in BROKEN,
    )


def any_known(sides: Sequence[float | None]) -> bool:
    """Return whether an interval has a side."""
    return any(side is not None for side in sides)


def remarks(record: Record) -> Pairs:
    """Return the short notes under the table: worst place, noise floor, and what a bad verdict usually means."""
    result = record.result
    if result is None:
        return []
    said = [("Worst place", str(result.worst) if result.worst else ""), ("Noise floor", result.noise)]
    if record.examples > 1:
        said.append(
            (
                "Examples",
                f"{record.examples} were measured; each reading is the worst of them, and names where it was met",
            )
        )
    if record.resumed:
        said.append(("Resumed", "measured by the run that this one goes on with, and taken over from its journal"))
    said += [("Replayed", sentence(replay)) for replay in record.replays]
    if verdict(record.verdict).tone == "bad":
        said.append(("This usually means", "; or ".join(result.causes)))
    return [(title, shown(words).removeprefix("worst at ").replace("   ", "; ")) for title, words in said if words]


def details(record: Record, environment: Mapping[str, Any]) -> list[tuple[str, Pairs]]:
    """Return parameters, subject, environment and cost; of the environment only what is not the run's."""
    result = record.result
    if result is None:
        return []
    own = {key: value for key, value in result.environment.items() if environment.get(key) != value}
    fields = {key: value for key, value in subject_fields(result.subject).items() if key not in result.subject}
    execution = result.execution
    cost = {name: getattr(execution, name) for name in execution.__dataclass_fields__}
    parts: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("Worst directions", {entry["direction"]: worst_of(entry) for entry in record.recipes}),
        ("Parameters", result.parameters),
        ("Subject", {**result.subject, **fields}),
        ("Environment", own or {"throughout": "as described for the whole run, at the end of this page"}),
        ("Cost, in rows through the model", {**cost, "examples": record.examples, "worker": record.worker}),
    )
    return [(title, found) for title, values in parts if (found := pairs(values))]


def pairs(values: Mapping[str, Any]) -> Pairs:
    """Return names and values as text, without those that are empty."""
    return [(shown(key), text(value, 400)) for key, value in values.items() if value not in (None, "", (), [], {})]


def text(value: Any, width: int = _CELL_WIDTH) -> str:
    """Return one value as the page shows it: numbers to six digits, text visible and cut."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _PLAIN.format(value)
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {text(item)}" for key, item in value.items())
    elif isinstance(value, list | tuple):
        value = ", ".join(text(item) for item in value)
    return shortened(shown(value), width)


def command(nodeid: str) -> str:
    """Return the command that measures this again and so rebuilds its figures."""
    if nodeid.isprintable() and not set(nodeid) & _SHELL:
        return f'pytest "{nodeid}"'
    return f"pytest {shlex.quote(shown(nodeid))}"


def _breaks(reading: Reading, limit: str) -> bool:
    try:
        return not Bound.parse(limit, reading).holds(reading.value)
    except UsageError:
        return False


def _files(result: Result | None, slug: str) -> list[str]:
    if result is None:
        return []
    return [f"tables/{slug}.csv"] * bool(result.rows) + [f"arrays/{slug}.npz"] * bool(result.arrays)
