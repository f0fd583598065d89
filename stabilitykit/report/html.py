"""One self-contained page: verdicts, figures, tables. No network, readable without scripts, untrusted text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import stabilitykit
from stabilitykit.report import explanations
from stabilitykit.report.page import ROWS_SHOWN, Check, Pairs, check, pairs
from stabilitykit.report.rows import subject_fields
from stabilitykit.report.templating import render
from stabilitykit.report.text import shortened, shown
from stabilitykit.report.verdicts import VERDICTS, counts, urgency
from stabilitykit.results.record import Record, Run

_HEADLINE_VALUES = 3
# Of a worker's environment, what differs without meaning anything.
_PASSING = ("load_average", "time_utc")


@dataclass(frozen=True)
class Section:
    """A chapter of the page with its checks."""

    anchor: str
    title: str
    lead: str
    checks: Sequence[Check]


def page(run: Run, records: Sequence[Record], slugs: Sequence[str]) -> str:
    """Return the page; the same records give the same bytes."""
    parts = sections(run, records, slugs)
    checks = [item for part in parts for item in part.checks]
    return render(
        "report.html.j2",
        drawn=any(item.figures for item in checks),
        run=run,
        version=stabilitykit.__version__,
        title=headline(records),
        facts=facts(records),
        counts=counts(record.verdict for record in records),
        attention=sorted(
            (item for item in checks if item.verdict.tone == "bad"), key=lambda item: urgency(item.verdict.name)
        ),
        sections=parts,
        total=len(checks),
        notes=[shown(note) for note in run.notes],
        provenance=provenance(run),
        verdicts=VERDICTS,
        glossary=explanations.GLOSSARY,
        rows_shown=ROWS_SHOWN,
    )


def sections(run: Run, records: Sequence[Record], slugs: Sequence[str]) -> list[Section]:
    """Return the chapters that have checks, what needs a person first within each."""
    found: list[list[tuple[int, Check]]] = [[] for _ in explanations.CHAPTERS]
    for record, slug in zip(records, slugs, strict=True):
        name = record.result.measurement if record.result else None
        # Many examples of a measurement along a direction are a search for the worst direction.
        searched = record.examples > 1 and record.result is not None and "direction" in record.result.parameters
        place = explanations.chapter(name, searched=searched)
        found[place].append((urgency(record.verdict), check(record, slug, run)))
    return [
        Section(f"part-{place}", part.title, part.lead, [item for _, item in sorted(checks, key=lambda pair: pair[0])])
        for place, (part, checks) in enumerate(zip(explanations.CHAPTERS, found, strict=True))
        if checks
    ]


def headline(records: Sequence[Record]) -> str:
    """Return the models of the run, or what was measured instead of one."""
    of_models = [record for record in records if record.result and record.result.subject.get("model")]
    return _distinct(of_models or records, "model") or "Nothing was measured"


def facts(records: Sequence[Record]) -> Pairs:
    """Return what the reader needs to know about every number on the page."""
    names = {"Device": "device", "Precision": "dtype", "Output read at": "site", "Path": "path", "Prompt": "prompt"}
    return [(title, found) for title, name in names.items() if (found := _distinct(records, name))]


def provenance(run: Run) -> list[tuple[str, Pairs]]:
    """Return the run's own tables."""
    whole = {"run": run.run_id, "started": run.started, "command": run.command}
    whole["stabilitykit"] = stabilitykit.__version__
    parts: list[tuple[str, Mapping[str, Any]]] = [
        *(("Run", whole), ("Settings", run.settings), ("Environment", run.environment)),
        *((f"Worker {name}", _worker(told, run.environment)) for name, told in run.workers.items()),
    ]
    return [(title, found) for title, values in parts if (found := pairs(values))]


def _worker(told: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a worker's device and card, and of its environment what is not the run's."""
    own = {key: value for key, value in told["environment"].items() if shared.get(key) != value}
    card = {key: told["environment"].get(key) for key in ("gpu", "gpu_uuid")}
    return {"measured on": told["device"], **card, **{key: own[key] for key in own if key not in _PASSING}}


def _distinct(records: Iterable[Record], name: str) -> str:
    values = dict.fromkeys(
        f"“{shortened(shown(value), 80)}”" if name == "prompt" else shown(value)
        for record in records
        if record.result and (value := subject_fields(record.result.subject)[name])
    )
    more = len(values) - _HEADLINE_VALUES
    return ", ".join(list(values)[:_HEADLINE_VALUES]) + (f" and {more} more" if more > 0 else "")
