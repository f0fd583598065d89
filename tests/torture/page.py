"""docs/reliability.md, written from the committed records alone: the same records give the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torture.tree import PAGE, RECORDS

from stabilitykit.results.atomic import atomic_write

ROWS = range(1, 21)
HEAD = """# Reliability: how hard the instrument was tested

Written by `python tests/torture --table` from the records in `docs/reliability/`; a test compares both byte for byte.
`make test` runs the first trials of every campaign, and holds each against defects that were planted on purpose.
`make torture TIME=3600` runs all of them in turn, goes on where it was stopped, and writes the records and this page.

## The test plan

One trial of a campaign is decided by its number alone, so a fault is seen again by its number. *Asked* and *run* count
units. *Open* counts faults that the run found and that still stand, and planted defects that it did not notice. A run
counts trials of one state of the sources that it depends on; the commit names it. With `--keep` it goes on over edits,
and trials of several commits count, all but those that found a fault.

"""


def write() -> None:
    """Write the page anew."""
    atomic_write(PAGE, render(RECORDS))


def render(folder: Path) -> str:
    """Return the page that the records of a folder make."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    rows = {key: one for key, one in found.items() if "asked" in one}
    defects = [defect for key, one in found.items() if key.startswith("defects") for defect in one]
    sections = [one for one in found.values() if "columns" in one]
    return "\n".join([HEAD + _plan(rows), _runs(rows), _open(rows), _defects(defects), *map(_section, sections)])


def _plan(rows: dict[str, Any]) -> str:
    lines = []
    for number in ROWS:
        mine = [one for key, one in rows.items() if key.rstrip("abcdefghijklmnopqrstuvwxyz") == f"T{number:02d}"]
        lines += [_row(one) for one in mine] or [[f"T{number}", "", "", "not run", "", "", ""]]
    return table(["", "test", "asked", "run", "open", "planted defects noticed", "in `make test`"], lines)


def _row(one: dict[str, Any]) -> list[str]:
    planted = len(one["planted"])
    counts = [f"{one['asked']:,} {one['unit']}", f"{one['run']:,}", str(one["open"])]
    missed = one["unnoticed"]
    noticed = "not tried" if missed is None else f"{planted - len(missed)} of {planted}"
    return [one["id"], one["title"], *counts, noticed, f"{one['in_ci']:,}"]


def _runs(rows: dict[str, Any]) -> str:
    lines = [
        [
            one["id"],
            f"`{one['command']}`",
            one["date"],
            _commits(one["commits"]),
            f"{one['seconds']:,.0f} s",
            one["note"],
        ]
        for one in rows.values()
    ]
    machines = dict.fromkeys(_machine(one["machine"]) for one in rows.values())
    ran_on = "".join(f"\nRun on {machine}.\n" for machine in machines)
    head = ["", "command", "date", "commit", "took", "to be read with"]
    return f"\n## The runs\n\n{table(head, lines)}{ran_on}"


def _commits(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" if len(counts) > 1 else name for name, count in counts.items())


def _machine(found: dict[str, Any]) -> str:
    names = ("python", "torch", "transformers", "numpy", "safetensors")
    versions = ", ".join(f"{name} {found[name]}" for name in names)
    return f"{found['cpu']} ({found['cpu_capability']}, {found['cores']} cores, {found['threads']} thread): {versions}"


def _open(rows: dict[str, Any]) -> str:
    lines = [[one["id"], trial, text] for one in rows.values() for trial, text in one["faults"].items()]
    lines += [
        [one["id"], "planted", f"not noticed: {name}"] for one in rows.values() for name in one["unnoticed"] or ()
    ]
    return f"\n## Open faults\n\n{table(['', 'trial', 'fault'], lines) if lines else 'None.' + chr(10)}"


def _defects(defects: list[dict[str, str]]) -> str:
    names = ("found_by", "what", "where", "mended_in")
    rows = sorted(
        ([one[name] for name in names] for one in defects), key=lambda row: (int(re.sub(r"\D", "", row[0]) or 99), row)
    )
    said = f"{len(rows)} defects of the kit that these campaigns found, each mended and held by a test.\n\n"
    return f"\n## Found and mended\n\n{said}{table(['found by', 'defect', 'where', 'mended in'], rows)}" if rows else ""


def _section(one: dict[str, Any]) -> str:
    """Render a record of another kind: `title`, `text` (paragraphs), `columns`, `rows`, and where it is from."""
    text = "".join(f"{paragraph}\n\n" for paragraph in one["text"])
    return f"\n## {one['title']}\n\n{text}{table(one['columns'], one['rows'])}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; no cell can break out of it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in row)} |\n" for row in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
