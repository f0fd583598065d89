"""The power of a run: which planted faults its checks catch, by themselves or beside a baseline, and what each adds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stabilitykit.errors import UnreadableError
from stabilitykit.faults.catalogue import WHEN, Fault
from stabilitykit.report.read import Report
from stabilitykit.results.metric import Metric, readings
from stabilitykit.results.record import Record
from stabilitykit.results.result import Execution, Result, Row

OUTCOMES: Mapping[str, str] = {
    "alone": "caught by the check itself, with nothing to compare with",
    "baseline": "caught beside the readings of a run without the fault",
    "better": "it moved and the run stays green, since all that moved beside the baseline is better",
    "uncompared": "it moved and the run stays green, since the baseline answers another question now",
    "refused": "the check could not be asked",
    "missed": "not seen, though the fault fired",
    "no place": "the fault has no place in what the check runs",
}
CAUGHT = ("alone", "baseline")

METRICS = (
    Metric("missed", "faults", "lower", "planted faults that no check caught, though they fired"),
    Metric("caught", "faults", "higher", "planted faults that some check caught, alone or beside the baseline"),
    Metric("caught_alone", "faults", "higher", "planted faults that some check caught with no baseline"),
    Metric("without_place", "faults", "neither", "planted faults that no operation of the model has a place for"),
    Metric("false_alarms", "checks", "lower", "checks that were red with nothing planted"),
    Metric("adding_checks", "checks", "neither", "checks that catch what no cheaper check does"),
    Metric("checks", "checks", "neither", "checks that were asked under each fault"),
)
_RED = ("fail", "invalid", "crash", "timeout")
_SILENT = ("unsupported", "skipped")


@dataclass(frozen=True)
class Runs:
    """The reports of one run: as it is, with nothing planted but held to the first, and with each fault."""

    clean: Report
    nothing: Report
    planted: Mapping[Fault, Report]


def power(runs: Runs, title: str) -> Result:
    """Return the table: a row each check with its outcome under each fault, and a row each fault.

    A check that is red in the clean run is left out, since nothing can be told from it. Of the others the cheapest is
    asked first: `adds` are the faults that none before it caught in that way. Cost is in rows through the model.
    UnreadableError where no check can be used.
    """
    clean = {check: record for check, record in _records(runs.clean).items() if record.result is not None}
    alarms = [check for check, record in clean.items() if _red(record) or _alarm(check, runs.nothing)]
    asked = {check: record for check, record in clean.items() if check not in alarms}
    if not asked:
        raise UnreadableError(f"no check of the clean run can be used: {', '.join(alarms) or 'it measured nothing'}")
    found = {
        check: {fault.name: outcome(record, _same(report, check, record)) for fault, report in runs.planted.items()}
        for check, record in asked.items()
    }
    checks = _check_rows(asked, found)
    faults = [_fault_row(fault, report, found) for fault, report in runs.planted.items()]
    values = {
        "missed": sum(not row["caught_by"] and row["fired"] > 0 for row in faults),
        "caught": sum(row["caught_by"] > 0 for row in faults),
        "caught_alone": sum(row["caught_alone_by"] > 0 for row in faults),
        "without_place": sum(row["fired"] == 0 for row in faults),
        "false_alarms": len(alarms),
        "adding_checks": sum(bool(row["adds"]) for row in checks),
        "checks": len(asked),
    }
    first, model = next(iter(asked.values())).result, runs.clean.run.settings["models"][0]
    assert first is not None
    return Result(
        measurement="FaultPower",
        check_id="fault_power",
        verdict="measured",
        title=title,
        sentence=_sentence(values, faults, alarms),
        readings=readings(METRICS, values),
        rows=(*faults, *checks),
        subject={"name": model, "model": model, "dtype": runs.clean.run.settings["dtypes"][0]},
        environment=first.environment,
        execution=sum((row.result.execution for row in asked.values() if row.result), Execution()),
        causes=("the checks that were asked have no input on which the fault shows",),
    )


def outcome(clean: Record, planted: Record | None) -> str:
    """Return the word of `OUTCOMES` for a check under a fault; `clean` is green."""
    if planted is None or planted.verdict in _SILENT:
        return "refused"
    status = planted.baseline.get("status", "")
    if planted.verdict in _RED and status not in ("drifted", "foreign"):
        return "alone"
    if planted.result and clean.result and planted.result.verdict == "differs" != clean.result.verdict:
        return "alone"
    if planted.verdict in _RED:
        return "baseline"
    if status in ("better", "other question"):
        return "better" if status == "better" else "uncompared"
    return "missed" if planted.planted.get("fired") else "no place"


def _records(report: Report) -> dict[str, Record]:
    """Return the records by the name of the check alone: one run has one model."""
    return {_short(record.check_id): record for record in report.records}


def _same(report: Report, check: str, clean: Record) -> Record | None:
    """Return what became of a check; a test that failed before it measured is filed under its own name."""
    test = _test(clean)
    failed = (record for record in report.records if _test(record) == test and _red(record))
    return _records(report).get(check) or next(failed, None)


def _test(record: Record) -> str:
    """Return file and test, without the folders: they depend on where a run was started."""
    return record.nodeid.rsplit("/", 1)[-1]


def _short(check_id: str) -> str:
    name, _, rest = check_id.partition("[")
    return name + rest.partition("]")[2]


def _red(record: Record) -> bool:
    return record.verdict in _RED


def _alarm(check: str, nothing: Report) -> bool:
    """Whether a check moved with nothing planted."""
    record = _records(nothing).get(check)
    return record is None or _red(record) or record.baseline.get("status") not in ("same", None)


def cost(record: Record) -> int:
    """Return rows through the model, forward, backward or tangent."""
    assert record.result is not None
    spent = record.result.execution
    return spent.forwards + spent.backwards + spent.tangents


def _check_rows(asked: Mapping[str, Record], found: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    rows, known = [], set[tuple[str, str]]()
    for check in sorted(asked, key=lambda check: (cost(asked[check]), check)):
        ways = {(name, way) for name, word in found[check].items() for way in _ways(word)}
        adds = sorted({name for name, _ in ways - known})
        known |= ways
        row = {"part": "check", "check": check, "rows": cost(asked[check]), "adds": ", ".join(adds)}
        rows.append({**row, "caught": len({name for name, _ in ways}), **found[check]})
    return rows


def _ways(word: str) -> Iterable[str]:
    """Return how a fault was caught: what needs no baseline is caught with one, too."""
    return {"alone": ("alone", "baseline"), "baseline": ("baseline",)}.get(word, ())


def _fault_row(fault: Fault, report: Report, found: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    words = {check: outcomes[fault.name] for check, outcomes in found.items()}
    counts = {record.nodeid: record.planted for record in report.records}
    return {
        "part": "fault",
        "fault": fault.name,
        "touches": fault.touches,
        "fires": WHEN[fault.when],
        "stands_for": fault.stands_for,
        "reference": fault.reference,
        "calls": sum(one.get("calls", 0) for one in counts.values()),
        "fired": sum(one.get("fired", 0) for one in counts.values()),
        "caught_by": sum(word in CAUGHT for word in words.values()),
        "caught_alone_by": sum(word == "alone" for word in words.values()),
        "alone": ", ".join(check for check, word in words.items() if word == "alone"),
    }


def _sentence(values: Mapping[str, int], faults: Sequence[Row], alarms: Sequence[str]) -> str:
    missed = [str(row["fault"]) for row in faults if row["fired"] and not row["caught_by"]]
    told = (
        f"Of {len(faults)} planted faults {values['without_place']} had no place in the model, and {values['caught']} "
        f"were caught by one of {values['checks']} checks, {values['caught_alone']} of them with no baseline"
    )
    told += f"; missed: {', '.join(missed)}." if missed else "; none was missed."
    return told + (f" Red with nothing planted, so not asked: {', '.join(alarms)}." if alarms else "")


def lines(result: Result) -> list[str]:
    """Return what a terminal shows: a line each fault, the checks that add something, and the sentence."""
    from stabilitykit.report.text import aligned

    faults = [row for row in result.rows if row["part"] == "fault"]
    checks = [row for row in result.rows if row["part"] == "check"]
    table = [["fault", "fired", "caught by", "alone by", "alone"]]
    for row in faults:
        counts = [f"{row[name]:,}" for name in ("fired", "caught_by", "caught_alone_by")]
        table.append([str(row["fault"]), *counts, _few(str(row["alone"]))])
    adding = [["check", "rows", "caught", "adds"]]
    adding += [
        [str(row["check"]), f"{row['rows']:,}", str(row["caught"]), _few(str(row["adds"]))]
        for row in checks
        if row["adds"]
    ]
    return [*aligned(table), "", *aligned(adding), "", result.sentence]


def _few(names: str, most: int = 3) -> str:
    listed = names.split(", ")
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
